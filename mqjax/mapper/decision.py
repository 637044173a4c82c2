"""Who wins: mappings compete by exact cost, for several width triples and all metrics at once."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from mqjax.cost.exact.evaluator import analyse_mappings
from mqjax.cost.packing import Widths, packing_boxes
from mqjax.errors import InputError
from mqjax.mapper.reasons import why_nothing_fits
from mqjax.mapspace.mapping import Mappings, decode, mapped_layer
from mqjax.mapspace.space import Mapspace
from mqjax.types import METRICS, BitWidths, Layer

ROWS_AT_ONCE = 2**13
"""Mappings, each with a packing, that are priced together: enough to amortize the calls, in little memory."""


@dataclasses.dataclass(frozen=True)
class Optimum:
    """The best mapping of a layer at one width triple by one metric, with exact costs, and what was looked at.

    mapped: the layer with the bounds that the mapping has; they exceed those of `layer` where it was padded.
    nominal_size counts as Timeloop does; pruned_size drops permutations of loops of bound 1; evaluated says how many
    mappings were looked at. covered: every mapping of the space was priced, ruled out by a bound, or is equivalent to one
    that was, so the optimum is proven; valid_mappings then counts those of the pruned space that fit.
    """

    layer: Layer
    mapped: Layer
    bits: BitWidths
    metric: str
    energy_pj: float
    cycles: int
    mapping: list[dict[str, Any]]
    nominal_size: int
    pruned_size: int
    evaluated: int
    valid_mappings: int | None
    covered: bool

    @property
    def edp(self) -> float:
        """Energy-delay product, pJ * cycles."""
        return self.energy_pj * self.cycles


@dataclasses.dataclass(frozen=True)
class Solution:
    """Optimal mappings of one layer for several width triples by all metrics.

    energy_pj, cycles: [3, triples] of the optimum by each of `METRICS`; index: [3, triples] into `mappings`, -1 where
    nothing fits; valid: [triples] mappings of the pruned space that fit, `None` where the space was not covered;
    nominal_size, pruned_size, evaluated and covered as in `Optimum`. space: where it was looked; of several spaces, as a
    layer may be padded in several ways, the first, and numbers are those of all together.
    """

    layer: Layer
    space: Mapspace
    bits: tuple[BitWidths, ...]
    energy_pj: np.ndarray
    cycles: np.ndarray
    index: np.ndarray
    mappings: list[list[dict[str, Any]]]
    nominal_size: int
    pruned_size: int
    valid: np.ndarray | None
    evaluated: int
    covered: bool

    def optimum(self, metric: str, i: int) -> Optimum:
        """The optimum by `metric` of triple i. Raises `InputError` where nothing fits."""
        m = METRICS.index(metric)
        if self.index[m, i] < 0:
            raise nothing_fits(self.layer, self.space, self.bits[i], covered=self.covered)
        mapping = self.mappings[self.index[m, i]]
        return Optimum(
            layer=self.layer,
            mapped=mapped_layer(self.layer, mapping),
            bits=self.bits[i],
            metric=metric,
            energy_pj=float(self.energy_pj[m, i]),
            cycles=int(self.cycles[m, i]),
            mapping=mapping,
            nominal_size=self.nominal_size,
            pruned_size=self.pruned_size,
            evaluated=self.evaluated,
            valid_mappings=None if self.valid is None else int(self.valid[i]),
            covered=self.covered,
        )

    def values(self) -> np.ndarray:
        """The optima themselves by each of `METRICS`, float64 [3, triples], inf where nothing fits."""
        cycles = np.where(self.index < 0, np.inf, self.cycles)
        energy = np.where(self.index < 0, np.inf, self.energy_pj)
        return np.stack([energy[0], energy[1] * cycles[1], cycles[2]])


def nothing_fits(layer: Layer, space: Mapspace, bits: BitWidths, *, covered: bool) -> InputError:
    """What is to be said where no mapping of `layer`, mapped in `space`, was found that fits; covered: there is none."""
    missing = "no mapping fits" if covered else "no mapping was found that fits"
    return InputError(
        f"layer {layer.name!r}: {missing} {space.arch.name!r} at bit-widths {bits} "
        f"under the constraints {space.constraints!r}: {why_nothing_fits(space, bits)}"
    )


def best_of(layer: Layer, solutions: Sequence[Solution]) -> Solution:
    """The best of several solutions, at each triple by each metric; of equals, by cycles, energy, and the first."""
    first = solutions[0]
    keys = [np.stack(arrays) for arrays in zip(*((s.energy_pj, s.cycles, s.values()) for s in solutions), strict=True)]
    number = np.broadcast_to(np.arange(len(solutions))[:, None, None], keys[0].shape)
    best = np.lexsort((number, *keys), axis=0)[:1]  # [1, 3, triples]

    def chosen(arrays: list[np.ndarray]) -> np.ndarray:
        return np.take_along_axis(np.stack(arrays), best, axis=0)[0]

    places = np.cumsum([0, *(len(s.mappings) for s in solutions)])
    index = [np.where(s.index < 0, -1, s.index + place) for s, place in zip(solutions, places, strict=False)]
    counts = [s.valid for s in solutions if s.valid is not None]
    valid = np.sum(counts, axis=0) if len(counts) == len(solutions) else None
    whole = chosen(index)
    used, inverse = np.unique(whole[whole >= 0], return_inverse=True)
    whole[whole >= 0] = inverse
    mappings = [mapping for s in solutions for mapping in s.mappings]
    return Solution(
        layer=layer,
        space=first.space,
        bits=first.bits,
        energy_pj=chosen([s.energy_pj for s in solutions]),
        cycles=chosen([s.cycles for s in solutions]),
        index=whole,
        mappings=[mappings[i] for i in used],
        nominal_size=sum(s.nominal_size for s in solutions),
        pruned_size=sum(s.pruned_size for s in solutions),
        valid=valid,
        evaluated=sum(s.evaluated for s in solutions),
        covered=all(s.covered for s in solutions),
    )


class Decision:
    """The best mappings so far by exact cost; ties go by (metric, cycles, energy, mapping order).

    A mapping is known by its code, a row of integers, in whose order the mappings are; `nests` makes loop nests of codes.
    Axis U: the distinct packing triples of all boxes in turn. valid: float64 [U] pruned mappings that fit; covered: how
    many pruned mappings were counted, NaN where some were given up; searched: how many
    mappings were looked at, where that is not the whole space. widths: of axis U. proven: the best are, although the mappings were not counted.
    """

    def __init__(
        self, space: Mapspace, bits: Sequence[BitWidths], code_width: int, nests: Callable[[np.ndarray], Mappings]
    ) -> None:
        self.space, self.bits, self._nests = space, tuple(bits), nests
        self.boxes = packing_boxes(space.arch, bits)
        self.widths = Widths.join([box.widths for box in self.boxes])  # axis U
        self._triple = np.empty(len(bits), np.int64)
        first = 0
        for box in self.boxes:
            self._triple[box.bits] = first + box.inverse
            first += len(box.triples)
        self.valid, self.covered = np.zeros(first), 0.0
        shape = (len(METRICS), first)
        self._value, self._energy = np.full(shape, np.inf), np.full(shape, np.inf)
        self._cycles = np.zeros(shape, np.int64)
        self.searched: int | None = None
        self.proven = False
        self._codes = np.zeros((*shape, code_width), np.int32)

    def count(self, valid: list[np.ndarray], covered: float) -> None:
        """Add to the mappings that fit, per box float64 [U of the box], and to those that were counted."""
        self.valid += np.concatenate(valid)
        self.covered += covered

    def consider(
        self, codes: np.ndarray, within: np.ndarray | None = None, *, weights: np.ndarray | None = None
    ) -> np.ndarray:
        """Let mappings compete at the triples that `within`, bool [U, N], marks; default all. `weights` are added to
        the valid counts. Returns their energies and cycles, float64 [2, U, N], inf where they do not fit or compete."""
        within = np.ones((len(self.valid), len(codes)), bool) if within is None else within
        triple, row = np.nonzero(within)
        fits, energy, cycles = exact_costs(self.space, self._nests(codes), row, self.widths.take(triple))
        if weights is not None:
            self.valid += np.bincount(triple[fits], weights[row[fits]], len(self.valid))
        triple, row, energy, cycles = triple[fits], row[fits], energy[fits], cycles[fits]
        self._compete(triple, energy, cycles, codes[row])
        costs = np.full((2, *within.shape), np.inf)
        costs[:, triple, row] = energy, cycles
        return costs

    def _compete(self, triple: np.ndarray, energy: np.ndarray, cycles: np.ndarray, codes: np.ndarray) -> None:
        """Let mappings, each at a triple, compete with the best so far; all arrays [pairs, ...]."""
        for m, value in enumerate((energy, energy * cycles, cycles.astype(np.float64))):
            old = np.flatnonzero(np.isfinite(self._value[m]))
            u, value, energies, duration, numbers = (
                np.concatenate(parts)
                for parts in (
                    (old, triple),
                    (self._value[m, old], value),
                    (self._energy[m, old], energy),
                    (self._cycles[m, old], cycles),
                    (self._codes[m, old], codes),
                )
            )
            ranked = np.lexsort((*numbers.T[::-1], energies, duration, value, u))
            u, first = np.unique(u[ranked], return_index=True)
            best = ranked[first]
            self._value[m, u], self._energy[m, u] = value[best], energies[best]
            self._cycles[m, u], self._codes[m, u] = duration[best], numbers[best]

    def arrays(self) -> tuple[np.ndarray, ...]:
        """All that is known, in arrays whose shapes depend on the space and the widths alone."""
        return self._energy, self._cycles, self._codes, self.valid, np.array([self.covered])

    def merge(self, energy: np.ndarray, cycles: np.ndarray, codes: np.ndarray, valid: np.ndarray, covered: np.ndarray):
        """Add what another decision knows of other parts of the space: its `arrays`."""
        for m in range(len(METRICS)):
            found = np.flatnonzero(np.isfinite(energy[m]))
            self._compete(found, energy[m, found], cycles[m, found], codes[m, found])
        self.valid += valid
        self.covered += float(covered[0])

    def join(self, other: Decision) -> None:
        """Add what another decision, whose codes mean the same, found by looking at other mappings of the space."""
        self.merge(*other.arrays())
        self.searched = (self.searched or 0) + (other.searched or 0)

    def best(self) -> np.ndarray:
        """The codes of the best mappings by any metric at any triple, int32 [N, code_width]."""
        return np.unique(self._codes[np.isfinite(self._value)], axis=0)

    def costs(self) -> np.ndarray:
        """The least costs so far, float64 [3, U], inf where nothing fits."""
        return self._value.copy()

    def standing(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The least costs so far, with energy and cycles, float64 [3, U] each, inf where nothing fits."""
        cycles = np.where(np.isfinite(self._value), self._cycles, np.inf)
        return self._value.copy(), self._energy.copy(), cycles

    def solution(self) -> Solution:
        """The best mapping for each of `bits`."""
        index = np.full(self._value.shape, -1)
        found = np.isfinite(self._value)
        unique, place = np.unique(self._codes[found], axis=0, return_inverse=True)
        index[found] = place.reshape(-1)
        arrays = self._nests(unique)
        space = self.space
        # Triples with a width above the word of a level that keeps the tensor never fit.
        too_wide = np.array([space.arch.too_wide(bits) is not None for bits in self.bits], bool)
        valid = np.where(too_wide, 0, np.rint(self.valid[self._triple]).astype(np.int64))
        return Solution(
            layer=space.layer,
            space=space,
            bits=self.bits,
            energy_pj=np.where(too_wide, np.inf, self._energy[:, self._triple]),
            cycles=np.where(too_wide, 0, self._cycles[:, self._triple]),
            index=np.where(too_wide, -1, index[:, self._triple]),
            mappings=[decode(space.arch, space.layer, arrays, i) for i in range(len(unique))],
            nominal_size=space.size,
            pruned_size=space.pruned_size,
            valid=valid if self.counted else None,
            evaluated=space.distinct if self.searched is None else self.searched,
            covered=self.counted or self.proven,
        )

    @property
    def counted(self) -> bool:
        """Whether every mapping of the space is accounted for one by one."""
        return self.searched is None and abs(self.covered - self.space.fanout_valid) < 0.5


def exact_costs(
    space: Mapspace, nests: Mappings, row: np.ndarray, widths: Widths
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Validity, energy and cycles [pairs] of the loop nests at `row`, each at its own `widths`."""
    fits, energy = np.zeros(len(row), bool), np.full(len(row), np.inf)
    cycles = np.zeros(len(row), np.int64)
    for part in analyse_mappings(space.arch, [space.layer] * len(nests), nests, chunk=64):
        place = np.full(len(nests), -1)
        place[part.rows] = np.arange(len(part.rows))
        pairs = np.flatnonzero(place[row] >= 0)
        for start in range(0, len(pairs), ROWS_AT_ONCE):
            some = pairs[start : start + ROWS_AT_ONCE]
            validity, priced = part.take(place[row[some]]).cost(space.arch, widths.take(some))
            fits[some], energy[some], cycles[some] = validity.valid, priced.energy_pj, priced.cycles
    return fits, energy, cycles
