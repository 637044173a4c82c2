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
from mqjax.mapper.levels.descent import PAIRS_MOST, Descent, Search
from mqjax.mapper.levels.packings import Packings
from mqjax.mapper.levels.placing import codes
from mqjax.mapper.levels.spreads import spreads
from mqjax.mapper.levels.states import Measure, Mispriced, Placed, Targets, TooManyStates
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

AGREES = 1e-9
"""Relative difference between what the boundaries of a mapping cost and its exact price, at most."""

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
        self._spreads, self._packings = found, Packings(decision.widths.operands)
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
        except (TimeoutError, TooManyStates, Mispriced):
            return
        self._decision.proven = True

    def _check_time(self) -> None:
        if time.monotonic() > self._deadline:
            raise TimeoutError

    def _bound(self, s: int) -> None:
        """What the mappings of a spread cost at least, as cheaply as that can be said."""
        charges, widths = self._charges(s), self._decision.widths
        self._cycles[s] = compute_cycles(np.full(len(widths.mac_pj), charges.steps), widths)
        self._start[s] = charges.space.layer.macs * widths.mac_pj + charges.of_macs(self._packings)
        self._least[s] = self._start[s] + cheapest(charges, self._packings)

    @property
    def _targets(self) -> Targets:
        """Which mappings may be better than the best known, by some metric."""
        costs, energies, _ = self._standing
        slightly = 1 - ROUNDING
        return Targets(costs[ENERGY] * slightly, costs[EDP] * slightly, costs[DELAY], energies[DELAY] * slightly)

    def _may_win(self) -> np.ndarray:
        """Which spreads may hold a mapping better than the best known at a packing by some metric, bool [S, U]."""
        self._standing = self._decision.standing()
        return self._targets.keeps(self._least, self._cycles) & ~self._done

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
            bounds = Bounds(self._charges(s), self._packings.take(some))
            self._least[s, some] = self._start[s, some] + bounds.root
            self._bounded[s, some] = True
            if bounded:
                chosen = self._may_win()[s, some] & (np.isin(some, wanted) | np.isfinite(self._standing[1][0, some]))
                if chosen.any():
                    self._descend(s, some[chosen], bounds if chosen.all() else bounds.take(np.flatnonzero(chosen)))

    def _descend(self, s: int, packings: np.ndarray, bounds: Bounds) -> None:
        """Find the best mappings of a spread at some packings."""
        measures = self._measures(s, packings, bounds)
        descent = Descent(measures, self._cycles[s, packings], WindowBook(self._charges(s)), self._check_time)
        left = np.arange(len(packings))
        for stage in SEARCHES:
            left = left[self._may_win()[s, packings[left]]]
            close = self._targets.energy[packings[left]] < stage.gap * self._least[s, packings[left]]
            done = self._search(s, packings, descent, left[~close], stage)
            left = np.setdiff1d(left, done)
        self._done[s, packings] = True

    def _search(self, s: int, packings: np.ndarray, descent: Descent, some: np.ndarray, stage: Search) -> np.ndarray:
        """Let the mappings of a spread compete that may be the best at some of the packings of a descent; at which of these
        no others are."""
        if not len(some):
            return some
        self._check_time()
        part = descent if len(some) == len(packings) else descent.take(some)
        try:
            found = part.best(self._targets.take(packings[some]), stage)
        except TooManyStates:
            if len(some) == 1:
                if stage.most == PAIRS_MOST:
                    raise
                return some[:0]
            halves = np.array_split(some, 2)
            return np.concatenate([self._search(s, packings, descent, half, stage) for half in halves])
        self._decision.searched = (self._decision.searched or 0) + part.looked_at
        if found:
            self._price(s, packings[some], found)
        return some[part.complete]

    def _price(self, s: int, packings: np.ndarray, found: list[Placed]) -> None:
        """Let mappings of a spread, found at some packings, compete at all."""
        energy, _ = self._decision.consider(codes(self._codec, self._spreads[s], found))  # [U, N]
        self._standing = self._decision.standing()
        energy = energy[packings].reshape(len(packings), len(found), -1).transpose(1, 0, 2)
        least = np.stack([one.energy for one in found])[:, :, None]
        exact = np.array([one.exact for one in found])[:, None, None]
        # Only a mistake in what boundaries cost can make this differ; then nothing they say can be relied on.
        with np.errstate(invalid="ignore"):
            agrees = (energy >= least * (1 - AGREES)) & (~exact | (energy <= least * (1 + AGREES)))
            if (np.isfinite(least) & ~agrees).any():
                raise Mispriced

    def _measures(self, s: int, packings: np.ndarray, bounds: Bounds) -> list[Measure]:
        """pJ, and the words that may slow the MACs down, at some packings."""
        charges, cycles = self._charges(s), self._cycles[s, packings]
        measures = [Measure(charges, bounds, self._start[s, packings], np.inf)]
        for level, limits in enumerate(charges.space.arch.tech.bandwidth):
            for direction, bandwidth in enumerate(limits):
                if np.isfinite(bandwidth):
                    counted = charges.counting(level, direction)
                    if (counted.most(bounds.packings) > bandwidth * cycles).any():
                        start = counted.of_macs(bounds.packings)
                        measures.append(Measure(counted, Bounds(counted, bounds.packings), start, bandwidth))
        return measures
