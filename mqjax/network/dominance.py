"""Pruning of many candidates to those that no other beats, with a record of what coarse pruning may have lost.

Axes: N candidates, K columns, all minimised. The last column is treated exactly; in the others, candidates that fall into
one cell may be taken for equal. Then a candidate stands for others that are a little better than it: `bounds` [N, K - 1]
holds, for all but the last column, the least value of those that it stands for.
"""

from __future__ import annotations

import numpy as np

_CELLS = 4096
"""Distinct values of a column up to which two columns make a grid of exact cells."""


def prune(values: np.ndarray, bounds: np.ndarray, most: int, floor: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Candidates to keep, int64 [M] by ascending last column, and their bounds float64 [M, K - 1].

    values: float64 [N, K], finite. most: about how many to keep at most; where more are left they are thinned by cells that
    are even in log(value + floor). floor: float64 [K - 1]; value + floor must be positive.

    Every candidate n is represented by a kept one m: values[m, -1] <= values[n, -1] and new bounds[m] <= bounds[n].
    """
    # A lexicographic order: of candidates that are equal in the last column the one with the least loss comes first.
    order = np.lexsort(values.T)
    values, bounds = values[order], bounds[order]
    if values.shape[1] == 2:
        loss = values[:, 0]
        least = np.minimum.accumulate(loss)
        kept = np.flatnonzero(np.concatenate([[True], loss[1:] < least[:-1]]))
        bounds = np.minimum.reduceat(bounds, kept)
        if len(kept) > most:
            cells = _even(loss[kept], most, floor[0])
            starts = np.flatnonzero(np.concatenate([[True], cells[1:] != cells[:-1]]))
            kept, bounds = kept[starts], np.minimum.reduceat(bounds, starts)
        return order[kept], bounds
    cells = [np.unique(column, return_inverse=True)[1] for column in values[:, :-1].T]
    if len(cells) == 2 and all(column.max() < _CELLS for column in cells):
        kept, bounds = _first_in_cells(np.stack(cells, axis=1), bounds)
        if len(kept) <= most:
            return order[kept], bounds
        order, values = order[kept], values[kept]
    dimensions = len(cells)
    side = max(2, int(min(8 * most, _CELLS**2) ** (1 / dimensions)))
    while True:
        cells = np.stack(
            [_even(column, side, low) for column, low in zip(values[:, :-1].T, floor, strict=True)], axis=1
        )
        kept, thinned = _first_in_cells(cells, bounds)
        if len(kept) <= most or side <= 2:
            return order[kept], thinned
        side = max(2, side * 3 // 4)


def _even(column: np.ndarray, count: int, floor: float) -> np.ndarray:
    """Cell int64 [N] of each value, of `count` cells from the least to the largest."""
    logs = np.log(column + floor)
    low, high = logs.min(), logs.max()
    if high <= low:
        return np.zeros(len(column), np.int64)
    return np.minimum(((logs - low) * (count / (high - low))).astype(np.int64), count - 1)


def _first_in_cells(cells: np.ndarray, bounds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Candidates, given by ascending last column, before which none came in a cell that is nowhere higher.

    cells: int64 [N, K - 1]. What comes first in the cells up to one's own is itself kept, so it can stand for one.
    """
    count = len(cells)
    grid = np.full(cells.max(axis=0) + 1, count, np.int64)
    np.minimum.at(grid, tuple(cells.T), np.arange(count))
    for axis in range(grid.ndim):
        grid = np.minimum.accumulate(grid, axis=axis)
    standing = grid[tuple(cells.T)]
    kept = np.flatnonzero(standing == np.arange(count))
    least = np.full_like(bounds, np.inf)
    np.minimum.at(least, standing, bounds)
    return kept, least[kept]
