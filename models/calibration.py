"""Post-training quantization: grids for every width from a few images, by one pass through the float network.

Calibration makes a table of steps by width, from which `Quantizer.at` picks those of an assignment, so one compiled
program serves all assignments. Clipping by mean-squared error: Banner et al. 2019.
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
from mqjax.models.mobilenet import MobileNet, convolve, walk
from mqjax.models.quantization import Quantized, stored_widths
from mqjax.types import WIDTHS

_WIDTHS = np.array(WIDTHS)
_CLIPS = np.linspace(0.3, 1.0, 29)
"""Shares of the largest magnitude that calibration tries as clipping points."""

SAMPLES = 20_000
"""Values of each stored tensor that calibration looks at."""


@dataclasses.dataclass(frozen=True)
class Scheme:
    """How to quantize. calibration: "mse" picks the clipping point of least squared error for each width, "percentile"
    clips activations at the given percentile and weights at their extremes.

    With per_channel=False all weights of a layer share one step before the batch norm's gain, which stays per channel and
    is part of the rescaling of the sums.
    """

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
    """A quantization grid for each width of `WIDTHS` (axis 0): integers q stand for (q - zero) * step."""

    step: Array  # float32 [7, ...]
    zero: Array  # float32 [7, ...], integers


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Quantizer:
    """A calibrated network for all assignments; dictionaries are keyed by layer name.

    `names` gives the layers' order: compiled programs get dictionaries sorted by key.
    """

    kernels: dict[str, Any]  # float32 [R, S, C, M], without the gain of the batch norm
    gains: dict[str, Any]  # float32 [M]
    biases: dict[str, Any]  # float32 [7, M] by weight width, corrected for the mean error of the rounded weights
    weights: dict[str, Grid]  # step [7, M] or [7, 1], for the kernels without gain
    stored: Grid  # step [7, L + 1]: of every layer's input, and of the logits
    signed: Array  # bool: activations are stored symmetrically around zero
    names: tuple[str, ...] = dataclasses.field(metadata={"static": True})

    def at(self, widths: Array) -> Quantized:
        """The network at widths int32 [L, 2], 2..8, which may be traced."""
        names, row = self.names, widths[:, 1] - WIDTHS[0]
        tensors = stored_widths(widths) - WIDTHS[0], jnp.arange(len(names) + 1)
        return Quantized(
            widths=widths,
            kernels={name: self.kernels[name] * self.gains[name] for name in names},
            kernel_steps={
                name: self.weights[name].step[row[n]] * magnitude(self.gains[name]) for n, name in enumerate(names)
            },
            biases={name: self.biases[name][row[n]] for n, name in enumerate(names)},
            steps=self.stored.step[tensors],
            zeros=self.stored.zero[tensors],
            signed=self.signed,
        )


def magnitude(gain: Any) -> Array:
    """|gain|, and a little where a channel is switched off, so that it can divide."""
    return jnp.maximum(jnp.abs(gain), 1e-12)


def fold(model: MobileNet) -> tuple[dict[str, Array], dict[str, Array]]:
    """Gains and biases float32 [M] of every layer, which stand for its batch norm."""
    gains, biases = {}, {}
    for conv in model.architecture.convs:
        block = model.blocks[conv.name]
        if conv.kind == "fc":
            gains[conv.name], biases[conv.name] = jnp.ones_like(block.bias[...]), block.bias[...]
            continue
        scale, shift, mean, var = (getattr(block.norm, part)[...] for part in ("scale", "bias", "mean", "var"))
        gain = scale / jnp.sqrt(var + block.norm.epsilon)
        gains[conv.name], biases[conv.name] = gain, shift - mean * gain
    return gains, biases


def calibrate(model: MobileNet, images: Array, scheme: Scheme = Scheme()) -> Quantizer:
    """Choose the grids of `model` from `images` float32 [B, H, W, C]: a few hundred are enough."""
    convs = model.architecture.convs
    kernels = {conv.name: np.asarray(model.blocks[conv.name].kernel[...]) for conv in convs}
    gains, biases = ({name: np.asarray(x) for name, x in part.items()} for part in fold(model))
    tensors = [np.asarray(x) for x in stored_tensors(model.architecture, kernels, gains, biases, images)]
    weights = {name: _weight_grid(kernel, scheme) for name, kernel in kernels.items()}
    errors = {
        conv.name: gains[conv.name] * _mean_error(conv, kernels[conv.name], weights[conv.name], x)
        for conv, x in zip(convs, tensors[:-1], strict=True)
    }
    grids = [_activation_grid(values, scheme) for values in _samples(tensors)]
    return Quantizer(
        kernels=kernels,
        gains=gains,
        biases={name: bias + errors[name] for name, bias in biases.items()},
        weights=weights,
        stored=Grid(*(jnp.stack(part, axis=1) for part in zip(*grids, strict=True))),
        signed=jnp.asarray(scheme.symmetric_activations),
        names=tuple(conv.name for conv in convs),
    )


@partial(jax.jit, static_argnames="architecture")
def stored_tensors(architecture: Architecture, kernels: Any, gains: Any, biases: Any, images: Array) -> list[Array]:
    """Every layer's input, and the logits, in float: L + 1 arrays."""
    tensors: dict[int, Array] = {}

    def linear(x: Array, conv: Conv) -> Array:
        return convolve(x, kernels[conv.name] * gains[conv.name], conv) + biases[conv.name]

    def store(x: Array, number: int) -> Array:
        tensors.setdefault(number, x)  # the tensor before the pool, not after
        return x

    walk(architecture, images, linear, store)
    return list(tensors.values())


