"""A quantized network at one assignment of bit-widths, run by fake quantization; widths are traced numbers.

How a network is quantized, as an integer accelerator with wide sums would run it:

- Weights are rounded to a symmetric grid, with a step per output channel or per tensor. The gain of a batch norm goes to
  the step, its shift to the bias, so rounding and folding commute.
- Each tensor between layers is stored once, at the input width of the layer that follows, and read from there by that
  layer and by a residual sum. The sum happens in the wide sums of the layer that ends the block, before it is stored.
- The first layer's input, the image, is rounded to that layer's input width, and every layer's weights to their own
  width, the first and the last layer's too. The logits are stored at 8 bits.
- The global average pool reads stored values and stores its result on the same grid.
- Biases and the residual sum's other tensor join a layer's sums in the fixed-point product that brings these to the next
  grid, so they are not rounded themselves. `mqjax.models.integer` runs the same network with integers only.

Scheme: Jacob et al. 2018, section 2; gradients: Esser et al. 2020, section 2.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from mqjax.models.architecture import Architecture, Conv
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


def round_to(x: Array, step: Array | float, zero: Array | float, width: Array, *, signed: Array | bool) -> Array:
    """Round x to a grid. Within it the gradient passes straight through to x; that of `step` is the one of learned step
    size quantization."""
    low, high = levels(width, signed)
    clipped = jnp.clip(x / step + zero, low, high)
    rounded = clipped + jax.lax.stop_gradient(jnp.round(clipped) - clipped)
    return (rounded - zero) * step


def load(images: Array, step: Array) -> Array:
    """Images a little below their values. An 8-bit grid over -1..1 has every pixel in the middle between two levels, and
    compiled programs would differ in which one they take; so it is the lower, which is the pixel's own number."""
    return images - step * 2.0**-10


def round_kernels(architecture: Architecture, network: Quantized) -> dict[str, Array]:
    """Every layer's kernel rounded to its weight width, as integers: float32 multiples of the layer's `kernel_steps`."""
    return {
        conv.name: round_to(
            network.kernels[conv.name] / network.kernel_steps[conv.name],
            1.0,
            0.0,
            network.widths[number, 1],
            signed=True,
        )
        for number, conv in enumerate(architecture.convs)
    }


def forward(
    architecture: Architecture, network: Quantized, images: Array, *, kernels: dict[str, Array] | None = None
) -> Array:
    """Logits float32 [B, classes] of the quantized network for images float32 [B, H, W, channels].

    Products are those of integers, whose sums float32 holds exactly up to 2^24, in whatever order a compiled program takes
    them; only rescaling rounds.

    kernels: from `round_kernels`. On CPU it is several times faster to compute them in a program of their own: in one
    program XLA rounds depthwise kernels again for every pixel.
    """
    integers = round_kernels(architecture, network) if kernels is None else kernels
    widths = stored_widths(network.widths)
    numbers = {conv.name: number for number, conv in enumerate(architecture.convs)}

    def store(x: Array, number: int) -> Array:
        return round_to(x, network.steps[number], network.zeros[number], widths[number], signed=network.signed)

    def linear(x: Array, conv: Conv) -> Array:
        step = network.steps[numbers[conv.name]]
        sums = convolve(jnp.round(x / step), integers[conv.name], conv)
        return sums * (step * network.kernel_steps[conv.name]) + network.biases[conv.name]

    return walk(architecture, load(images, network.steps[0]), linear, store)
