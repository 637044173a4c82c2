"""A quantized network run with integers only: the judge of what fake quantization claims.

Plain NumPy. Stored tensors are integers of their width and products are summed in int32. Fixed-point factors bring a sum,
and the tensor that a residual sum adds, to the grid of the next tensor; the bias joins there, before the one shift with
rounding (after Jacob et al. 2018, sections 2.2 and 2.4). Zero points are subtracted before multiplying, so padding is zero.
Floats occur only where a network is prepared, once.

ReLU acts on the next grid. Where something follows it before storing, and for hard-swish, sums are brought to 2^-FINE of the
next grid's step first, and hard-swish is x * min(max(x + 3, 0), 6), a product of two integers, whose sixth is taken by the
fixed-point factor that comes after it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import singledispatch
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from mqjax.models.graph import Graph, Node
from mqjax.models.ops import (
    Activation,
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
    Rearranging,
)
from mqjax.models.quantization import Quantized, levels, load, round_to
from mqjax.models.storage import Stage

MOST_SHIFT = 40
"""Fractional bits of fixed-point numbers, where there is room: a sum of 2^31 is then scaled to within 2^-10."""

FINE = 10
"""Fractional bits of a value on the next grid between two activations or sums."""


def _reach(terms: Iterable[tuple[np.ndarray | float, float]], constant: np.ndarray | float) -> float:
    """The largest magnitude that a constant and a sum of factors times integers of some largest magnitudes can have."""
    return sum(float(np.max(np.abs(factor))) * limit for factor, limit in terms) + float(np.max(np.abs(constant)))


class FixedPoint(NamedTuple):
    """round(sum_i factor_i * x_i + constant) for integers x_i, by 64-bit products and one shift."""

    factors: tuple[np.ndarray, ...]  # int64
    constant: np.ndarray  # int64, with the half that makes the shift round
    shift: int

    @classmethod
    def of(cls, *terms: tuple[np.ndarray | float, float], constant: np.ndarray | float = 0.0) -> FixedPoint:
        """terms: factors, and the largest magnitude of the integers that each multiplies."""
        largest = _reach(terms, constant)
        shift = max(1, min(MOST_SHIFT, 61 - math.ceil(math.log2(max(largest, 1.0)))))

        def fixed(value: np.ndarray | float) -> np.ndarray:
            return np.round(np.asarray(value, np.float64) * 2.0**shift).astype(np.int64)

        return cls(tuple(fixed(factor) for factor, _ in terms), fixed(constant) + (1 << (shift - 1)), shift)

    def __call__(self, *integers: np.ndarray) -> np.ndarray:
        """int64, of as many integer arrays as there are factors."""
        products = (x.astype(np.int64) * factor for x, factor in zip(integers, self.factors, strict=True))
        return sum(products, start=self.constant) >> self.shift


class _Grid(NamedTuple):
    step: float
    zero: int
    low: int
    high: int

    @property
    def reach(self) -> int:
        """The largest distance of a level to the zero point."""
        return max(self.high - self.zero, self.zero - self.low)

    def clamp(self, x: np.ndarray) -> np.ndarray:
        """Integers on the grid, from distances to its zero point."""
        return np.clip(x + self.zero, self.low, self.high).astype(np.int32)


class IntegerNetwork:
    """`network` prepared for integers; call it with uint8 images [B, H, W, channels] for logits, int32 [B, classes].

    Logits are on the 8-bit grid of the network's output.
    """

    def __init__(self, architecture: Graph, network: Quantized) -> None:
        self.architecture, self._tensors = architecture, dict(architecture.storage.tensors)
        limits = zip(
            *(np.asarray(x).astype(int) for x in levels(jnp.asarray(network.tensor_widths), network.signed)),
            strict=True,
        )
        steps, zeros = np.asarray(network.steps, np.float64), np.asarray(network.zeros).astype(int)
        self._grids = [
            _Grid(float(step), int(zero), int(low), int(high))
            for step, zero, (low, high) in zip(steps, zeros, limits, strict=True)
        ]
        # A table of what is stored for each pixel (see `mqjax.data.normalize`).
        step, zero = network.steps[0], network.zeros[0]
        pixels = load(jnp.arange(256) / 127.5 - 1.0, step)
        rounded = round_to(pixels, step, zero, network.tensor_widths[0], signed=network.signed)
        self._load = np.asarray(jnp.round(rounded / step) + zero).astype(np.int32)
        self._stages = {
            stage.layer: self._prepared(stage, number, network)
            for number, stage in enumerate(architecture.storage.stages)
        }

    def _prepared(self, stage: Stage, number: int, network: Quantized) -> _Stage:
        """A layer's integers, and what becomes of its sums."""
        here = self._grids[self._tensors[self.architecture[stage.layer].inputs[0]]]
        after = self._grids[self._tensors[stage.result]]
        kernel, kernel_steps = np.asarray(network.kernels[stage.layer]), np.asarray(network.kernel_steps[stage.layer])
        most = 2 ** (int(network.kernel_widths[number]) - 1) - 1
        integers = np.clip(np.round(kernel / kernel_steps), -most, most)
        # What the next fixed-point sum adds: factors, on no grid yet, and how large the integers get that they multiply.
        terms: list[tuple[np.ndarray | float, float]] = [
            (here.step * kernel_steps.astype(np.float64), here.reach * np.abs(integers).sum(axis=(0, 1, 2)).max())
        ]
        constant: np.ndarray | float = np.asarray(network.biases[stage.layer], np.float64)
        fine, parts = after.step * 2.0**-FINE, []
        others: list[str] = []

        def rescale(step: float) -> FixedPoint:
            return FixedPoint.of(*((factor / step, limit) for factor, limit in terms), constant=constant / step)

        for place, (name, added) in enumerate(zip(stage.fused, stage.adds, strict=True)):
            op = self.architecture[name].op
            for other in added:
                grid = self._grids[self._tensors[other]]
                terms.append((grid.step, grid.reach))
                others.append(other)
            if not isinstance(op, Activation) or op.kind == "none":
                continue
            if op.kind == "relu" and place == len(stage.fused) - 1:
                break
            activate, step, reach = _activation(op, fine, _reach(terms, constant))
            parts.append(_Part(rescale(fine), tuple(others), activate))
            terms, constant, others = [(step, reach / step)], 0.0, []
        last = self.architecture[stage.result].op
        kept = _unchanged
        if isinstance(last, Activation) and last.kind == "relu":
            kept, _, _ = _activation(last, after.step, _reach(terms, constant))
        parts.append(_Part(rescale(after.step), tuple(others), kept))
        return _Stage(integers.astype(np.int32), tuple(parts), stage.result)

    def __call__(self, images: np.ndarray) -> np.ndarray:
        values: dict[str, np.ndarray] = {}
        stored: np.ndarray | None = None
        for node in self.architecture.nodes:
            if isinstance(node.op, Image):
                stored = self._load[images]
            elif isinstance(node.op, Kernel):
                stored = self._stage(node, values)
            elif isinstance(node.op, Rearranging):
                grid = self._grids[self._tensors[node.name]]
                stored = rearrange(node.op, grid, *(values[name] for name in node.inputs))
            else:
                continue  # part of a stage
            values[self._stages[node.name].result if node.name in self._stages else node.name] = stored
        assert stored is not None
        return stored

    def _distance(self, name: str, values: dict[str, np.ndarray]) -> np.ndarray:
        """Distances to the zero point."""
        return values[name] - np.int32(self._grids[self._tensors[name]].zero)

    def _stage(self, node: Node, values: dict[str, np.ndarray]) -> np.ndarray:
        """What a layer stores."""
        stage = self._stages[node.name]
        x = convolve_integers(self._distance(node.inputs[0], values), stage.kernel, node.op)
        for part in stage.parts:
            x = part.activate(part.rescale(x, *(self._distance(name, values) for name in part.adds)))
        return self._grids[self._tensors[stage.result]].clamp(x)


