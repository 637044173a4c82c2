"""Layers, and what goes into them: batch norms, and constants that are added or multiplied."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from mqjax.models.importing import scaled_inputs
from mqjax.models.onnx.file import attributes
from mqjax.models.onnx.registry import ANY, Handlers
from mqjax.models.onnx.values import Value
from mqjax.models.ops import Activation, Add, Conv, Linear
from mqjax.models.windows import Pair

if TYPE_CHECKING:
    from mqjax.models.onnx.reader import Reader

HANDLERS = Handlers()
"""By op."""


@HANDLERS.of("Conv")
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
    kernel_size, stride, padding, dilation = window(r, node, x, weights.shape[2:])
    channels = r.shape(x)[-1]
    if groups < 1 or weights.shape[1] * groups != channels or outputs % groups:
        r.refuse(
            node,
            f"its kernel of {weights.shape[1]} channels in {groups} groups does not fit the {channels} that it reads",
        )
    kernel = weights.transpose(2, 3, 1, 0).astype(np.float64)
    shift = np.zeros(outputs)
    if x.affine is not None:
        kernel, shift = scaled_inputs(kernel, *x.affine, groups)
        if any(padding) and any(x.affine[1]):
            r.skip(node, "the shift of its image is folded in, exactly but for the border of the image")
    name = r.add(node, Conv(outputs, kernel_size, stride, padding, dilation, groups, norm=False), plain(x))
    return _add_kernel(r, node, name, kernel, _bias(r, node, bias, outputs) + shift)


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
    return _add_kernel(r, node, name, weights[None, None].astype(np.float64), _bias(r, node, bias, outputs))


def _add_kernel(r: Reader, node: Any, name: str, kernel: np.ndarray, bias: np.ndarray) -> Value:
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


@HANDLERS.of("Gemm")
def _gemm(r: Reader, node: Any) -> Value:
    given = attributes(node)
    if given.get("transA", 0):
        r.refuse(node, "its first operand must not be transposed")
    weights, bias = r.constant(node, 1), r.optional(node, 2)
    weights = (weights.T if given.get("transB", 0) else weights) * given.get("alpha", 1.0)
    return _linear(r, node, weights, None if bias is None else bias * given.get("beta", 1.0))


@HANDLERS.of("MatMul")
def _matmul(r: Reader, node: Any) -> Value:
    if node.input[0] in r.constants or node.input[1] not in r.constants:
        r.refuse(node, "only the product of features with constant weights is supported, a fully connected layer")
    return _linear(r, node, r.constant(node, 1), None)


def window(
    r: Reader, node: Any, x: Value, kernel: tuple[int, ...], *, pool: bool = False
) -> tuple[Pair, Pair, tuple[int, int, int, int], Pair]:
    """Kernel, stride, padding and dilation of a window."""
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
    if pool and max(dilations) > 1:
        r.refuse(node, "pools with dilation are not supported")
    return tuple(kernel), tuple(strides), tuple(pads), tuple(dilations)  # type: ignore[return-value]


def plain(x: Value) -> Value:
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
    if x.padding is not None:
        r.refuse(node, "a Pad must be followed by a convolution or an average pool")
    if x.node not in r.weights or x.shared or x.mixed is not None:
        reason = "constants can be added or multiplied only to what a layer gives to this node alone"
        return r.not_kept(node, x, reason)
    r.scale(x.node, gain, shift)
    r.skip(node, f"folded into {x.node}")
    return x


@HANDLERS.of("BatchNormalization")
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


@HANDLERS.of("Add", "Sub", "Mul", "Div")
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
