"""Pareto dominance, for minimisation: ranks, fronts, crowding and hypervolume.

Everything compares float64 values on the host as they are, without tolerance. Axes: N points, K objectives.
Point a dominates b if it is nowhere worse and somewhere better; equal points do not dominate each other.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right

import numpy as np


def pareto_front(objectives: np.ndarray) -> np.ndarray:
    """bool [N]: the points of objectives [N, K] that no other point dominates."""
    return non_dominated_ranks(objectives) == 0


def non_dominated_ranks(objectives: np.ndarray) -> np.ndarray:
    """Rank int64 [N] of each point of objectives [N, K]: 0 on the first front, 1 on the front without that, and so on.

    O(N log N) for two objectives and O(N log^2 N) comparisons for three (Zhang et al. 2015, "ENS-BS", with a staircase
    per front); otherwise pairwise. Raises `ValueError` for NaN.
    """
    points = np.asarray(objectives, np.float64)
    if points.ndim != 2:
        raise ValueError(f"objectives must have the shape [N, K], not {points.shape}")
    if np.isnan(points).any():
        raise ValueError("objectives must not be NaN")
    if not len(points):
        return np.zeros(0, np.int64)
    # In lexicographic order no point is dominated by a later one; duplicates share a rank. (As np.unique, but faster.)
    order = np.lexsort(points.T[::-1])
    ordered = points[order]
    new = np.concatenate([[True], (ordered[1:] != ordered[:-1]).any(axis=1)])
    unique, inverse = ordered[new], np.empty(len(points), np.int64)
    inverse[order] = np.cumsum(new) - 1
    count = points.shape[1]
    if count <= 2:
        ranks = _ranks_of_two(unique[:, -1])
    elif count == 3:
        ranks = _ranks_of_three(unique[:, 1:])
    else:
        ranks = _ranks_pairwise(unique)
    return ranks[inverse]


def _ranks_of_two(second: np.ndarray) -> np.ndarray:
    """Ranks of distinct points in lexicographic order, from their second objective.

    An earlier point dominates iff its second objective is no larger, so a front is summed up by its least one.
    """
    ranks, least = np.empty(len(second), np.int64), []
    for i, value in enumerate(second.tolist()):
        rank = bisect_right(least, value)
        ranks[i] = rank
        if rank == len(least):
            least.append(value)
        else:
            least[rank] = value
    return ranks


class _Staircase:
    """The minimal points of a set in the plane: first coordinates ascending, second descending."""

    def __init__(self) -> None:
        self.first: list[float] = []
        self.second: list[float] = []

    def dominates(self, a: float, b: float) -> bool:
        """Whether some point of the set is nowhere above (a, b)."""
        place = bisect_right(self.first, a)
        return place > 0 and self.second[place - 1] <= b

    def add(self, a: float, b: float) -> None:
        """Add a point that the set does not dominate."""
        start = end = bisect_left(self.first, a)
        while end < len(self.first) and self.second[end] >= b:
            end += 1
        self.first[start:end], self.second[start:end] = [a], [b]


def _ranks_of_three(rest: np.ndarray) -> np.ndarray:
    """Ranks of distinct points in lexicographic order, from their second and third objectives."""
    ranks: np.ndarray = np.empty(len(rest), np.int64)
    fronts: list[_Staircase] = []
    for i, (a, b) in enumerate(rest.tolist()):
        # A point dominated by a front is dominated by all fronts before it.
        low, high = 0, len(fronts)
        while low < high:
            middle = (low + high) // 2
            if fronts[middle].dominates(a, b):
                low = middle + 1
            else:
                high = middle
        if low == len(fronts):
            fronts.append(_Staircase())
        fronts[low].add(a, b)
        ranks[i] = low
    return ranks


def _ranks_pairwise(unique: np.ndarray) -> np.ndarray:
    """Ranks of distinct points in lexicographic order: one above the highest rank of those that dominate."""
    ranks = np.zeros(len(unique), np.int64)
    for i, point in enumerate(unique):
        dominating = (unique[:i] <= point).all(axis=1)
        if dominating.any():
            ranks[i] = ranks[:i][dominating].max() + 1
    return ranks


def crowding_distance(objectives: np.ndarray, ranks: np.ndarray) -> np.ndarray:
    """Crowding distance float64 [N] of each point within its front (Deb et al. 2002, section III-B); inf at the ends."""
    points = np.asarray(objectives, np.float64)
    distance: np.ndarray = np.zeros(len(points))
    for values in points.T:
        order = np.lexsort((values, ranks))
        sorted_ranks, sorted_values = ranks[order], values[order]
        changes = sorted_ranks[1:] != sorted_ranks[:-1]
        starts, ends = np.concatenate([[True], changes]), np.concatenate([changes, [True]])
        first = sorted_values[np.maximum.accumulate(np.where(starts, np.arange(len(order)), 0))]
        last = sorted_values[::-1][np.maximum.accumulate(np.where(ends[::-1], np.arange(len(order)), 0))][::-1]
        # Infinite objectives (what fits nowhere) make gaps and spans that are no numbers; they count as no distance.
        with np.errstate(invalid="ignore", divide="ignore"):
            gap = np.r_[sorted_values[1:], 0.0] - np.r_[0.0, sorted_values[:-1]]
            share = np.nan_to_num(gap / (last - first), nan=0.0, posinf=0.0)
        distance[order] += np.where(starts | ends, np.inf, share)
    return distance


def hypervolume(points: np.ndarray, reference: np.ndarray) -> float:
    """Volume that points [N, K] dominate within the box up to `reference` [K]. By slices along the last objective."""
    points, reference = np.asarray(points, np.float64), np.asarray(reference, np.float64)
    points = points[(points < reference).all(axis=1)]
    if not len(points):
        return 0.0
    points = np.unique(points[pareto_front(points)], axis=0)
    if points.shape[1] == 1:
        return float(reference[0] - points.min())
    if points.shape[1] == 2:
        below = np.r_[reference[1], points[:-1, 1]]
        return float(((reference[0] - points[:, 0]) * (below - points[:, 1])).sum())
    points = points[np.argsort(points[:, -1], kind="stable")]
    depths = np.diff(np.r_[points[:, -1], reference[-1]])
    return float(sum(d * hypervolume(points[: i + 1, :-1], reference[:-1]) for i, d in enumerate(depths) if d > 0))


def far_apart(points: np.ndarray, among: np.ndarray, count: int, taken: np.ndarray | None = None) -> np.ndarray:
    """At most `count` of the positions `among` that lie far from each other in points [N, K]: the least in each axis, then
    always the one that is farthest from all chosen and all `taken` ones (positions). Axes are scaled to the range among these."""
    if not len(among):
        return among
    points = points - points[among].min(axis=0)
    points = points / np.maximum(points[among].max(axis=0), 1e-300)
    here = points[among]
    chosen = [] if taken is not None and len(taken) else list(dict.fromkeys(here.argmin(axis=0).tolist()))[:count]
    others = points[taken] if taken is not None and len(taken) else here[chosen]
    distance = np.abs(here[:, None] - others).sum(axis=2).min(axis=1)
    while len(chosen) < count and distance.max() > 0:
        chosen.append(int(distance.argmax()))
        distance = np.minimum(distance, np.abs(here - here[chosen[-1]]).sum(axis=1))
    return among[np.sort(chosen)]
