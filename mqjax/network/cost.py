"""Hardware cost of whole networks: sums of table look-ups over a chain of bit-widths."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mqjax.errors import InputError, unknown
from mqjax.mapper.sweep import METRICS
from mqjax.mapper.table import CostTable
from mqjax.types import WIDTHS, BitWidths

HARDWARE_OBJECTIVES = (*METRICS, "memory")
OUTPUT_WIDTH = 8
"""Bit-width of a network's output."""

_BATCH = 2**14  # genomes at a time: what is touched stays in the cache


def network_cost(table: CostTable, genomes: np.ndarray, objectives: Sequence[str] = ("energy",)) -> np.ndarray:
    """Hardware objectives of N genomes, float64 [N, K]; inf where a layer fits nowhere.

    genomes: int [N, L, 2], the width of each layer's Inputs and of its Weights, in 2..8. The width of a layer's Outputs
    is that of the next layer's Inputs, 8 for the last layer. objectives: of "energy" (pJ), "edp" (pJ * cycles) and
    "delay" (cycles), each the sum over layers of the optimum *by that metric*, and "memory" (bits of all weights).
    Sums run over the layers in order, in float64, so results do not depend on N.
    """
    genomes = np.asarray(genomes)
    if genomes.ndim != 3 or genomes.shape[1:] != (len(table.layers), 2):
        raise InputError(f"genomes must have the shape [N, {len(table.layers)}, 2], not {list(genomes.shape)}")
    if genomes.size and (genomes.min() < WIDTHS[0] or genomes.max() > WIDTHS[-1]):
        raise InputError(f"bit-widths must lie in {WIDTHS[0]}..{WIDTHS[-1]}")
    layer_costs = [_layer_costs(table, objective) for objective in objectives]
    result = np.empty((len(genomes), len(objectives)))
    for start in range(0, len(genomes), _BATCH):
        # Layers come first, so that each look-up reads one contiguous row.
        digits = np.ascontiguousarray(genomes[start : start + _BATCH].transpose(1, 2, 0), np.int64) - WIDTHS[0]
        inputs, weights = digits[:, 0], digits[:, 1]
        last = np.full_like(inputs[:1], OUTPUT_WIDTH - WIDTHS[0])
        entries = (inputs * len(WIDTHS) + weights) * len(WIDTHS) + np.concatenate([inputs[1:], last])
        for k, costs in enumerate(layer_costs):
            total = np.zeros(digits.shape[2])
            for costs_of_layer, entry in zip(costs, entries, strict=True):
                total += costs_of_layer[entry]
            result[start : start + _BATCH, k] = total
    return result


def _layer_costs(table: CostTable, objective: str) -> np.ndarray:
    """Costs float64 [L, 343] of every layer by width triple."""
    if objective in METRICS:
        return table.best[objective].reshape(len(table.unique), -1)[table.index]
    if objective != "memory":
        raise InputError(unknown("objective", objective, HARDWARE_OBJECTIVES))
    elements = np.array([layer.elements("Weights") for layer in table.layers], np.float64)
    widths = np.tile(np.repeat(np.array(WIDTHS, np.float64), len(WIDTHS)), len(WIDTHS))
    return elements[:, None] * widths


def layer_widths(genome: np.ndarray) -> list[BitWidths]:
    """The width triple of every layer of one genome, int [L, 2]."""
    outputs = [*genome[1:, 0], OUTPUT_WIDTH]
    return [BitWidths(int(i), int(w), int(o)) for (i, w), o in zip(genome, outputs, strict=True)]
