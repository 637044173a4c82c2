"""A quantized network run with integers only: the judge of what fake quantization claims.

Plain NumPy. Stored tensors are integers of their width, products are summed in int32, and a sum is brought to the grid of
the next tensor by a fixed-point multiplier of 31 bits and a shift with rounding (Jacob et al. 2018, sections 2.2 and 2.4).
Zero points are subtracted before multiplying, so padding is zero. Floats occur only where a network is prepared, once.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from mqjax.models.architecture import Architecture, Conv
from mqjax.models.quantization import Quantized, levels, stored_widths


class Multiplier(NamedTuple):
    """The factor mantissa * 2^-shift, by which integers are multiplied with rounding."""

    mantissa: np.ndarray  # int64, below 2^31 in magnitude
    shift: np.ndarray  # int64, 1..62

    @classmethod
    def of(cls, factor: np.ndarray | float) -> Multiplier:
        """The nearest multiplier to positive factors below 2^30."""
        mantissa, exponent = np.frexp(np.asarray(factor, np.float64))
        # Below 2^-31 nothing that int32 holds reaches one half.
        shift = np.clip(31 - exponent, 1, 62)
        return cls(np.round(mantissa * 2.0 ** (exponent + shift)).astype(np.int64), shift)

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """round(x * factor) for int32 x, int64."""
        return (x.astype(np.int64) * self.mantissa + (np.int64(1) << (self.shift - 1))) >> self.shift


class _Grid(NamedTuple):
    step: float
    zero: int
    low: int
    high: int

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
        self._kernels, self._biases, self._rescale, self._sum_steps = {}, {}, {}, {}
        for number, conv in enumerate(architecture.convs):
            kernel, step = np.asarray(network.kernels[conv.name]), np.asarray(network.kernel_steps[conv.name])
            most = 2 ** (int(network.widths[number, 1]) - 1) - 1
            self._kernels[conv.name] = np.clip(np.round(kernel / step), -most, most).astype(np.int32)
            sum_step = self._grids[number].step * np.broadcast_to(step, conv.outputs).astype(np.float64)
            bias = np.round(np.asarray(network.biases[conv.name], np.float64) / sum_step)
            self._biases[conv.name] = np.clip(bias, -(2**30), 2**30).astype(np.int32)
            self._rescale[conv.name] = Multiplier.of(sum_step / self._grids[number + 1].step)
            self._sum_steps[conv.name] = sum_step

    def __call__(self, images: np.ndarray) -> np.ndarray:
        convs, grids = self.architecture.convs, self._grids
        # A pixel p stands for (2 p - 255) / 255.
        x = grids[0].clamp(Multiplier.of(1 / (255 * grids[0].step))(2 * images.astype(np.int32) - 255))
        stored: dict[str, tuple[np.ndarray, _Grid]] = {}
        for number, conv in enumerate(convs):
            here, after = grids[number], grids[number + 1]
            distance = x - np.int32(here.zero)
            if conv.kind == "fc":
                pixels = x.shape[1] * x.shape[2]
                pooled = here.clamp(Multiplier.of(1 / pixels)(distance.sum(axis=(1, 2), dtype=np.int32)))
                distance = pooled - np.int32(here.zero)
            sums = convolve_integers(distance, self._kernels[conv.name], conv) + self._biases[conv.name]
            if conv.adds is not None:
                other, grid = stored[conv.adds]
                scale = Multiplier.of(grid.step / self._sum_steps[conv.name])
                sums = sums + scale(other - np.int32(grid.zero)).astype(np.int32)
            distance = self._rescale[conv.name](sums)
            if conv.relu:
                distance = np.clip(distance, 0, round(6 / after.step))
            x = after.clamp(distance)
            stored[conv.name] = x, after
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
