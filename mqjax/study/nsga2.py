"""NSGA-II (Deb, Pratap, Agarwal, Meyarivan 2002) for integer genes, as an evosax algorithm.

evosax ranks populations by one number; here `fitness` has one column per objective, all minimised. `ask` is compiled;
`init` and `tell` sort on the host, on float64 values, so that energies that differ in the last digit are told apart
although JAX's default is float32. Simulated binary crossover and polynomial mutation (Deb and Agrawal 1995) are
rounded to integers.
"""

# evosax types one number per individual and its own State and Params.
# pyright: reportIncompatibleMethodOverride=false, reportIncompatibleVariableOverride=false

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from evosax.algorithms.population_based.base import PopulationBasedAlgorithm
from flax import struct
from jax import Array

from mqjax.network.wiring import uniform_genomes
from mqjax.study.pareto import crowding_distance, non_dominated_ranks


@struct.dataclass
class State:
    """N individuals of D genes. best_solution and best_fitness are those of the least first objective so far."""

    population: np.ndarray  # int32 [N, D]
    fitness: np.ndarray  # float64 [N, K]
    rank: np.ndarray  # int32 [N]
    crowding: np.ndarray  # float32 [N]
    best_solution: np.ndarray  # int32 [D]
    best_fitness: float
    generation_counter: int


@struct.dataclass
class Params:
    """Rates per pair (crossover) and per gene (mutation), and how close children stay to their parents (eta)."""

    crossover_rate: float = 0.9
    mutation_rate: float = 0.0  # 0: one gene in D
    crossover_eta: float = 15.0
    mutation_eta: float = 20.0


