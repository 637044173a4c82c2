"""Networks in float: what every op does with arrays, and the Flax NNX module of a graph."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import singledispatch

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array, lax

from mqjax.models.graph import Graph, Node
from mqjax.models.ops import (
    Activation,
    Add,
    AvgPool,
    Concat,
    Conv,
    Flatten,
    GlobalAvgPool,
    Image,
    Kernel,
    Linear,
    MaxPool,
    Op,
)

MOMENTUM = 0.9
"""Of the batch norms' running statistics."""

EPSILON = 1e-3
"""What batch norms add to the variance."""


@singledispatch
def apply(op: Op, *inputs: Array) -> Array:
    """What an op without a kernel does with its inputs [B, ...]."""
    raise TypeError(f"{op} is not done by itself")


@apply.register
def _(op: Activation, x: Array) -> Array:
    if op.kind == "hardswish":
        return x * (jnp.clip(x + 3.0, 0.0, 6.0) / 6.0)
    if op.kind == "relu":
        return jnp.clip(x, 0.0, op.limit)
    return x


@apply.register
def _(op: Add, *inputs: Array) -> Array:
    return sum(inputs[1:], start=inputs[0])


@apply.register
def _(op: MaxPool, x: Array) -> Array:
    return _pooled(op, x, -jnp.inf, lax.max)


@apply.register
def _(op: AvgPool, x: Array) -> Array:
    return _pooled(op, x, 0.0, lax.add) / math.prod(op.window.kernel)


@apply.register
def _(op: GlobalAvgPool, x: Array) -> Array:
    return jnp.mean(x, axis=(1, 2))


@apply.register
def _(op: Concat, *inputs: Array) -> Array:
    return jnp.concatenate(inputs, axis=-1)


@apply.register
def _(op: Flatten, x: Array) -> Array:
    return x.reshape(len(x), -1)


def _pooled(op: MaxPool | AvgPool, x: Array, start: float, combine: Callable) -> Array:
    window = op.window
    borders = ((0, 0), *window.padding, (0, 0))
    return lax.reduce_window(x, start, combine, (1, *window.kernel, 1), (1, *window.stride, 1), borders)


def depthwise(x: Array, kernel: Array, op: Conv) -> Array:
    """Depthwise convolution of x [B, H, W, C] with kernel [S, R, 1, C].

    On CPU by shifts and adds, which XLA fuses: several times faster there than its grouped convolution.
    """
    if jax.default_backend() != "cpu":
        return _convolution(x, kernel, op)
    window = op.window
    padded = jnp.pad(x, ((0, 0), *window.padding, (0, 0)))
    height, width = window.places(*x.shape[1:3])
    (down, across), (row_step, column_step) = window.stride, window.dilation
    total = jnp.zeros((x.shape[0], height, width, x.shape[3]), x.dtype)
    for row in range(window.kernel[0]):
        for column in range(window.kernel[1]):
            top, left = row * row_step, column * column_step
            part = padded[
                :, top : top + (height - 1) * down + 1 : down, left : left + (width - 1) * across + 1 : across
            ]
            total = total + part * kernel[row, column, 0]
    return total


def _convolution(x: Array, kernel: Array, op: Conv) -> Array:
    window = op.window
    return lax.conv_general_dilated(
        x,
        kernel,
        window.stride,
        window.padding,
        rhs_dilation=window.dilation,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=op.groups,
    )


def convolve(x: Array, kernel: Array, op: Op) -> Array:
    """A layer's linear part: x [B, H, W, C] (or [B, C] for Linear) with kernel [S, R, C / groups, M]."""
    assert isinstance(op, Kernel)
    if isinstance(op, Linear) or (op.kernel, op.stride, op.padding, op.groups) == (1, 1, 0, 1):
        return x @ kernel[0, 0]
    if op.groups == op.outputs == x.shape[-1]:
        return depthwise(x, kernel, op)
    return _convolution(x, kernel, op)


def walk(
    graph: Graph,
    images: Array,
    linear: Callable[[Array, Node], Array],
    store: Callable[[Array, str, int], Array] = lambda x, name, number: x,
) -> Array:
    """Send images [B, H, W, channels] through a network whose layers' linear parts (with bias or batch norm) are `linear`.

    store(x, name, n): what memory keeps of x, the value of the node called so, in stored tensor n. A value is stored once
    and read from there by all its readers; means are stored on the grid of what they are means of. The largest of stored
    values, and their arrangement, need no storing.
    """
    numbers, values = dict(graph.storage.tensors), {}
    for node in graph.nodes:
        inputs = [values[name] for name in node.inputs]
        if isinstance(node.op, Image):
            x = images
        elif isinstance(node.op, Kernel):
            x = linear(inputs[0], node)
        else:
            x = apply(node.op, *inputs)
        if node.name in numbers and not isinstance(node.op, MaxPool | Concat | Flatten):
            x = store(x, node.name, numbers[node.name])
        values[node.name] = x
    return values[graph.nodes[-1].name]


class ConvBlock(nnx.Module):
    """A layer's kernel with its batch norm or bias. shape: [S, R, C, M] of the kernel."""

    def __init__(self, op: Op, shape: tuple[int, int, int, int], *, depthwise: bool = False, rngs: nnx.Rngs) -> None:
        assert isinstance(op, Kernel)
        init = nnx.initializers.variance_scaling(2.0, "fan_in" if depthwise else "fan_out", "normal")
        self.kernel = nnx.Param(init(rngs.params(), shape, jnp.float32))
        if isinstance(op, Conv) and op.norm:
            self.norm = nnx.BatchNorm(op.outputs, momentum=MOMENTUM, epsilon=EPSILON, rngs=rngs)
        else:
            self.bias = nnx.Param(jnp.zeros((op.outputs,), jnp.float32))

    @property
    def normed(self) -> bool:
        """Whether a batch norm follows; else a bias is added."""
        return hasattr(self, "norm")

    def __call__(self, x: Array, op: Op, *, train: bool, kernel: Array | None = None) -> Array:
        """kernel: takes the place of the block's own."""
        y = convolve(x, self.kernel[...] if kernel is None else kernel, op)
        return self.norm(y, use_running_average=not train) if self.normed else y + self.bias[...]


class Network(nnx.Module):
    """The network of a graph, `architecture`. Takes images [B, H, W, channels] float32, returns logits [B, classes]."""

    def __init__(self, architecture: Graph, *, rngs: nnx.Rngs) -> None:
        self.architecture = architecture
        self.blocks = nnx.Dict(
            {
                node.name: ConvBlock(
                    node.op, architecture.kernel_shape(node), depthwise=architecture.depthwise(node), rngs=rngs
                )
                for node in architecture.kernels
            }
        )

    def __call__(self, x: Array, *, train: bool = False) -> Array:
        return walk(self.architecture, x, lambda x, node: self.blocks[node.name](x, node.op, train=train))


def MobileNetV1(**options) -> Network:
    """MobileNetV1; options as for `architecture`, and `rngs`."""
    return _build("mobilenetv1", **options)


def MobileNetV2(**options) -> Network:
    """MobileNetV2; options as for `architecture`, and `rngs`."""
    return _build("mobilenetv2", **options)


def _build(name: str, *, rngs: nnx.Rngs | None = None, **options) -> Network:
    from mqjax.models.networks import architecture

    return Network(architecture(name, **options), rngs=rngs or nnx.Rngs(0))


def parameter_count(model: nnx.Module) -> int:
    """Number of trained parameters; the running statistics of batch norms do not count."""
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))
