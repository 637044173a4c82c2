"""Hardware cost of whole networks: table look-ups by the widths of the tensors that each layer reads and writes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mqjax.errors import InputError
from mqjax.mapper.table import CostTable
from mqjax.network.wiring import OUTPUT_WIDTH, Wiring
from mqjax.objectives import HARDWARE_OBJECTIVES, mapping_metric, objective_of
from mqjax.types import METRICS, WIDTHS, BitWidths

_BATCH = 2**14  # genomes at a time: what is touched stays in the cache


def network_cost(
    table: CostTable,
    genomes: np.ndarray,
    objectives: Sequence[str] = ("energy",),
    *,
    wiring: Wiring | None = None,
    map_by: str | None = None,
) -> np.ndarray:
    """Hardware objectives (`mqjax.objectives`) of N genomes, float64 [N, K]; inf where a layer fits nowhere.

    genomes: widths in 2..8, int [N, T + L] in the order of `wiring` (default: a chain of the table's layers) or, for a
    chain, [N, L, 2], the width of each layer's Inputs and of its Weights. The network's output has 8 bits.
    map_by: "energy", "edp" or "delay", by which each layer's mapping is optimal; energy, delay and EDP are those of this
    one mapping. Default: what serves the first of the objectives, so that an objective asked for alone is the least possible
    (for "edp", the least layer by layer). Sums run over the layers in order, in float64, so results do not depend on N.
    """
    chosen = [objective_of(name, HARDWARE_OBJECTIVES) for name in objectives]
    wiring = Wiring.chain(table.layers) if wiring is None else wiring
    if len(wiring.layers) != len(table.layers):
        raise InputError(f"the wiring has {len(wiring.layers)} layers, but the table has {len(table.layers)}")
    flat = wiring.checked(genomes)
    metric = mapping_metric(objectives, map_by)
    parts = {part: None for objective in chosen for part in objective.summed}
    by_layer = {part: layer_costs(table, part, metric) for part in parts}
    live = np.array(wiring.live, np.float64)
    result = np.empty((len(flat), len(chosen)))
    for start in range(0, len(flat), _BATCH):
        # Genes come first, so that each look-up reads one contiguous row.
        digits = np.ascontiguousarray(flat[start : start + _BATCH].T, np.int64) - WIDTHS[0]
        entries, tensors = _places(digits, wiring)
        sums = {part: _sum(costs, entries) for part, costs in by_layer.items()}
        for k, objective in enumerate(chosen):
            if objective.combine == "constant":
                values = _area_of(table)
            elif objective.combine == "maximum":
                values = (live @ (tensors + WIDTHS[0]).astype(np.float64)).max(axis=0)
            else:
                values = np.prod([sums[part] for part in objective.parts], axis=0)
            result[start : start + _BATCH, k] = values
    return result


def _places(digits: np.ndarray, wiring: Wiring) -> tuple[np.ndarray, np.ndarray]:
    """Places [L, N] of the layers' width triples among the 343, and widths above the least [T + 1, N] of stored tensors."""
    last = np.full((1, digits.shape[1]), OUTPUT_WIDTH - WIDTHS[0])
    tensors = np.concatenate([digits[wiring.tensor_genes], last])
    inputs, outputs = tensors[list(wiring.reads)], tensors[list(wiring.writes)]
    return (inputs * len(WIDTHS) + digits[wiring.kernel_genes]) * len(WIDTHS) + outputs, tensors


def _sum(costs: np.ndarray, entries: np.ndarray) -> np.ndarray:
    total = np.zeros(entries.shape[1])
    for costs_of_layer, entry in zip(costs, entries, strict=True):
        total += costs_of_layer[entry]
    return total


def layer_costs(table: CostTable, part: str, metric: str) -> np.ndarray:
    """What every layer contributes by width triple, float64 [L, 343], on its mapping that is optimal by `metric`."""
    if part in METRICS:
        return table.costs(part, metric).reshape(len(table.unique), -1)[table.index]
    elements = np.array([layer.elements("Weights") for layer in table.layers], np.float64)
    widths = np.tile(np.repeat(np.array(WIDTHS, np.float64), len(WIDTHS)), len(WIDTHS))
    return elements[:, None] * widths


def _area_of(table: CostTable) -> float:
    if table.area_um2 is None:
        raise InputError(f"the table of {table.arch!r} knows no area; make it with `cost_table`")
    return table.area_um2


def layer_widths(genome: np.ndarray, wiring: Wiring) -> list[BitWidths]:
    """The width triple of every layer of one genome, int [T + L] or, where layers have one input gene each, [L, 2]."""
    flat = wiring.checked(np.asarray(genome)[None])[0]
    tensors, kernels = [*flat[wiring.tensor_genes], OUTPUT_WIDTH], flat[wiring.kernel_genes]
    return [
        BitWidths(int(tensors[read]), int(kernel), int(tensors[written]))
        for read, kernel, written in zip(wiring.reads, kernels, wiring.writes, strict=True)
    ]
