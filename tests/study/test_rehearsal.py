"""The search on a cheap loss before accuracies are judged.

Guards: docs/SEARCH.md, "The search".
"""

from __future__ import annotations

import csv
import itertools

import numpy as np
import pytest

from mqjax.network.wiring import Wiring
from mqjax.study.pareto import far_apart, hypervolume
from mqjax.study.rehearsal import measurements, rehearse, write_rehearsal
from mqjax.study.surrogate import Surrogate
from mqjax.types import WIDTHS, Layer


@pytest.fixture(scope="module")
def surrogate():
    wiring = Wiring.chain([Layer(C=2, M=2, name=name) for name in "abc"])
    losses = np.tile(0.01 * 4.0 ** (8 - np.array(WIDTHS)) - 0.01, (3, 1))
    widths = np.array(WIDTHS, float)
    costs = np.array([3.0, 1.0, 2.0])[:, None, None, None] * (widths[:, None, None] + 2 * widths[:, None] + widths)
    costs[1, 0, 0] = np.inf
    return Surrogate(wiring, losses, losses, costs[None])


def true_loss(genomes: np.ndarray) -> np.ndarray:
    """Far from a sum: genes weigh differently, and neighbours make each other's losses worse."""
    narrow = 4.0 ** (8 - np.asarray(genomes, float)) * np.array([0.1, 3.0, 1.0, 0.3, 2.0, 0.5])
    return 0.001 + 1e-4 * (narrow.sum(axis=1) + 0.02 * (narrow[:, 1:] * narrow[:, :-1]).sum(axis=1))


def test_rehearsal_comes_near_the_front_of_all_assignments(surrogate):
    measured = []

    def loss(genomes):
        measured.extend(map(tuple, genomes.tolist()))
        return true_loss(genomes)

    found = rehearse(surrogate, loss, surrogate.cost, seed=3, population=16, generations=8)
    assert len(measured) <= measurements(16, 8) == 7 + 4 * 24 + 16 * 8
    np.testing.assert_array_equal(found.genomes[:7], surrogate.wiring.uniform)
    np.testing.assert_array_equal(found.losses, true_loss(found.genomes))
    assert len({row.tobytes() for row in found.genomes}) == len(found.genomes) and set(
        map(tuple, found.genomes.tolist())
    ) <= set(measured)
    assert np.isfinite(surrogate.cost(found.genomes)[7:]).all()

    every = np.array(list(itertools.product(WIDTHS, repeat=6)), np.int32)
    cost, lost = surrogate.cost(every), true_loss(every)
    bounds = np.array([np.log(0.3 * true_loss(surrogate.wiring.uniform).max()), cost[np.isfinite(cost)].max()])

    def volume(genomes: np.ndarray) -> float:
        return hypervolume(np.column_stack([np.log(true_loss(genomes)), surrogate.cost(genomes)]), bounds)

    fits = np.isfinite(cost[:, 0]) & (np.log(lost) < bounds[0])
    chance = every[np.random.default_rng(0).integers(0, len(every), measurements(16, 8))]
    whole = volume(every[fits])
    assert volume(found.genomes) > 0.95 * whole > 0.88 * whole > volume(chance)
    again = rehearse(surrogate, true_loss, surrogate.cost, seed=3, population=16, generations=8)
    np.testing.assert_array_equal(again.genomes, found.genomes)


@pytest.mark.parametrize("spread_of_losses", [0.0, 0.1])
def test_losses_that_hardly_differ_are_no_reason_to_stop(surrogate, spread_of_losses):
    def loss(genomes):
        return 1.0 + spread_of_losses * (8 - np.mean(genomes, axis=1))

    found = rehearse(surrogate, loss, surrogate.cost, population=8, generations=1)
    assert len(found.genomes) >= 7


def test_rehearsal_is_written_to_the_last_digit(surrogate, tmp_path):
    found = rehearse(surrogate, true_loss, surrogate.cost, population=8, generations=1)
    write_rehearsal(tmp_path / "rehearsal.csv", found)
    rows = list(csv.DictReader((tmp_path / "rehearsal.csv").read_text().splitlines()))
    assert [float(row["loss"]) for row in rows] == found.losses.tolist()
    assert [[int(digit) for digit in row["genome"]] for row in rows] == found.genomes.tolist()


def test_spread_takes_ends_first_then_the_farthest():
    points = np.array([[0.0, 10.0], [1.0, 9.0], [5.0, 5.0], [10.0, 0.0], [99.0, 99.0]])
    among = np.arange(4)
    np.testing.assert_array_equal(far_apart(points, among, 2), [0, 3])
    np.testing.assert_array_equal(far_apart(points, among, 3), [0, 2, 3])
    np.testing.assert_array_equal(far_apart(points, among, 9), [0, 1, 2, 3])
    np.testing.assert_array_equal(far_apart(points, np.array([1, 2]), 1, taken=np.array([0, 3])), [2])
    assert not len(far_apart(points, np.zeros(0, int), 3))