class _Part(NamedTuple):
    """Sums, with what they add, brought to a grid, and an activation there."""

    rescale: FixedPoint
    adds: tuple[str, ...]
    activate: Callable[[np.ndarray], np.ndarray]


class _Stage(NamedTuple):
    """A layer: its kernel's integers, what its sums go through, and the node whose value is stored."""

    kernel: np.ndarray
    parts: tuple[_Part, ...]
    result: str


def _unchanged(x: np.ndarray) -> np.ndarray:
    return x


def _activation(op: Activation, step: float, reach: float) -> tuple[Callable[[np.ndarray], np.ndarray], float, float]:
    """An activation on the integers of a grid of this step, whose values have magnitudes up to `reach`; the step and the
    reach of what it gives."""
    if op.kind == "relu":
        top = None if op.limit is None else round(op.limit / step)
        return lambda x: np.clip(x, 0, top), step, reach if op.limit is None else min(reach, op.limit)
    three, six = round(3 / step), round(6 / step)
    return lambda x: x * np.clip(x + three, 0, six), step * step / 6, reach


@singledispatch
def rearrange(op: Op, grid: _Grid, *inputs: np.ndarray) -> np.ndarray:
    """What an op without sums does with integers on a grid, for integers on the same grid."""
    raise TypeError(f"{op} is not done by itself")


