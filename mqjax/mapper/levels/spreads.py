"""Spreads: the spatial loops of all levels, which are enumerated before any temporal loop is placed (docs/PROOF.md).

Axes: L storage levels, D dimensions.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from functools import cache

import numpy as np

from mqjax.mapspace.fitting import Layout, count_choices, layouts
from mqjax.mapspace.joint import fan_sizes, unique_rows
from mqjax.mapspace.space import Mapspace

SPREADS_MOST = 2**15
"""Spreads of a layer that are tried at most."""


def spreads(space: Mapspace) -> np.ndarray | None:
    """Bounds of the spatial loops in all ways that fit the fan-outs, int64 [N, L, D]; `None` where they are too many."""
    spatial, most = fan_sizes(space)
    levels = [space.tiling[t].level for t in spatial]
    found = np.ones((1, len(spatial), 0), np.int64)
    for table in space.tables:
        factors = unique_rows(table[:, spatial])[0]
        used = found.prod(axis=2)
        left, right = np.nonzero((used[:, None] * factors <= most).all(axis=2))
        if len(left) > SPREADS_MOST:
            return None
        found = np.concatenate([found[left], factors[right][:, :, None]], axis=2)
    fans = [space.fan(t) for t in spatial]

    @cache
    def fits(number: int, bounds: tuple[int, ...]) -> bool:
        return count_choices(fans[number], dict(enumerate(bounds))) > 0

    kept = [all(fits(i, tuple(row)) for i, row in enumerate(of_levels)) for of_levels in found.tolist()]
    bounds = np.ones((sum(kept), len(space.arch.levels), len(space.dims)), np.int64)
    bounds[:, levels] = found[kept]
    return bounds


def spread_layouts(space: Mapspace, bounds: np.ndarray) -> Iterator[tuple[Layout, ...]]:
    """Orders and layouts of the spatial loops, one per spatial tiling level, of a spread int64 [L, D]. They differ in cost
    only where neighbours may forward data; elsewhere one stands for all."""
    choices = []
    for t, level in enumerate(space.tiling):
        if level.spatial:
            found = layouts(space.fan(t), dict(enumerate(bounds[level.level].tolist())))
            choices.append(list(found) if space.may_forward else [next(found)])
    yield from itertools.product(*choices)
