"""Which loops of a window may save anything (MODEL.md section 6, docs/PROOF.md).

Loop j of a window repeats the first move, v_0, if v_j less the moves of all loops inside it equals v_0; and neighbours may hand
over what such a difference brings, if it is none or a few children long. Moves of loops that are yet to be placed inside
follow from the extents that they may leave, of which there are few. So of many a loop it can be said that it never saves
anything; windows that differ in nothing else are the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from mqjax.mapspace.factors import divisors

SlidingPair = tuple[int, int]
"""Of a kernel dimension and the output dimension that slides along with it."""


class Inside(NamedTuple):
    """What is inside a boundary of a pair of dimensions. units: elements that a step of each moves by. extents: of the
    temporal loops inside. spread: extents of the spatial loops inside boundary 0, 1, ... up to this one. reach: elements
    between the first and the last child that may hand data over, at most."""

    units: SlidingPair
    extents: SlidingPair
    spread: tuple[SlidingPair, ...]
    reach: int

    @property
    def length(self) -> int:
        """Elements of the box inside the boundary, along the pair."""
        return _length(self.units, self.extents, self.spread[-1])


def needed(moves: Sequence[tuple[int, ...]], insides: Sequence[Inside]) -> int:
    """How many of the loops of a window may ever matter to what crosses a boundary, or any boundary inside it: the first
    ones. moves: elements that each loop moves by along each of some pairs of dimensions, 0 for idle loops; insides: per pair."""
    sums = [_totals(inside) for inside in insides]
    every = range(len(insides))
    # How far each loop's move is from coming back: its own less those of the loops inside it.
    differences, before = [], [0] * len(insides)
    for move in moves:
        differences.append([own - past for own, past in zip(move, before, strict=True)])
        before = [past + own for past, own in zip(before, move, strict=True)]
    for place in reversed(range(len(moves))):
        apart = differences[place]
        if all(_near(apart[p], sums[p].moved, insides[p].reach) for p in every):
            return place + 1
        for p in every:
            again = apart[p] in sums[p].repeats or apart[p] == moves[0][p] < insides[p].length
            # The first move is along one pair; along others the data come back to where they were.
            if again and all(apart[other] in sums[other].moved for other in every if other != p):
                return place + 1
    return 0


class _Totals(NamedTuple):
    """What loops inside a boundary may move by in all, and that with the first of these moves once more."""

    moved: frozenset[int]
    repeats: frozenset[int]


@lru_cache(maxsize=2**16)
def _totals(inside: Inside) -> _Totals:
    sums = _sums(inside.units, inside.spread, *inside.extents)
    moved = frozenset((0, *(total for total, _ in sums)))
    return _Totals(moved, moved.union(total + first for total, first in sums))


def _near(apart: int, moved: frozenset[int], reach: int) -> bool:
    """Whether moves of loops inside may leave at most so many elements of a difference."""
    return apart in moved or (reach > 0 and any(abs(apart - total) <= reach for total in moved))


@lru_cache(maxsize=2**16)
def _sums(units: SlidingPair, spread: tuple[SlidingPair, ...], kernel: int, output: int) -> frozenset[SlidingPair]:
    """Sums of the moves of some loops inside a boundary that leave nothing of a pair's extents between them and the
    boundary, with the first of these moves; 0 for one that saves nothing, since the boxes around it do not overlap."""
    if len(spread) == 1:
        return frozenset()
    found: set[SlidingPair] = set()
    for k in divisors(kernel):
        for o in divisors(output):
            of_level = [
                unit * extent * width
                for unit, extent, whole, width in zip(units, (k, o), (kernel, output), spread[-1], strict=True)
                if extent < whole
            ]
            length = _length(units, (k, o), spread[-2])
            found.update((sum(of_level), first if first < length else 0) for first in of_level)
            found.update((total + sum(of_level), first) for total, first in _sums(units, spread[:-1], k, o))
    return frozenset(found)


def _length(units: SlidingPair, extents: SlidingPair, spread: SlidingPair) -> int:
    return 1 + sum(unit * (extent * width - 1) for unit, extent, width in zip(units, extents, spread, strict=True))
