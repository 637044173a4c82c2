"""The first population along the front of the surrogate.

Guards: docs/SEARCH.md, "The search".
"""

from __future__ import annotations

import numpy as np
import pytest

from mqjax.errors import InputError
from mqjax.mapper.table import cost_table
from mqjax.network.wiring import Wiring
from mqjax.study.bitsearch import search
from mqjax.study.rehearsal import rehearse
from mqjax.study.seeding import _asked, corrections, first_population, scaled
from mqjax.study.surrogate import Surrogate
from mqjax.types import WIDTHS, Layer

SCALES = np.array([0.1, 3.0, 1.0, 0.3, 2.0, 0.5])


@pytest.fixture(scope="module")
def surrogate():
    """Losses that fall with the width, alike in all genes; costs that grow with it."""
    wiring = Wiring.chain([Layer(C=2, M=2, name=name) for name in "abc"])
    losses = np.tile(0.01 * 4.0 ** (8 - np.array(WIDTHS)) - 0.01, (3, 1))
    widths = np.array(WIDTHS, float)
    costs = widths[:, None, None] + 2 * widths[:, None] + widths
    return Surrogate(wiring, losses, losses, np.broadcast_to(costs, (1, 3, 7, 7, 7)))


def true_errors(surrogate: Surrogate, genomes: np.ndarray) -> np.ndarray:
    """Errors that follow the sum of losses, but scaled by gene."""
    losses = surrogate.kernels[0][np.asarray(genomes) - WIDTHS[0]]
    return 0.05 + 0.01 * (losses * SCALES).sum(axis=1)


@pytest.mark.parametrize("rehearses", [False, True])
def test_population_holds_uniform_assignments_and_no_repetitions(surrogate, rehearses):
    judged = []
    rehearsed = None
    if rehearses:
        rehearsed = rehearse(surrogate, surrogate.loss, surrogate.cost, population=16, generations=2)

    def judge(genomes):
        judged.extend(map(tuple, genomes.tolist()))
        return true_errors(surrogate, genomes)

    genomes, errors = first_population(surrogate, judge, surrogate.cost, rehearsed=rehearsed, count=10)
    np.testing.assert_array_equal(genomes[: len(WIDTHS)], np.repeat(np.array(WIDTHS)[:, None], 6, axis=1))
    np.testing.assert_array_equal(errors, true_errors(surrogate, genomes))
    assert len(judged) == len(set(judged)) == len(genomes) and 7 + 15 < len(genomes) <= 7 + 3 * 10
    again, _ = first_population(surrogate, judge, surrogate.cost, rehearsed=rehearsed, count=10)
    np.testing.assert_array_equal(genomes, again)


def test_costs_of_nothing_and_errors_of_nothing_are_no_obstacle(surrogate):
    """Zero energies are usual in published tables, and a few images may all be classified rightly."""

    def hardware(genomes: np.ndarray) -> np.ndarray:
        return np.column_stack([np.zeros(len(genomes)), surrogate.cost(genomes)])

    for errors in (lambda genomes: np.zeros(len(genomes)), lambda genomes: true_errors(surrogate, genomes) - 0.05):
        genomes, found = first_population(surrogate, errors, hardware, count=10)
        assert len(genomes) == len(found) == len(np.unique(genomes, axis=0)) >= 7


def test_corrections_move_losses_towards_the_true_ones(surrogate):
    genomes = np.random.default_rng(0).integers(2, 9, (200, 6))
    errors, losses = true_errors(surrogate, genomes), surrogate.loss(genomes)
    corrected = scaled(surrogate, corrections(surrogate, genomes, losses, errors))
    fresh = np.random.default_rng(1).integers(2, 9, (200, 6))

    def correlation(of: Surrogate) -> float:
        return float(np.corrcoef(np.log(of.loss(fresh)), np.log(true_errors(surrogate, fresh) - 0.05))[0, 1])

    assert correlation(corrected) > correlation(surrogate) + 0.05
    assert not corrections(surrogate, genomes[:2], losses[:2], errors[:2]).any()
    # Errors that have nothing to do with genes are not believed to.
    noise = 0.05 + 0.01 * losses * np.exp(np.random.default_rng(2).normal(0, 1, 200))
    assert np.abs(corrections(surrogate, genomes, losses, noise)).max() < 0.5


def test_looks_are_for_what_may_be_as_accurate_as_the_best_uniform_assignment(surrogate):
    """There errors differ by less than images happen to show, so more than one look is needed."""
    random = np.random.default_rng(0)
    candidates = np.unique(random.integers(2, 9, (4000, 6)), axis=0)
    genomes = np.concatenate([surrogate.wiring.uniform, random.permutation(candidates)[:64]])
    known, expected = surrogate.loss(genomes), surrogate.loss(candidates)
    found = 0.05 * np.exp(random.normal(0, 0.01, len(genomes))) + 0.01 * known
    found[6] = 0.05
    front, close = len(candidates) // 2, {}
    for looks in (0, 10):
        asked = _asked(candidates, expected, surrogate.cost, genomes, known, found, 20, front=front, looks=looks)
        assert len(asked) == 20 == len(np.unique(candidates[asked], axis=0))
        assert (surrogate.cost(candidates[asked]) < surrogate.cost(genomes[6:7])).all()
        # Relatives of what was judged serve looks alone: the front is known without them.
        assert (asked >= front).sum() <= looks
        # An error of 0.05 is within reach of chance where the expected one is 0.055 or less.
        close[looks] = (0.01 * expected[asked] < 0.1 * 0.05 + 0.002).sum()
    assert close == {0: 0, 10: 10}


def test_search_begins_from_the_surrogate(archs, surrogate):
    layers = [Layer(C=4, M=8, P=4, Q=4, name="a"), Layer(C=8, M=8, P=4, Q=4, name="b"), Layer(C=8, M=4, P=4, Q=4)]
    table = cost_table(archs["eyeriss"], layers)
    costs = table.best["energy"][table.index][None]
    seeded = Surrogate(Wiring.chain(layers), surrogate.kernels, surrogate.tensors, costs)

    class Accuracy:
        cache_key = "toy"

        def __call__(self, genomes):
            return 1.0 - true_errors(surrogate, genomes.reshape(len(genomes), -1))

    result = search(table, Accuracy(), population=8, generations=2, surrogate=seeded)
    assert set(result.uniform()) == set(WIDTHS)
    first = result.genomes[result.generation == 0].reshape(-1, 6)
    assert len(first) > 8 and (result.generation == 1).sum() == 8
    again = search(table, Accuracy(), population=8, generations=2, surrogate=seeded)
    np.testing.assert_array_equal(result.genomes, again.genomes)
    with pytest.raises(InputError, match="error"):
        search(table, objectives=("energy", "delay"), surrogate=seeded)
