"""A quantized network at one assignment of bit-widths, run by fake quantization; widths are traced numbers.

How a network is quantized, as an integer accelerator with wide sums would run it:

- Weights are rounded to a symmetric grid, with a step per output channel or per tensor. The gain of a batch norm goes to
  the step, its shift to the bias, so rounding and folding commute.
- Each tensor between layers is stored once, at a width of its own, and read from there by all layers that read it and by
  residual sums. Activations and sums happen in the wide sums of the layer that they end, before these are stored
  (`mqjax.models.storage`).
- The first layer's input, the image, is rounded, too, and every layer's weights to their own width, the first and the last
  layer's as well. The logits are stored at 8 bits.
- Pools read stored values and store their results on the same grid; so do the parts of a concatenation.
- Biases and the residual sum's other tensor join a layer's sums in the fixed-point product that brings these to the next
  grid, so they are not rounded themselves. `mqjax.models.integer` runs the same network with integers only.

Scheme: Jacob et al. 2018, section 2; gradients: Esser et al. 2020, section 2.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from mqjax.models.graph import Graph, Node
from mqjax.models.network import convolve, walk
from mqjax.network.wiring import OUTPUT_WIDTH, Wiring

SHIFT = 2.0**-10
"""How far below their values images are read, in steps of their grid."""


class Quantized(NamedTuple):
    """A network at one assignment, batch norms folded in; dictionaries are keyed by layer name.

    Row t of `steps` and `zeros` is the grid of stored tensor t, row T that of the logits: q stands for (q - zero) * step.
    """

    tensor_widths: Array  # int32 [T + 1], of every stored tensor and of the logits
    kernel_widths: Array  # int32 [L]
    kernels: dict[str, Any]  # float32 [S, R, C, M], not yet rounded
    kernel_steps: dict[str, Any]  # float32 [M] or [1]
    biases: dict[str, Any]  # float32 [M]
    steps: Array  # float32 [T + 1]
    zeros: Array  # float32 [T + 1], integers
    signed: Array  # bool: activations are stored symmetrically around zero


def split_genome(wiring: Wiring, genome: Array) -> tuple[Array, Array]:
    """Bit-widths int32 [T + 1] of the stored tensors, the logits last, and [L] of the kernels, from a genome int32 [T + L]
    (or, for a chain, [L, 2])."""
    flat = genome.reshape(-1)
    return jnp.append(flat[wiring.tensor_genes], jnp.int32(OUTPUT_WIDTH)), flat[wiring.kernel_genes]


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
    return images - step * SHIFT


def round_kernels(architecture: Graph, network: Quantized) -> dict[str, Array]:
    """Every layer's kernel rounded to its weight width, as integers: float32 multiples of the layer's `kernel_steps`."""
    return {
        node.name: round_to(
            network.kernels[node.name] / network.kernel_steps[node.name],
            1.0,
            0.0,
            network.kernel_widths[number],
            signed=True,
        )
        for number, node in enumerate(architecture.kernels)
    }


def forward(
    architecture: Graph, network: Quantized, images: Array, *, kernels: dict[str, Array] | None = None
) -> Array:
    """Logits float32 [B, classes] of the quantized network for images float32 [B, H, W, channels].

    Products are those of integers, whose sums float32 holds exactly up to 2^24, in whatever order a compiled program takes
    them; only rescaling rounds.

    kernels: from `round_kernels`. On CPU it is several times faster to compute them in a program of their own: in one
    program XLA rounds depthwise kernels again for every pixel.
    """
    integers = round_kernels(architecture, network) if kernels is None else kernels
    tensors, widths = dict(architecture.storage.tensors), network.tensor_widths

    def store(x: Array, name: str, number: int) -> Array:
        return round_to(x, network.steps[number], network.zeros[number], widths[number], signed=network.signed)

    def linear(x: Array, node: Node) -> Array:
        step = network.steps[tensors[node.inputs[0]]]
        sums = convolve(jnp.round(x / step), integers[node.name], node.op)
        return sums * (step * network.kernel_steps[node.name]) + network.biases[node.name]

    return walk(architecture, load(images, network.steps[0]), linear, store)
