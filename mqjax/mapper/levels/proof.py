"""Optima of a space too large to sweep, proven by bounds over all of it (docs/PROOF.md).

Axes: S spreads, U packings.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np

from mqjax.cost.packing import compute_cycles
from mqjax.mapper.decision import Decision
from mqjax.mapper.levels.bounds import Bounds, cheapest
from mqjax.mapper.levels.charges import Charges
from mqjax.mapper.levels.descent import Descent
from mqjax.mapper.levels.placing import codes
from mqjax.mapper.levels.spreads import spreads
from mqjax.mapper.levels.states import Limits, Measure, TooManyStates
from mqjax.mapper.localsearch import Codec
from mqjax.mapspace.space import Mapspace
from mqjax.types import METRICS, BitWidths

NEAR = 1e-11
"""Relative difference below which two energies may be equal: bounds are summed in another order than exact costs."""

BEAM = 16
"""States that are kept at each boundary where a first mapping is looked for."""

CELLS = 2**17
"""Extents times packings that are bounded together."""

ENERGY, EDP, DELAY = map(METRICS.index, ("energy", "edp", "delay"))


def prove(
    space: Mapspace, bits: Sequence[BitWidths], *, deadline: float, say: Callable[[str], None] = lambda message: None
) -> Decision:
    """The best mappings of `space` for all `bits` by all metrics; its `proven` says whether they are the optima.

    deadline: when to end at the latest, by `time.monotonic`. say: told now and then how far the proof is.
    """
    codec = Codec(space)
    decision = Decision(space, bits, codec.width, codec.nests)
    decision.searched = 0
    found = spreads(space)
    if found is not None and not len(found):
        decision.proven = True  # that nothing fits
    elif found is not None:
        _Proof(codec, decision, found, deadline, say).run()
    return decision


class _Proof:
    """What is known of every spread, [S, U]: pJ and cycles at least, pJ of the MACs and their operands, and whether its best
    mappings were found."""

    def __init__(
        self, codec: Codec, decision: Decision, found: np.ndarray, deadline: float, say: Callable[[str], None]
    ) -> None:
        self._codec, self._decision, self._deadline, self._say = codec, decision, deadline, say
        self._spreads = found
        self._charges = [Charges(codec.space, spatial) for spatial in found]
        shape = len(found), len(decision.widths.mac_pj)
        self._least, self._cycles, self._start = np.full(shape, np.inf), np.zeros(shape), np.zeros(shape)
        self._done = np.zeros(shape, bool)

    def run(self) -> None:
        """Find and prove the optima, or give up at the deadline."""
        try:
            for s in range(len(self._spreads)):
                self._check_time()
                self._bound(s)
            while promising := self._promising():
                for s, wanted in promising.items():
                    self._look(s, wanted)
                left = int(self._may_win().any(axis=1).sum())
                self._say(f"{left:,} of {len(self._spreads):,} choices of spatial loops may hold better mappings")
        except (TimeoutError, TooManyStates):
            return
        self._decision.proven = True

    def _check_time(self) -> None:
        if time.monotonic() > self._deadline:
            raise TimeoutError

    def _bound(self, s: int) -> None:
        """What the mappings of a spread cost at least, as cheaply as that can be said."""
        charges, widths = self._charges[s], self._decision.widths
        self._cycles[s] = compute_cycles(np.full(len(widths.mac_pj), charges.steps), widths)
        self._start[s] = charges.space.layer.macs * widths.mac_pj + charges.of_macs(widths.operands)
        self._least[s] = self._start[s] + cheapest(charges, widths.operands)

    def _limits(self, u: int) -> Limits:
        """Which mappings may be better than the best known at a packing, by some metric."""
        costs, energies, _ = self._standing
        return Limits(
            costs[ENERGY, u] * (1 - NEAR), costs[EDP, u] * (1 - NEAR), costs[DELAY, u], energies[DELAY, u] * (1 - NEAR)
        )

    def _may_win(self) -> np.ndarray:
        """Which spreads may hold a mapping better than the best known at a packing by some metric, bool [S, U]."""
        self._standing = self._decision.standing()
        columns = [self._limits(u).keeps(self._least[:, u], self._cycles[:, u]) for u in range(self._least.shape[1])]
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
        """Bound a spread for all packings that it may win, and find its best mappings for those wanted."""
        every = np.flatnonzero(self._may_win()[s])
        step = max(1, CELLS // self._charges[s].lattice.size)
        for first in range(0, len(every), step):
            some = every[first : first + step]
            bounds = Bounds(self._charges[s], self._decision.widths.operands[some])
            self._least[s, some] = self._start[s, some] + bounds.root
            for i, u in enumerate(some.tolist()):
                if u in wanted:
                    self._check_time()
                    self._descend(s, u, bounds.of(i))

    def _descend(self, s: int, u: int, bounds: Bounds) -> None:
        """Find the best mappings of a spread at a packing."""
        descent = None
        for beam in (BEAM, None):
            self._standing = self._decision.standing()
            limits = self._limits(u)
            if not limits.keeps(self._least[s, u], self._cycles[s, u]):
                return
            descent = descent or Descent(
                self._measures(s, u, bounds), self._cycles[s, u], self._decision.widths.operands[u]
            )
            placed = descent.best(limits, beam)
            self._decision.searched = (self._decision.searched or 0) + descent.looked_at
            if placed:
                self._decision.consider(codes(self._codec, self._spreads[s], placed))
        self._done[s, u] = True

    def _measures(self, s: int, u: int, bounds: Bounds) -> list[Measure]:
        """pJ, and the words that may slow the MACs down."""
        charges, widths = self._charges[s], self._decision.widths.take(slice(u, u + 1))
        operands = widths.operands
        measures = [Measure(charges, bounds, float(self._start[s, u]), np.inf)]
        for level, limits in enumerate(charges.space.arch.tech.bandwidth):
            for direction, bandwidth in enumerate(limits):
                if np.isfinite(bandwidth):
                    counted = charges.counting(level, direction)
                    if counted.most(operands[0]) > bandwidth * self._cycles[s, u]:
                        words = counted.of_macs(operands)[0]
                        measures.append(Measure(counted, Bounds(counted, operands), float(words), bandwidth))
        return measures
