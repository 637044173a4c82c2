"""Sweeping a mapspace with compiled programs: the least cost of every packing triple, or which mappings may attain it.

Chunks of mappings are unranked from joint tables (`Mapspace.groups`), their cost terms computed (`mqjax.cost.fast.terms`) and
combined for every triple. Energies may be off by an ulp here, so this module only selects candidates, whose costs the
exact evaluator then computes.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
import operator
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from mqjax.cost.fast.plan import Numbers, Plan, make_plan, numbers
from mqjax.cost.fast.terms import (
    Costs,
    Counts,
    Fits,
    compute_cycles,
    cost_terms,
    count,
    fitting,
    least_cycles,
    least_energies,
    unroll,
)
from mqjax.cost.packing import INPUTS, OUTPUTS, WEIGHTS, Packed, PackingBox
from mqjax.mapspace.joint import Group
from mqjax.mapspace.rows import Block, Numbering, Rows, orders, pruned_weights
from mqjax.mapspace.space import Mapspace
from mqjax.types import METRICS

BLOCK_ROWS = 2**15
"""Rows of a group's table on the device at a time; fixed, so that all layers share one compiled program."""

CHUNKS_PER_CALL = 16

ORDERS_MOST = 2**7
"""Loop orders that get blocks of their own; where there are more, every mapping brings its order along."""


def _objectives(tie: Any, energy: Any, cycles: Any):
    """Energy, EDP and delay of a triple; inf where it does not fit. Delay carries the energy as its fraction, so that
    of equally fast mappings the frugal one is found."""
    return jnp.where(cycles < jnp.inf, energy, jnp.inf), energy * cycles, cycles + energy * tie


def _by_triple(tie: Array, costs: Costs, reduce: Any) -> Any:
    """Stack reduce(w, s, objectives) over all pairs s of Inputs and Outputs packings and all packings w of Weights.

    A loop over pairs keeps the program small: unrolled over 125 triples it takes ten times as long to compile, and runs
    slower. `reduce` returns a scalar or vector; the result has axes [KS, KW, ...].
    """

    def pair(_: None, terms: tuple[Array, tuple[Array | None, ...]]) -> tuple[None, Array]:
        s, of_pair = terms
        of_triples = map(costs.pair(of_pair).triple, range(costs.weights_pj.shape[0]))
        return None, jnp.stack([reduce(w, s, _objectives(tie, *found)) for w, found in enumerate(of_triples)])

    return lax.scan(pair, None, (jnp.arange(costs.shared_pj.shape[0]), costs.of_pairs))[1]


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
    """Counts of mappings start, start + 1, ..., of a block, their weights [size], and which lie past its end."""
    bound, weight, rest = _unrank(plan, tables, start, size)
    beyond = rest > 0
    for t, (_, _, fixed, free) in enumerate(plan.tiling):
        for d in (*fixed, *free):
            bound.setdefault((d, t), n.bounds[d] if d in plan.single else 1.0)
    counts = count(plan, n, unroll(plan, n, bound, picks))
    return counts, jnp.where(beyond, 0.0, jnp.broadcast_to(weight, (size,))), beyond


def _costs(
    plan: Plan, n: Numbers, tables: Tables, picks: tuple[Array, ...], boxes: tuple[Packed, ...], start: Array, size: int
) -> tuple[Costs, ...]:
    """Cost terms of a chunk for each box; mappings past the end of the block do not fit."""
    counts, _, beyond = _chunk(plan, n, tables, picks, start, size)
    costs = [cost_terms(plan, n, counts, packings, size) for packings in boxes]
    return tuple(c._replace(weights_cycles=jnp.where(beyond, jnp.inf, c.weights_cycles)) for c in costs)


