"""What crosses a boundary between two levels costs, at all packings at once, as far as a state determines it (docs/PROOF.md).

Axes: E pairs of a state and the extents inside, K measures, U packings.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mqjax.mapper.levels.book import WindowBook
from mqjax.mapper.levels.charges import INPUTS, READ, WRITE
from mqjax.mapper.levels.states import Measure
from mqjax.types import TENSORS


class Crossings:
    """Of one spread and some packings. measures: axis K; book: the windows of the spread."""

    def __init__(self, measures: Sequence[Measure], book: WindowBook) -> None:
        self._measures, self._book = measures, book
        self._charges, self._packings = measures[0].charges, measures[0].bounds.packings
        self._count = len(measures[0].start)

    def keeps(self, level: int, tensor: int) -> bool:
        """Whether a level keeps a tensor."""
        return self._charges.space.arch.levels[level].keep[tensor]

    def of_macs(self, groups: np.ndarray) -> np.ndarray:
        """What the Inputs of the MACs cost above the least that the start of every measure has, float64 [E, K, U]; groups: int64
        [E] down to level 1."""
        charges = self._charges
        if self.keeps(0, INPUTS):
            groups = np.ones_like(groups)
        crossing = np.array([[charges.steps]])
        of_groups = crossing * groups[:, None] * charges.overlapping.get(0, np.ones(1, np.int64))[0]
        total = np.zeros((len(groups), len(self._measures), self._count))
        ways = self._packings.ways[INPUTS][:, None]
        for k, measure in enumerate(self._measures):
            found = measure.charges.of(0, INPUTS)
            above = measure.charges.cost(found, of_groups, ways, grouped=True) - measure.charges.cost(
                found, crossing, ways
            )
            total[:, k] = self._packings.total([(INPUTS, above)])
        return total

    def cost(
        self, b: int, place: np.ndarray, tensor: np.ndarray, run: np.ndarray, window: np.ndarray, groups: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """What boundary b costs, at least, float64 [E, K, U], and whether it is that exactly."""
        charges, ways = self._charges, self._packings.ways
        exact, trips = np.ones(len(place), bool), charges.trips[place]
        amounts: list[tuple[int, int | None, np.ndarray]] = []
        for t in range(len(TENSORS)):
            if not self.keeps(b - 1, t):
                continue
            if t == INPUTS and self._book.rules.pairs:
                crossing, read = self._book.crossing(b, place, window)
                exact &= crossing == read
                # Neighbours may also fill less.
                filled = np.where(exact, charges.filled(b, place, crossing), 0)
                amounts += [(t, WRITE, filled), (t, READ, read * groups)]
            else:
                amounts.append((t, None, charges.boxes[b, t][place] * trips // np.where(tensor == t, run, 1)))
        total = np.zeros((len(place), len(self._measures), self._count))
        for k, measure in enumerate(self._measures):
            costs = []
            for t, direction, amount in amounts:
                found = [x for x in measure.charges.of(b, t) if direction in (None, x.direction)]
                if found:
                    costs.append((t, measure.charges.cost(found, amount[:, None], ways[t][:, None], grouped=True)))
            if costs:
                total[:, k] = self._packings.total(costs)
        return total, exact
