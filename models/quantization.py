"""Post-training quantization of a trained network, with bit-widths as traced numbers.

Batch norms are folded into the weights first, as in deployment. Weights are quantized symmetrically, per output channel
or per tensor, activations asymmetrically or symmetrically, per tensor, each to 2..8 bits; biases and sums stay wide, as
in an accelerator with wide partial sums. The input of every layer is quantized at the layer's input width; the logits
at 8 bits.
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
from mqjax.models.architecture import Architecture, Conv
from mqjax.models.mobilenet import MobileNet, convolve
from mqjax.types import WIDTHS

OUTPUT_WIDTH = 8
"""Bit-width of the network's output."""

_WIDTHS = np.array(WIDTHS)
_CLIPS = np.linspace(0.3, 1.0, 29)
"""Shares of the largest magnitude that calibration tries as clipping points."""

SAMPLES = 20_000
"""Values of each layer's input that calibration looks at."""


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

    kernels: dict[str, Any]  # float32 [R, S, C, M], batch norm folded in
    biases: dict[str, Any]  # float32 [7, M] by weight width, corrected for the mean error of the rounded weights
    weights: dict[str, Grid]  # scale [7, M] or [7, 1]
    inputs: dict[str, Grid]  # scale [7]
    output: Grid  # of the logits


def fold(model: MobileNet) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Kernels and biases with every batch norm folded in, float32."""
    kernels, biases = {}, {}
    for conv in model.architecture.convs:
        block = model.blocks[conv.name]
        kernel = np.asarray(block.kernel[...])
        if conv.kind == "fc":
            kernels[conv.name], biases[conv.name] = kernel, np.asarray(block.bias[...])
            continue
        scale, bias, mean, var = (
            np.asarray(getattr(block.norm, name)[...]) for name in ("scale", "bias", "mean", "var")
        )
        factor = scale / np.sqrt(var + np.float32(block.norm.epsilon))
        kernels[conv.name] = kernel * factor
        biases[conv.name] = bias - mean * factor
    return kernels, biases


def round_to(x: Array, grid: Grid, width: Array, *, signed: bool) -> Array:
    """Round x to the grid of `width` (traced, 2..8); the gradient passes straight through inside the clipping range."""
    scale, zero = grid.scale[width - WIDTHS[0]], grid.zero[width - WIDTHS[0]]
    steps = 2.0 ** width.astype(jnp.float32)
    low, high = (1 - steps / 2, steps / 2 - 1) if signed else (0.0, steps - 1)
    clipped = jnp.clip(x / scale + zero, low, high)
    rounded = clipped + jax.lax.stop_gradient(jnp.round(clipped) - clipped)
    return (rounded - zero) * scale


def round_kernels(architecture: Architecture, quantizer: Quantizer, widths: Array) -> dict[str, Array]:
    """Every layer's kernel, rounded to its weight width; widths: int32 [L, 2]."""
    return {
        conv.name: round_to(quantizer.kernels[conv.name], quantizer.weights[conv.name], widths[number, 1], signed=True)
        for number, conv in enumerate(architecture.convs)
    }


def forward(
    architecture: Architecture,
    quantizer: Quantizer,
    images: Array,
    widths: Array,
    *,
    kernels: dict[str, Array] | None = None,
    symmetric: bool = False,
) -> Array:
    """Logits [B, classes] of the quantized network; widths: int32 [L, 2] input and weight width of every layer.

    kernels: those of `round_kernels`. On CPU it is several times faster to compute them in a program of their own: in one
    program XLA rounds depthwise kernels again for every pixel.
    """
    if kernels is None:
        kernels = round_kernels(architecture, quantizer, widths)
    x, outputs = images, {}
    for number, conv in enumerate(architecture.convs):
        grid, width = quantizer.inputs[conv.name], widths[number, 0]
        x = round_to(x, grid, width, signed=symmetric)
        if conv.kind == "fc":
            x = round_to(jnp.mean(x, axis=(1, 2)), grid, width, signed=symmetric)
        x = convolve(x, kernels[conv.name], conv) + quantizer.biases[conv.name][widths[number, 1] - WIDTHS[0]]
        if conv.relu:
            x = jnp.clip(x, 0.0, 6.0)
        if conv.adds is not None:
            x = x + outputs[conv.adds]
        outputs[conv.name] = x
    return round_to(x, quantizer.output, jnp.int32(OUTPUT_WIDTH), signed=symmetric)


def calibrate(model: MobileNet, images: Array, scheme: Scheme = Scheme()) -> Quantizer:
    """Fold `model` and choose its grids from `images` float32 [B, H, W, C]: a few hundred are enough."""
    kernels, biases = fold(model)
    inputs = {name: np.asarray(x) for name, x in _activations(model.architecture, kernels, biases, images).items()}
    samples = _samples(inputs)
    grid = partial(_activation_grid, scheme=scheme)
    weights = {name: _weight_grid(kernel, scheme) for name, kernel in kernels.items()}
    return Quantizer(
        kernels=kernels,
        biases={
            conv.name: biases[conv.name] + _mean_error(conv, kernels[conv.name], weights[conv.name], inputs[conv.name])
            for conv in model.architecture.convs
        },
        weights=weights,
        inputs={conv.name: grid(samples[conv.name]) for conv in model.architecture.convs},
        output=grid(samples["output"]),
    )


