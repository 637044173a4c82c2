"""What each op of ONNX becomes in the graph: one function per op, which returns what its output is."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from mqjax.models.onnx.file import attributes
from mqjax.models.onnx.reader import Reader, Value
from mqjax.models.ops import Activation, Add, AvgPool, Concat, Conv, Flatten, GlobalAvgPool, Linear, MaxPool

Handler = Callable[[Reader, Any], Value]
HANDLERS: dict[str, Handler] = {}
"""By op."""

SPATIAL = ("NCHW", "NHWC")
ANY = (*SPATIAL, "features")


def _handles(*ops: str) -> Callable[[Handler], Handler]:
    def register(function: Handler) -> Handler:
        HANDLERS.update(dict.fromkeys(ops, function))
        return function

    return register


# Layers.


@_handles("Conv")
def _conv(r: Reader, node: Any) -> Value:
    x, weights, bias = r.value(node), r.constant(node, 1), r.optional(node, 2)
    if weights.ndim != 4:
        r.refuse(
            node, f"only two-dimensional convolutions are supported, not a kernel of {weights.ndim - 2} dimensions"
        )
    given = attributes(node)
    groups, outputs = given.get("group", 1), weights.shape[0]
    if x.layout == "features" and weights.shape[2:] == (1, 1) and groups == 1 and not any(given.get("pads", [])):
        return _linear(r, node, weights[:, :, 0, 0].T, bias)
    if x.layout != "NCHW" or x.gate:
        r.settled(node)
    size, stride, dilation, padding = _window(r, node, x, weights.shape[2:])
    channels = r.shape(x)[-1]
    if groups < 1 or weights.shape[1] * groups != channels or outputs % groups:
        r.refuse(
            node,
            f"its kernel of {weights.shape[1]} channels in {groups} groups does not fit the {channels} that it reads",
        )
    kernel = weights.transpose(2, 3, 1, 0).astype(np.float64)
    shift = np.zeros(outputs)
    if x.affine is not None:
        # Each group of filters reads its own part of the channels.
        gain, added = (np.repeat(part.reshape(groups, -1).T, outputs // groups, axis=1) for part in x.affine)
        shift = (kernel * added).sum(axis=(0, 1, 2))
        kernel = kernel * gain
        if padding and any(added.ravel()):
            r.skip(node, "the shift of its image is folded in, exactly but for the border of the image")
    name = r.add(node, Conv(outputs, size, stride, padding, dilation, groups, norm=False), _plain(x))
    return _kernel(r, node, name, kernel, _bias(r, node, bias, outputs) + shift)


def _linear(r: Reader, node: Any, weights: np.ndarray, bias: np.ndarray | None) -> Value:
    """A fully connected layer with weights [K, M]."""
    x = r.settled(node, layouts=("features",))
    (features,) = r.shape(x)
    if weights.ndim != 2 or weights.shape[0] != features:
        shown = "x".join(map(str, weights.shape))
        r.refuse(node, f"its weights of {shown} do not fit the {features} features that it reads")
    outputs = weights.shape[1]
    if x.mixed is not None:
        weights = weights.reshape(*x.mixed, outputs).transpose(1, 2, 0, 3).reshape(features, outputs)
    name = r.add(node, Linear(outputs), x)
    return _kernel(r, node, name, weights[None, None].astype(np.float64), _bias(r, node, bias, outputs))


def _kernel(r: Reader, node: Any, name: str, kernel: np.ndarray, bias: np.ndarray) -> Value:
    r.weights[name] = kernel, bias
    if (bits := r.constant_bits.get(node.input[1])) is not None:
        r.kernel_bits[name] = bits
    return Value(name, "NCHW" if len(r.graph_shapes[name]) == 3 else "features")


def _bias(r: Reader, node: Any, bias: np.ndarray | None, outputs: int) -> np.ndarray:
    if bias is None:
        return np.zeros(outputs)
    if bias.size not in (1, outputs):
        r.refuse(node, f"its bias has {bias.size} numbers, but it has {outputs} outputs")
    return np.broadcast_to(bias.reshape(-1).astype(np.float64), (outputs,))


@_handles("Gemm")
def _gemm(r: Reader, node: Any) -> Value:
    given = attributes(node)
    if given.get("transA", 0):
        r.refuse(node, "its first operand must not be transposed")
    weights, bias = r.constant(node, 1), r.optional(node, 2)
    weights = (weights.T if given.get("transB", 0) else weights) * given.get("alpha", 1.0)
    return _linear(r, node, weights, None if bias is None else bias * given.get("beta", 1.0))


@_handles("MatMul")
def _matmul(r: Reader, node: Any) -> Value:
    if node.input[0] in r.constants or node.input[1] not in r.constants:
        r.refuse(node, "only the product of features with constant weights is supported, a fully connected layer")
    return _linear(r, node, r.constant(node, 1), None)


def _window(
    r: Reader, node: Any, x: Value, kernel: tuple[int, ...], *, pool: bool = False
) -> tuple[int, int, int, int]:
    """Size, stride, dilation and padding of a square window, alike on all sides."""
    given = attributes(node)
    strides, dilations = given.get("strides", [1, 1]), given.get("dilations", [1, 1])
    pads = list(given.get("pads", [0, 0, 0, 0]))
    auto = given.get("auto_pad", b"NOTSET")
    if len(kernel) != 2 or len(strides) != 2 or len(dilations) != 2 or len(pads) != 4:
        r.refuse(node, "its window must have two dimensions")
    if min(*kernel, *strides, *dilations) < 1 or min(pads) < 0:
        r.refuse(node, "its window, strides and dilations must be positive, and its padding not negative")
    if auto in (b"SAME_UPPER", b"SAME_LOWER"):
        for axis in (0, 1):
            extent, stride = r.shape(x)[axis], strides[axis]
            reach = dilations[axis] * (kernel[axis] - 1) + 1
            total = max(0, (-(-extent // stride) - 1) * stride + reach - extent)
            small, large = total // 2, total - total // 2
            pads[axis], pads[axis + 2] = (small, large) if auto == b"SAME_UPPER" else (large, small)
    elif auto not in (b"NOTSET", b"VALID"):
        r.refuse(node, f"its auto_pad {auto!r} is not known")
    if x.padding is not None:
        pads = [one + other for one, other in zip(pads, x.padding, strict=True)]
    for what, numbers in (("kernel", kernel), ("strides", strides), ("dilations", dilations), ("pads", pads)):
        if len(set(numbers)) > 1:
            shown = "x".join(map(str, numbers))
            r.refuse(node, f"its {what} {shown} differ by side; only equal ones are supported")
    if pool and dilations[0] > 1:
        r.refuse(node, "pools with dilation are not supported")
    return kernel[0], strides[0], dilations[0], pads[0]


def _plain(x: Value) -> Value:
    """A value without what was pending and is done now."""
    return dataclasses.replace(x, padding=None, affine=None)


# What goes into a layer: constants that are added and multiplied.


def _affine(r: Reader, node: Any, x: Value, gain: np.ndarray, shift: np.ndarray) -> Value:
    """x * gain + shift, both [channels]."""
    if x.node == "image" and x.padding is None:
        before = x.affine or (np.ones_like(gain), np.zeros_like(gain))
        r.skip(node, "folded into the layers that read the image")
        return dataclasses.replace(x, affine=(before[0] * gain, before[1] * gain + shift))
    if (gain == 1).all() and (shift == 0).all():
        r.skip(node, "it changes nothing")
        return x
    if x.node not in r.weights or x.shared or x.mixed is not None or x.padding is not None:
        r.refuse(node, "constants can be added or multiplied only to what a layer gives to this node alone")
    kernel, bias = r.weights[x.node]
    r.weights[x.node] = kernel * gain, bias * gain + shift
    r.skip(node, f"folded into {x.node}")
    return x


@_handles("BatchNormalization")
def _batch_norm(r: Reader, node: Any) -> Value:
    x = r.value(node)
    if attributes(node).get("training_mode", 0):
        r.refuse(node, "export the network for inference: this batch norm is in training mode")
    channels = r.shape(x)[-1]
    scale, shift, mean, variance = (r.constant(node, number).astype(np.float64) for number in (1, 2, 3, 4))
    if any(part.shape != (channels,) for part in (scale, shift, mean, variance)):
        r.refuse(node, f"its four constants must have {channels} numbers each")
    if (variance < 0).any():
        r.refuse(node, "its variances must not be negative")
    gain = scale / np.sqrt(variance + attributes(node).get("epsilon", 1e-5))
    return _affine(r, node, x, gain, shift - mean * gain)


@_handles("Add", "Sub", "Mul", "Div")
def _arithmetic(r: Reader, node: Any) -> Value:
    constant = [name in r.constants for name in node.input]
    if not any(constant):
        return _of_two(r, node)
    first = constant.index(False)
    x, number = r.value(node, first), r.constant(node, 1 - first).astype(np.float64)
    channels = r.shape(x)[-1]
    if number.size > 1:
        place = 1 if x.layout == "NCHW" or (x.layout == "features" and number.ndim == 4) else -1
        shape = (1,) * (4 - number.ndim) + number.shape if place == 1 else number.shape
        if number.size != channels or shape[place] != channels:
            r.refuse(node, f"its constant of {number.size} numbers must be one number, or one per channel ({channels})")
    number = np.broadcast_to(number.reshape(-1), (channels,))
    if node.op_type == "Div" and first == 1:
        r.refuse(node, "a constant divided by a tensor is not supported")
    if node.op_type == "Div" and (number == 0).any():
        r.refuse(node, "it divides by zero")
    ones, zeros = np.ones(channels), np.zeros(channels)
    return {
        "Add": lambda: _affine(r, node, x, ones, number),
        "Sub": lambda: _affine(r, node, x, *((ones, -number) if first == 0 else (-ones, number))),
        "Mul": lambda: _affine(r, node, x, number, zeros),
        "Div": lambda: _affine(r, node, x, 1 / number, zeros),
    }[node.op_type]()


def _of_two(r: Reader, node: Any) -> Value:
    x, y = r.value(node, 0), r.value(node, 1)
    if node.op_type == "Mul" and x.gate != y.gate and x.node == y.node:
        return Value(r.add(node, Activation("hardswish"), x), x.layout, x.mixed)
    if node.op_type != "Add":
        r.refuse(node, f"{node.op_type} of two tensors is not supported, only their sum")
    x, y = r.settled(node, 0, layouts=ANY), r.settled(node, 1, layouts=ANY)
    if (x.layout, x.mixed) != (y.layout, y.mixed):
        r.refuse(node, f"its operands differ in layout, {x.layout} and {y.layout}")
    return Value(r.add(node, Add(), x, y), x.layout, x.mixed)


# Activations.


@_handles("Relu")
def _relu(r: Reader, node: Any) -> Value:
    return _activated(r, node, Activation("relu"))


@_handles("Clip")
def _clip(r: Reader, node: Any) -> Value:
    given = attributes(node)
    low = given.get("min") if (found := r.optional(node, 1)) is None else float(found.reshape(-1)[0])
    high = given.get("max") if (found := r.optional(node, 2)) is None else float(found.reshape(-1)[0])
    high = None if high is None or high >= np.finfo(np.float32).max else float(high)
    if low != 0 or (high is not None and high <= 0):
        r.refuse(node, f"only a Clip from 0 to a positive number is supported, not from {low} to {high}")
    return _activated(r, node, Activation("relu", high))


@_handles("HardSwish")
def _hard_swish(r: Reader, node: Any) -> Value:
    return _activated(r, node, Activation("hardswish"))


@_handles("HardSigmoid")
def _hard_sigmoid(r: Reader, node: Any) -> Value:
    given = attributes(node)
    if abs(given.get("alpha", 0.2) - 1 / 6) > 1e-6 or given.get("beta", 0.5) != 0.5:
        return keep_shape(r, node)
    return dataclasses.replace(r.settled(node, layouts=ANY), gate=True)


def _activated(r: Reader, node: Any, op: Activation) -> Value:
    x = r.settled(node, layouts=ANY)
    return Value(r.add(node, op, x), x.layout, x.mixed)


# Pools, and what rearranges.


@_handles("MaxPool", "AveragePool")
def _pool(r: Reader, node: Any) -> Value:
    given, mean = attributes(node), node.op_type == "AveragePool"
    x = r.value(node)
    if not (mean and x.layout == "NCHW" and x.affine is None and not x.gate):
        x = r.settled(node)
    padded_before = x.padding is not None
    size, stride, _, padding = _window(r, node, x, tuple(given.get("kernel_shape", ())), pool=True)
    if mean and padding and not (given.get("count_include_pad", 0) or padded_before):
        r.refuse(node, "padding that does not count (count_include_pad=0) is not supported in average pools")
    if mean and not padding and r.shape(x)[:2] == (size, size):
        return Value(r.add(node, GlobalAvgPool(), x), "features")
    return Value(r.add(node, (AvgPool if mean else MaxPool)(size, stride, padding), _plain(x)))


@_handles("GlobalAveragePool", "GlobalMaxPool", "ReduceMean")
def _global_pool(r: Reader, node: Any) -> Value:
    x = r.settled(node, layouts=ANY)
    if node.op_type == "ReduceMean":
        axes = attributes(node).get("axes") or r.constant(node, 1).tolist()
        wanted = {"NHWC": {1, 2}}.get(x.layout, {2, 3})
        if {axis % 4 for axis in axes} != wanted:
            r.refuse(node, f"only the mean over height and width is supported, not that over axes {axes}")
    if x.layout == "features":
        r.skip(node, "its input is one pixel already")
        return x
    if node.op_type != "GlobalMaxPool":
        return Value(r.add(node, GlobalAvgPool(), x), "features")
    height, width, _ = r.shape(x)
    if height != width:
        r.refuse(node, f"its input of {height}x{width} must be square")
    return Value(r.add(node, MaxPool(height, height), x))


@_handles("Concat")
def _concat(r: Reader, node: Any) -> Value:
    parts = [r.settled(node, number, layouts=ANY) for number in range(len(node.input))]
    layout = parts[0].layout
    if any(part.layout != layout or part.mixed is not None for part in parts):
        r.refuse(node, "its inputs must have one layout, and not be flattened images")
    axis, dims = attributes(node).get("axis", 1), 2 if layout == "features" else 4
    if axis not in ((3, -1) if layout == "NHWC" else (1, 1 - dims)):
        r.refuse(node, f"only channels can be put side by side, not axis {axis}")
    if len(parts) == 1:
        r.skip(node, "it has a single input")
        return parts[0]
    return Value(r.add(node, Concat(), *parts), layout)


@_handles("Flatten", "Reshape", "Squeeze", "Unsqueeze")
def _reshape(r: Reader, node: Any) -> Value:
    x = r.value(node)
    before, after = r.file.shapes.get(node.input[0]), r.file.shapes.get(node.output[0])
    if before is not None and after is None and node.op_type == "Reshape":
        after = _asked(before, r.constant(node, 1).reshape(-1).tolist())
    if before is None or after is None:
        r.refuse(node, "its shape cannot be found out; export the network with images of fixed size")
    r.file.shapes[node.output[0]] = after
    if before == after:
        r.skip(node, "it changes nothing")
        return x
    x = r.settled(node, layouts=ANY)
    shape = r.shape(x)
    count = int(np.prod(shape))
    if after[:1] != before[:1] or sorted(after[1:], reverse=True) != [count, *[1] * (len(after) - 2)]:
        shown = " to ".join("x".join(map(str, s)) for s in (before, after))
        r.refuse(node, f"it changes shapes from {shown}; only flattening before a fully connected layer is supported")
    if len(shape) == 1:
        r.skip(node, "features stay as they are")
        return x
    height, width, channels = shape
    ordered = x.layout == "NHWC" or height * width == 1 or channels == 1
    mixed = None if ordered else (channels, height, width)
    return Value(r.add(node, Flatten(), x), "features", mixed)


def _asked(before: tuple[int, ...], shape: list[int]) -> tuple[int, ...] | None:
    """The shape that a Reshape asks for, with 0 for what stays and -1 for the rest."""
    found = [before[i] if extent == 0 and i < len(before) else extent for i, extent in enumerate(shape)]
    if found.count(-1) == 1:
        rest = int(np.prod([extent for extent in found if extent != -1]))
        if rest <= 0 or int(np.prod(before)) % rest:
            return None
        found[found.index(-1)] = int(np.prod(before)) // rest
    return tuple(found)


@_handles("Transpose")
def _transpose(r: Reader, node: Any) -> Value:
    x, order = r.value(node), attributes(node).get("perm")
    turned = {("NCHW", "0231"): "NHWC", ("NHWC", "0312"): "NCHW"}
    layout = turned.get((x.layout, "".join(map(str, order or ()))))
    if x.layout == "features" and order is not None and len(order) == 4 and order[0] == 0 or order == [0, 1]:
        layout = "features"
    if layout is None:
        r.refuse(node, f"a transposition by {order} of a tensor in the layout {x.layout} is not supported")
    r.skip(node, "memory keeps channels last in any case")
    return dataclasses.replace(x, layout=layout)


@_handles("Pad")
def _pad(r: Reader, node: Any) -> Value:
    x, given = r.value(node), attributes(node)
    if x.layout != "NCHW" or x.gate or given.get("mode", b"constant") != b"constant":
        r.refuse(node, "only zeros around images [N, C, H, W] can be padded")
    value = given.get("value", 0.0) if (found := r.optional(node, 2)) is None else float(found.reshape(-1)[0])
    pads = given.get("pads") or r.constant(node, 1).reshape(-1).tolist()
    if len(node.input) > 3 and node.input[3]:
        axes = r.constant(node, 3).reshape(-1).tolist()
        whole = [0] * 8
        for number, axis in enumerate(axes):
            whole[axis % 4], whole[axis % 4 + 4] = pads[number], pads[number + len(axes)]
        pads = whole
    if len(pads) != 8 or value != 0 or min(pads) < 0 or any((pads[0], pads[1], pads[4], pads[5])):
        r.refuse(node, "only zeros beside height and width can be padded")
    before = x.padding or (0, 0, 0, 0)
    added = (pads[2], pads[3], pads[6], pads[7])
    r.skip(node, "merged into the layer after it")
    return dataclasses.replace(x, padding=tuple(one + other for one, other in zip(before, added, strict=True)))


# What is skipped, and quantizers.


@_handles("Dropout", "Identity", "Cast")
def _same(r: Reader, node: Any) -> Value:
    if node.op_type == "Cast" and attributes(node).get("to") not in (1, 10, 11, 16):
        r.refuse(node, "only a Cast to floating-point numbers is supported")
    reasons = {"Dropout": "it acts in training alone", "Identity": "it changes nothing", "Cast": "types are not kept"}
    r.skip(node, reasons[node.op_type])
    return r.value(node)


@_handles("Softmax", "LogSoftmax")
def _softmax(r: Reader, node: Any) -> Value:
    x = r.settled(node, layouts=ANY)
    if x.layout != "features" or node.output[0] != r.file.graph.output[0].name:
        r.refuse(node, "it is supported only where it gives the network's output")
    r.skip(node, "it does not change which logit is the largest")
    return x


@_handles("QuantizeLinear", "DequantizeLinear", "Quant", "IntQuant", "BipolarQuant", "Trunc")
def _quantizer(r: Reader, node: Any) -> Value:
    x = r.value(node)
    if node.op_type not in ("DequantizeLinear", "Trunc"):
        bits = r.quantizer_bits(node)
        r.stored_bits[x.node] = bits
        r.skip(node, f"its width, {bits}, is that of the tensor; grids are calibrated anew")
    else:
        r.skip(node, "part of a quantizer")
    return x


def keep_shape(r: Reader, node: Any) -> Value:
    """An op that is not supported: left out where it changes no shape, which serves the mapper alone."""
    if node.op_type in ("QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger", "QLinearAdd"):
        r.refuse(
            node, "networks of integer ops are not supported; export with QuantizeLinear and DequantizeLinear instead"
        )
    inputs = [name for name in node.input if name in r.values]
    before, after = (r.file.shapes.get(name) for name in (inputs[0] if inputs else "", node.output[0]))
    if len(inputs) != 1 or before is None or before != after or len([name for name in node.output if name]) > 1:
        r.refuse(node, "this op is not supported")
    x = r.settled(node, list(node.input).index(inputs[0]), layouts=ANY)
    reason = "not supported; it changes no shape, so the mapper does not need it"
    r.skip(node, reason)
    r.inexact = r.inexact or f"node {(node.name or node.output[0])[:80]!r} ({node.op_type}) is not supported"
    return x
