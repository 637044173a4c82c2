"""What each primitive of JAX becomes in the graph."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from mqjax.models.importing import scaled_inputs
from mqjax.models.ops import Activation, Add, AvgPool, Concat, Conv, Flatten, GlobalAvgPool, Linear, MaxPool
from mqjax.models.traced.program import Equation
from mqjax.models.traced.reader import GATE, PENDING, Reader, Value, op_words

Handler = Callable[[Reader, Equation], Value]

HANDLERS: dict[str, Handler] = {}
"""By primitive."""

CHANNELS_LAST = ((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2))
"""Where convolutions have batch and channels of image, kernel and output, which is how Flax has them."""


def handle(r: Reader, equation: Equation) -> Value:
    """What an op's output is in the graph. Raises `InputError` naming the op where it is not supported."""
    inputs = [r.values[number] for number in equation.inputs if number in r.values]
    if any(x.tail is not None for x in inputs) and equation.op not in ("conv_general_dilated", "dot_general"):
        return _tail(r, equation, inputs)
    handler = HANDLERS.get(equation.op)
    return _unknown_op(r, equation) if handler is None else handler(r, equation)


def of(*primitives: str) -> Callable[[Handler], Handler]:
    """Register a function for these primitives."""

    def register(function: Handler) -> Handler:
        HANDLERS.update(dict.fromkeys(primitives, function))
        return function

    return register


# Layers.


@of("conv_general_dilated")
def _conv(r: Reader, equation: Equation) -> Value:
    x, params = r.value(equation, pending=("padding", "affine")), equation.params
    kernel = r.constant(equation, 1)
    if kernel.ndim != 4 or tuple(params["dimension_numbers"]) != CHANNELS_LAST:
        r.refuse(equation, "only two-dimensional convolutions with channels last are supported")
    if params["batch_group_count"] != 1 or tuple(params["lhs_dilation"]) != (1, 1):
        r.refuse(equation, "transposed convolutions are not supported")
    groups, outputs = params["feature_group_count"], kernel.shape[-1]
    (top, bottom), (left, right) = params["padding"]
    pads = top, left, bottom, right
    if min(pads) < 0:
        r.refuse(equation, "its padding must not be negative")
    if len(r.graph_shapes[x.node]) == 1:  # one pixel
        if kernel.shape[:2] != (1, 1) or groups != 1 or any(pads):
            r.refuse(equation, "on one pixel only 1x1 convolutions are supported")
        return r.layer(equation, Linear(outputs), r.value(equation), kernel)
    if x.padding is not None:
        top, left, bottom, right = (one + other for one, other in zip(pads, x.padding, strict=True))
        pads = top, left, bottom, right
    shift: np.ndarray | float = 0.0
    if x.affine is not None:
        kernel, shift = scaled_inputs(kernel, *x.affine, groups)
        if any(pads) and any(x.affine[1]):
            r.skip(equation, "the shift of its image is folded in, exactly but for the border of the image")
    strides, holes = params["window_strides"], params["rhs_dilation"]
    op = Conv(outputs, kernel.shape[:2], strides, pads, holes, groups, norm=False)
    return r.layer(equation, op, x, kernel, shift)


@of("dot_general")
def _dot(r: Reader, equation: Equation) -> Value:
    x = r.value(equation)
    weights = r.constant(equation, 1)
    (left, right), batch = equation.params["dimension_numbers"]
    if weights.ndim != 2 or tuple(left) != (len(x.shape) - 1,) or tuple(right) != (0,) or any(map(len, batch)):
        r.refuse(
            equation, "only products of the channels, or of features, with weights [inputs, outputs] are supported"
        )
    kernel, outputs = weights[None, None], weights.shape[1]
    op = Linear(outputs) if len(r.graph_shapes[x.node]) == 1 else Conv(outputs, norm=False)
    return r.layer(equation, op, x, kernel)


# Arithmetic.


