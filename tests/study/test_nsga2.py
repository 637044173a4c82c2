"""NSGA-II: evosax conventions, selection by the definition, and quality against pymoo at equal budget.

Guards: docs/SEARCH.md, "The search".
"""

from __future__ import annotations

import jax
import numpy as np
import pytest
from pymoo.algorithms.moo.nsga2 import NSGA2 as PymooNSGA2
from pymoo.core.problem import Problem
from pymoo.operators.crossover.sbx import SBX
from pymoo.operators.mutation.pm import PM
from pymoo.operators.repair.rounding import RoundingRepair
from pymoo.operators.sampling.rnd import IntegerRandomSampling
from pymoo.optimize import minimize

from mqjax.study.nsga2 import NSGA2, uniform_population
from mqjax.study.pareto import hypervolume

GRID = 1000


def zdt1(genes: np.ndarray) -> np.ndarray:
    """ZDT1 (Zitzler, Deb, Thiele 2000) over the integers 0..GRID."""
    x = genes / GRID
    g = 1 + 9 * x[:, 1:].mean(axis=1)
    return np.stack([x[:, 0], g * (1 - np.sqrt(x[:, 0] / g))], axis=1)


def chain(genes: np.ndarray) -> np.ndarray:
    """A discrete problem like ours: a cost per gene that depends on its neighbour, against a rounding error."""
    weights = np.random.default_rng(0).uniform(0.2, 1.0, genes.shape[1])
    neighbour = np.roll(genes, -1, axis=1)
    cost = (weights * (genes + 0.5 * np.maximum(genes, neighbour))).sum(axis=1)
    return np.stack([cost, (weights[::-1] * 4.0 ** (2 - genes)).sum(axis=1)], axis=1)


PROBLEMS = {
    "zdt1": (zdt1, 30, 0, GRID, np.array([1.1, 1.1])),
    "chain": (chain, 40, 2, 8, np.array([400.0, 40.0])),
}


def ours(name: str, seed: int, size: int = 60, generations: int = 60) -> float:
    function, genes, low, high, reference = PROBLEMS[name]
    algorithm = NSGA2(size, np.zeros(genes, np.int32), low=low, high=high)
    params, key = algorithm.default_params, jax.random.key(seed)
    start = np.random.default_rng(seed).integers(low, high + 1, (size, genes))
    state = algorithm.init(key, start, function(start), params)
    for generation in range(generations - 1):
        keys = jax.random.split(jax.random.fold_in(key, generation))
        children, state = algorithm.ask(keys[0], state, params)
        state, _ = algorithm.tell(keys[1], children, function(children), state, params)
    return hypervolume(state.fitness, reference) / np.prod(reference)


def theirs(name: str, seed: int, size: int = 60, generations: int = 60) -> float:
    function, genes, low, high, reference = PROBLEMS[name]

    class Wrapped(Problem):
        def __init__(self) -> None:
            super().__init__(n_var=genes, n_obj=2, xl=low, xu=high, vtype=int)

        def _evaluate(self, x, out, *args, **kwargs):
            out["F"] = function(x)

    algorithm = PymooNSGA2(
        pop_size=size,
        sampling=IntegerRandomSampling(),
        crossover=SBX(prob=0.9, eta=15, vtype=float, repair=RoundingRepair()),
        mutation=PM(eta=20, vtype=float, repair=RoundingRepair()),
    )
    result = minimize(Wrapped(), algorithm, ("n_gen", generations), seed=seed)
    return hypervolume(result.pop.get("F"), reference) / np.prod(reference)


@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.filterwarnings("ignore")  # pymoo's own
def test_hypervolume_is_at_least_pymoos_within_its_spread(name):
    found = np.array([ours(name, seed) for seed in range(5)])
    wanted = np.array([theirs(name, seed) for seed in range(5)])
    assert found.mean() >= wanted.mean() - wanted.std(ddof=1)


def test_tell_keeps_the_best_by_rank_then_crowding():
    algorithm = NSGA2(4, np.zeros(2, np.int32), low=0, high=9)
    params, key = algorithm.default_params, jax.random.key(0)
    parents = np.array([[0, 9], [9, 0], [5, 6], [9, 9]])
    state = algorithm.init(key, parents, parents.astype(float), params)
    children = np.array([[1, 8], [5, 5], [0, 9], [8, 8]])
    state, metrics = algorithm.tell(key, children, children.astype(float), state, params)
    # The front is (0,9) (9,0) (1,8) (5,5): exactly four; the second (0,9) is a duplicate and goes last.
    assert {tuple(row) for row in state.population} == {(0, 9), (9, 0), (1, 8), (5, 5)}
    assert (state.rank == 0).all() and metrics["generation_counter"] == 1
    assert state.best_fitness == 0.0 and tuple(state.best_solution) == (0, 9)


def test_children_stay_in_bounds_and_repeat_with_their_key():
    algorithm = NSGA2(64, np.zeros(12, np.int32), low=2, high=8)
    params = algorithm.default_params
    population = uniform_population(jax.random.key(3), 64, 12, low=2, high=8)
    state = algorithm.init(jax.random.key(0), population, population[:, :2].astype(float), params)
    first, again, other = (np.asarray(algorithm.ask(jax.random.key(k), state, params)[0]) for k in (1, 1, 2))
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    assert first.dtype == np.int32 and first.min() >= 2 and first.max() <= 8
    assert not np.array_equal(first, population)


def test_initial_population_begins_with_the_uniform_assignments():
    population = uniform_population(jax.random.key(0), 40, 10, low=2, high=8)
    assert [set(row) for row in population[:7]] == [{width} for width in range(2, 9)]
    assert population.min() == 2 and population.max() == 8 and len(np.unique(population, axis=0)) > 30


def test_energies_that_differ_in_the_last_digit_are_told_apart():
    algorithm = NSGA2(2, np.zeros(1, np.int32), low=0, high=9)
    fitness = np.array([[1e9, 1.0], [np.nextafter(1e9, 0), 1.0]])
    state = algorithm.init(jax.random.key(0), np.array([[1], [2]]), fitness, algorithm.default_params)
    assert state.best_solution[0] == 2 and list(state.rank) == [0, 1]


@pytest.mark.parametrize("size", [0, 3, -2])
def test_population_size_must_be_even(size):
    with pytest.raises(ValueError, match="even"):
        NSGA2(size, np.zeros(2), low=0, high=1)


def test_nan_fitness_is_refused():
    algorithm = NSGA2(2, np.zeros(1, np.int32), low=0, high=9)
    with pytest.raises(ValueError, match="NaN"):
        algorithm.init(jax.random.key(0), np.zeros((2, 1)), np.array([[np.nan, 1], [1, 1]]), algorithm.default_params)