def _samples(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A sample of every layer's input values, and of the logits."""
    generator = np.random.default_rng(0)
    flat = {name: values.ravel() for name, values in inputs.items()}
    return {name: x if x.size <= SAMPLES else generator.choice(x, SAMPLES) for name, x in flat.items()}


def _mean_error(conv: Conv, kernel: np.ndarray, grid: Grid, x: np.ndarray) -> np.ndarray:
    """How much rounding the kernel lowers each output on average, float32 [7, M]; x: the layer's input, float.

    Few weights feed a depthwise output, so their errors do not average out and would shift it (Nagel et al. 2019,
    section 4.2).
    """
    size, stride = conv.kernel, conv.stride
    if conv.kind == "fc":
        x = x.mean(axis=(1, 2), keepdims=True)
    pad = (size - 1) // 2
    padded = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    height, width = ((extent - 1) // stride + 1 for extent in x.shape[1:3])
    rows, columns = (np.arange(n) * stride for n in (height, width))
    patch = np.array(
        [[padded[:, rows + i][:, :, columns + j].mean(axis=(0, 1, 2)) for j in range(size)] for i in range(size)]
    )  # [R, S, C]
    scale = np.asarray(grid.scale)[:, None, None, None]
    most = (2.0 ** (_WIDTHS - 1) - 1)[:, None, None, None, None]
    error = kernel - np.clip(np.round(kernel / scale), -most, most) * scale  # [7, R, S, C, M]
    if conv.kind == "dw":
        return np.einsum("wrsm,rsm->wm", error[:, :, :, 0], patch).astype(np.float32)
    return np.einsum("wrscm,rsc->wm", error, patch).astype(np.float32)


@partial(jax.jit, static_argnames="architecture")
def _activations(architecture: Architecture, kernels: Any, biases: Any, images: Array) -> dict[str, Array]:
    """Every layer's input, and the logits as "output", in float."""
    x, inputs, outputs = images, {}, {}
    for conv in architecture.convs:
        inputs[conv.name] = x
        if conv.kind == "fc":
            x = jnp.mean(x, axis=(1, 2))
        x = convolve(x, kernels[conv.name], conv) + biases[conv.name]
        if conv.relu:
            x = jnp.clip(x, 0.0, 6.0)
        if conv.adds is not None:
            x = x + outputs[conv.adds]
        outputs[conv.name] = x
    return {**inputs, "output": x}


def _weight_grid(kernel: np.ndarray, scheme: Scheme) -> Grid:
    """Symmetric grids of a kernel [R, S, C, M], for each width."""
    values = kernel.reshape(-1, kernel.shape[-1] if scheme.per_channel else 1)
    most = 2 ** (_WIDTHS - 1) - 1
    largest = np.maximum(np.abs(values).max(axis=0), 1e-8)
    return _least_error(values, -largest, largest, -most, most, scheme)


def _activation_grid(values: np.ndarray, scheme: Scheme) -> Grid:
    """Grids of a layer's input, for each width, from a sample of its values."""
    tail = 100 - scheme.percentile
    low, high = np.percentile(values, [tail, 100 - tail])
    low, high = min(low, 0.0), max(high, 1e-6)
    if scheme.symmetric_activations:
        most = 2 ** (_WIDTHS - 1) - 1
        least, high = -most, max(-low, high)
        low = -high
    else:
        least, most = np.zeros_like(_WIDTHS), 2**_WIDTHS - 1
    grid = _least_error(values[:, None], np.array([low]), np.array([high]), least, most, scheme)
    return Grid(grid.scale[:, 0], grid.zero[:, 0])


def _least_error(
    values: np.ndarray, low: np.ndarray, high: np.ndarray, least: np.ndarray, most: np.ndarray, scheme: Scheme
) -> Grid:
    """Grids [7, M] for values [n, M] in low..high [M], with levels from least to most [7]: of the clipping points that
    calibration tries, for each column the one of least squared error."""
    clips = _CLIPS if scheme.calibration == "mse" else np.ones(1)
    scales, zeros = [], []
    for lowest, highest in zip(least, most, strict=True):
        trials = []
        for clip in clips:
            scale = clip * (high - low) / (highest - lowest)
            zero = lowest - np.round(clip * low / scale)
            rounded = (np.clip(np.round(values / scale) + zero, lowest, highest) - zero) * scale
            trials.append((np.square(rounded - values).sum(axis=0), scale, zero))
        errors, by_clip, zero_by_clip = (np.stack(part) for part in zip(*trials, strict=True))
        best, columns = errors.argmin(axis=0), np.arange(values.shape[1])
        scales.append(by_clip[best, columns])
        zeros.append(zero_by_clip[best, columns])
    return Grid(jnp.asarray(np.stack(scales), jnp.float32), jnp.asarray(np.stack(zeros), jnp.float32))
