"""How the spatial loops of one level can be ordered and laid out on the X and Y of its fan-out (MODEL.md section 11.3).

A spatial tiling level lists its loops innermost first: a fixed prefix, then the free dimensions in any order. The first
`split` of them lie on X, the others on Y. With a free split, loops of bound 1 are dropped; with a given one they take
places like any other. Choices are counted by subsets, as only what lies on X decides whether an order fits.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from typing import NamedTuple


class Fan(NamedTuple):
    """The rules of a spatial tiling level: dimensions in fixed order, dimensions in free order, the split (None: free),
    the children of one instance along X and Y, and the share of them that must be in use."""

    prefix: tuple[int, ...]
    free: tuple[int, ...]
    split: int | None
    size: tuple[int, int]
    min_utilization: float = 0.0

    @property
    def least(self) -> int:
        """Children that must be in use; what rounding may add to the share is forgiven."""
        return max(1, math.ceil(self.min_utilization * math.prod(self.size) * (1 - 1e-12)))

    def in_use(self, bounds: Mapping[int, int]) -> bool:
        """Whether loops of these bounds use as many children as they must."""
        return math.prod(bounds.values()) >= self.least

    def moving(self, bounds: Mapping[int, int]) -> tuple[list[int], list[int]]:
        """Fixed and free dimensions whose bound exceeds 1; absent bounds are 1."""
        fixed, free = ([d for d in dims if bounds.get(d, 1) > 1] for dims in (self.prefix, self.free))
        return fixed, free


class Layout(NamedTuple):
    """An order of all dimensions, innermost first, of which the first `split` lie on X."""

    order: tuple[int, ...]
    split: int


def arrangements(fan: Fan, bounds: Mapping[int, int]) -> Iterator[tuple[int, int, int]]:
    """What may lie on X in the pruned space, given the bounds of the loops, whether it fits or not: (choices of order and
    split that lay it so, instances along X, instances along Y)."""
    whole = math.prod(bounds.values())
    if fan.split is None:
        fixed, free = fan.moving(bounds)
        splits = range(len(fixed) + len(free) + 1)
    else:
        fixed, free = list(fan.prefix), list(fan.free)
        splits = range(fan.split, fan.split + 1)
    for split in splits:
        beyond = max(0, split - len(fixed))  # free dimensions on X
        ways = math.factorial(beyond) * math.factorial(len(free) - beyond)
        for chosen in itertools.combinations(free, beyond):
            width = math.prod(bounds.get(d, 1) for d in (*fixed[:split], *chosen))
            yield ways, width, whole // width


def count_choices(fan: Fan, bounds: Mapping[int, int]) -> int:
    """Choices of order and split in the pruned space that fit the fan-out and use as much of it as they must, given the bounds
    of the loops."""
    if not fan.in_use(bounds):
        return 0
    return sum(ways for ways, x, y in arrangements(fan, bounds) if x <= fan.size[0] and y <= fan.size[1])


def layouts(fan: Fan, bounds: Mapping[int, int]) -> Iterator[Layout]:
    """For every order of the loops of bound above 1 that fits with some split, one layout; in lexicographic order. Whether as
    much of the fan-out is in use as must be is not asked."""
    fixed, free = fan.moving(bounds)
    for order in itertools.permutations(free):
        found = _free_split(fan, bounds, fixed, order) if fan.split is None else _given_split(fan, bounds, order)
        if found is not None:
            yield found


def _layout_fits(fan: Fan, bounds: Mapping[int, int], layout: Layout) -> bool:
    x, y = layout.order[: layout.split], layout.order[layout.split :]
    return all(math.prod(bounds.get(d, 1) for d in on) <= most for on, most in zip((x, y), fan.size, strict=True))


def _free_split(fan: Fan, bounds: Mapping[int, int], fixed: list[int], order: tuple[int, ...]) -> Layout | None:
    """The least split that fits; loops of bound 1 lie innermost, as in the pruned space."""
    unit = [d for d in (*fan.prefix, *fan.free) if bounds.get(d, 1) == 1]
    whole = (*unit, *fixed, *order)
    candidates = (Layout(whole, split) for split in (0, *range(len(unit) + 1, len(whole) + 1)))
    return next((layout for layout in candidates if _layout_fits(fan, bounds, layout)), None)


def _given_split(fan: Fan, bounds: Mapping[int, int], order: tuple[int, ...]) -> Layout | None:
    """Free loops of bound 1 fill the places on X that as few as fit of the moving ones leave."""
    assert fan.split is not None
    unit = [d for d in fan.free if d not in order]
    on_x = max(0, fan.split - len(fan.prefix))
    for moving in range(max(0, on_x - len(unit)), min(on_x, len(order)) + 1):
        idle = on_x - moving
        layout = Layout((*fan.prefix, *unit[:idle], *order[:moving], *unit[idle:], *order[moving:]), fan.split)
        if _layout_fits(fan, bounds, layout):
            return layout
    return None
