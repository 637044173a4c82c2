"""The distinct space: mappings that may differ in cost, as joint tables of dimensions that constrain each other.

Dimensions that share a fan-out or a free loop order are joined into a group: a table of those combinations of their
factorisations that fit the fan-outs. Each row counts the choices of permutations and splits of the pruned space that it
stands for, and comes with the loop orders that may differ in cost. The distinct space is the product of the groups.
"""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from mqjax.mapspace.fitting import count_choices
from mqjax.projection import TENSORS

if TYPE_CHECKING:
    from mqjax.mapspace.space import Mapspace

ROWS_MOST = 2**24
"""Rows of a joint table that are kept in memory at most."""

DISTINCT_MOST = 2**27
"""Distinct mappings that are swept at most: about a minute on two cores."""

ORDERS_MOST = 2**22
"""Loop orders of a space that are told apart at most."""

_CANDIDATES = 2**24
"""Combinations of rows that are tried for fit at a time."""

_COUNTED = 2**20
"""Values of a key that are counted in an array of their own, whatever the number of rows."""


class Group(NamedTuple):
    """Dimensions that share a fan-out or a free loop order, with the joint factorisations that fit the fan-outs.

    tables: per dimension its factorisations int32 [F, T]; picks: per dimension the factorisation of each row, int32
    [rows]. weight: float64 [rows], how many pruned choices of permutations and splits of the group's levels fit.
    orders: for each free loop order of the group, (order per level, rows that need it): rows where it is not
    equivalent to an earlier order.
    """

    dims: tuple[int, ...]
    tables: tuple[np.ndarray, ...]
    picks: tuple[np.ndarray, ...]
    weight: np.ndarray
    orders: tuple[tuple[dict[int, tuple[int, ...]], np.ndarray], ...]

    def bounds(self, d: int, t: int, rows: Any = slice(None)) -> np.ndarray:
        """Bounds int32 [rows] of dimension d at tiling level t, of all rows or some."""
        i = self.dims.index(d)
        return self.tables[i][:, t][self.picks[i][rows]]