@partial(jax.jit, static_argnames=("plan", "size"))
def terms(
    plan: Plan, n: Numbers, tables: Tables, picks: tuple[Array, ...], boxes: tuple[Packed, ...], chunk: Array, size: int
) -> tuple[Costs, ...]:
    """Cost terms of chunk number `chunk` of a block, for each box of packings."""
    return _costs(plan, n, tables, picks, boxes, chunk.astype(jnp.float64) * size, size)


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
    boxes: tuple[Packed, ...],
    first: Array,
    chunks: Array,
    size: int,
    most: int,
) -> tuple[Array, ...]:
    """Least costs of each of the `chunks` <= most chunks from number `first` on, per box float64 [most, KS, KW, 3], for
    energy, EDP and delay (with the energy as its fraction)."""

    def chunk(k: Array, best: tuple[Array, ...]) -> tuple[Array, ...]:
        costs = _costs(plan, n, tables, picks, boxes, (first + k).astype(jnp.float64) * size, size)
        # Without the barrier XLA would compute the terms again for every pair.
        costs = lax.optimization_barrier(costs)
        found = [
            _by_triple(n.tie, c, lambda w, s, objectives: jnp.stack([jnp.min(x) for x in objectives])) for c in costs
        ]
        return tuple(b.at[k].set(f) for b, f in zip(best, found, strict=True))

    shapes = [(len(p.tensors[INPUTS]) * len(p.tensors[OUTPUTS]), len(p.tensors[WEIGHTS])) for p in boxes]
    return lax.fori_loop(0, chunks, chunk, tuple(jnp.full((most, *shape, len(METRICS)), jnp.inf) for shape in shapes))


@partial(jax.jit, static_argnames=("plan", "size"), compiler_options=_FAST)
def candidates(
    plan: Plan,
    n: Numbers,
    tables: Tables,
    picks: tuple[Array, ...],
    boxes: tuple[Packed, ...],
    limits: tuple[Array, ...],
    size: int,
) -> tuple[Array, ...]:
    """Which mappings of the first chunk come within `limits`, per box [KS, KW, 3], for some metric: bool [KS, KW, size]."""

    def within(limit: Array, w: int, s: Array, objectives: tuple[Array, ...]) -> Array:
        close = [(x <= limit[s, w, m]) & (x < jnp.inf) for m, x in enumerate(objectives)]
        return close[0] | close[1] | close[2]

    costs = lax.optimization_barrier(_costs(plan, n, tables, picks, boxes, jnp.float64(0), size))
    return tuple(_by_triple(n.tie, c, partial(within, limit)) for c, limit in zip(costs, limits, strict=True))


class Modes(NamedTuple):
    """Classes of triples by what their MACs cost; axis M."""

    energy_pj: Any  # float64 [M] of an operation, at least
    cycles: Any  # float64 [M] the fastest pace: `operations` operations in so many cycles
    operations: Any  # float64 [M]


class Limits(NamedTuple):
    """What rules out mappings for a box of packings: see `mqjax.mapper.screen`."""

    packings: Packed
    corners: Packed  # per tensor the fewest and the most operands per word, [1 or 2, L]
    limits: Any  # float64 [(M,) corners, 3], corners in the order of Weights, Inputs, Outputs
    open: Any  # float64 [KS, KW]: 1 where every mapping that fits is wanted
    modes: Modes | None  # only where MACs differ by width


SLACK = 2.0**-45
"""The cycles that a level's bandwidth asks for depend on the pace of the MACs by rounding alone, far less than this."""


@partial(jax.jit, static_argnames=("plan", "size", "most", "some_open"), compiler_options=_FAST)
def screen(
    plan: Plan,
    n: Numbers,
    tables: Tables,
    picks: tuple[Array, ...],
    boxes: tuple[Limits, ...],
    first: Array,
    chunks: Array,
    size: int,
    most: int,
    some_open: bool,
) -> tuple[Array, tuple[Array, ...], Array]:
    """Which mappings of the `chunks` <= most chunks from number `first` on cannot be ruled out by lower bounds, int8
    [most, size]: 0 ruled out, 1 not, 2 not and doubtful; per box the number of pruned mappings that fit each triple,
    float64 [KS, KW]; and that of all.

    some_open: whether any box has open triples; a program of its own, as looking for these takes a quarter of the time.
    """

    def chunk(k: Array, carry: tuple[Array, tuple[Array, ...], Array]) -> tuple[Array, tuple[Array, ...], Array]:
        found, valid, covered = carry
        counts, weight, beyond = _chunk(plan, n, tables, picks, (first + k).astype(jnp.float64) * size, size)
        within, fit = zip(
            *(_screened(plan, n, counts, box, weight, ~beyond, size, some_open) for box in boxes), strict=True
        )
        valid = tuple(before + more for before, more in zip(valid, fit, strict=True))
        kept = functools.reduce(operator.or_, within).astype(jnp.int8)
        if counts.doubtful is not None:
            kept = jnp.where(counts.doubtful, 2 * kept, kept)
        return found.at[k].set(kept), valid, covered + jnp.sum(weight)

    valid = tuple(jnp.zeros(box.open.shape) for box in boxes)
    return lax.fori_loop(0, chunks, chunk, (jnp.zeros((most, size), jnp.int8), valid, jnp.float64(0)))


