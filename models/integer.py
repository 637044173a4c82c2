"""A quantized network run with integers only: the judge of what fake quantization claims.

Plain NumPy. Stored tensors are integers of their width and products are summed in int32. Fixed-point factors bring a sum,
and the tensor that a residual sum adds, to the grid of the next tensor; the bias joins there, before the one shift with
rounding (after Jacob et al. 2018, sections 2.2 and 2.4). Zero points are subtracted before multiplying, so padding is zero.
Floats occur only where a network is prepared, once.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from mqjax.models.architecture import Architecture, Conv
from mqjax.models.quantization import Quantized, levels, load, round_to, stored_widths

MOST_SHIFT = 40
"""Fractional bits of fixed-point numbers, where there is room: a sum of 2^31 is then scaled to within 2^-10."""


class FixedPoint(NamedTuple):
    """round(sum_i factor_i * x_i + constant) for integers x_i, by 64-bit products and one shift."""

    factors: tuple[np.ndarray, ...]  # int64
    constant: np.ndarray  # int64, with the half that makes the shift round
    shift: int

    @classmethod
    def of(cls, *terms: tuple[np.ndarray | float, float], constant: np.ndarray | float = 0.0) -> FixedPoint:
        """terms: factors, and the largest magnitude of the integers that each multiplies."""
        largest = sum(float(np.max(np.abs(factor))) * limit for factor, limit in terms) + float(
            np.max(np.abs(constant))
        )
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

    def __init__(self, architecture: Architecture, network: Quantized) -> None:
        self.architecture = architecture
        widths = np.asarray(stored_widths(network.widths))
        limits = zip(*(np.asarray(x).astype(int) for x in levels(jnp.asarray(widths), network.signed)), strict=True)
        steps, zeros = np.asarray(network.steps, np.float64), np.asarray(network.zeros).astype(int)
        self._grids = [
            _Grid(float(step), int(zero), int(low), int(high))
            for step, zero, (low, high) in zip(steps, zeros, limits, strict=True)
        ]
        # A table of what is stored for each pixel (see `mqjax.data.normalize`).
        step, zero = network.steps[0], network.zeros[0]
        pixels = load(jnp.arange(256) / 127.5 - 1.0, step)
        rounded = round_to(pixels, step, zero, network.widths[0, 0], signed=network.signed)
        self._load = np.asarray(jnp.round(rounded / step) + zero).astype(np.int32)
        self._kernels: dict[str, np.ndarray] = {}
        self._rescale: dict[str, FixedPoint] = {}
        places = {conv.name: number + 1 for number, conv in enumerate(architecture.convs)}
        for number, conv in enumerate(architecture.convs):
            here, after = self._grids[number], self._grids[number + 1]
            kernel, kernel_steps = np.asarray(network.kernels[conv.name]), np.asarray(network.kernel_steps[conv.name])
            most = 2 ** (int(network.widths[number, 1]) - 1) - 1
            integers = np.clip(np.round(kernel / kernel_steps), -most, most)
            self._kernels[conv.name] = integers.astype(np.int32)
            rescale = here.step * kernel_steps.astype(np.float64) / after.step
            terms: list[tuple[np.ndarray | float, float]] = [
                (rescale, here.reach * np.abs(integers).sum(axis=(0, 1, 2)).max())
            ]
            if conv.adds is not None:
                other = self._grids[places[conv.adds]]
                terms.append((other.step / after.step, other.reach))
            bias = np.asarray(network.biases[conv.name], np.float64) / after.step
            self._rescale[conv.name] = FixedPoint.of(*terms, constant=bias)

    def __call__(self, images: np.ndarray) -> np.ndarray:
        grids = self._grids
        x = self._load[images]
        distances: dict[str, np.ndarray] = {}
        for number, conv in enumerate(self.architecture.convs):
            here, after = grids[number], grids[number + 1]
            distance = x - np.int32(here.zero)
            if conv.kind == "fc":
                pixels = x.shape[1] * x.shape[2]
                mean = FixedPoint.of((1 / pixels, here.reach * pixels))
                distance = here.clamp(mean(distance.sum(axis=(1, 2), dtype=np.int32))) - np.int32(here.zero)
            sums = convolve_integers(distance, self._kernels[conv.name], conv)
            others = [] if conv.adds is None else [distances[conv.adds]]
            result = self._rescale[conv.name](sums, *others)
            if conv.relu:
                result = np.clip(result, 0, round(6 / after.step))
            x = after.clamp(result)
            distances[conv.name] = x - np.int32(after.zero)
        return x


def convolve_integers(x: np.ndarray, kernel: np.ndarray, conv: Conv) -> np.ndarray:
    """A layer's sums int32 [B, P, Q, M] for x int32 [B, H, W, C] ([B, C] for "fc"): the loop nest over R and S."""
    if conv.kind in ("pw", "fc"):
        return x @ kernel[0, 0]
    pad, stride = (conv.kernel - 1) // 2, conv.stride
    padded = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    height, width = ((extent - 1) // stride + 1 for extent in x.shape[1:3])
    sums = np.zeros((len(x), height, width, conv.outputs), np.int32)
    for r in range(conv.kernel):
        for s in range(conv.kernel):
            window = padded[:, r : r + (height - 1) * stride + 1 : stride, s : s + (width - 1) * stride + 1 : stride]
            sums += window * kernel[r, s, 0] if conv.kind == "dw" else window @ kernel[r, s]
    return sums