@of("add", "add_any", "sub", "mul", "div")
def _arithmetic(r: Reader, equation: Equation) -> Value:
    tracked = [number in r.values for number in equation.inputs]
    if all(tracked):
        return _of_two(r, equation)
    place = tracked.index(True)
    x, number = r.values[equation.inputs[place]], r.constant(equation, 1 - place)
    op = "add" if equation.op == "add_any" else equation.op
    if number.size == 1 and (found := _next_step(r, equation, x, op, place, float(number.reshape(())))) is not None:
        return found
    channels = r.channels(x)
    if number.size not in (1, channels) or (number.ndim and number.size > 1 and number.shape[-1] != channels):
        return _kept_shape(r, equation, x, f"its constant must be one number, or one for each of {channels} channels")
    if op == "div" and (place == 1 or (number == 0).any()):
        return _kept_shape(r, equation, x, "only divisions by constants other than zero are supported")
    number = np.broadcast_to(number.reshape(-1), (channels,))
    ones, zeros = np.ones(channels), np.zeros(channels)
    gain, shift = {
        "add": (ones, number),
        "sub": (ones, -number) if place == 0 else (-ones, number),
        "mul": (number, zeros),
        "div": (1 / np.where(number == 0, 1, number), zeros),
    }[op]
    return _affine(r, equation, x, place, gain, shift)


def _next_step(r: Reader, equation: Equation, x: Value, op: str, place: int, number: float) -> Value | None:
    """The next step of a mean or of a hard swish, if a constant that is added or multiplied is one."""
    factor = number if op == "mul" else 1 / number if op == "div" and place == 0 and number else None
    if x.sum is not None and factor is not None:
        mean, count = x.sum
        if abs(factor * count - 1) > 1e-5:
            r.refuse(equation, f"a sum over {count} pixels must be divided by their number, for a mean")
        return r.add(equation, mean, dataclasses.replace(x, sum=None))
    if x.gate is None and op == "add" and number == 3 and x.shared and x.node != "image" and _nothing_pending(x):
        return dataclasses.replace(x, gate=GATE[0])
    if factor is not None and abs(factor - 1 / 6) < 1e-6:
        if x.gate == GATE[1]:
            return dataclasses.replace(x, gate=GATE[2])
        if x.gate == GATE[3]:
            return r.add(equation, Activation("hardswish"), dataclasses.replace(x, gate=None), name="hard_swish")
    return None


def _nothing_pending(x: Value) -> bool:
    """Whether nothing is pending on a value."""
    return all(getattr(x, name) is None for name in PENDING)


def _affine(r: Reader, equation: Equation, x: Value, place: int, gain: np.ndarray, shift: np.ndarray) -> Value:
    """x * gain + shift, both [channels]."""
    if x.node == "image" and x.padding is None and x.gate is None and x.sum is None:
        before = x.affine or (np.ones_like(gain), np.zeros_like(gain))
        r.skip(equation, "folded into the layers that read the image")
        return dataclasses.replace(x, affine=(before[0] * gain, before[1] * gain + shift))
    if (gain == 1).all() and (shift == 0).all():
        return x
    x = r.value(equation, place)
    if x.node not in r.weights or x.shared:
        return _kept_shape(
            r, equation, x, "constants can be added or multiplied only to what a layer gives to this op alone"
        )
    r.scale(x.node, gain, shift)
    return x


def _of_two(r: Reader, equation: Equation) -> Value:
    x, y = r.values[equation.inputs[0]], r.values[equation.inputs[1]]
    if equation.op == "mul" and x.node == y.node:
        for one, other in ((x, y), (y, x)):
            if _nothing_pending(one) and other.gate == GATE[2]:
                return r.add(equation, Activation("hardswish"), one, name="hard_swish")
            if _nothing_pending(one) and other.gate == GATE[1]:
                return dataclasses.replace(one, gate=GATE[3])
    x, y = r.value(equation, 0), r.value(equation, 1)
    if x.node == y.node:
        return _kept_shape(r, equation, x, "this op is not supported")
    if equation.op in ("add", "add_any") and x.shape == y.shape:
        return r.add(equation, Add(), x, y)
    r.refuse(equation, "of two tensors only the sum of equal shapes is supported")


# Activations.


