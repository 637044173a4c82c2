"""Sweeping a mapspace: the least cost of every packing triple over all mappings, as one compiled program.

Chunks of mappings are unranked from joint tables (`Mapspace.groups`), their cost terms computed (`mqjax.terms`) and
combined for every triple. Energies may be off by an ulp here, so this module only selects candidates, whose costs the
exact evaluator then computes.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from mqjax.mapspace import Mapspace
from mqjax.packing import Packings
from mqjax.plan import INPUTS, OUTPUTS, WEIGHTS, Numbers, Plan, make_plan, numbers
from mqjax.terms import Costs, cost_terms, unroll

BLOCK_ROWS = 2**15
"""Rows of a group's table on the device at a time; fixed, so that all layers share one compiled program."""

CHUNKS_PER_CALL = 16

METRICS = ("energy", "edp", "delay")


def _objectives(tie: Any, weights_pj: Any, weights_cycles: Any, shared_pj: Any, shared_cycles: Any):
    """Energy, EDP and delay of a triple; inf where it does not fit. Delay carries the energy as its fraction, so that
    of equally fast mappings the frugal one is found."""
    cycles = jnp.maximum(weights_cycles, shared_cycles)
    energy = weights_pj + shared_pj
    return jnp.where(cycles < jnp.inf, energy, jnp.inf), energy * cycles, cycles + energy * tie


def _by_triple(tie: Array, costs: Costs, reduce: Any) -> Any:
    """Stack reduce(w, s, objectives) over all pairs s of Inputs and Outputs packings and all packings w of Weights.

    A loop over pairs keeps the program small: unrolled over 125 triples it takes ten times as long to compile, and runs
    slower. `reduce` returns a scalar or vector; the result has axes [KS, KW, ...].
    """

    def pair(_: None, terms: tuple[Array, Array, Array, Array | None]) -> tuple[None, Array]:
        s, shared_pj, shared_cycles, coupled = terms
        results = []
        for w in range(costs.weights_pj.shape[0]):
            slowest = shared_cycles if coupled is None else jnp.maximum(shared_cycles, coupled[w])
            of_triple = _objectives(tie, costs.weights_pj[w], costs.weights_cycles[w], shared_pj, slowest)
            results.append(reduce(w, s, of_triple))
        return None, jnp.stack(results)

    numbers = jnp.arange(costs.shared_pj.shape[0])
    return lax.scan(pair, None, (numbers, costs.shared_pj, costs.shared_cycles, costs.coupled_cycles))[1]


class Tables(NamedTuple):
    """One block of each group's joint table: column values float64 [columns, capacity], rows in use, and weights."""

    columns: tuple[np.ndarray, ...]
    weights: tuple[np.ndarray, ...]
    rows: tuple[Any, ...]


def _unrank(plan: Plan, tables: Tables, start: Array, size: int) -> tuple[dict[tuple[int, int], Any], Any, Any]:
    """Slot bounds and weights of mappings start, start + 1, ..., of a block, and a flag above 0 for those past its end."""
    number = start + jnp.arange(size, dtype=jnp.float64)
    filled = [g for g, slots in enumerate(plan.columns) if slots]
    if len(filled) == 1:
        return _read_in_order(plan, tables, filled[0], start, number)
    bound: dict[tuple[int, int], Any] = {}
    weight: Any = 1.0
    rest = number
    for g in range(len(tables.columns) - 1, -1, -1):
        rows = tables.rows[g]
        # A float division is faster than an integer one; half a unit keeps the floor exact.
        above = jnp.floor((rest + 0.5) * (1.0 / rows))
        row = jnp.minimum(rest - above * rows, rows - 1).astype(jnp.int32)
        rest = above
        for c, slot in enumerate(plan.columns[g]):
            bound[slot] = jnp.take(tables.columns[g][c], row, mode="clip")
        weight = weight * jnp.take(tables.weights[g], row, mode="clip")
    return bound, weight, rest


def _read_in_order(plan: Plan, tables: Tables, g: int, start: Array, number: Array):
    """`_unrank` where only group g has a table: its rows are the mappings in order, and slices beat gathers by far."""

    def part(column: Any) -> Array:
        return lax.dynamic_slice(column, (start.astype(jnp.int32),), number.shape)

    bound = {slot: part(tables.columns[g][c]) for c, slot in enumerate(plan.columns[g])}
    weight = part(tables.weights[g])
    for other, weights in enumerate(tables.weights):
        if other != g:
            weight = weight * weights[0]
    return bound, weight, jnp.where(number < tables.rows[g], 0.0, 1.0)


def _chunk(plan: Plan, n: Numbers, tables: Tables, picks: tuple[Array, ...], start: Array, size: int):
    """Cost terms of mappings start, start + 1, ..., of a block; those past its end do not fit. Also their weights."""
    bound, weight, rest = _unrank(plan, tables, start, size)
    beyond = jnp.where(rest > 0, jnp.inf, 0.0)
    weight = jnp.where(rest > 0, 0.0, weight)
    for t, (_, _, fixed, free) in enumerate(plan.tiling):
        for d in (*fixed, *free):
            bound.setdefault((d, t), n.bounds[d] if d in plan.single else 1.0)
    costs = cost_terms(plan, n, unroll(plan, n, bound, picks), size)
    weight = jnp.broadcast_to(weight, (size,))
    return costs._replace(weights_cycles=costs.weights_cycles + beyond), weight


