"""Optima of a space too large to sweep, proven by bounds over all of it (docs/PROOF.md).

Axes: S spreads, U packings.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from mqjax.cost.packing import compute_cycles
from mqjax.mapper.decision import Decision
from mqjax.mapper.levels.book import WindowBook
from mqjax.mapper.levels.bounds import Bounds, cheapest
from mqjax.mapper.levels.charges import Charges
from mqjax.mapper.levels.descent import Descent, Search
from mqjax.mapper.levels.placing import codes
from mqjax.mapper.levels.spreads import spreads
from mqjax.mapper.levels.states import Measures, Placed, Targets, TooManyStates
from mqjax.mapper.localsearch import Codec
from mqjax.mapspace.space import Mapspace
from mqjax.progress import SILENT, Progress
from mqjax.types import METRICS, BitWidths

ROUNDING = 1e-11
"""Relative difference below which two energies may be equal: bounds are summed in another order than exact costs."""

SEARCHES = (Search(beam=16, gap=1.05), Search(most=2**12), Search(beam=256), Search())
"""How the best mappings of a spread are found: most need a first mapping and a look at few states; where there are more, a
better mapping is looked for first."""

KEPT = 64
"""Spreads whose tables by extents are kept; others are made anew."""

CELLS = 2**17
"""Extents times packings that are bounded together."""

ENERGY, EDP, DELAY = map(METRICS.index, ("energy", "edp", "delay"))


def prove(space: Mapspace, bits: Sequence[BitWidths], *, deadline: float, progress: Progress = SILENT) -> Decision:
    """The best mappings of `space` for all `bits` by all metrics; its `proven` says whether they are the optima.

    deadline: when to end at the latest, by `time.monotonic`. progress: told now and then how far the proof is.
    """
    codec = Codec(space)
    decision = Decision(space, bits, codec.width, codec.nests)
    decision.searched = 0
    found = spreads(space)
    if found is not None and not len(found):
        decision.proven = True  # that nothing fits
    elif found is not None:
        _Proof(codec, decision, found, deadline, progress).run()
    return decision


class _Proof:
    """What is known of every spread, [S, U]: pJ and cycles at least, pJ of the MACs and their operands, whether it was bounded
    by extents, and whether its best mappings were found."""

    def __init__(
        self, codec: Codec, decision: Decision, found: np.ndarray, deadline: float, progress: Progress
    ) -> None:
        self._codec, self._decision, self._deadline, self._progress = codec, decision, deadline, progress
        self._spreads = found
        self._charges = lru_cache(maxsize=KEPT)(lambda s: Charges(codec.space, found[s]))
        shape = len(found), len(decision.widths.mac_pj)
        self._least, self._cycles, self._start = np.full(shape, np.inf), np.zeros(shape), np.zeros(shape)
        self._bounded, self._done = np.zeros(shape, bool), np.zeros(shape, bool)

    def run(self) -> None:
        """Find and prove the optima, or give up at the deadline."""
        try:
            for s in range(len(self._spreads)):
                self._check_time()
                self._bound(s)
            while promising := self._promising():
                settled = int((self._done | ~self._may_win()).all(axis=1).sum())
                self._progress.say(f"{settled:,} of {len(self._done):,} choices of spatial loops settled")
                for s, wanted in promising.items():
                    self._look(s, wanted)
        except (TimeoutError, TooManyStates):
            return
        self._decision.proven = True

    def _check_time(self) -> None:
        if time.monotonic() > self._deadline:
            raise TimeoutError

    def _bound(self, s: int) -> None:
        """What the mappings of a spread cost at least, as cheaply as that can be said."""
        charges, widths = self._charges(s), self._decision.widths
        self._cycles[s] = compute_cycles(np.full(len(widths.mac_pj), charges.steps), widths)
        self._start[s] = charges.space.layer.macs * widths.mac_pj + charges.of_macs(widths.operands)
        self._least[s] = self._start[s] + cheapest(charges, widths.operands)

    def _targets(self, u: int) -> Targets:
        """Which mappings may be better than the best known at a packing, by some metric."""
        costs, energies, _ = self._standing
        return Targets(
            costs[ENERGY, u] * (1 - ROUNDING),
            costs[EDP, u] * (1 - ROUNDING),
            costs[DELAY, u],
            energies[DELAY, u] * (1 - ROUNDING),
        )

    def _may_win(self) -> np.ndarray:
        """Which spreads may hold a mapping better than the best known at a packing by some metric, bool [S, U]."""
        self._standing = self._decision.standing()
        columns = [self._targets(u).keeps(self._least[:, u], self._cycles[:, u]) for u in range(self._least.shape[1])]
        return np.stack(columns, axis=1) & ~self._done

    def _promising(self) -> dict[int, list[int]]:
        """The spreads that look best for a packing by some metric, of those that may win, with these packings."""
        may = self._may_win()
        least = np.where(may, self._least, np.inf)
        by_delay = np.where(may, self._cycles, np.inf)
        fastest = by_delay == by_delay.min(axis=0)
        found: dict[int, list[int]] = {}
        for key in (least, least * self._cycles, np.where(fastest, least, np.inf)):
            for u, s in enumerate(key.argmin(axis=0).tolist()):
                if may[s, u] and u not in found.setdefault(s, []):
                    found[s].append(u)
        return {s: us for s, us in found.items() if us}

    def _look(self, s: int, wanted: list[int]) -> None:
        """Bound a spread for all packings that it may win. If it still looks best for those wanted, find its best mappings for
        them, and for all others of which a mapping is known, since that limits what there is to look at."""
        every = np.flatnonzero(self._may_win()[s])
        step = max(1, CELLS // self._charges(s).lattice.size)
        bounded = bool(self._bounded[s, wanted].all())
        for first in range(0, len(every), step):
            some = every[first : first + step]
            self._check_time()
            bounds = Bounds(self._charges(s), self._decision.widths.operands[some])
            self._least[s, some] = self._start[s, some] + bounds.root
            self._bounded[s, some] = True
            if bounded:
                chosen = self._may_win()[s, some] & (np.isin(some, wanted) | np.isfinite(self._standing[1][0, some]))
                self._descend(s, some, np.flatnonzero(chosen), bounds)

    def _descend(self, s: int, packings: np.ndarray, chosen: np.ndarray, bounds: Bounds) -> None:
        """Find the best mappings of a spread at the chosen ones of some packings, whose bounds are given."""
        descents = {}
        if len(chosen):
            measures, book = self._measures(s, packings, bounds), WindowBook(self._charges(s))
            operands = self._decision.widths.operands[packings]
            for i in chosen.tolist():
                of_packing = [measure.of(i) for measure in measures if measure.may_limit[i]]
                descents[i] = Descent(of_packing, self._cycles[s, packings[i]], operands[i], book, self._check_time)
        for stage in SEARCHES:
            self._standing = self._decision.standing()
            found: list[Placed] = []
            try:
                for i, descent in list(descents.items()):
                    found += self._search(s, int(packings[i]), descent, stage)
                    if descent.complete:
                        del descents[i]
            finally:
                if found:
                    self._decision.consider(codes(self._codec, self._spreads[s], found))
        self._done[s, packings[chosen]] = True

    def _search(self, s: int, u: int, descent: Descent, stage: Search) -> list[Placed]:
        """Mappings of a spread that may be the best at a packing; `descent.complete` says whether no others are."""
        targets, least = self._targets(u), self._least[s, u]
        descent.complete = not targets.keeps(least, self._cycles[s, u])
        if descent.complete or targets.energy < stage.gap * least:
            return []
        self._check_time()
        found = descent.best(targets, stage)
        self._decision.searched = (self._decision.searched or 0) + descent.looked_at
        return found

    def _measures(self, s: int, packings: np.ndarray, bounds: Bounds) -> list[Measures]:
        """pJ, and the words that may slow the MACs down, at some packings."""
        charges, widths = self._charges(s), self._decision.widths
        operands, cycles = widths.operands[packings], self._cycles[s, packings]
        measures = [Measures(charges, bounds, self._start[s, packings], np.inf, np.ones(len(packings), bool))]
        for level, limits in enumerate(charges.space.arch.tech.bandwidth):
            for direction, bandwidth in enumerate(limits):
                if np.isfinite(bandwidth):
                    counted = charges.counting(level, direction)
                    may_limit = counted.most(operands) > bandwidth * cycles
                    if may_limit.any():
                        start = counted.of_macs(operands)
                        measures.append(Measures(counted, Bounds(counted, operands), start, bandwidth, may_limit))
        return measures