@rearrange.register
def _(op: MaxPool, grid: _Grid, x: np.ndarray) -> np.ndarray:
    return _windows(op, x, grid.low).max(axis=(3, 4))


@rearrange.register
def _(op: AvgPool, grid: _Grid, x: np.ndarray) -> np.ndarray:
    return _mean(grid, _windows(op, x - np.int32(grid.zero), 0), (3, 4))


@rearrange.register
def _(op: GlobalAvgPool, grid: _Grid, x: np.ndarray) -> np.ndarray:
    return _mean(grid, x - np.int32(grid.zero), (1, 2))


@rearrange.register
def _(op: Concat, grid: _Grid, *inputs: np.ndarray) -> np.ndarray:
    return np.concatenate(inputs, axis=-1)


@rearrange.register
def _(op: Flatten, grid: _Grid, x: np.ndarray) -> np.ndarray:
    return x.reshape(len(x), -1)


def _mean(grid: _Grid, distance: np.ndarray, axes: tuple[int, int]) -> np.ndarray:
    """The mean over axes, on the grid, of distances to its zero point."""
    count = distance.shape[axes[0]] * distance.shape[axes[1]]
    return grid.clamp(FixedPoint.of((1 / count, grid.reach * count))(distance.sum(axis=axes, dtype=np.int32)))


def _windows(op: MaxPool | AvgPool, x: np.ndarray, padding: int) -> np.ndarray:
    """The windows of a pool, [B, Q, P, S, R, C] with its axes 3 and 4 those of the window."""
    window = op.window
    padded = np.pad(x, ((0, 0), *window.padding, (0, 0)), constant_values=padding)
    found = np.lib.stride_tricks.sliding_window_view(padded, window.kernel, axis=(1, 2))
    down, across = window.stride
    return found[:, ::down, ::across].transpose(0, 1, 2, 4, 5, 3)


def convolve_integers(x: np.ndarray, kernel: np.ndarray, op: Op) -> np.ndarray:
    """A layer's sums int32 [B, Q, P, M] for x int32 [B, H, W, C] ([B, C] for Linear): the loop nest over S and R."""
    assert isinstance(op, Kernel)
    if isinstance(op, Linear):
        return _integer_matmul(x, kernel[0, 0])
    window = op.window
    padded = np.pad(x, ((0, 0), *window.padding, (0, 0)))
    height, width = window.places(*x.shape[1:3])
    (down, across), (row_step, column_step) = window.stride, window.dilation
    sums = np.zeros((len(x), height, width, op.outputs), np.int32)
    for row in range(window.kernel[0]):
        for column in range(window.kernel[1]):
            top, left = row * row_step, column * column_step
            part = padded[
                :, top : top + (height - 1) * down + 1 : down, left : left + (width - 1) * across + 1 : across
            ]
            sums += _products(part, kernel[row, column], op)
    return sums


def _products(x: np.ndarray, kernel: np.ndarray, op: Conv) -> np.ndarray:
    """Sums over the channels of each group: x [..., C] with kernel [C / groups, M]."""
    if op.groups == 1:
        return _integer_matmul(x, kernel)
    if op.groups == op.outputs == x.shape[-1]:
        return x * kernel[0]
    groups = zip(np.split(x, op.groups, axis=-1), np.split(kernel, op.groups, axis=-1), strict=True)
    return np.concatenate([_integer_matmul(part, weights) for part, weights in groups], axis=-1)


def _integer_matmul(x: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """The matrix product, int32. NumPy multiplies matrices of integers without BLAS, several times slower; float64 holds
    every sum that int32 does."""
    return (x.astype(np.float64) @ kernel.astype(np.float64)).astype(np.int32)