@of("max", "min", "clamp")
def _limits(r: Reader, equation: Equation) -> Value:
    """ReLU, with a limit or without; what changes nothing."""
    places = [place for place, number in enumerate(equation.inputs) if number in r.values]
    place = 1 if equation.op == "clamp" else places[0]
    if len(places) > 1 or places != [place]:
        r.refuse(equation, f"{equation.op} of several tensors is not supported")
    numbers = [r.constant(equation, other) for other in range(len(equation.inputs)) if other != place]
    x = r.values[equation.inputs[place]]
    if any(number.size != 1 for number in numbers):
        return _kept_shape(r, equation, r.value(equation, place), "only limits of one number are supported")
    bounds = [float(number.reshape(())) for number in numbers]
    low = bounds[0] if equation.op in ("max", "clamp") else -math.inf
    high = bounds[-1] if equation.op in ("min", "clamp") else math.inf
    if (low, high) == (-math.inf, math.inf):
        return x
    if x.gate == GATE[0] and low == 0:
        return dataclasses.replace(x, gate=GATE[1] if high == 6 else "max(x + 3, 0)")
    if x.gate == "max(x + 3, 0)" and (low, high) == (-math.inf, 6):
        return dataclasses.replace(x, gate=GATE[1])
    x = r.value(equation, place)
    op = next(node.op for node in r.nodes if node.name == x.node)
    if low == -math.inf and high > 0 and op == Activation("relu") and not x.shared:
        r.restrict(x, high)
        return x
    if low == 0 and high > 0:
        return r.add(equation, Activation("relu", None if high == math.inf else high), x)
    return _kept_shape(r, equation, x, f"only limits from 0 to a positive number are supported, not {low} to {high}")


# Pools, and what rearranges.


@of("reduce_window_sum", "reduce_window_max")
def _pool(r: Reader, equation: Equation) -> Value:
    params, mean = equation.params, equation.op == "reduce_window_sum"
    x = r.value(equation, pending=("padding",) if mean else ())
    sizes, strides, pads = params["window_dimensions"], params["window_strides"], params["padding"]
    if len(x.shape) != 4 or len(r.graph_shapes[x.node]) != 3:
        r.refuse(equation, "only windows over height and width are supported")
    outside = any(entry[place] != 1 for entry in (sizes, strides) for place in (0, 3)) or any((*pads[0], *pads[3]))
    if outside or any(number != 1 for number in (*params["base_dilation"], *params["window_dilation"])):
        r.refuse(equation, "only windows over height and width are supported, without dilation")
    (top, bottom), (left, right) = pads[1:3]
    border = [one + other for one, other in zip((top, left, bottom, right), x.padding or (0,) * 4, strict=True)]
    kernel, stride = (tuple(entry[1:3]) for entry in (sizes, strides))
    plain = dataclasses.replace(x, padding=None)
    if not mean:
        return r.add(equation, MaxPool(kernel, stride, tuple(border)), plain)  # type: ignore[arg-type]
    op = AvgPool(kernel, stride, tuple(border))  # type: ignore[arg-type]
    return dataclasses.replace(plain, sum=(op, math.prod(kernel)), shape=equation.shapes[0])


@of("reduce_sum", "reduce_max")
def _reduced(r: Reader, equation: Equation) -> Value:
    """The mean or the maximum over all pixels."""
    x, axes = r.value(equation), tuple(equation.params["axes"])
    shape = r.graph_shapes[x.node]
    if len(shape) == 1 and all(axis > 0 and x.shape[axis] == 1 for axis in axes):
        return x  # one pixel already
    if len(shape) == 3 and axes == (1, 2):
        if equation.op == "reduce_max":
            largest = r.add(equation, MaxPool(shape[:2], 1), x)  # type: ignore[arg-type]
            return r.add(equation, Flatten(), largest)
        return dataclasses.replace(x, sum=(GlobalAvgPool(), shape[0] * shape[1]))
    return _unknown_op(r, equation)


@of("concatenate")
def _concat(r: Reader, equation: Equation) -> Value:
    parts = [r.value(equation, number) for number in range(len(equation.inputs))]
    if equation.params["dimension"] != len(parts[0].shape) - 1:
        r.refuse(equation, f"only channels can be put side by side, not axis {equation.params['dimension']}")
    return parts[0] if len(parts) == 1 else r.add(equation, Concat(), *parts)


