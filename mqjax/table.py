"""Cost tables: the optimum of every unique layer of a network for every bit-width triple."""

from __future__ import annotations

import dataclasses

import numpy as np

from mqjax.types import WIDTHS, Layer

METRICS = ("energy", "edp", "delay")


@dataclasses.dataclass(frozen=True)
class CostTable:
    """Optimal costs of a network's layers. Axes I, W, O index the bit-widths `WIDTHS` (2..8) of Inputs, Weights
    and Outputs; U indexes the unique layers; L all layers of the network.

    best: metric -> float64 [U, I, W, O]: the least energy (pJ), EDP (pJ * cycles) or delay (cycles) of any mapping.
    """

    arch: str
    layers: tuple[Layer, ...]
    unique: tuple[Layer, ...]
    index: np.ndarray  # int [L] -> U
    best: dict[str, np.ndarray]

    widths = WIDTHS
