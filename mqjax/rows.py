"""Mappings of the distinct space by number, and back to loop nests."""

from __future__ import annotations

import functools
import itertools
import operator
from typing import Any, NamedTuple

import numpy as np

from mqjax.mapping import Mappings
from mqjax.mapspace import Mapspace


class Rows(NamedTuple):
    """Some mappings of the distinct space: the number of the loop order, int32 [N], and the row of each group, int32
    [N, groups]."""

    order: np.ndarray
    rows: np.ndarray

    def __len__(self) -> int:
        return len(self.order)

    def take(self, at: Any) -> Rows:
        return Rows(self.order[at], self.rows[at])

    @staticmethod
    def join(parts: list[Rows]) -> Rows:
        return Rows(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


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
        return Rows(np.full(len(numbers), self.number, np.int32), np.stack(picks, axis=1).astype(np.int32))

    def weights(self, space: Mapspace, rows: Rows) -> np.ndarray:
        """How many pruned mappings each of `rows` stands for, float64 [N]; 0 where another order counts them."""
        of_groups = [group.weight[pick] for group, pick in zip(space.groups, rows.rows.T, strict=True)]
        return functools.reduce(operator.mul, of_groups) * self.counted


def orders(space: Mapspace) -> list[Block]:
    """The distinct space, one block for each loop order."""
    blocks = []
    for number, choice in enumerate(itertools.product(*(group.orders for group in space.groups))):
        order: dict[int, tuple[int, ...]] = {}
        for of_group, _ in choice:
            order |= of_group
        blocks.append(Block(number, order, tuple(rows for _, rows in choice)))
    return blocks


def mappings(space: Mapspace, rows: Rows) -> Mappings:
    """The loop nests of `rows`."""
    blocks = orders(space)
    size, depth = len(rows), len(space.arch.levels)
    result = Mappings.empty(size, depth)
    for number in np.unique(rows.order):
        at = np.flatnonzero(rows.order == number)
        part = space.materialize(blocks[number].order, rows.rows[at])
        for whole, values in zip(result, part, strict=True):
            whole[at] = values
    return result
