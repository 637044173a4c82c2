"""Mappings of the distinct space by number, and back to loop nests."""

from __future__ import annotations

import functools
import itertools
import operator
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from mqjax.mapspace.fitting import Layout, layouts
from mqjax.mapspace.joint import unique_rows
from mqjax.mapspace.mapping import Mappings
from mqjax.mapspace.space import Mapspace


class Rows(NamedTuple):
    """Some mappings of the distinct space: the number of the loop order, int32 [N], the row of each group, int32
    [N, groups], and which of the orders of spatial loops that fit, int32 [N]; these differ in cost only where neighbours
    forward data."""

    order: np.ndarray
    of_groups: np.ndarray
    spatial: np.ndarray

    def __len__(self) -> int:
        return len(self.order)

    def take(self, at: Any) -> Rows:
        return Rows(self.order[at], self.of_groups[at], self.spatial[at])

    @staticmethod
    def join(parts: Sequence[Rows]) -> Rows:
        return Rows(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))

    @property
    def codes(self) -> np.ndarray:
        """One row of integers per mapping, int32 [N, 2 + groups], in whose order the mappings are."""
        return np.column_stack(self)

    @staticmethod
    def of_codes(codes: np.ndarray) -> Rows:
        """The mappings with these `codes`."""
        order, of_groups, spatial = np.split(codes, [1, codes.shape[1] - 1], axis=1)
        return Rows(order[:, 0], of_groups, spatial[:, 0])


class Block(NamedTuple):
    """A part of the distinct space: one loop order, and some rows of every group."""

    number: int  # of the loop order
    order: dict[int, tuple[int, ...]]
    rows: tuple[np.ndarray, ...]

    @property
    def counted(self) -> bool:
        """Whether the multiplicities count here: each factorisation counts in its first order only."""
        return self.number == 0

    @property
    def size(self) -> int:
        return int(np.prod([len(rows) for rows in self.rows], dtype=np.int64))

    def at(self, numbers: np.ndarray) -> Rows:
        """The mappings with these numbers in 0..size-1."""
        positions = np.unravel_index(numbers, [len(rows) for rows in self.rows])
        picks = [rows[at] for rows, at in zip(self.rows, positions, strict=True)]
        order = np.full(len(numbers), self.number, np.int32)
        return Rows(order, np.stack(picks, axis=1).astype(np.int32), np.zeros(len(numbers), np.int32))


def pruned_weights(space: Mapspace, rows: Rows) -> np.ndarray:
    """How many pruned mappings each of `rows` stands for, float64 [N]; 0 where another order counts them."""
    weights = [group.weight[pick] for group, pick in zip(space.groups, rows.of_groups.T, strict=True)]
    return functools.reduce(operator.mul, weights) * (rows.order == 0)


def blocks_of(space: Mapspace) -> list[Block]:
    """The distinct space, one block for each loop order."""
    blocks = []
    for number, choice in enumerate(itertools.product(*(group.orders for group in space.groups))):
        order: dict[int, tuple[int, ...]] = {}
        for of_group, _ in choice:
            order |= of_group
        blocks.append(Block(number, order, tuple(rows for _, rows in choice)))
    return blocks


class Numbering:
    """All mappings of the distinct space, numbered in the order of their codes, with the first order of spatial loops."""

    def __init__(self, space: Mapspace) -> None:
        self.shape = [len(group.orders) for group in space.groups]
        sizes = [np.array([len(rows) for _, rows in group.orders], np.int64) for group in space.groups]
        self._sizes = sizes
        self._rows = [np.concatenate([np.zeros(0, np.int32), *(r for _, r in g.orders)]) for g in space.groups]
        self._ends = np.cumsum(functools.reduce(np.multiply.outer, sizes).reshape(-1))

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def at(self, numbers: np.ndarray) -> Rows:
        """The mappings with these numbers in 0..len-1."""
        order = np.searchsorted(self._ends, numbers, side="right")
        rest = numbers - np.where(order > 0, self._ends[order - 1], 0)
        picks = []
        for digit, sizes, rows in reversed(list(zip(self.digits(order), self._sizes, self._rows, strict=True))):
            rest, place = np.divmod(rest, sizes[digit])
            picks.append(rows[(np.cumsum(sizes) - sizes)[digit] + place])
        return Rows(order.astype(np.int32), np.stack(picks[::-1], axis=1), np.zeros(len(numbers), np.int32))

    def digits(self, order: np.ndarray) -> tuple[np.ndarray, ...]:
        """Per group the number of its own loop order, for numbers of whole ones."""
        return np.unravel_index(order, self.shape)