@partial(jax.jit, static_argnames=("plan", "size"))
def terms(
    plan: Plan, n: Numbers, tables: Tables, picks: tuple[Array, ...], chunk: Array, size: int
) -> tuple[Costs, Array]:
    """Cost terms of chunk number `chunk` of a block, and how many pruned mappings each of its mappings stands for."""
    return _chunk(plan, n, tables, picks, chunk.astype(jnp.float64) * size, size)


_FAST = {
    "xla_cpu_enable_fast_min_max": True,  # no NaN ever arises here, so minima need not watch for it
    "xla_cpu_multi_thread_eigen": False,  # several chunks run at once; each on one core
    "xla_cpu_prefer_vector_width": 512,
}


@partial(jax.jit, static_argnames=("plan", "size", "most"), compiler_options=_FAST)
def minima(
    plan: Plan,
    n: Numbers,
    tables: Tables,
    picks: tuple[Array, ...],
    first: Array,
    chunks: Array,
    size: int,
    most: int,
) -> tuple[Array, Array, Array]:
    """Least costs of each of the `chunks` <= most chunks from number `first` on, float64 [most, KS, KW, 3], for energy,
    EDP and delay (with the energy as its fraction); the number of pruned mappings that fit each triple, float64
    [KS, KW], and that of all of them, float64."""
    pairs, weights = len(n.packings[INPUTS]) * len(n.packings[OUTPUTS]), len(n.packings[WEIGHTS])

    def chunk(k: Array, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        best, valid, covered = carry
        costs, weight = _chunk(plan, n, tables, picks, (first + k).astype(jnp.float64) * size, size)
        # Without the barrier XLA would compute the terms again for every pair.
        costs, weight = lax.optimization_barrier((costs, weight))
        found = _by_triple(n.tie, costs, lambda w, s, objectives: jnp.stack([jnp.min(x) for x in objectives]))
        return best.at[k].set(found), valid + _valid(costs, weight), covered + jnp.sum(weight)

    start = (jnp.full((most, pairs, weights, len(METRICS)), jnp.inf), jnp.zeros((pairs, weights)), jnp.float64(0))
    return lax.fori_loop(0, chunks, chunk, start)


@jax.jit
def candidates(costs: Costs, tie: Array, limits: Array) -> Array:
    """bool [N]: mappings of a chunk that come within `limits` [KS, KW, 3] for some metric and triple."""

    def within(w: int, s: Array, objectives: tuple[Array, ...]) -> Array:
        close = [(x <= limits[s, w, m]) & (x < jnp.inf) for m, x in enumerate(objectives)]
        return close[0] | close[1] | close[2]

    return jnp.any(_by_triple(tie, costs, within), axis=(0, 1))


def _valid(costs: Costs, weight: Array) -> Array:
    """Sum of the weights of the mappings that fit each triple, [KS, KW]."""
    weights_fit = jnp.where(costs.weights_cycles < jnp.inf, weight, 0.0)
    shared_fit = jnp.where(costs.shared_cycles < jnp.inf, 1.0, 0.0)
    if costs.coupled_cycles is None:
        return shared_fit @ weights_fit.T
    coupled_fit = jnp.where(costs.coupled_cycles < jnp.inf, 1.0, 0.0)
    return jnp.einsum("sn,wn,swn->sw", shared_fit, weights_fit, coupled_fit)


class Block(NamedTuple):
    """A part of the distinct space: one loop order, and some rows of every group."""

    order: dict[int, tuple[int, ...]]
    rows: tuple[np.ndarray, ...]
    counted: bool  # whether the multiplicities count here: each factorisation counts in its first order only

    @property
    def size(self) -> int:
        return int(np.prod([len(rows) for rows in self.rows], dtype=np.int64))

    def at(self, numbers: np.ndarray, space: Mapspace) -> tuple[list[tuple[int, ...]], np.ndarray]:
        """The rows of each group, and the weights, of the mappings with these numbers in the block."""
        positions = np.unravel_index(numbers, [len(rows) for rows in self.rows])
        picks = [rows[at] for rows, at in zip(self.rows, positions, strict=True)]
        weights = np.full(len(numbers), float(self.counted))
        for group, pick in zip(space.groups, picks, strict=True):
            weights *= group.weight[pick]
        return [tuple(int(p) for p in row) for row in zip(*picks, strict=True)], weights


def blocks(space: Mapspace) -> Iterator[Block]:
    """The distinct space in mapping order."""
    for number, choice in enumerate(itertools.product(*(group.orders for group in space.groups))):
        order: dict[int, tuple[int, ...]] = {}
        for of_group, _ in choice:
            order |= of_group
        parts = [[rows[start : start + BLOCK_ROWS] for start in range(0, len(rows), BLOCK_ROWS)] for _, rows in choice]
        for rows in itertools.product(*parts):
            yield Block(order, rows, number == 0)


class Job(NamedTuple):
    """Some chunks of a block, and its tables."""

    block: Block
    tables: Tables
    picks: tuple[np.ndarray, ...]
    first: int
    chunks: int


class Sweeper:
    """Runs the compiled sweep over one mapspace."""

    def __init__(self, space: Mapspace, packings: Packings) -> None:
        self.space, self.packings = space, packings
        self.plan = make_plan(space)
        self.numbers = numbers(space.arch, space.layer, packings.per_tensor)
        triples = int(np.prod([len(p) for p in packings.per_tensor]))
        self.size = 2**12 if triples > 1 else 2**13

    def jobs(self) -> Iterator[Job]:
        for block in blocks(self.space):
            tables, picks = self._tables(block), self._picks(block.order)
            chunks = -(-block.size // self.size)
            for first in range(0, chunks, CHUNKS_PER_CALL):
                yield Job(block, tables, picks, first, min(CHUNKS_PER_CALL, chunks - first))

    def _tables(self, block: Block) -> Tables:
        columns, weights = [], []
        for group, slots, rows in zip(self.space.groups, self.plan.columns, block.rows, strict=True):
            capacity = BLOCK_ROWS if slots else 1
            table = np.ones((len(slots), capacity))
            for c, (d, t) in enumerate(slots):
                table[c, : len(rows)] = group.bounds(d, t, rows)
            weight = np.zeros(capacity)
            weight[: len(rows)] = group.weight[rows] if block.counted else 0.0
            columns.append(table)
            weights.append(weight)
        return Tables(tuple(columns), tuple(weights), tuple(np.float64(len(rows)) for rows in block.rows))

    def _picks(self, order: dict[int, tuple[int, ...]]) -> tuple[np.ndarray, ...]:
        """Per free level, which of its free dimensions stands at each position; unit dimensions come last."""
        picks = []
        for t in self.plan.free_levels:
            free = self.plan.tiling[t][3]
            moving = order.get(t, ())
            sequence = [*moving, *(d for d in free if d not in moving)]
            picks.append(np.array([free.index(d) for d in sequence], np.int32))
        return tuple(picks)

    def _terms(self, job: Job, chunk: int) -> tuple[Costs, jax.Array]:
        return terms(self.plan, self.numbers, job.tables, job.picks, np.int64(job.first + chunk), self.size)

    def minima(self, job: Job, device: Any = None) -> tuple[np.ndarray, np.ndarray, float]:
        """Least costs of the chunks of a job [chunks, KS, KW, 3], fitting mappings [KS, KW], and covered ones.

        device: the JAX device that computes; default JAX's own.
        """
        with jax.enable_x64(True), jax.default_device(device):
            best, valid, covered = minima(
                self.plan,
                self.numbers,
                job.tables,
                job.picks,
                np.int64(job.first),
                np.int64(job.chunks),
                self.size,
                CHUNKS_PER_CALL,
            )
        return np.asarray(best)[: job.chunks], np.asarray(valid), float(covered)

    def operations(self, job: Job) -> float:
        """Floating-point operations per mapping that XLA counts in the cost terms and their combination."""
        with jax.enable_x64(True):
            arguments = (self.plan, self.numbers, job.tables, job.picks, np.int64(0), self.size)
            counted: Any = terms.lower(*arguments).compile().cost_analysis()
        triples = int(np.prod([len(p) for p in self.packings.per_tensor]))
        # Per triple: an addition, a maximum, two multiplications, an addition, and three minima.
        return float(counted["flops"]) / self.size + 8 * triples

    def costs(self, job: Job, chunk: int, triples: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Approximate energies and cycles of the mappings of a chunk that fit, for each packing triple W, I, O."""
        with jax.enable_x64(True):
            terms: list[Any] = [None if x is None else np.asarray(x) for x in self._terms(job, chunk)[0]]
        weights_pj, weights_cycles, shared_pj, shared_cycles, coupled = terms
        for w, i, o in triples:
            s = i * len(self.packings.per_tensor[2]) + o
            cycles = np.maximum(weights_cycles[w], shared_cycles[s])
            if coupled is not None:
                cycles = np.maximum(cycles, coupled[s, w])
            fits = np.isfinite(cycles)
            yield (weights_pj[w] + shared_pj[s])[fits], cycles[fits]

    def candidates(self, job: Job, chunk: int, limits: np.ndarray) -> list[tuple[int, ...]]:
        """Rows of each group, for the mappings of a chunk that come within the limits."""
        with jax.enable_x64(True):
            found = candidates(self._terms(job, chunk)[0], self.numbers.tie, limits)
        numbers = (job.first + chunk) * self.size + np.flatnonzero(np.asarray(found))
        return job.block.at(numbers, self.space)[0]
