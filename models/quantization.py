"""A quantized network at one assignment of bit-widths, run by fake quantization; widths are traced numbers.

How a network is quantized, as an integer accelerator with wide sums would run it:

- Weights are rounded to a symmetric grid, with a step per output channel or per tensor. The gain of a batch norm goes to
  the step, its shift to the bias, so rounding and folding commute.
- Each tensor between layers is stored once, at the input width of the layer that follows, and read from there by that
  layer and by a residual sum. The sum happens in the wide sums of the layer that ends the block, before it is stored.
- The first layer's input, the image, is rounded to that layer's input width, and every layer's weights to their own
  width, the first and the last layer's too. The logits are stored at 8 bits.
- The global average pool reads stored values and stores its result on the same grid.
- Biases are 32-bit integers on the grid of the sums that they join; sums are wide. `mqjax.models.integer` runs the same network with integers only.

Scheme: Jacob et al. 2018, section 2; gradients: Esser et al. 2020, section 2.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from mqjax.models.architecture import Architecture
from mqjax.models.mobilenet import convolve, walk

OUTPUT_WIDTH = 8
"""Bit-width of the network's output."""


class Quantized(NamedTuple):
    """A network at one assignment, batch norms folded in; dictionaries are keyed by layer name.

    Row n of `steps` and `zeros` is the grid of layer n's input, row L that of the logits: q stands for (q - zero) * step.
    """

    widths: Array  # int32 [L, 2], input and weight width of every layer
    kernels: dict[str, Any]  # float32 [R, S, C, M], not yet rounded
    kernel_steps: dict[str, Any]  # float32 [M] or [1]
    biases: dict[str, Any]  # float32 [M]
    steps: Array  # float32 [L + 1]
    zeros: Array  # float32 [L + 1], integers
    signed: Array  # bool: activations are stored symmetrically around zero


def stored_widths(widths: Array) -> Array:
    """Bit-widths int32 [L + 1] of the stored tensors: of every layer's input, and of the logits."""
    return jnp.append(widths[:, 0], jnp.int32(OUTPUT_WIDTH))


def levels(width: Array, signed: Array | bool) -> tuple[Array, Array]:
    """The lowest and highest integer of a grid: -(2^(w-1) - 1)..2^(w-1) - 1 if signed, else 0..2^w - 1."""
    count = 2.0 ** jnp.asarray(width).astype(jnp.float32)
    half = count / 2 - 1
    return jnp.where(signed, -half, 0.0), jnp.where(signed, half, count - 1)


def round_to(x: Array, step: Array, zero: Array | float, width: Array, *, signed: Array | bool) -> Array:
    """Round x to a grid. Within it the gradient passes straight through to x; that of `step` is the one of learned step
    size quantization."""
    low, high = levels(width, signed)
    clipped = jnp.clip(x / step + zero, low, high)
    rounded = clipped + jax.lax.stop_gradient(jnp.round(clipped) - clipped)
    return (rounded - zero) * step


class Rounded(NamedTuple):
    """What a network's layers multiply with and add, as numbers that integers stand for."""

    kernels: dict[str, Array]
    biases: dict[str, Array]


def round_weights(architecture: Architecture, network: Quantized) -> Rounded:
    """Every layer's kernel rounded to its weight width, and its bias to the step of the sums that it joins."""
    kernels, biases = {}, {}
    for number, conv in enumerate(architecture.convs):
        name, width = conv.name, network.widths[number, 1]
        step = network.kernel_steps[name]
        kernels[name] = round_to(network.kernels[name], step, 0.0, width, signed=True)
        sum_step = network.steps[number] * step
        biases[name] = jnp.round(network.biases[name] / sum_step) * sum_step
    return Rounded(kernels, biases)


def forward(architecture: Architecture, network: Quantized, images: Array, *, rounded: Rounded | None = None) -> Array:
    """Logits float32 [B, classes] of the quantized network for images float32 [B, H, W, channels].

    rounded: from `round_weights`. On CPU it is several times faster to compute it in a program of its own: in one program
    XLA rounds depthwise kernels again for every pixel.
    """
    kernels, biases = round_weights(architecture, network) if rounded is None else rounded
    widths = stored_widths(network.widths)

    def store(x: Array, number: int) -> Array:
        return round_to(x, network.steps[number], network.zeros[number], widths[number], signed=network.signed)

    return walk(architecture, images, lambda x, conv: convolve(x, kernels[conv.name], conv) + biases[conv.name], store)
