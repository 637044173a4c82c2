"""MobileNets as Flax NNX modules, built from an `Architecture`."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array, lax

from mqjax.models.architecture import Architecture, Conv

MOMENTUM = 0.9
"""Of the batch norms' running statistics."""

EPSILON = 1e-3
"""What batch norms add to the variance."""


def depthwise(x: Array, kernel: Array, stride: int) -> Array:
    """Depthwise convolution of x [B, H, W, C] with kernel [R, S, 1, C], symmetric padding.

    On CPU by shifts and adds, which XLA fuses: several times faster there than its grouped convolution.
    """
    size = kernel.shape[0]
    pad = (size - 1) // 2
    if jax.default_backend() != "cpu":
        return lax.conv_general_dilated(
            x,
            kernel,
            (stride, stride),
            [(pad, pad), (pad, pad)],
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=x.shape[-1],
        )
    padded = jnp.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    height, width = ((extent - 1) // stride + 1 for extent in x.shape[1:3])
    total = jnp.zeros((x.shape[0], height, width, x.shape[3]), x.dtype)
    for i in range(size):
        for j in range(size):
            window = padded[:, i : i + (height - 1) * stride + 1 : stride, j : j + (width - 1) * stride + 1 : stride]
            total = total + window * kernel[i, j, 0]
    return total


def convolve(x: Array, kernel: Array, conv: Conv) -> Array:
    """A layer's linear part: x [B, H, W, C] (or [B, C] for "fc") with kernel [R, S, C, M] ([R, S, 1, C] for "dw")."""
    if conv.kind == "fc":
        return x @ kernel[0, 0]
    if conv.kind == "pw":
        return x @ kernel[0, 0]
    if conv.kind == "dw":
        return depthwise(x, kernel, conv.stride)
    pad = (conv.kernel - 1) // 2
    return lax.conv_general_dilated(
        x,
        kernel,
        (conv.stride, conv.stride),
        [(pad, pad), (pad, pad)],
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def walk(
    architecture: Architecture,
    images: Array,
    linear: Callable[[Array, Conv], Array],
    store: Callable[[Array, int], Array] = lambda x, number: x,
) -> Array:
    """Send images [B, H, W, channels] through a network whose layers' linear parts (with bias or batch norm) are `linear`.

    store(x, n): what memory keeps of x, the input of layer n or, for n = L, the logits. A layer's output is stored once
    and read from there, also by a residual sum; the sum itself happens before storing, in the wide sums of the layer
    that ends the block. The global average pool reads what is stored and stores its result in the same way.
    """
    x, stored = store(images, 0), {}
    for number, conv in enumerate(architecture.convs):
        if conv.kind == "fc":
            x = store(jnp.mean(x, axis=(1, 2)), number)
        x = linear(x, conv)
        if conv.relu:
            x = jnp.clip(x, 0.0, 6.0)
        if conv.adds is not None:
            x = x + stored[conv.adds]
        x = stored[conv.name] = store(x, number + 1)
    return x


class ConvBlock(nnx.Module):
    """A layer with its batch norm (or bias, for "fc")."""

    def __init__(self, conv: Conv, *, rngs: nnx.Rngs) -> None:
        fan_in = 1 if conv.kind == "dw" else conv.inputs
        shape = (conv.kernel, conv.kernel, fan_in, conv.outputs)
        init = nnx.initializers.variance_scaling(2.0, "fan_out" if conv.kind != "dw" else "fan_in", "normal")
        self.kernel = nnx.Param(init(rngs.params(), shape, jnp.float32))
        if conv.kind == "fc":
            self.bias = nnx.Param(jnp.zeros((conv.outputs,), jnp.float32))
        else:
            self.norm = nnx.BatchNorm(conv.outputs, momentum=MOMENTUM, epsilon=EPSILON, rngs=rngs)

    def __call__(self, x: Array, conv: Conv, *, train: bool, kernel: Array | None = None) -> Array:
        """kernel: takes the place of the block's own."""
        y = convolve(x, self.kernel[...] if kernel is None else kernel, conv)
        return y + self.bias[...] if conv.kind == "fc" else self.norm(y, use_running_average=not train)


class MobileNet(nnx.Module):
    """A MobileNet; `architecture` describes it. Takes images [B, H, W, channels] float32, returns logits [B, classes]."""

    def __init__(self, architecture: Architecture, *, rngs: nnx.Rngs) -> None:
        self.architecture = architecture
        self.blocks = nnx.Dict({conv.name: ConvBlock(conv, rngs=rngs) for conv in architecture.convs})

    def __call__(self, x: Array, *, train: bool = False) -> Array:
        return walk(self.architecture, x, lambda x, conv: self.blocks[conv.name](x, conv, train=train))


def MobileNetV1(**options) -> MobileNet:
    """MobileNetV1; options as for `architecture`, and `rngs`."""
    return _build("mobilenetv1", **options)


def MobileNetV2(**options) -> MobileNet:
    """MobileNetV2; options as for `architecture`, and `rngs`."""
    return _build("mobilenetv2", **options)


def _build(name: str, *, rngs: nnx.Rngs | None = None, **options) -> MobileNet:
    from mqjax.models.architecture import architecture

    return MobileNet(architecture(name, **options), rngs=rngs or nnx.Rngs(0))


def parameter_count(model: nnx.Module) -> int:
    """Number of trained parameters; the running statistics of batch norms do not count."""
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))