def _screened(
    plan: Plan, n: Numbers, counts: Counts, box: Limits, weight: Array, inside: Array, size: int, some_open: bool
) -> tuple[Array, Array]:
    """Which mappings of a chunk may be wanted for a box, and the weight of those that fit each triple [KS, KW]."""
    fits = fitting(plan, n, counts, box.packings, size)
    fits = Fits(fits.weights.astype(jnp.float64), fits.shared.astype(jnp.float64), fits.coupled)
    energies = least_energies(n, counts, box.corners, size)
    fitting_most = inside & (fits.weights[-1] * fits.shared[-1] > 0)

    def within(limits: Array, mac_pj: Any, computing: Any, slack: float) -> Array:
        cycles = least_cycles(plan, n, counts, box.corners, computing, size, slack)
        least = jnp.where(fitting_most, cycles, jnp.inf)
        kept = jnp.zeros(size, bool)
        for limit, terms in zip(limits, itertools.product(*energies), strict=True):
            energy = sum(terms) + mac_pj
            objectives = (energy, energy * least, least + energy * n.tie)
            kept |= functools.reduce(operator.or_, (x <= limit[m] for m, x in enumerate(objectives)))
        # An energy limit knows no cycles, so it needs the mask of those that fit.
        return kept & (least < jnp.inf)

    def of_mode(kept: Array, mode: tuple[Array, Modes]) -> tuple[Array, None]:
        limits, mac = mode
        found = within(limits, n.macs * mac.energy_pj, compute_cycles(counts, mac.cycles, mac.operations), SLACK)
        return kept | found, None

    if box.modes is None:
        kept = within(box.limits, counts.mac_pj, counts.steps, 0.0)
    else:
        kept = lax.scan(of_mode, jnp.zeros(size, bool), (box.limits, box.modes))[0]
    if some_open:
        kept |= _fit_one_of(fits, box.open) & inside
    return kept, _fit_weights(fits, weight)


def _fit_one_of(fits: Fits, open_: Array) -> Array:
    """Which mappings fit one of the triples that `open_` [KS, KW] marks."""
    if fits.coupled is None:
        return jnp.sum(fits.shared * (open_ @ fits.weights), axis=0) > 0
    return jnp.einsum("sw,wn,sn,swn->n", open_, fits.weights, fits.shared, fits.coupled.astype(jnp.float64)) > 0


def _fit_weights(fits: Fits, weight: Array) -> Array:
    """Sum of the weights of the mappings that fit each triple, [KS, KW]."""
    if fits.coupled is None:
        return (fits.shared * weight) @ fits.weights.T
    return jnp.einsum("sn,wn,swn,n->sw", fits.shared, fits.weights, fits.coupled.astype(jnp.float64), weight)


class Job(NamedTuple):
    """Chunks first, first + 1, ... of block number `block`; or the mappings `rows`, each with its loop order."""

    block: int
    first: int
    chunks: int
    rows: Rows | None = None


class Found(NamedTuple):
    """What the screen says of a job: the mappings that no limit rules out, apart from them those that are doubtful
    (`terms.doubtful`), per box how many pruned mappings fit each triple, float64 [KS, KW], and how many there are."""

    kept: Rows
    doubtful: Rows
    valid: tuple[np.ndarray, ...]
    covered: float


