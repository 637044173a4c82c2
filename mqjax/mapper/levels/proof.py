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

SEARCHES = (Search(beam=16, gap=1.01), Search(most=2**12), Search(beam=16), Search(beam=256), Search())
"""How the best mappings of a spread are found: most need a first mapping and a look at few states; where there are more, a
better mapping is looked for first."""

KEPT = 64
"""Spreads whose tables by extents are kept; others are made anew."""

AGREES = 1e-9
"""Relative difference between what the boundaries of a mapping cost and its exact price, at most."""

MAPPINGS_AT_ONCE = 2**12
"""Mappings that are priced together, so that what they cost rules out others."""

CELLS = 2**16
"""Extents times packings that are bounded together."""

CHEAPLY, ROUGHLY, TIGHTLY = range(3)
"""How a spread is bounded: by the spread alone, at the corners of the packings, or at each packing that it may win."""

NARROW = 1.25
"""Energy that mappings of a spread may take over its bound so that they are searched at once."""

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
    """What is known of every spread, [S, U]: pJ and cycles at least, pJ of the MACs and their operands, and whether its best
    mappings were found; [S]: how it was bounded. shared: codes of mappings that competed at all packings."""

    def __init__(
        self, codec: Codec, decision: Decision, found: np.ndarray, deadline: float, progress: Progress
    ) -> None:
        self._codec, self._decision, self._deadline, self._progress = codec, decision, deadline, progress
        self._spreads, self._packings = found, Packings(decision.widths.operands)
        self._charges = lru_cache(maxsize=KEPT)(lambda s: Charges(codec.space, found[s]))
        shape = len(found), len(decision.widths.mac_pj)
        self._least, self._cycles, self._start = np.full(shape, np.inf), np.zeros(shape), np.zeros(shape)
        self._bounded, self._done = np.full(len(found), CHEAPLY), np.zeros(shape, bool)
        self._corners, first = [], 0
        for box in decision.boxes:
            some = slice(first, first := first + len(box.triples))
            self._corners.append((some, *Packings(box.widths.operands).corners()))
        self._shared: set[bytes] = set()

    def run(self) -> None:
        """Find and prove the optima, or give up at the deadline."""
        try:
            for s in range(len(self._spreads)):
                self._check_time()
                self._bound_cheaply(s)
            while promising := self._promising():
                settled = int((self._done | ~self._may_win()).all(axis=1).sum())
                self._progress.say(f"{settled:,} of {len(self._done):,} choices of spatial loops settled")
                for s in promising:
                    self._look(s)
        except (TimeoutError, TooManyStates, Mispriced):
            return
        self._decision.proven = True

    def _check_time(self) -> None:
        if time.monotonic() > self._deadline:
            raise TimeoutError

    def _bound_cheaply(self, s: int) -> None:
        """What the mappings of a spread cost at least, as cheaply as that can be said."""
        charges, widths = self._charges(s), self._decision.widths
        self._cycles[s] = compute_cycles(np.full(len(widths.mac_pj), charges.steps), widths)
        self._start[s] = charges.space.layer.macs * widths.mac_pj + charges.of_macs(self._packings)
        self._least[s] = self._start[s] + cheapest(charges, self._packings)

    def _bound_roughly(self, s: int) -> None:
        """What the mappings of a spread cost at least, by bounds at the corners of the packings alone."""
        for some, corners, weights in self._corners:
            root = Bounds(self._charges(s), corners).root
            # What fits is the same at all corners.
            rough = weights @ root if np.isfinite(root).all() else np.full(len(weights), np.inf)
            np.maximum(self._least[s, some], self._start[s, some] + rough, out=self._least[s, some])
        self._bounded[s] = ROUGHLY

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

    def _look(self, s: int) -> None:
        """Bound a spread for all packings that it may win: first roughly, then tightly. Then find its best mappings for those that it
        still looks best for, and for those where its bound is near the best known mapping, since that leaves little to
        look at."""
        self._check_time()
        if self._bounded[s] == CHEAPLY:
            return self._bound_roughly(s)
        every = np.flatnonzero(self._may_win()[s])
        step = max(1, CELLS // self._charges(s).lattice.size)
        again, self._bounded[s] = self._bounded[s] == TIGHTLY, TIGHTLY
        for first in range(0, len(every), step):
            some = every[first : first + step]
            self._check_time()
            bounds = Bounds(self._charges(s), self._packings.take(some))
            self._least[s, some] = self._start[s, some] + bounds.root
            may = self._may_win()[s, some]
            best = np.isin(some, self._promising().get(s, []))
            if not again and best.sum() <= may.sum() / 2:
                best[:] = False  # others, once they are bounded as tightly, are likely to be better
            limit = self._targets.take(some).most(self._cycles[s, some])
            chosen = may & (best | (limit <= NARROW * self._least[s, some]))
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
        """Let mappings of a spread compete that were found at some packings, the most promising first, while they may win."""
        energy = np.stack([one.energy for one in found], axis=1)  # [U, N]
        exact = np.array([one.exact for one in found])
        order = (energy - self._least[s, packings][:, None]).min(axis=0).argsort(kind="stable")
        for first in range(0, len(order), MAPPINGS_AT_ONCE):
            self._check_time()
            some = order[first : first + MAPPINGS_AT_ONCE]
            least = energy[:, some]
            if first:
                within = self._targets.take(packings).keeps(least.T, self._cycles[s, packings]).T
                some, least = some[within.any(axis=0)], np.where(within, least, np.inf)[:, within.any(axis=0)]
            if len(some):
                self._price_some(s, packings, [found[i] for i in some], least, exact[some])

    def _price_some(
        self, s: int, packings: np.ndarray, found: list[Placed], least: np.ndarray, exact: np.ndarray
    ) -> None:
        """Let mappings of a spread compete that cost at least, or exactly, `least` [U, N], inf where they need not; those that are
        the best at one packing then do at all."""
        made = codes(self._codec, self._spreads[s], found)
        layouts = len(made) // len(found)
        within = np.zeros((len(self._decision.valid), len(made)), bool)
        within[packings] = np.isfinite(least).repeat(layouts, axis=1)
        energy, _ = self._decision.consider(made, within)
        best = [code for code in self._decision.best() if code.tobytes() not in self._shared]
        if best:
            self._decision.consider(np.stack(best))
            self._shared.update(code.tobytes() for code in best)
        self._standing = self._decision.standing()
        # Only a mistake in what boundaries cost can make this differ; then nothing they say can be relied on.
        energy, least = energy[packings].reshape(*least.shape, layouts), least[:, :, None]
        with np.errstate(invalid="ignore"):
            agrees = (energy >= least * (1 - AGREES)) & (~exact[:, None] | (energy <= least * (1 + AGREES)))
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
