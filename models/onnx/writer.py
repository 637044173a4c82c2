"""Networks written as ONNX: in float, and quantized as QONNX, whose Quant nodes have any width.

Images are [N, channels, height, width] as `mqjax.data.normalize` makes them, -1..1; the batch is free.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from mqjax.models.graph import Graph, Node
from mqjax.models.onnx.file import QUANT_DOMAINS, onnx_package
from mqjax.models.ops import Activation, Add, AvgPool, Concat, Conv, Flatten, GlobalAvgPool, Image, Kernel, MaxPool
from mqjax.models.windows import Window

if TYPE_CHECKING:
    from mqjax.models.network import Network
    from mqjax.models.quantization import Quantized

OPSET, IR_VERSION = 17, 8
"""Old enough for the readers that are about, new enough for HardSwish."""


class _GraphWriter:
    """Nodes and constants so far."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.current: dict[str, str] = {}
        """The tensor that holds each node's value by now."""

    def constant(self, name: str, value: Any) -> str:
        from onnx import numpy_helper

        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(value, np.float32), name))
        return name

    def op(self, kind: str, name: str, *inputs: str, **attributes: Any) -> str:
        """A node, whose output is called as it is itself; "domain" among the attributes is the op's."""
        from onnx import helper

        self.nodes.append(helper.make_node(kind, inputs, [name], name=name, **attributes))
        return name

    def quantize(self, name: str, x: str, step: Any, zero: float, width: int, *, signed: bool) -> str:
        """A Quant node: x on a grid. A signed one is symmetric, without its lowest integer."""
        parts = [self.constant(f"{name}_scale", step), self.constant(f"{name}_zero", zero)]
        parts.append(self.constant(f"{name}_bits", float(width)))
        flags = {"signed": int(signed), "narrow": int(signed), "rounding_mode": "ROUND"}
        return self.op("Quant", name, x, *parts, domain=QUANT_DOMAINS[0], **flags)

    def layer(self, node: Node, kernel: np.ndarray, bias: np.ndarray | None, *, weights: str | None = None) -> str:
        """A layer's linear part; `weights` is a tensor that takes the place of the kernel's constant."""
        x, op = self.current[node.inputs[0]], node.op
        assert isinstance(op, Kernel)
        weights = weights or self.constant(f"{node.name}.weight", turned(kernel, op))
        operands = [x, weights, *([] if bias is None else [self.constant(f"{node.name}.bias", bias)])]
        if not isinstance(op, Conv):
            return self.op("Gemm", node.name, *operands, transB=1)
        return self.op(
            "Conv", node.name, *operands, dilations=op.window.dilation, group=op.groups, **_window(op.window)
        )

    def plain(self, node: Node) -> str:
        """An op without a kernel."""
        op, name, inputs = node.op, node.name, [self.current[other] for other in node.inputs]
        if isinstance(op, Activation):
            if op.kind == "none":
                return self.op("Identity", name, *inputs)
            if op.kind == "hardswish":
                return self.op("HardSwish", name, *inputs)
            if op.limit is None:
                return self.op("Relu", name, *inputs)
            bounds = self.constant(f"{name}_low", 0.0), self.constant(f"{name}_high", op.limit)
            return self.op("Clip", name, *inputs, *bounds)
        if isinstance(op, Add):
            total = inputs[0]
            for number, other in enumerate(inputs[1:], start=1):
                total = self.op("Add", name if number == len(inputs) - 1 else f"{name}_{number}", total, other)
            return total
        if isinstance(op, Concat):
            return self.op("Concat", name, *inputs, axis=1)
        if isinstance(op, GlobalAvgPool):
            return self.op("Flatten", name, self.op("GlobalAveragePool", f"{name}_mean", *inputs))
        if isinstance(op, Flatten):
            return self.op("Flatten", name, self.op("Transpose", f"{name}_last", *inputs, perm=[0, 2, 3, 1]))
        assert isinstance(op, MaxPool | AvgPool)
        if isinstance(op, MaxPool):
            return self.op("MaxPool", name, *inputs, **_window(op.window))
        return self.op("AveragePool", name, *inputs, count_include_pad=1, **_window(op.window))

    def model(self) -> Any:
        from onnx import TensorProto, helper

        graph = self.graph
        height, width, channels = graph.image_shape
        image = ["N", channels, height, width]
        last, shape = self.current[graph.nodes[-1].name], graph.shapes[graph.nodes[-1].name]
        document = helper.make_graph(
            self.nodes,
            graph.name,
            [helper.make_tensor_value_info("image", TensorProto.FLOAT, image)],
            [helper.make_tensor_value_info(last, TensorProto.FLOAT, ["N", *shape[-1:], *shape[:-1]])],
            self.constants,
        )
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(QUANT_DOMAINS[0], 1)]
        used = opsets if any(node.domain for node in self.nodes) else opsets[:1]
        return helper.make_model(document, opset_imports=used, ir_version=IR_VERSION, producer_name="mqjax")