class Sweeper:
    """Runs the compiled programs over one mapspace."""

    def __init__(self, space: Mapspace, boxes: Sequence[PackingBox]) -> None:
        self.space = space
        self.boxes = tuple(boxes)
        self._packed = tuple(box.packed for box in self.boxes)
        self.plan = make_plan(space)
        self.numbers = numbers(space.arch, space.layer)
        self.chosen_size = 2**11
        self.size = 2**12 if max(len(box.triples) for box in boxes) > 1 else 2**13
        self.numbering = Numbering(space)
        # Chosen mappings have one table of all columns, which is read in order.
        self._flat = dataclasses.replace(self.plan, columns=(tuple(itertools.chain(*self.plan.columns)),))
        self._order_picks = [self._picks_of_orders(t) for t in self.plan.free_levels]
        # A block's tables serve several jobs in a row, on each device.
        self._tables = functools.lru_cache(maxsize=2 * len(jax.local_devices()) + 2)(self._block_tables)
        self._blocks = [
            Block(whole.number, whole.order, rows)
            for whole in (orders(space) if math.prod(self.numbering.shape) <= ORDERS_MOST else ())
            for rows in itertools.product(
                *([rows[i : i + BLOCK_ROWS] for i in range(0, len(rows), BLOCK_ROWS)] for rows in whole.rows)
            )
        ]

    @property
    def has_blocks(self) -> bool:
        """Whether loop orders have blocks of their own, or every mapping brings its order along."""
        return bool(self._blocks)

    def jobs(self) -> Iterator[Job]:
        """The whole space in pieces."""
        if not self._blocks:
            total = len(self.numbering)
            for start in range(0, total, self.chosen_size):
                numbers = np.arange(start, min(start + self.chosen_size, total))
                yield Job(0, 0, 1, self.numbering.at(numbers))
        for number, block in enumerate(self._blocks):
            chunks = -(-block.size // self.size)
            for first in range(0, chunks, CHUNKS_PER_CALL):
                yield Job(number, first, min(CHUNKS_PER_CALL, chunks - first))

    def _block_tables(self, number: int, device: Any) -> tuple[Numbers, Tables, tuple[Array, ...]]:
        """The numbers, the tables of a block, and its loop orders, on a device."""
        block = self._blocks[number]
        columns, weights = [], []
        for group, slots, rows in zip(self.space.groups, self.plan.columns, block.rows, strict=True):
            capacity = BLOCK_ROWS if slots else 1
            table = np.empty((len(slots), capacity))
            table[:, len(rows) :] = 1
            self._write_bounds(table, group, slots, rows)
            weight = np.zeros(capacity)
            weight[: len(rows)] = group.weight[rows] if block.counted else 0.0
            columns.append(table)
            weights.append(weight)
        tables = Tables(tuple(columns), tuple(weights), tuple(np.float64(len(rows)) for rows in block.rows))
        return jax.device_put((self.numbers, tables, self._picks(block.order)), device)

    @staticmethod
    def _write_bounds(table: np.ndarray, group: Group, slots: tuple[tuple[int, int], ...], rows: np.ndarray) -> None:
        """Write the bounds of a group's rows at the given slots, one column of `table` [slots, >= rows] each."""
        places = [pick[rows] for pick in group.picks]
        for column, (d, t) in zip(table, slots, strict=True):
            i = group.dims.index(d)
            column[: len(rows)] = group.tables[i][:, t][places[i]]

    def _picks(self, order: dict[int, tuple[int, ...]]) -> tuple[np.ndarray, ...]:
        """Per free level, which of its free dimensions stands at each position; unit dimensions come last."""
        return tuple(self._picks_of_level(t, order.get(t, ())) for t in self.plan.free_levels)

    def _picks_of_level(self, t: int, moving: tuple[int, ...]) -> np.ndarray:
        free = self.plan.tiling[t][3]
        sequence = [*moving, *(d for d in free if d not in moving)]
        return np.array([free.index(d) for d in sequence], np.int32)

    def _picks_of_orders(self, t: int) -> tuple[int, np.ndarray]:
        """The group to which a free level belongs, and its picks int32 [positions, orders of the group]."""
        first = self.plan.tiling[t][3][0]
        number, group = next((i, g) for i, g in enumerate(self.space.groups) if first in g.dims)
        picks = [self._picks_of_level(t, order.get(t, ())) for order, _ in group.orders]
        return number, np.stack(picks, axis=1)

    def chosen_tables(self, rows: Rows) -> tuple[Tables, tuple[np.ndarray, ...]]:
        """One table of at most `chosen_size` mappings with their weights, and their loop orders."""
        columns = np.ones((len(self._flat.columns[0]), self.chosen_size))
        first = 0
        for group, slots, picks in zip(self.space.groups, self.plan.columns, rows.rows.T, strict=True):
            self._write_bounds(columns[first : first + len(slots)], group, slots, picks)
            first += len(slots)
        order = np.zeros(self.chosen_size, np.int32)
        order[: len(rows)] = rows.order
        weight = np.zeros(self.chosen_size)
        weight[: len(rows)] = pruned_weights(self.space, rows)
        tables = Tables((columns,), (weight,), (np.float64(len(rows)),))
        digits = self.numbering.digits(order)
        return tables, tuple(picks[:, digits[group]] for group, picks in self._order_picks)

    def minima(self, job: Job, device: Any = None) -> tuple[np.ndarray, ...]:
        """Least costs of the chunks of a job, per box float64 [chunks, KS, KW, 3].

        device: the JAX device that computes; default JAX's own.
        """
        with jax.enable_x64(True), jax.default_device(device):
            best = minima(
                self.plan,
                *self._tables(job.block, device),
                self._packed,
                np.int64(job.first),
                np.int64(job.chunks),
                self.size,
                CHUNKS_PER_CALL,
            )
        return tuple(np.asarray(of_box)[: job.chunks] for of_box in best)

    def screen(self, job: Job, limits: tuple[Limits, ...], device: Any = None) -> Found:
        """Which mappings of a job the limits of no box rule out."""
        some_open = any(of_box.open.any() for of_box in limits)
        with jax.enable_x64(True), jax.default_device(device):
            if job.rows is None:
                chunks = np.int64(job.first), np.int64(job.chunks)
                arguments = (*self._tables(job.block, device), limits, *chunks, self.size, CHUNKS_PER_CALL)
                found, valid, covered = screen(self.plan, *arguments, some_open)
            else:
                tables, picks = self.chosen_tables(job.rows)
                arguments = (self.numbers, tables, picks, limits, np.int64(0), np.int64(1), self.chosen_size, 1)
                found, valid, covered = screen(self._flat, *arguments, some_open)
        kept, doubtful = (self._rows(job, np.flatnonzero(np.asarray(found) == kind)) for kind in (1, 2))
        return Found(kept, doubtful, tuple(np.asarray(x) for x in valid), float(covered))

    def _rows(self, job: Job, numbers: np.ndarray) -> Rows:
        """The mappings of a job with these numbers."""
        if job.rows is not None:
            return job.rows.take(numbers)
        return self._blocks[job.block].at(job.first * self.size + numbers)

    def least(self, rows: Rows, device: Any = None) -> tuple[np.ndarray, ...]:
        """Least costs of at most `chosen_size` mappings, per box float64 [KS, KW, 3]."""
        with jax.enable_x64(True), jax.default_device(device):
            tables, picks = self.chosen_tables(rows)
            zero, one = np.int64(0), np.int64(1)
            best = minima(self._flat, self.numbers, tables, picks, self._packed, zero, one, self.chosen_size, 1)
        return tuple(np.asarray(of_box)[0] for of_box in best)

    def candidates(self, rows: Rows, limits: Sequence[np.ndarray]) -> tuple[np.ndarray, ...]:
        """Which of at most `chosen_size` mappings come within `limits`, per box [KS, KW, 3]: bool [KS, KW, N]."""
        with jax.enable_x64(True):
            tables, picks = self.chosen_tables(rows)
            found = candidates(self._flat, self.numbers, tables, picks, self._packed, tuple(limits), self.chosen_size)
        return tuple(np.asarray(of_box)[..., : len(rows)] for of_box in found)

    def sample(self, count: int) -> Rows:
        """About `count` mappings at equal distances in the space."""
        total = len(self.numbering)
        step = max(1, total // count)
        return self.numbering.at(np.arange(step // 2, total, step))

    def operations(self, job: Job) -> float:
        """Floating-point operations per mapping that XLA counts in the cost terms and their combination."""
        with jax.enable_x64(True):
            arguments = (*self._tables(job.block, None), self._packed, np.int64(0), self.size)
            counted: Any = terms.lower(self.plan, *arguments).compile().cost_analysis()
        triples = sum(math.prod(box.shape) for box in self.boxes)
        # Per triple: an addition, a maximum, two multiplications, an addition, and three minima.
        return float(counted["flops"]) / self.size + 8 * triples

    def costs(self, job: Job, chunk: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Approximate energies and cycles of the mappings of a chunk that fit, for each triple of each box in turn."""
        with jax.enable_x64(True):
            number = np.int64(job.first + chunk)
            found = terms(self.plan, *self._tables(job.block, None), self._packed, number, self.size)
        for box, of_box in zip(self.boxes, found, strict=True):
            of_pairs = [None if x is None else np.asarray(x) for x in of_box.of_pairs]
            for s, w in zip(*box.places, strict=True):
                of_pair = of_box.pair(tuple(None if x is None else x[s] for x in of_pairs))
                energy, cycles = map(np.asarray, of_pair.triple(w))
                fits = np.isfinite(cycles)
                yield energy[fits], cycles[fits]
