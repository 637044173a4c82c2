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
from mqjax.models.graph import Graph, Node
from mqjax.models.network import Network, convolve, walk
from mqjax.models.ops import Conv
from mqjax.models.quantization import Quantized, split_genome
from mqjax.network.wiring import Wiring
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

    kernels: dict[str, Any]  # float32 [S, R, C, M], without the gain of the batch norm
    gains: dict[str, Any]  # float32 [M]
    biases: dict[str, Any]  # float32 [7, M] by weight width, corrected for the mean error of the rounded weights
    weights: dict[str, Grid]  # step [7, M] or [7, 1], for the kernels without gain
    stored: Grid  # step [7, T + 1]: of every stored tensor, and of the logits
    signed: Array  # bool: activations are stored symmetrically around zero
    names: tuple[str, ...] = dataclasses.field(metadata={"static": True})
    wiring: Wiring = dataclasses.field(metadata={"static": True})

    def at(self, genome: Array) -> Quantized:
        """The network at the widths of a genome int32 [T + L] (for a chain also [L, 2]), 2..8, which may be traced."""
        widths, kernel_widths = split_genome(self.wiring, genome)
        names, row = self.names, kernel_widths - WIDTHS[0]
        tensors = widths - WIDTHS[0], jnp.arange(len(widths))
        return Quantized(
            tensor_widths=widths,
            kernel_widths=kernel_widths,
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


def fold(model: Network) -> tuple[dict[str, Array], dict[str, Array]]:
    """Gains and biases float32 [M] of every layer, which stand for its batch norm."""
    gains, biases = {}, {}
    for node in model.architecture.kernels:
        block = model.blocks[node.name]
        if not block.normed:
            gains[node.name], biases[node.name] = jnp.ones_like(block.bias[...]), block.bias[...]
            continue
        scale, shift, mean, var = (getattr(block.norm, part)[...] for part in ("scale", "bias", "mean", "var"))
        gain = scale / jnp.sqrt(var + block.norm.epsilon)
        gains[node.name], biases[node.name] = gain, shift - mean * gain
    return gains, biases


def calibrate(model: Network, images: Array, scheme: Scheme = Scheme()) -> Quantizer:
    """Choose the grids of `model` from `images` float32 [B, H, W, C]: a few hundred are enough."""
    graph = model.architecture
    kernels = {node.name: np.asarray(model.blocks[node.name].kernel[...]) for node in graph.kernels}
    gains, biases = ({name: np.asarray(x) for name, x in part.items()} for part in fold(model))
    values = stored_tensors(graph, kernels, gains, biases, images)
    values = {name: np.asarray(value) for name, value in values.items()}
    weights = {name: _weight_grid(kernel, scheme) for name, kernel in kernels.items()}
    errors = {
        node.name: gains[node.name] * _mean_error(node, kernels[node.name], weights[node.name], values[node.inputs[0]])
        for node in graph.kernels
    }
    grids = [_activation_grid(sample, scheme) for sample in _samples(graph, values)]
    return Quantizer(
        kernels=kernels,
        gains=gains,
        biases={name: bias + errors[name] for name, bias in biases.items()},
        weights=weights,
        stored=Grid(*(jnp.stack(part, axis=1) for part in zip(*grids, strict=True))),
        signed=jnp.asarray(scheme.symmetric_activations),
        names=tuple(node.name for node in graph.kernels),
        wiring=graph.wiring(),
    )


@partial(jax.jit, static_argnames="architecture")
def stored_tensors(architecture: Graph, kernels: Any, gains: Any, biases: Any, images: Array) -> dict[str, Array]:
    """The values in float, by node, of what is stored and of every layer's input."""
    values: dict[str, Array] = {}

    def linear(x: Array, node: Node) -> Array:
        values.setdefault(node.inputs[0], x)
        return convolve(x, kernels[node.name] * gains[node.name], node.op) + biases[node.name]

    def store(x: Array, name: str, number: int) -> Array:
        values[name] = x
        return x

    walk(architecture, images, linear, store)
    return values


def _samples(graph: Graph, values: dict[str, np.ndarray]) -> list[np.ndarray]:
    """A sample of the values of every stored tensor, from before any pool."""
    generator, numbers = np.random.default_rng(0), dict(graph.storage.tensors)
    written: dict[int, list[np.ndarray]] = {}
    for name in (graph.nodes[0].name, *(stage.result for stage in graph.storage.stages)):
        written.setdefault(numbers[name], []).append(values[name].ravel())
    flat = [np.concatenate(written[number]) for number in sorted(written)]
    return [x if x.size <= SAMPLES else generator.choice(x, SAMPLES) for x in flat]


def _mean_error(node: Node, kernel: np.ndarray, grid: Grid, x: np.ndarray) -> np.ndarray:
    """How much rounding the kernel lowers each output on average, float32 [7, M]; x: the layer's input, float.

    Few weights feed a depthwise output, so their errors do not average out and would shift it (Nagel et al. 2019,
    section 4.2).
    """
    # A fully connected layer is a convolution of one pixel.
    conv = node.op if isinstance(node.op, Conv) else Conv(kernel.shape[-1])
    x = x if x.ndim == 4 else x[:, None, None]
    window = conv.window
    padded = np.pad(x, ((0, 0), *window.padding, (0, 0)))
    places = zip(window.places(*x.shape[1:3]), window.stride, strict=True)
    rows, columns = (np.arange(count) * stride for count, stride in places)
    down, across = (np.arange(n) * step for n, step in zip(window.kernel, window.dilation, strict=True))
    patch = np.array(
        [[padded[:, rows + i][:, :, columns + j].mean(axis=(0, 1, 2)) for j in across] for i in down]
    )  # [S, R, C]
    step = np.asarray(grid.step)[:, None, None, None]
    most = (2.0 ** (_WIDTHS - 1) - 1)[:, None, None, None, None]
    error = kernel - np.clip(np.round(kernel / step), -most, most) * step  # [7, S, R, C, M]
    if conv.groups == 1:
        return np.einsum("wrscm,rsc->wm", error, patch).astype(np.float32)
    if conv.groups == conv.outputs:
        return np.einsum("wrscm,rsmc->wm", error, patch.reshape(*patch.shape[:2], conv.groups, -1)).astype(np.float32)
    error = error.reshape(*error.shape[:4], conv.groups, -1)
    found = np.einsum("wrscgm,rsgc->wgm", error, patch.reshape(*patch.shape[:2], conv.groups, -1))
    return found.reshape(len(found), -1).astype(np.float32)


def _weight_grid(kernel: np.ndarray, scheme: Scheme) -> Grid:
    """Symmetric grids of a kernel [S, R, C, M], for each width."""
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
