"""Codes (`mqjax.mapper.localsearch.Codec`) of mappings whose loops were placed level by level."""

from __future__ import annotations

import itertools

import numpy as np

from mqjax.mapper.levels.spreads import spread_layouts
from mqjax.mapper.levels.states import Placed
from mqjax.mapper.localsearch import Codec


def codes(codec: Codec, spatial: np.ndarray, placed: list[Placed]) -> np.ndarray:
    """Mappings of a spread int64 [L, D] with each of some temporal loops, in all orders of the spatial loops that may
    differ in cost, so many for each: int32 [N, width]."""
    space = codec.space
    layouts = list(spread_layouts(space, spatial))
    found = np.zeros((len(placed) * len(layouts), codec.width), np.int32)
    numbers, orders, splits = codec.split(found)
    spread_out = [t for t, level in enumerate(space.tiling) if level.spatial]
    bounds = np.ones((len(space.dims), len(space.tiling)), np.int64)
    for t in spread_out:
        bounds[:, t] = spatial[space.tiling[t].level]
    temporal = [t for t, level in enumerate(space.tiling) if not level.spatial]
    for row, (one, layout) in enumerate(itertools.product(placed, layouts)):
        for t, loops in zip(temporal, one.loops, strict=True):
            bounds[:, t] = 1
            for d, bound in loops:
                bounds[d, t] = bound
            placed_dims = [d for d, _ in loops]
            free = [d for d in placed_dims if d not in space.prefix(t)]
            idle = [d for d in space.free_dims(t) if d not in placed_dims]
            orders[row, t] = [*space.prefix(t), *idle, *free]
        for t, chosen in zip(spread_out, layout, strict=True):
            orders[row, t], splits[row, t] = chosen
        for d in space.dims:
            numbers[row, d] = codec.number(d, bounds[d])
    return found