def unique_rows(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distinct rows of a table of small non-negative integers [N, K], in ascending order, how often each occurs, and each
    row's place among them."""
    key, most = np.zeros(len(rows), np.int64), 1
    for column in rows.T:
        _, codes, values = _unique(column.astype(np.int64), int(column.max(initial=0)) + 1)
        if most * len(values) >= 2**63:
            key, most = _renumbered(key)
        key, most = key * len(values) + codes, most * len(values)
    first, inverse, distinct = _unique(key, most)
    return rows[first], np.bincount(inverse, minlength=len(distinct)), inverse


def _renumbered(key: np.ndarray) -> tuple[np.ndarray, int]:
    values, codes = np.unique(key, return_inverse=True)
    return codes.reshape(-1), len(values)


def _unique(key: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A row that has each distinct value, each row's place among these values, and the values, of a key int64 [N] in
    0..most-1. Counting is several times faster than sorting, where there is memory to count in."""
    if most > max(_COUNTED, 4 * len(key)):
        values, first, codes = np.unique(key, return_index=True, return_inverse=True)
        return first, codes.reshape(-1), values
    last = np.full(most, -1, np.int64)
    last[key] = np.arange(len(key))
    present = last >= 0
    values = np.flatnonzero(present)
    return last[values], (np.cumsum(present) - 1)[key], values


def joint_groups(space: Mapspace) -> tuple[Group, ...] | None:
    """The groups of a space; `None` where it has more mappings than can be covered in memory and in minutes."""
    joined: list[tuple[Group, list[_FreeLevel]]] = []
    sizes = []
    if space.joint_rows > ROWS_MOST:
        return None
    for dims in _coupled(space):
        group = _fitting_rows(space, dims)
        if group is None:
            return None
        levels = [_FreeLevel.of(space, t, group) for t in _free_levels(space, dims)]
        joined.append((group, levels))
        per_row = [level.counts[level.pattern].astype(np.float64) for level in levels]
        sizes.append(float(math.prod(per_row, start=np.ones(len(group.weight))).sum()))
    if math.prod(sizes) > DISTINCT_MOST or max(sizes) > ROWS_MOST:
        return None
    groups = [group._replace(orders=_orders(group, levels)) for group, levels in joined]
    if math.prod(len(group.orders) for group in groups) > ORDERS_MOST:
        return None
    # Levels where nothing can move belong to no group; their orders count all the same.
    idle = [t for t in range(len(space.tiling)) if not space.movable(t)]
    ways = math.prod(count_choices(space.fan(t), {}) for t in idle if space.tiling[t].spatial)
    first = groups[0]._replace(weight=groups[0].weight * ways)
    if not ways:  # such a level must be in use, but cannot be
        none = tuple(pick[:0] for pick in first.picks)
        first = first._replace(picks=none, weight=first.weight[:0], orders=())
    groups[0] = first
    return tuple(groups)


def _coupled(space: Mapspace) -> list[tuple[int, ...]]:
    """Dimensions grouped so that every fan-out and every free loop order concerns one group only.

    The groups follow from the constraints alone, so that one compiled program serves every layer.
    """
    group = list(space.dims)
    for t, level in enumerate(space.tiling):
        tied = space.slots(t) if level.spatial else [d for d in space.slots(t) if d in space.free_dims(t)]
        for d in tied[1:]:
            old, new = group[d], group[tied[0]]
            group = [new if g == old else g for g in group]
    return [tuple(d for d in space.dims if group[d] == g) for g in sorted(set(group))]


def count_rows(space: Mapspace) -> float:
    """Combinations of factorisations that stay within the number of instances of every fan-out, of the largest group."""
    return max(_count_rows(space, dims) for dims in _coupled(space))


def _count_rows(space: Mapspace, dims: tuple[int, ...]) -> float:
    spatial, most = fan_sizes(space)
    used, ways = np.ones((1, len(spatial)), np.int64), np.ones(1)
    for d in dims:
        factors, counts, _ = unique_rows(space.tables[d][:, spatial])
        products = used[:, None] * factors
        left, right = np.nonzero((products <= most).all(axis=2))
        used, _, place = unique_rows(products[left, right])
        ways = np.bincount(place, ways[left] * counts[right], minlength=len(used))
    return float(ways.sum())


def fan_sizes(space: Mapspace) -> tuple[list[int], np.ndarray]:
    """The spatial tiling levels, and the instances of their fan-outs, int64."""
    spatial = [t for t, level in enumerate(space.tiling) if level.spatial]
    return spatial, np.array([math.prod(space.arch.fanout[space.tiling[t].level]) for t in spatial], np.int64)


def _fitting_rows(space: Mapspace, dims: tuple[int, ...]) -> Group | None:
    """The rows of a group and their weights; `None` where they are too many."""
    spatial, most = fan_sizes(space)
    tables = tuple(space.tables[d].astype(np.int32) for d in dims)
    # Join row numbers rather than rows, dropping at once what exceeds a fan-out.
    picks: list[np.ndarray] = []
    used = np.ones((1, len(spatial)), np.int64)
    for table in tables:
        factors = table[:, spatial].astype(np.int64)
        lefts, rights, found = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)], 0
        step = max(1, _CANDIDATES // len(table))
        for start in range(0, len(used), step):
            fits = np.ones((len(used[start : start + step]), len(table)), bool)
            for s, limit in enumerate(most):
                fits &= used[start : start + step, s, None] * factors[:, s] <= limit
            left, right = np.nonzero(fits)
            lefts.append(left + start)
            rights.append(right)
            found += len(left)
            if found > ROWS_MOST:
                return None
        left, right = np.concatenate(lefts), np.concatenate(rights)
        picks = [*(pick[left] for pick in picks), right.astype(np.int32)]
        used = used[left] * factors[right]
    group = Group(dims, tables, tuple(picks), np.ones(len(used)), ())
    weight = group.weight
    for t in range(len(space.tiling)):
        if any(d in dims for d in space.movable(t)):
            weight *= _weights(space, t, group)
    if not weight.all():
        fits = np.flatnonzero(weight)
        group = group._replace(picks=tuple(pick[fits] for pick in picks), weight=weight[fits])
    return group


def _weights(space: Mapspace, t: int, group: Group) -> np.ndarray | float:
    """Fitting choices of tiling level t for each row of a group."""
    level, dims = space.tiling[t], group.dims
    free = [d for d in space.free_dims(t) if d in dims]
    if not level.spatial:
        if len(free) < 2:
            return 1.0
        moving = np.sum([group.bounds(d, t) > 1 for d in free], axis=0)
        return np.array([math.factorial(n) for n in range(len(free) + 1)], np.float64)[moving]
    # Of each dimension's few factorisations the distinct bounds are found first, so that rows are looked at once.
    distinct = [np.unique(table[:, t], return_inverse=True) for table in group.tables]
    codes = np.zeros(len(group.weight), np.int64)
    for (values, code), picks in zip(distinct, group.picks, strict=True):
        codes = codes * len(values) + code.reshape(-1)[picks]
    first, inverse, _ = _unique(codes, math.prod(len(values) for values, _ in distinct))
    unique = np.stack([group.bounds(d, t, first) for d in dims], axis=1)
    fan = space.fan(t)
    fitting = [count_choices(fan, dict(zip(dims, row, strict=True))) for row in unique.tolist()]
    return np.array(fitting, np.float64)[inverse]


def _free_levels(space: Mapspace, dims: tuple[int, ...]) -> list[int]:
    """Temporal tiling levels with a free order of several of these dimensions."""
    temporal = (t for t, level in enumerate(space.tiling) if not level.spatial)
    return [t for t in temporal if len(_free(space, t, dims)) > 1]


def _free(space: Mapspace, t: int, dims: tuple[int, ...]) -> list[int]:
    return [d for d in space.movable(t) if d in space.free_dims(t) and d in dims]


class _FreeLevel(NamedTuple):
    """The loop orders of a level that may differ in cost, by which of its free loops have a bound above 1.

    pattern: int [rows] which pattern of such loops each row has. orders: per pattern the orders of all free dimensions
    that stand for its own, in lexicographic order. counts: int [patterns], their numbers.
    """

    t: int
    pattern: np.ndarray
    orders: list[list[tuple[int, ...]]]
    counts: np.ndarray

    @classmethod
    def of(cls, space: Mapspace, t: int, group: Group) -> _FreeLevel:
        free = _free(space, t, group.dims)
        moving = np.stack([group.bounds(d, t) > 1 for d in free], axis=1)
        patterns, _, pattern = unique_rows(moving)
        orders = [
            _needed_orders(space, t, free, [d for d, moves in zip(free, row, strict=True) if moves]) for row in patterns
        ]
        return cls(t, pattern, orders, np.array([len(found) for found in orders], np.int64))


def _needed_orders(space: Mapspace, t: int, free: list[int], moving: list[int]) -> list[tuple[int, ...]]:
    """Orders of the `free` dimensions of level t, one for each order of the `moving` ones that may cost differently from
    every earlier one."""
    needed: dict[Any, tuple[int, ...]] = {}
    for order in sorted(_completed(free, order) for order in itertools.permutations(moving)):
        needed.setdefault(_signature(space, t, [d for d in order if d in moving]), order)
    return sorted(needed.values())


def _completed(free: list[int], order: tuple[int, ...]) -> tuple[int, ...]:
    """The first order of all `free` dimensions, in lexicographic order, in which some come in the given order."""
    rest, ahead, result = [d for d in free if d not in order], list(order), []
    while rest or ahead:
        result.append((rest if not ahead or (rest and rest[0] < ahead[0]) else ahead).pop(0))
    return tuple(result)


def _signature(space: Mapspace, t: int, loops: list[int]) -> tuple:
    """What the order of adjacent loops of tiling level t, innermost first, can change in the cost.

    A tensor without halo is re-sent from its first relevant loop outwards, so it only matters which irrelevant loops
    come before that one. A tensor with halo may depend on the whole order. Tensors kept by no inner level do not depend
    on it (MODEL.md section 6).
    """
    if space.may_forward:
        return tuple(loops)
    signature = []
    for number, tensor in enumerate(TENSORS):
        if not any(level.keep[number] for level in space.arch.levels[: space.tiling[t].level]):
            continue
        if space.has_halo and tensor == "Inputs":
            signature.append(tuple(loops))
            continue
        relevant = [d in space.relevant(tensor) for d in loops]
        first = relevant.index(True) if any(relevant) else len(loops)
        signature.append(frozenset(loops[:first]))
    return tuple(signature)


def _orders(group: Group, levels: list[_FreeLevel]) -> tuple[tuple[dict[int, tuple[int, ...]], np.ndarray], ...]:
    """Loop orders of the group's free temporal levels, each with the rows that need it, in lexicographic order."""
    rows = np.arange(len(group.weight), dtype=np.int32)
    if not len(rows):
        return ()
    if not levels:
        return (({}, rows),)
    all_orders = [sorted(set().union(*level.orders)) for level in levels]
    chosen: list[np.ndarray] = []  # per level the order of each entry; an entry is a row with one order per level
    for level, orders in zip(levels, all_orders, strict=True):
        number = {order: i for i, order in enumerate(orders)}
        flat = np.array([number[order] for found in level.orders for order in found], np.int32)
        first = np.cumsum(level.counts) - level.counts
        pattern = level.pattern[rows]
        times = level.counts[pattern]
        entry = np.repeat(np.arange(len(rows)), times)
        nth = np.arange(len(entry)) - np.repeat(np.cumsum(times) - times, times)
        chosen = [*(column[entry] for column in chosen), flat[first[pattern[entry]] + nth]]
        rows = rows[entry]
    combined, counts, place = unique_rows(np.stack(chosen, axis=1))
    by_order = np.split(rows[np.argsort(place, kind="stable")], np.cumsum(counts)[:-1])
    return tuple(
        ({level.t: orders[i] for level, orders, i in zip(levels, all_orders, numbers, strict=True)}, np.sort(of_order))
        for numbers, of_order in zip(combined.tolist(), by_order, strict=True)
    )
