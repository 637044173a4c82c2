"""Energy against delay: all mappings of a layer that no other beats in both, over its whole space.

The sweep's programs price every mapping of the distinct space at one width triple; those that come within rounding of the
front are priced exactly, and the exact front is kept. So the fastest, the most frugal and the mapping of least energy-delay
product are all members, and whatever a network adds up of its layers can be minimised from their fronts alone
(`mqjax.network.tradeoff`).
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from mqjax.arch import Arch
from mqjax.cost.exact.evaluator import check_counts
from mqjax.cost.fast.terms import LARGEST_SWEPT
from mqjax.cost.packing import packing_boxes, slowest_pace, stacked_widths
from mqjax.errors import InputError
from mqjax.mapper.decision import exact_costs
from mqjax.mapper.limits import NEAR
from mqjax.mapper.optima import nothing_fits
from mqjax.mapper.sweep import Sweeper
from mqjax.mapspace.mapping import decode
from mqjax.mapspace.padding import padded_or_itself
from mqjax.mapspace.rows import Rows, mappings
from mqjax.mapspace.space import Mapspace
from mqjax.progress import SILENT, Progress
from mqjax.types import BitWidths, Layer

PRICED_TOGETHER = 2**14
"""Mappings near the front that are priced exactly together."""


@dataclasses.dataclass(frozen=True)
class Tradeoff:
    """The Pareto set of (energy, cycles) of a layer at one width triple: F mappings, the fastest first. Every mapping of the space
    is beaten by one of these, or costs what one of them costs."""

    layer: Layer
    bits: BitWidths
    energy_pj: np.ndarray  # float64 [F], descending
    cycles: np.ndarray  # int64 [F], ascending
    mappings: tuple[list[dict[str, Any]], ...]


def tradeoff(
    arch: Arch,
    layer: Layer,
    bits: BitWidths,
    *,
    constraints: str = "paper",
    pad: int | None = 0,
    progress: Progress = SILENT,
) -> Tradeoff:
    """The Pareto set of energy (pJ) and cycles over all mappings of `layer`, on padded bounds where the constraints need
    them (`pad` of 0; `None` pads nothing, larger ones are not tried).

    Raises `InputError` where nothing fits, where the space is too large to cover, and where neighbours may forward data,
    which the sweep's formulas do not price.
    """
    mapped = padded_or_itself(arch, layer, constraints=constraints, pad=pad)
    space = Mapspace(arch, mapped, constraints=constraints)
    arch.check_widths(bits, layer)
    check_counts(mapped, LARGEST_SWEPT / slowest_pace(arch))
    if space.too_large or space.may_forward:
        reason = f"of {space.size:.1e} mappings is too large to cover" if space.too_large else "may forward data"
        raise InputError(f"layer {layer.name!r}: no Pareto set of energy and delay, since its space {reason}")
    front = _FrontSoFar(space, bits)
    sweeper = Sweeper(space, packing_boxes(arch, [bits]))
    for job in sweeper.jobs():
        for chunk in range(job.chunks):
            for numbers, energy, cycles in sweeper.costs(job, chunk):
                front.add(sweeper.rows(job, numbers).take(front.near(energy, cycles)))
        progress.say("mappings compared")
    front.decide()
    if not len(front.energy):
        raise nothing_fits(layer, space, bits, covered=True)
    nests = mappings(space, Rows.of_codes(front.codes))
    found = tuple(decode(arch, mapped, nests, i) for i in range(len(front.codes)))
    return Tradeoff(layer, bits, front.energy, front.cycles.astype(np.int64), found)


class _FrontSoFar:
    """The exact front so far, by ascending cycles, and mappings that wait for their exact price."""

    def __init__(self, space: Mapspace, bits: BitWidths) -> None:
        self._space, self._widths = space, stacked_widths(space.arch, [bits])
        self.energy, self.cycles = np.empty(0), np.empty(0)
        self.codes = np.empty((0, 2 + len(space.groups)), np.int32)
        self._waiting: list[Rows] = []

    def near(self, energy: np.ndarray, cycles: np.ndarray) -> np.ndarray:
        """Which mappings of these approximate costs, float64 [N], may be of the front: places, int64 [M]."""
        place = np.searchsorted(self.cycles, cycles, side="right")
        limit = np.concatenate([[np.inf], self.energy])[place] * NEAR["energy"]
        kept = np.flatnonzero(energy <= limit)
        # Among themselves: those at whose cycles, or fewer, none needs less energy.
        order = kept[np.argsort(cycles[kept], kind="stable")]
        least = np.minimum.accumulate(energy[order])
        last = np.searchsorted(cycles[order], cycles[order], side="right") - 1
        return np.sort(order[energy[order] <= least[last] * NEAR["energy"]])

    def add(self, rows: Rows) -> None:
        """Let mappings compete."""
        self._waiting.append(rows)
        if sum(map(len, self._waiting)) >= PRICED_TOGETHER:
            self.decide()

    def decide(self) -> None:
        """Price exactly what waits; of mappings that cost the same the first is kept."""
        codes = np.concatenate([self.codes, *(rows.codes for rows in self._waiting)])
        self._waiting = []
        if not len(codes):
            return
        every = np.arange(len(codes))
        widths = self._widths.take(np.zeros(len(codes), np.int64))
        _, energy, cycles = exact_costs(self._space, mappings(self._space, Rows.of_codes(codes)), every, widths)
        order = np.lexsort((*codes.T[::-1], energy, cycles))
        order = order[np.isfinite(energy[order])]
        below = np.minimum.accumulate(np.concatenate([[np.inf], energy[order][:-1]])) if len(order) else energy[:0]
        kept = order[energy[order] < below]
        self.energy, self.cycles, self.codes = energy[kept], cycles[kept].astype(np.float64), codes[kept]
