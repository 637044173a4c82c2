"""Partial mappings as states, and which of them are worth keeping (docs/PROOF.md).

Axes: S states, K costs that are summed: pJ, then the words that may slow the MACs down.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from mqjax.mapper.levels.bounds import Bounds
from mqjax.mapper.levels.charges import Charges

NO_TENSOR = -1


class TooManyStates(Exception):
    """More states might be optimal than can be looked at."""


class States(NamedTuple):
    """Partial mappings down to a boundary; axis S. exact: whether `cost` is what the boundaries cost, not a bound."""

    place: np.ndarray  # int64 extents inside, flat
    tensor: np.ndarray  # int64 which the run leaves unchanged, NO_TENSOR for none
    run: np.ndarray  # int64 product of the run's bounds
    window: np.ndarray  # int64 number of the window
    cost: np.ndarray  # float64 [S, K] so far, at least
    exact: np.ndarray  # bool
    parent: np.ndarray  # int64 state at the boundary outside
    order: np.ndarray  # int64 number of the level's order

    def take(self, at: np.ndarray) -> States:
        return States(*(x[at] for x in self))

    @staticmethod
    def join(parts: list[States]) -> States:
        return States(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))

    def __len__(self) -> int:
        return len(self.place)


class Placed(NamedTuple):
    """Temporal loops of all levels, inner to outer: per level (dimension, bound), innermost first. energy, cycles: what
    they cost, at least, and exactly where `exact`."""

    loops: tuple[tuple[tuple[int, int], ...], ...]
    energy: float
    cycles: float
    exact: bool


class Targets(NamedTuple):
    """Which mappings are worth a look: those of at most so many pJ, or of so low an energy-delay product, or of fewer
    cycles, or of as many cycles but at most so many pJ."""

    energy: float
    edp: float
    cycles: float
    energy_at_cycles: float

    def keeps(self, energy: np.ndarray, cycles: np.ndarray) -> np.ndarray:
        """Whether mappings of at least these costs are."""
        as_fast = (cycles == self.cycles) & (energy <= self.energy_at_cycles)
        better = (energy <= self.energy) | (energy * cycles <= self.edp) | (cycles < self.cycles) | as_fast
        return np.isfinite(energy) & better

    def most(self, cycles: float) -> float:
        """pJ that a mapping of so many cycles may take."""
        by_delay = np.inf if cycles < self.cycles else self.energy_at_cycles if cycles == self.cycles else -np.inf
        return min(max(self.energy, self.edp / cycles, by_delay), float(np.finfo(np.float64).max))


class Measure(NamedTuple):
    """A cost that is summed over boundaries: pJ or, of one instance of a level, words read or written. bandwidth: how many
    of these a cycle; infinite for pJ. start: the boundary to the MACs."""

    charges: Charges
    bounds: Bounds
    start: float
    bandwidth: float


class Measures(NamedTuple):
    """A `Measure` at several packings, axis U. may_limit: bool, whether it may be more than the bandwidth allows."""

    charges: Charges
    bounds: Bounds
    start: np.ndarray
    bandwidth: float
    may_limit: np.ndarray

    def of(self, u: int) -> Measure:
        return Measure(self.charges, self.bounds.of(u), float(self.start[u]), self.bandwidth)


def unbeaten(states: States) -> States:
    """The states without those that cost no less than an exact one that agrees in all that matters further in."""
    keys = (states.place, states.tensor, states.run, states.window)
    order = np.lexsort((~states.exact, states.cost[:, 0], *keys))
    ordered = states.take(order)
    new = np.ones(len(order), bool)
    new[1:] = np.any([np.diff(key[order]) != 0 for key in keys], axis=0)
    start = np.flatnonzero(new)
    # The cheapest exact state of each group, if it has one.
    place = np.where(ordered.exact, np.arange(len(order)), len(order))
    cheapest = np.minimum.reduceat(place, start)[np.cumsum(new) - 1] if len(order) else place
    after = np.arange(len(order)) > cheapest
    ahead = ordered.cost[np.minimum(cheapest, max(0, len(order) - 1))]
    return ordered.take(np.flatnonzero(~(after & (ahead <= ordered.cost).all(axis=1))))


def undominated(energy: np.ndarray, cycles: np.ndarray, exact: np.ndarray) -> list[int]:
    """Which of some mappings are beaten by no exact one in both costs, or only tie with later ones."""
    order = np.lexsort((~exact, cycles, energy))
    kept, fastest = [], np.inf
    for i in order.tolist():
        if cycles[i] < fastest:
            kept.append(i)
            fastest = cycles[i] if exact[i] else fastest
    return kept
