"""The children of a fan-out one by one: where their data lie, and who takes the same (MODEL.md section 6).

Only for what cannot be counted in closed form (`multicast`): children that forward data, and hops. On the host, with
integers, in time and memory that grow with the number of children but for the sorting.

Axes: N fan-outs, K loop slots, E children, numbered as the nest runs through them (innermost fastest).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

CHILDREN_AT_ONCE = 2**19
"""Children that are looked at together."""

_NOBODY = np.iinfo(np.int64).max


class Fans(NamedTuple):
    """Spatial loops of some levels, each as one tensor sees it; axis N."""

    level: np.ndarray  # int64 [N]
    bound: np.ndarray  # int64 [N, K]
    shift: np.ndarray  # int64 [N, K] what a step of a loop adds to the key of a child's data

    @property
    def sizes(self) -> np.ndarray:
        """Number of children, int64 [N]."""
        return np.prod(self.bound, axis=1)

    def take(self, at: np.ndarray) -> Fans:
        return Fans(*(x[at] for x in self))


class Groups(NamedTuple):
    """Multicast groups, counted: `scatter` groups of `multicast` children each; axis G, ascending in (fan, multicast)."""

    fan: np.ndarray  # int64 [G] index of the fan-out
    multicast: np.ndarray  # int64 [G]
    scatter: np.ndarray  # int64 [G]
    hops: np.ndarray  # float64 [G] hops of one delivery to all of them; 0 where not asked for

    @staticmethod
    def join(parts: list[Groups]) -> Groups:
        return Groups(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))

    @staticmethod
    def none() -> Groups:
        nothing = np.zeros(0, np.int64)
        return Groups(nothing, nothing, nothing, np.zeros(0))


def fans(level: np.ndarray, keys: np.ndarray, dim: np.ndarray, bound: np.ndarray, inside: np.ndarray) -> Fans:
    """keys: int64 [N, D] of the tensor; dim, bound: [N, K] spatial loops, inner to outer; inside: [N, D] extents of a
    child."""
    covered, shift = inside.copy(), np.zeros_like(bound)
    at = np.arange(len(bound))
    for k in range(bound.shape[1]):
        d = dim[:, k]
        shift[:, k] = np.where(bound[:, k] > 1, keys[at, d] * covered[at, d], 0)
        covered[at, d] *= bound[:, k]
    return Fans(level, bound, shift)


def distinct_fans(fans: Fans, *more: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positions of fan-outs that differ in themselves or in `more`, each [N]; and for all [N] which of these equals it."""
    columns = np.column_stack([fans.level, fans.bound, fans.shift, *more])
    _, first, inverse = np.unique(columns, axis=0, return_index=True, return_inverse=True)
    return first, inverse.reshape(-1)


def slices(fans: Fans) -> Iterator[tuple[int, np.ndarray]]:
    """(level, positions) of fan-outs of one level that fit in memory together, the small ones first."""
    sizes = fans.sizes
    for level in np.unique(fans.level):
        left = np.flatnonzero(fans.level == level)
        left = left[np.argsort(sizes[left], kind="stable")]
        while len(left):
            # As many as fit, each padded to the largest among them.
            fit = np.arange(1, len(left) + 1) * sizes[left] <= CHILDREN_AT_ONCE
            count = max(1, int(np.argmin(fit)) if not fit.all() else len(left))
            yield int(level), left[:count]
            left = left[count:]


def positions(fans: Fans) -> np.ndarray:
    """Keys of the children's data, int64 [N, E]; beyond the children of a fan-out they mean nothing."""
    element = np.arange(int(fans.sizes.max()))
    key = np.zeros((len(fans.level), len(element)), np.int64)
    inside = np.ones(len(fans.level), np.int64)
    for bound, shift in zip(fans.bound.T, fans.shift.T, strict=True):
        if np.any(shift):
            key += element // inside[:, None] % bound[:, None] * shift[:, None]
        inside = inside * bound
    return key


def grouped(key: np.ndarray, wanted: np.ndarray, grid: tuple[int, int] | None = None) -> Groups:
    """Groups of the `wanted` children, bool [N, E], whose data have equal keys [N, E]. With the grid's (columns, rows)
    also the hops of a delivery."""
    size, elements = key.shape
    key, order = np.where(wanted, key, _NOBODY), None
    if grid is None:
        ordered = np.sort(key, axis=1)
    else:
        # Columns first, rows within them: sorting by key leaves each group in this order.
        element = np.arange(elements)
        element = element[np.lexsort((element // grid[0], element % grid[0]))]
        order = element[np.argsort(key[:, element], axis=1, kind="stable")]
        ordered = np.take_along_axis(key, order, axis=1)
    begins = np.ones((size, elements), bool)
    begins[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    start = np.flatnonzero(begins)
    multicast = np.diff(start, append=size * elements)
    real = ordered.reshape(-1)[start] != _NOBODY
    hops = np.zeros(len(start)) if order is None or grid is None else _group_hops(order, begins, start, multicast, grid)
    case = (start // elements * (elements + 1) + multicast)[real]
    found, place, scatter = np.unique(case, return_inverse=True, return_counts=True)
    return Groups(found // (elements + 1), found % (elements + 1), scatter, np.bincount(place, hops[real], len(found)))


def _group_hops(order: np.ndarray, begins: np.ndarray, start: np.ndarray, count: np.ndarray, grid: tuple[int, int]):
    """Hops of each group, float64: along the top to its last column, then up and down each column from the middle."""
    column, row = order % grid[0], order // grid[0]
    turns = begins.copy()
    turns[:, 1:] |= column[:, 1:] != column[:, :-1]
    first = np.flatnonzero(turns)
    last = np.append(first[1:], order.size) - 1
    middle = (grid[1] - 1) / 2
    row = row.reshape(-1)
    run = np.maximum(0, middle - row[first]) + np.maximum(0, row[last] - middle)
    return column.reshape(-1)[start + count - 1] + np.add.reduceat(run, np.searchsorted(first, start))
