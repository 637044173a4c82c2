"""Post-training quantization of a trained network, with bit-widths as traced numbers.

Batch norms are folded into the weights first, as in deployment. Weights are quantized symmetrically, per output channel
or per tensor, activations asymmetrically or symmetrically, per tensor, each to 2..8 bits; biases and sums stay wide, as
in an accelerator with wide partial sums. The input of every layer is quantized at the layer's input width; the logits at 8 bits.
A residual sum adds values already rounded to their own grids, and the global average pool rounds its result again.

Widths index tables of scales made by calibration, so one compiled program serves all assignments.
Scheme: Jacob et al. 2018, section 2; clipping by mean-squared error: Banner et al. 2019.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from mqjax.errors import InputError
from mqjax.models.architecture import Architecture
from mqjax.models.mobilenet import MobileNet, convolve
from mqjax.types import WIDTHS

OUTPUT_WIDTH = 8
"""Bit-width of the network's output."""

_WIDTHS = np.array(WIDTHS)
_CLIPS = np.linspace(0.3, 1.0, 36)
"""Shares of the largest magnitude that calibration tries as clipping points."""


@dataclasses.dataclass(frozen=True)
class Scheme:
    """How to quantize. calibration: "mse" picks the clipping point of least squared error for each width, "percentile"
    clips activations at the given percentile and weights at their extremes."""

    per_channel: bool = True
    symmetric_activations: bool = False
    calibration: str = "mse"
    percentile: float = 99.99

    def __post_init__(self) -> None:
        if self.calibration not in ("mse", "percentile"):
            raise InputError(f"calibration must be 'mse' or 'percentile', not {self.calibration!r}")
        if not 50 < self.percentile <= 100:
            raise InputError(f"the percentile must lie in 50..100, not {self.percentile}")


class Grid(NamedTuple):
    """A quantization grid for each width of `WIDTHS` (axis 0): values (q - zero) * scale for q in low..high."""

    scale: Array  # float32 [7, ...]
    zero: Array  # float32 [7, ...], an integer


class Quantizer(NamedTuple):
    """A folded network with its grids; dictionaries are keyed by layer name."""

    kernels: dict[str, Array]  # float32 [R, S, C, M], batch norm folded in
    biases: dict[str, Array]  # float32 [M]
    weights: dict[str, Grid]  # scale [7, M] or [7, 1]
    inputs: dict[str, Grid]  # scale [7]
    output: Grid  # of the logits


def fold(model: MobileNet) -> tuple[dict[str, Array], dict[str, Array]]:
    """Kernels and biases with every batch norm folded in."""
    kernels, biases = {}, {}
    for conv in model.architecture.convs:
        block = model.blocks[conv.name]
        kernel = block.kernel[...]
        if conv.kind == "fc":
            kernels[conv.name], biases[conv.name] = kernel, block.bias[...]
            continue
        norm = block.norm
        factor = norm.scale[...] / jnp.sqrt(norm.var[...] + norm.epsilon)
        kernels[conv.name] = kernel * factor
        biases[conv.name] = norm.bias[...] - norm.mean[...] * factor
    return kernels, biases


def round_to(x: Array, grid: Grid, width: Array, *, signed: bool) -> Array:
    """Round x to the grid of `width` (traced, 2..8); the gradient passes straight through inside the clipping range."""
    scale, zero = grid.scale[width - WIDTHS[0]], grid.zero[width - WIDTHS[0]]
    steps = 2.0 ** width.astype(jnp.float32)
    low, high = (1 - steps / 2, steps / 2 - 1) if signed else (0.0, steps - 1)
    clipped = jnp.clip(x / scale + zero, low, high)
    rounded = clipped + jax.lax.stop_gradient(jnp.round(clipped) - clipped)
    return (rounded - zero) * scale


def forward(
    architecture: Architecture, quantizer: Quantizer, images: Array, widths: Array, *, symmetric: bool = False
) -> Array:
    """Logits [B, classes] of the quantized network; widths: int32 [L, 2] input and weight width of every layer."""
    x, outputs = images, {}
    for number, conv in enumerate(architecture.convs):
        grid, width = quantizer.inputs[conv.name], widths[number, 0]
        x = round_to(x, grid, width, signed=symmetric)
        if conv.kind == "fc":
            x = round_to(jnp.mean(x, axis=(1, 2)), grid, width, signed=symmetric)
        kernel = round_to(quantizer.kernels[conv.name], quantizer.weights[conv.name], widths[number, 1], signed=True)
        x = convolve(x, kernel, conv) + quantizer.biases[conv.name]
        if conv.relu:
            x = jnp.clip(x, 0.0, 6.0)
        if conv.adds is not None:
            x = x + outputs[conv.adds]
        outputs[conv.name] = x
    return round_to(x, quantizer.output, jnp.int32(OUTPUT_WIDTH), signed=symmetric)


