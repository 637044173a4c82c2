"""Partial mappings as states, and which of them are worth keeping (docs/PROOF.md).

Axes: S states, U packings, K costs that are summed: pJ, then the words that may slow the MACs down.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from mqjax.mapper.levels.bounds import Bounds
from mqjax.mapper.levels.charges import Charges

NO_TENSOR = -1


class TooManyStates(Exception):
    """More states might be optimal than can be looked at."""


class Mispriced(Exception):
    """A mapping does not cost what its boundaries add up to, so that nothing is proven by them."""


class States(NamedTuple):
    """Partial mappings down to a boundary; axis S. exact: whether `cost` is what the boundaries cost, not a bound."""

    place: np.ndarray  # int64 extents inside, flat
    tensor: np.ndarray  # int64 which the run leaves unchanged, NO_TENSOR for none
    run: np.ndarray  # int64 product of the run's bounds
    window: np.ndarray  # int64 number of the window
    groups: (
        np.ndarray
    )  # int64 of children that take the same Inputs, from where these are kept outside (`Charges.overlapping`)
    cost: np.ndarray  # float64 [S, K, U] so far, at least; pJ are infinite at packings where the state is of no use
    exact: np.ndarray  # bool
    parent: np.ndarray  # int64 state at the boundary outside
    order: np.ndarray  # int64 number of the level's order

    def take(self, at: np.ndarray) -> States:
        return States(*(x[at] for x in self))

    @staticmethod
    def join(parts: list[States]) -> States:
        return parts[0] if len(parts) == 1 else States(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))

    def __len__(self) -> int:
        return len(self.place)


class Placed(NamedTuple):
    """Temporal loops of all levels, inner to outer: per level (dimension, bound), innermost first. energy: float64 [U] pJ, at
    least, and exactly where `exact`; at packings where others are better it is infinite."""

    loops: tuple[tuple[tuple[int, int], ...], ...]
    energy: np.ndarray
    exact: bool


class Targets(NamedTuple):
    """Which mappings are worth a look, float64 [U] each: those of at most so many pJ, or of so low an energy-delay product, or
    of fewer cycles, or of as many cycles but at most so many pJ."""

    energy: np.ndarray
    edp: np.ndarray
    cycles: np.ndarray
    energy_at_cycles: np.ndarray

    def keeps(self, energy: np.ndarray, cycles: np.ndarray) -> np.ndarray:
        """Whether mappings of at least these costs are, [..., U] each."""
        return np.isfinite(energy) & (
            (energy <= self.energy)
            | (energy * cycles <= self.edp)
            | (cycles < self.cycles)
            | ((cycles == self.cycles) & (energy <= self.energy_at_cycles))
        )

    def most(self, cycles: np.ndarray) -> np.ndarray:
        """pJ that a mapping of so many cycles may take, float64 [U]."""
        by_delay = np.where(cycles == self.cycles, self.energy_at_cycles, -np.inf)
        by_delay = np.where(cycles < self.cycles, np.inf, by_delay)
        most = np.maximum(np.maximum(self.energy, self.edp / cycles), by_delay)
        return np.minimum(most, float(np.finfo(np.float64).max))

    def take(self, some: np.ndarray) -> Targets:
        return Targets(*(x[some] for x in self))


class Measure(NamedTuple):
    """A cost that is summed over boundaries: pJ or, of one instance of a level, words read or written. start: that of the
    boundary to the MACs, float64 [U]. bandwidth: how many a cycle; infinite for pJ."""

    charges: Charges
    bounds: Bounds
    start: np.ndarray
    bandwidth: float

    def take(self, some: np.ndarray) -> Measure:
        return self._replace(bounds=self.bounds.take(some), start=self.start[some])


def unbeaten(states: States) -> States:
    """The states without those that cost no less than an exact one that agrees in all that matters further in, at each
    packing."""
    _, code = np.unique(states.run, return_inverse=True)
    _, groups = np.unique(states.groups, return_inverse=True)
    for key in (groups.reshape(-1), states.window, states.tensor + 1, states.place):
        code = code.reshape(-1) * (int(key.max(initial=0)) + 1) + key
    order = np.argsort(code, kind="stable")
    new = np.diff(code[order], prepend=-1) != 0
    start = np.flatnonzero(new)
    if len(start) == len(order):
        return states
    size = np.diff(start, append=len(order))
    several = np.repeat(size > 1, size)
    rows, size = order[several], size[size > 1]
    start = np.cumsum(size) - size
    cost, exact = states.cost[rows], states.exact[rows]
    # The cheapest exact state of each group at each packing, if it has one.
    pj = np.where(exact[:, None], cost[:, 0], np.inf)  # [S, U]
    least = np.repeat(np.minimum.reduceat(pj, start, axis=0), size, axis=0)
    number = np.arange(len(rows))[:, None]
    place = np.where((pj == least) & np.isfinite(pj), number, len(rows))
    first = np.repeat(np.minimum.reduceat(place, start, axis=0), size, axis=0)
    beaten = (first != number) & (first < len(rows))
    if cost.shape[1] == 1:
        beaten &= least <= cost[:, 0]
    else:
        ahead = np.take_along_axis(cost, np.minimum(first, len(rows) - 1)[:, None], axis=0)
        beaten &= (ahead <= cost).all(axis=1)
    cost[:, 0][beaten] = np.inf
    alive = np.isfinite(cost[:, 0]).any(axis=1)
    kept = np.sort(np.concatenate([order[~several], rows[alive]]))
    back = np.full(len(states), -1)
    back[rows] = np.arange(len(rows))
    found = states.take(kept)
    changed = np.flatnonzero(back[kept] >= 0)
    found.cost[changed] = cost[back[kept[changed]]]
    return found


def undominated(energy: np.ndarray, cycles: np.ndarray, exact: np.ndarray) -> list[int]:
    """Which of some mappings are beaten by no exact one in both costs, or only tie with later ones."""
    order = np.lexsort((~exact, cycles, energy))
    kept, fastest = [], np.inf
    for i in order.tolist():
        if not np.isfinite(energy[i]):
            break
        if cycles[i] < fastest:
            kept.append(i)
            fastest = cycles[i] if exact[i] else fastest
    return kept


def least_rows(values: np.ndarray, most: int) -> np.ndarray:
    """Some of the rows of `values` [N, U] that come nearest to the least of a column, at least those: `most` for one column,
    not so many for each of several, which tend to want the same."""
    most += most * (values.shape[1] - 1) // 8
    if len(values) <= most:
        return np.flatnonzero(np.isfinite(values).any(axis=1))
    least = values.min(axis=0)
    possible = np.flatnonzero(np.isfinite(least))
    apart = (values[:, possible] / least[possible]).min(axis=1)
    chosen = np.argpartition(apart, most)[:most]
    return np.unique(np.concatenate([chosen[np.isfinite(apart[chosen])], values[:, possible].argmin(axis=0)]))