class NSGA2(PopulationBasedAlgorithm):
    """NSGA-II over integer vectors with `low` <= gene <= `high`.

    population_size must be even. Make one instance and keep it: methods are compiled per instance. Conventions are
    evosax's: state = init(key, population, fitness, params); population, state = ask(key, state, params);
    state, metrics = tell(key, population, fitness, state, params). fitness: float64 [N, K].
    """

    def __init__(self, population_size: int, solution: Any, *, low: int, high: int) -> None:
        if population_size < 2 or population_size % 2:
            raise ValueError(f"population_size must be even and at least 2, not {population_size}")
        super().__init__(population_size, solution)
        self.low, self.high = low, high
        self._default_params = Params()

    def init(self, key: Array, population: np.ndarray, fitness: np.ndarray, params: Params) -> State:
        """The state of an evaluated population [N, D] with fitness [N, K]."""
        return self._select(np.asarray(population, np.int32), np.asarray(fitness, np.float64), None)

    def tell(
        self, key: Array, population: np.ndarray, fitness: np.ndarray, state: State, params: Params
    ) -> tuple[State, dict[str, Any]]:
        """Keep the best N of parents and evaluated children. Of several equal individuals all but one go last."""
        merged = np.concatenate([np.asarray(state.population), np.asarray(population, np.int32)])
        values = np.concatenate([np.asarray(state.fitness), np.asarray(fitness, np.float64)])
        state = self._select(merged, values, state)
        return state, {"generation_counter": state.generation_counter, "best_fitness": state.best_fitness}

    def _select(self, population: np.ndarray, fitness: np.ndarray, before: State | None) -> State:
        if np.isnan(fitness).any():
            raise ValueError("fitness must not be NaN")
        # A dictionary of rows as bytes finds repetitions many times faster than sorting long rows.
        first: dict[bytes, int] = {}
        for number, row in enumerate(
            np.ascontiguousarray(population).view(f"V{population[0].nbytes}").ravel().tolist()
        ):
            first.setdefault(row, number)
        first_seen = np.zeros(len(population), bool)
        first_seen[list(first.values())] = True
        ranks = np.empty(len(population), np.int64)
        ranks[first_seen] = non_dominated_ranks(fitness[first_seen])
        ranks[~first_seen] = ranks[first_seen].max() + 1
        crowding = crowding_distance(fitness, ranks)
        kept = np.lexsort((-crowding, ranks))[: self.population_size]
        best = int(np.argmin(fitness[:, 0]))
        solution, value = population[best], float(fitness[best, 0])
        if before is not None and before.best_fitness <= value:
            solution, value = before.best_solution, before.best_fitness
        return State(
            population=population[kept],
            fitness=fitness[kept],
            rank=ranks[kept].astype(np.int32),
            crowding=crowding[kept].astype(np.float32),
            best_solution=solution,
            best_fitness=value,
            generation_counter=0 if before is None else before.generation_counter + 1,
        )

    def ask(self, key: Array, state: State, params: Params) -> tuple[np.ndarray, State]:
        """Children int32 [N, D] of parents that won binary tournaments."""
        children = self._children(
            key, jnp.asarray(state.population), jnp.asarray(state.rank), jnp.asarray(state.crowding), params
        )
        return np.asarray(children), state

    @partial(jax.jit, static_argnames=("self",))
    def _children(self, key: Array, population: Array, rank: Array, crowding: Array, params: Params) -> Array:
        keys = jax.random.split(key, 4)
        parents = population[self._tournament(keys[0], rank, crowding)].astype(jnp.float32)
        children = self._crossover(keys[1], parents, params)
        children = self._mutate(keys[2], children, params)
        return jnp.clip(jnp.round(children), self.low, self.high).astype(jnp.int32)

    def _tournament(self, key: Array, rank: Array, crowding: Array) -> Array:
        """Winners int32 [N]: lower rank, then larger crowding distance; every parent enters twice."""
        keys = jax.random.split(key)
        entries = jnp.concatenate([jax.random.permutation(k, self.population_size) for k in keys])
        a, b = entries.reshape(-1, 2).T
        a_wins = (rank[a] < rank[b]) | ((rank[a] == rank[b]) & (crowding[a] >= crowding[b]))
        return jnp.where(a_wins, a, b)

    def _crossover(self, key: Array, parents: Array, params: Params) -> Array:
        """Simulated binary crossover of consecutive pairs."""
        first, second = parents[0::2], parents[1::2]
        keys = jax.random.split(key, 4)
        u = jax.random.uniform(keys[0], first.shape)
        exponent = 1.0 / (params.crossover_eta + 1.0)
        beta = jnp.where(u <= 0.5, (2 * u) ** exponent, (1 / (2 * (1 - u))) ** exponent)
        crosses = jax.random.bernoulli(keys[1], params.crossover_rate, (len(first), 1))
        beta = jnp.where(crosses & jax.random.bernoulli(keys[2], 0.5, first.shape), beta, 1.0)
        mean, half = (first + second) / 2, beta * (second - first) / 2
        swap = jax.random.bernoulli(keys[3], 0.5, first.shape) & crosses
        lower, upper = jnp.where(swap, mean + half, mean - half), jnp.where(swap, mean - half, mean + half)
        return jnp.stack([lower, upper], axis=1).reshape(parents.shape)

    def _mutate(self, key: Array, children: Array, params: Params) -> Array:
        """Polynomial mutation; a mutated gene moves by at least one, or rounding would undo small steps."""
        keys = jax.random.split(key, 2)
        rate = jnp.where(params.mutation_rate > 0, params.mutation_rate, 1.0 / children.shape[1])
        u = jax.random.uniform(keys[0], children.shape)
        exponent = 1.0 / (params.mutation_eta + 1.0)
        delta = jnp.where(u < 0.5, (2 * u) ** exponent - 1, 1 - (2 * (1 - u)) ** exponent)
        step = delta * (self.high - self.low)
        step = jnp.where(jnp.abs(step) < 1, jnp.where(u < 0.5, -1.0, 1.0), step)
        # A step off the end is reflected, so that genes at a bound can mutate too.
        moved = children + step
        moved = jnp.where((moved < self.low - 0.5) | (moved > self.high + 0.5), children - step, moved)
        return jnp.where(jax.random.bernoulli(keys[1], rate, children.shape), moved, children)


def uniform_population(key: Array, size: int, genes: int, *, low: int, high: int, rate: float = 0.3) -> np.ndarray:
    """An initial population int32 [size, genes]: every uniform assignment, then mutations of them (each gene redrawn
    near its value with probability `rate`)."""
    uniform = uniform_genomes(genes, range(low, high + 1))
    bases = uniform[np.arange(max(0, size - len(uniform))) % len(uniform)]
    keys = jax.random.split(key, 2)
    steps = np.asarray(jax.random.randint(keys[0], bases.shape, -2, 3), np.int32)
    moved = np.asarray(jax.random.bernoulli(keys[1], rate, bases.shape))
    mutated = np.clip(np.where(moved, bases + steps, bases), low, high)
    return np.concatenate([uniform, mutated])[:size].astype(np.int32)
