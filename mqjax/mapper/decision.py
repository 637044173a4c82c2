"""Who wins: mappings compete by exact cost, for several width triples and all metrics at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from mqjax.cost.exact.evaluator import analyse_mappings
from mqjax.cost.packing import Widths, packing_boxes
from mqjax.mapper.optima import Solution
from mqjax.mapspace.mapping import Mappings, decode
from mqjax.mapspace.space import Mapspace
from mqjax.types import METRICS, BitWidths

ROWS_AT_ONCE = 2**13
"""Mappings, each with a packing, that are priced together: enough to amortize the calls, in little memory."""


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
            close = value <= self._value[m, triple]  # of many only few
            u, value, energies, duration, numbers = (
                np.concatenate(parts)
                for parts in (
                    (old, triple[close]),
                    (self._value[m, old], value[close]),
                    (self._energy[m, old], energy[close]),
                    (self._cycles[m, old], cycles[close]),
                    (self._codes[m, old], codes[close]),
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
    by_row = np.argsort(row, kind="stable")
    ends = np.searchsorted(row[by_row], np.arange(len(nests) + 1))
    place = np.empty(len(nests), np.int64)
    for part in analyse_mappings(space.arch, [space.layer] * len(nests), nests, chunk=64):
        place[part.rows] = np.arange(len(part.rows))
        pairs = np.concatenate([by_row[ends[r] : ends[r + 1]] for r in part.rows])
        for start in range(0, len(pairs), ROWS_AT_ONCE):
            some = pairs[start : start + ROWS_AT_ONCE]
            validity, priced = part.take(place[row[some]]).cost(space.arch, widths.take(some))
            fits[some], energy[some], cycles[some] = validity.valid, priced.energy_pj, priced.cycles
    return fits, energy, cycles
