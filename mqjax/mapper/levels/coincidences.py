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
    moved, repeats = [], []
    for pair, inside in enumerate(insides):
        sums = _sums(inside.units, inside.spread, *inside.extents)
        moved.append({0, *(total for total, _ in sums)})
        repeats.append({total + first for total, first in sums} | moved[-1])
        if moves[0][pair] < inside.length:
            repeats[-1].add(moves[0][pair])
    every = range(len(insides))
    count, before = 0, [0] * len(insides)
    for place, move in enumerate(moves):
        apart = [own - past for own, past in zip(move, before, strict=True)]
        # The first move is along one pair; along others the data come back to where they were.
        again = any(
            apart[p] in repeats[p] and all(apart[other] in moved[other] for other in every if other != p) for p in every
        )
        if again or all(_near(apart[p], moved[p], insides[p].reach) for p in every):
            count = place + 1
        before = [past + own for past, own in zip(before, move, strict=True)]
    return count


def _near(apart: int, moved: set[int], reach: int) -> bool:
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