def mappings(space: Mapspace, rows: Rows) -> Mappings:
    """The loop nests of `rows`: temporal loops in their order, spatial ones laid out as their number says."""
    arrays = Mappings.empty(len(rows), len(space.arch.levels), len(space.dims))
    arrays.keep[:] = [level.keep for level in space.arch.levels]
    numbers, of_order = np.unique(rows.order, return_inverse=True)
    chosen = [_order_numbered(space, int(number)) for number in numbers]
    factors = factors_of(space, rows)
    rest = rows.spatial.copy()
    for t, level in enumerate(space.tiling):
        if level.spatial:
            order, split = _laid_out(space, t, factors[:, t], rest)
            arrays.spatial_axis[:, level.level] = np.array(space.dims) >= split[:, None]
            dims, bounds = arrays.spatial_dim, arrays.spatial_bound
        else:
            sequences = [_sequence(space, t, order.get(t, ())) for order in chosen]
            order = np.array(sequences, np.int32).reshape(-1, len(space.dims))[of_order]
            dims, bounds = arrays.temporal_dim, arrays.temporal_bound
        dims[:, level.level] = order
        bounds[:, level.level] = np.take_along_axis(factors[:, t], order.astype(np.int64), axis=1)
    return arrays


def spatial_variants(space: Mapspace, rows: Rows) -> Rows:
    """Each of `rows` with every order of its spatial loops that fits."""
    factors = factors_of(space, rows)
    counts = np.ones(len(rows), np.int64)
    for t in (t for t, level in enumerate(space.tiling) if level.spatial):
        patterns, _, inverse = unique_rows(factors[:, t])
        counts *= np.array([len(_layouts(space, t, row)) for row in patterns], np.int64)[inverse]
    entry = np.repeat(np.arange(len(rows)), counts)
    nth = np.arange(len(entry)) - np.repeat(np.cumsum(counts) - counts, counts)
    return Rows(rows.order[entry], rows.of_groups[entry], nth.astype(np.int32))


def _order_numbered(space: Mapspace, number: int) -> dict[int, tuple[int, ...]]:
    """The loop order with this number."""
    result: dict[int, tuple[int, ...]] = {}
    digits = np.unravel_index(number, [len(group.orders) for group in space.groups])
    for group, digit in zip(space.groups, digits, strict=True):
        result |= group.orders[int(digit)][0]
    return result


def factors_of(space: Mapspace, rows: Rows) -> np.ndarray:
    """Bounds int64 [N, T, D] of every dimension at every tiling level."""
    factors = np.ones((len(rows), len(space.tiling), len(space.dims)), np.int64)
    for group, row in zip(space.groups, rows.of_groups.T, strict=True):
        for d, table, pick in zip(group.dims, group.tables, group.picks, strict=True):
            factors[:, :, d] = table[pick[row]]
    return factors


def _sequence(space: Mapspace, t: int, order: tuple[int, ...]) -> list[int]:
    """All dimensions of temporal tiling level t, innermost first."""
    return [*space.prefix(t), *(d for d in space.free_dims(t) if d not in order), *order]


def _layouts(space: Mapspace, t: int, bounds: np.ndarray) -> list[Layout]:
    return list(layouts(space.fan(t), dict(enumerate(bounds.tolist()))))


def _laid_out(space: Mapspace, t: int, bounds: np.ndarray, rest: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Orders int32 [N, D] and splits int64 [N] of spatial tiling level t; its digit is taken off `rest` [N]."""
    patterns, _, inverse = unique_rows(bounds)
    order, split = np.empty(bounds.shape, np.int32), np.empty(len(bounds), np.int64)
    for number, row in enumerate(patterns):
        found, at = _layouts(space, t, row), np.flatnonzero(inverse == number)
        rest[at], digit = np.divmod(rest[at], len(found))
        order[at] = np.array([layout.order for layout in found], np.int32)[digit]
        split[at] = np.array([layout.split for layout in found])[digit]
    return order, split