def _samples(tensors: list[np.ndarray]) -> list[np.ndarray]:
    """A sample of every tensor's values."""
    generator = np.random.default_rng(0)
    flat = [values.ravel() for values in tensors]
    return [x if x.size <= SAMPLES else generator.choice(x, SAMPLES) for x in flat]


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
    step = np.asarray(grid.step)[:, None, None, None]
    most = (2.0 ** (_WIDTHS - 1) - 1)[:, None, None, None, None]
    error = kernel - np.clip(np.round(kernel / step), -most, most) * step  # [7, R, S, C, M]
    if conv.kind == "dw":
        return np.einsum("wrsm,rsm->wm", error[:, :, :, 0], patch).astype(np.float32)
    return np.einsum("wrscm,rsc->wm", error, patch).astype(np.float32)


def _weight_grid(kernel: np.ndarray, scheme: Scheme) -> Grid:
    """Symmetric grids of a kernel [R, S, C, M], for each width."""
    values = kernel.reshape(-1, kernel.shape[-1] if scheme.per_channel else 1)
    most = 2 ** (_WIDTHS - 1) - 1
    largest = np.maximum(np.abs(values).max(axis=0), 1e-8)
    return _least_error(values, -largest, largest, -most, most, scheme)


def _activation_grid(values: np.ndarray, scheme: Scheme) -> Grid:
    """Grids of a stored tensor, for each width, from a sample of its values."""
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
    return Grid(grid.step[:, 0], grid.zero[:, 0])


def _least_error(
    values: np.ndarray, low: np.ndarray, high: np.ndarray, least: np.ndarray, most: np.ndarray, scheme: Scheme
) -> Grid:
    """Grids [7, M] for values [n, M] in low..high [M], with levels from least to most [7]: of the clipping points that
    calibration tries, for each column the one of least squared error."""
    clips = _CLIPS if scheme.calibration == "mse" else np.ones(1)
    steps, zeros = [], []
    for lowest, highest in zip(least, most, strict=True):
        trials = []
        for clip in clips:
            step = clip * (high - low) / (highest - lowest)
            zero = lowest - np.round(clip * low / step)
            rounded = (np.clip(np.round(values / step) + zero, lowest, highest) - zero) * step
            trials.append((np.square(rounded - values).sum(axis=0), step, zero))
        errors, by_clip, zero_by_clip = (np.stack(part) for part in zip(*trials, strict=True))
        best, columns = errors.argmin(axis=0), np.arange(values.shape[1])
        steps.append(by_clip[best, columns])
        zeros.append(zero_by_clip[best, columns])
    return Grid(jnp.asarray(np.stack(steps), jnp.float32), jnp.asarray(np.stack(zeros), jnp.float32))