def calibrate(model: MobileNet, images: Array, scheme: Scheme = Scheme()) -> Quantizer:
    """Fold `model` and choose its grids from `images` float32 [B, H, W, C]: a few hundred are enough."""
    kernels, biases = fold(model)
    samples = _activations(model.architecture, kernels, biases, images)
    grid = partial(_activation_grid, scheme=scheme)
    return Quantizer(
        kernels=kernels,
        biases=biases,
        weights={name: _weight_grid(np.asarray(kernel), scheme) for name, kernel in kernels.items()},
        inputs={conv.name: grid(samples[conv.name]) for conv in model.architecture.convs},
        output=grid(samples["output"]),
    )


def _activations(architecture: Architecture, kernels: Any, biases: Any, images: Array) -> dict[str, np.ndarray]:
    """A sample of every layer's input values, and of the logits, in float."""
    samples: dict[str, np.ndarray] = {}
    generator = np.random.default_rng(0)

    def sample(name: str, values: Array) -> None:
        flat = np.asarray(values, np.float32).ravel()
        samples[name] = flat if flat.size <= 100_000 else generator.choice(flat, 100_000)

    x, outputs = images, {}
    for conv in architecture.convs:
        sample(conv.name, x)
        if conv.kind == "fc":
            x = jnp.mean(x, axis=(1, 2))
        x = convolve(x, kernels[conv.name], conv) + biases[conv.name]
        if conv.relu:
            x = jnp.clip(x, 0.0, 6.0)
        if conv.adds is not None:
            x = x + outputs[conv.adds]
        outputs[conv.name] = x
    sample("output", x)
    return samples


def _weight_grid(kernel: np.ndarray, scheme: Scheme) -> Grid:
    """Symmetric grids of a kernel [R, S, C, M], for each width."""
    flat = kernel.reshape(-1, kernel.shape[-1])
    if not scheme.per_channel:
        flat = flat.reshape(-1, 1)
    largest = np.maximum(np.abs(flat).max(axis=0), 1e-8)
    scales = []
    for width in WIDTHS:
        most = 2 ** (width - 1) - 1
        clips = _CLIPS if scheme.calibration == "mse" else np.ones(1)
        trials = clips[:, None] * largest / most  # [clips, M]
        rounded = np.clip(np.round(flat / trials[:, None]), -most, most) * trials[:, None]
        best = np.square(rounded - flat).sum(axis=1).argmin(axis=0)
        scales.append(trials[best, np.arange(trials.shape[1])])
    scale = jnp.asarray(np.stack(scales), jnp.float32)
    return Grid(scale, jnp.zeros_like(scale))


def _activation_grid(values: np.ndarray, scheme: Scheme) -> Grid:
    """Grids of a layer's input, for each width, from a sample of its values."""
    tail = 100 - scheme.percentile
    low, high = (np.percentile(values, [tail, 100 - tail]) if tail else (values.min(), values.max()))
    low, high = min(float(low), 0.0), max(float(high), 1e-6)
    scales, zeros = [], []
    for width in WIDTHS:
        trials = _CLIPS if scheme.calibration == "mse" else (1.0,)
        best = min((_trial(values, low * clip, high * clip, width, scheme) for clip in trials), key=lambda t: t[0])
        scales.append(best[1])
        zeros.append(best[2])
    return Grid(jnp.asarray(scales, jnp.float32), jnp.asarray(zeros, jnp.float32))


def _trial(values: np.ndarray, low: float, high: float, width: int, scheme: Scheme) -> tuple[float, float, float]:
    """Squared error, scale and zero point of the grid from low to high."""
    if scheme.symmetric_activations:
        most = 2 ** (width - 1) - 1
        scale, zero, least = max(-low, high) / most, 0.0, -most
    else:
        most, least = 2**width - 1, 0
        scale = (high - low) / most
        zero = float(np.round(-low / scale))
    rounded = (np.clip(np.round(values / scale) + zero, least, most) - zero) * scale
    return float(np.square(rounded - values).mean()), scale, zero