@of("reshape", "squeeze", "expand_dims", "broadcast_in_dim")
def _reshape(r: Reader, equation: Equation) -> Value:
    x = r.value(equation, pending=("sum",))
    after, count = equation.shapes[0], math.prod(x.shape)
    if after == x.shape:
        return x
    shape = r.graph_shapes[x.node]
    flat = math.prod(after) == count and after[:1] == (1,) and sorted(after)[-1] == count and after[-1] == count
    if not flat:
        shown = " to ".join("x".join(map(str, sizes)) for sizes in (x.shape, after))
        r.refuse(equation, f"it changes shapes from {shown}; only flattening is supported")
    if len(shape) == 1 or (x.sum is not None and isinstance(x.sum[0], GlobalAvgPool)):
        return x
    return r.add(equation, Flatten(), r.value(equation))


@of("pad")
def _pad(r: Reader, equation: Equation) -> Value:
    x, borders = r.value(equation), equation.params["padding_config"]
    beside = len(borders) == 4 and all(
        interior == 0 and min(low, high) >= 0 and (place in (1, 2) or low == high == 0)
        for place, (low, high, interior) in enumerate(borders)
    )
    if not beside or len(r.graph_shapes[x.node]) != 3 or float(r.constant(equation, 1)) != 0:
        r.refuse(equation, "only zeros beside height and width can be padded")
    (_, (top, bottom, _), (left, right, _), _) = borders
    r.skip(equation, "merged into the layer after it")
    return dataclasses.replace(x, padding=(top, left, bottom, right))


@of("convert_element_type", "copy", "copy_p", "stop_gradient", "optimization_barrier", "name", "reduce_precision")
def _same(r: Reader, equation: Equation) -> Value:
    x = r.value(equation, pending=tuple(PENDING))
    if equation.op == "convert_element_type" and not jnp.issubdtype(equation.params["new_dtype"], jnp.floating):
        return _kept_shape(r, equation, x, "only conversions to floating-point numbers are supported")
    return x


# What is not supported.


def _kept_shape(r: Reader, equation: Equation, x: Value, reason: str) -> Value:
    """An op that cannot be kept: left out where it changes no shape."""
    if equation.shapes[0] != x.shape:
        r.refuse(equation, reason)
    return r.not_kept(equation, x, f"{reason}; it changes no shape, so the mapper does not need it")


def _unknown_op(r: Reader, equation: Equation) -> Value:
    """An op that is not known: left out where it changes no shape, or where it may be part of a softmax behind the logits."""
    places = [place for place, number in enumerate(equation.inputs) if number in r.values]
    found = [r.value(equation, place) for place in places]
    x, inside = found[0], any("jaxpr" in key for key in equation.params)
    if inside or any(other.node != x.node for other in found) or len(equation.outputs) > 1:
        r.refuse(equation, "this op is not supported")
    if equation.shapes[0] == x.shape:
        return _kept_shape(r, equation, x, "this op is not supported")
    if len(r.graph_shapes[x.node]) != 1:
        r.refuse(equation, "this op is not supported")
    return _tail(r, equation, found)


def _tail(r: Reader, equation: Equation, inputs: list[Value]) -> Value:
    """An op behind the logits: done to random ones, to see what it is."""
    began = next((x.tail[0] for x in inputs if x.tail is not None), op_words(equation))
    if any(x.node != inputs[0].node for x in inputs) or len(equation.outputs) > 1:
        r.refuse(equation, f"it follows {began}, which is not supported")
    values = []
    for number in equation.inputs:
        x = r.values.get(number)
        if x is None:
            values.append(r.program.constants[number])
        elif x.tail is not None:
            values.append(x.tail[1])
        else:
            if x.node not in r.probes:
                r.probes[x.node] = 3 * jax.random.normal(jax.random.key(0), x.shape)
            values.append(r.probes[x.node])
    (probe,) = equation.compute(values)
    return Value(inputs[0].node, equation.shapes[0], tail=(began, probe))
