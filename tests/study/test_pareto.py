"""Dominance ranks, crowding and hypervolume against their definitions and moocore.

Guards: docs/SEARCH.md, "The search".
"""

from __future__ import annotations

import moocore
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mqjax.study.pareto import crowding_distance, hypervolume, non_dominated_ranks, pareto_front


def objectives(most_objectives: int = 4):
    """Points on a coarse grid, so that ties and duplicates are common."""
    shapes = st.tuples(st.integers(1, 40), st.integers(1, most_objectives))
    return shapes.flatmap(lambda shape: hnp.arrays(np.float64, shape, elements=st.integers(0, 6).map(float)))


def ranks_by_definition(points: np.ndarray) -> np.ndarray:
    """Peel off fronts, comparing all pairs."""
    ranks, left, rank = np.full(len(points), -1), set(range(len(points))), 0
    while left:
        front = {
            i for i in left if not any((points[j] <= points[i]).all() and (points[j] < points[i]).any() for j in left)
        }
        ranks[list(front)] = rank
        left -= front
        rank += 1
    return ranks


@given(objectives())
def test_ranks_equal_the_definition(points):
    assert np.array_equal(non_dominated_ranks(points), ranks_by_definition(points))
    assert np.array_equal(pareto_front(points), ranks_by_definition(points) == 0)


@pytest.mark.parametrize("count", [2, 3, 5])
def test_ranks_equal_moocore(count):
    generator = np.random.default_rng(count)
    for points in (generator.random((700, count)), generator.integers(0, 9, (700, count)).astype(float)):
        assert np.array_equal(non_dominated_ranks(points), moocore.pareto_rank(points))


def test_infinite_objectives_rank_last_and_nan_is_refused():
    points = np.array([[1.0, 2.0], [np.inf, 2.0], [np.inf, np.inf]])
    assert list(non_dominated_ranks(points)) == [0, 1, 2]
    with pytest.raises(ValueError, match="NaN"):
        non_dominated_ranks(np.array([[np.nan, 1.0]]))


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_hypervolume_equals_moocore(count):
    points = np.random.default_rng(7).random((60, count))
    reference = np.full(count, 0.9)
    assert hypervolume(points, reference) == pytest.approx(moocore.hypervolume(points, ref=reference), rel=1e-12)
    assert hypervolume(points + 1.0, reference) == 0.0


def test_crowding_distance_of_a_line():
    points = np.array([[0.0, 4.0], [1.0, 3.0], [3.0, 1.0], [4.0, 0.0], [9.0, 9.0]])
    distance = crowding_distance(points, np.array([0, 0, 0, 0, 1]))
    assert np.isinf(distance[[0, 3, 4]]).all()
    assert distance[1] == pytest.approx(3 / 4 + 3 / 4) and distance[2] == pytest.approx(3 / 4 + 3 / 4)


def test_crowding_distance_is_never_nan():
    points = np.array([[1.0, np.inf], [2.0, np.inf], [3.0, np.inf], [np.inf, 1.0]])
    assert not np.isnan(crowding_distance(points, np.zeros(4, int))).any()