def _window(window: Window) -> dict[str, Any]:
    """A window's attributes."""
    return {"kernel_shape": window.kernel, "strides": window.stride, "pads": window.onnx_pads}


def turned(kernel: np.ndarray, op: Kernel) -> np.ndarray:
    """A kernel [S, R, C, M] as ONNX has it: [M, C, S, R], or [M, C] of a fully connected layer."""
    weights = np.asarray(kernel).transpose(3, 2, 0, 1)
    return weights if isinstance(op, Conv) else weights[:, :, 0, 0]


def float_model(network: Network, *, folded: bool = False) -> Any:
    """A network in float as an ONNX model, with its batch norms, or with these folded in: then every tensor has the name of
    the graph's node that gives it."""
    onnx_package()
    from mqjax.models.calibration import fold

    gains, biases = fold(network) if folded else ({}, {})
    writer = _GraphWriter(network.architecture)
    for node in network.architecture.nodes:
        if isinstance(node.op, Image):
            found = node.name
        elif isinstance(node.op, Kernel):
            block = network.blocks[node.name]
            kernel = np.asarray(block.kernel[...])
            if folded:
                scaled = kernel * np.asarray(gains[node.name])
                found = writer.layer(node, scaled, np.asarray(biases[node.name]))
            elif not block.normed:
                found = writer.layer(node, kernel, np.asarray(block.bias[...]))
            else:
                norm, name = block.norm, f"{node.name}_norm"
                parts = [
                    writer.constant(f"{name}.{part}", getattr(norm, part)[...])
                    for part in ("scale", "bias", "mean", "var")
                ]
                found = writer.op(
                    "BatchNormalization", name, writer.layer(node, kernel, None), *parts, epsilon=norm.epsilon
                )
        else:
            found = writer.plain(node)
        writer.current[node.name] = found
    return writer.model()


def quantized_model(graph: Graph, network: Quantized) -> Any:
    """A quantized network as QONNX: one Quant node for every kernel and every stored value, as
    `mqjax.models.quantization.forward` runs it. Kernels are rounded; biases are not."""
    onnx_package()
    from mqjax.models.quantization import SHIFT

    writer = _GraphWriter(graph)
    numbers, signed = dict(graph.storage.tensors), bool(network.signed)
    layers = {node.name: number for number, node in enumerate(graph.kernels)}
    for node in graph.nodes:
        if isinstance(node.op, Image):
            found = writer.op("Sub", "image_below", node.name, writer.constant("image_shift", SHIFT * network.steps[0]))
        elif isinstance(node.op, Kernel):
            width = int(network.kernel_widths[layers[node.name]])
            kernel = np.asarray(network.kernels[node.name])
            steps = np.broadcast_to(np.asarray(network.kernel_steps[node.name], np.float32), kernel.shape[-1:])
            most = 2 ** (width - 1) - 1
            rounded = np.clip(np.round(kernel / steps), -most, most) * steps
            weights = turned(rounded, node.op)
            scale = steps.reshape(-1, *[1] * (weights.ndim - 1))
            held = writer.constant(f"{node.name}.weight", weights)
            held = writer.quantize(f"{node.name}_weight_quant", held, scale, 0.0, width, signed=True)
            found = writer.layer(node, kernel, np.asarray(network.biases[node.name]), weights=held)
        else:
            found = writer.plain(node)
        if (number := numbers.get(node.name)) is not None and not isinstance(node.op, MaxPool | Concat | Flatten):
            step, zero, width = network.steps[number], float(network.zeros[number]), int(network.tensor_widths[number])
            found = writer.quantize(f"{node.name}_quant", found, step, zero, width, signed=signed)
        writer.current[node.name] = found
    return writer.model()
