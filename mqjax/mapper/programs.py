"""The compiled programs of a sweep: least costs, candidates and screens of a block of mappings, for all packings at once.

Chunks of mappings are unranked from joint tables (`Mapspace.groups`), their cost terms computed (`mqjax.cost.fast.terms`) and
combined for every triple. Energies may be off by an ulp here.
"""

from __future__ import annotations

import functools
import itertools
import operator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from mqjax.cost.fast.plan import Numbers, Plan
from mqjax.cost.fast.terms import (
    Costs,
    Counts,
    Fits,
    compute_cycles,
    cost_terms,
    counts_of,
    least_cycles,
    least_energies,
    unroll,
    what_fits,
)
from mqjax.cost.packing import INPUTS, OUTPUTS, WEIGHTS, Packed
from mqjax.types import METRICS


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
    """What a compiled program reads of a block of mappings: one block of each group's joint table, G groups."""

    numbers: Numbers  # of the layer and the accelerator
    columns: tuple[Any, ...]  # G times float64 [columns, capacity] bounds
    weights: tuple[Any, ...]  # G times float64 [capacity] pruned mappings that a row stands for
    rows: tuple[Any, ...]  # G times float64 [] rows in use
    picks: tuple[Any, ...]  # loop orders, per free level int32 [positions] or [positions, N]: see `terms.unroll`


def unrank(plan: Plan, tables: Tables, start: Array, size: int) -> tuple[dict[tuple[int, int], Any], Any, Any]:
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
    """`unrank` where only group g has a table: its rows are the mappings in order, and slices beat gathers by far."""

    def part(column: Any) -> Array:
        return lax.dynamic_slice(column, (start.astype(jnp.int32),), number.shape)

    bound = {slot: part(tables.columns[g][c]) for c, slot in enumerate(plan.columns[g])}
    weight = part(tables.weights[g])
    for other, weights in enumerate(tables.weights):
        if other != g:
            weight = weight * weights[0]
    return bound, weight, jnp.where(number < tables.rows[g], 0.0, 1.0)


def chunk_counts(plan: Plan, tables: Tables, start: Array, size: int):
    """Counts of mappings start, start + 1, ..., of a block, their weights [size], and which lie past its end."""
    bound, weight, rest = unrank(plan, tables, start, size)
    beyond, n = rest > 0, tables.numbers
    for t, (_, _, fixed, free) in enumerate(plan.tiling):
        for d in (*fixed, *free):
            bound.setdefault((d, t), n.bounds[d] if d in plan.single else 1.0)
    counts = counts_of(plan, n, unroll(plan, n, bound, tables.picks))
    return counts, jnp.where(beyond, 0.0, jnp.broadcast_to(weight, (size,))), beyond


def _costs(plan: Plan, tables: Tables, boxes: tuple[Packed, ...], start: Array, size: int) -> tuple[Costs, ...]:
    """Cost terms of a chunk for each box; mappings past the end of the block do not fit."""
    counts, _, beyond = chunk_counts(plan, tables, start, size)
    costs = [cost_terms(plan, tables.numbers, counts, packings, size) for packings in boxes]
    return tuple(c._replace(weights_cycles=jnp.where(beyond, jnp.inf, c.weights_cycles)) for c in costs)


@partial(jax.jit, static_argnames=("plan", "size"))
def priced(plan: Plan, tables: Tables, boxes: tuple[Packed, ...], chunk: Array, size: int) -> tuple[Costs, ...]:
    """Cost terms of chunk number `chunk` of a block, for each box of packings."""
    return _costs(plan, tables, boxes, chunk.astype(jnp.float64) * size, size)


FAST = {
    "xla_cpu_enable_fast_min_max": True,  # no NaN ever arises here, so minima need not watch for it
    "xla_cpu_multi_thread_eigen": False,  # several chunks run at once; each on one core
    "xla_cpu_prefer_vector_width": 512,
}


@partial(jax.jit, static_argnames=("plan", "size", "most"), compiler_options=FAST)
def minima(
    plan: Plan,
    tables: Tables,
    boxes: tuple[Packed, ...],
    first: Array,
    chunks: Array,
    size: int,
    most: int,
) -> tuple[Array, ...]:
    """Least costs of each of the `chunks` <= most chunks from number `first` on, per box float64 [most, KS, KW, 3], for
    energy, EDP and delay (with the energy as its fraction)."""

    def chunk(k: Array, best: tuple[Array, ...]) -> tuple[Array, ...]:
        costs = _costs(plan, tables, boxes, (first + k).astype(jnp.float64) * size, size)
        # Without the barrier XLA would compute the terms again for every pair.
        costs = lax.optimization_barrier(costs)
        found = [
            _by_triple(tables.numbers.tie, c, lambda w, s, objectives: jnp.stack([jnp.min(x) for x in objectives]))
            for c in costs
        ]
        return tuple(b.at[k].set(f) for b, f in zip(best, found, strict=True))

    shapes = [(len(p.tensors[INPUTS]) * len(p.tensors[OUTPUTS]), len(p.tensors[WEIGHTS])) for p in boxes]
    return lax.fori_loop(0, chunks, chunk, tuple(jnp.full((most, *shape, len(METRICS)), jnp.inf) for shape in shapes))


@partial(jax.jit, static_argnames=("plan", "size"), compiler_options=FAST)
def candidates(
    plan: Plan,
    tables: Tables,
    boxes: tuple[Packed, ...],
    limits: tuple[Array, ...],
    size: int,
) -> tuple[Array, ...]:
    """Which mappings of the first chunk come within `limits`, per box [KS, KW, 3], for some metric: bool [KS, KW, size]."""

    def within(limit: Array, w: int, s: Array, objectives: tuple[Array, ...]) -> Array:
        close = [(x <= limit[s, w, m]) & (x < jnp.inf) for m, x in enumerate(objectives)]
        return close[0] | close[1] | close[2]

    costs = lax.optimization_barrier(_costs(plan, tables, boxes, jnp.float64(0), size))
    return tuple(
        _by_triple(tables.numbers.tie, c, partial(within, limit)) for c, limit in zip(costs, limits, strict=True)
    )


class Modes(NamedTuple):
    """Classes of triples by what their MACs cost; axis M."""

    energy_pj: Any  # float64 [M] of an operation, at least
    cycles: Any  # float64 [M] the fastest pace: `operations` operations in so many cycles
    operations: Any  # float64 [M]


class Limits(NamedTuple):
    """What rules out mappings for a box of packings: see `mqjax.mapper.limits`."""

    packings: Packed
    corners: Packed  # per tensor the fewest and the most operands per word, [1 or 2, L]
    limits: Any  # float64 [(M,) corners, 3], corners in the order of Weights, Inputs, Outputs
    open: Any  # float64 [KS, KW]: 1 where every mapping that fits is wanted
    modes: Modes | None  # only where MACs differ by width


SLACK = 2.0**-45
"""The cycles that a level's bandwidth asks for depend on the pace of the MACs by rounding alone, far less than this."""


@partial(jax.jit, static_argnames=("plan", "size", "most", "some_open"), compiler_options=FAST)
def screen(
    plan: Plan,
    tables: Tables,
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
        counts, weight, beyond = chunk_counts(plan, tables, (first + k).astype(jnp.float64) * size, size)
        within, fit = zip(
            *(screened(plan, tables.numbers, counts, box, weight, ~beyond, size, some_open) for box in boxes),
            strict=True,
        )
        valid = tuple(before + more for before, more in zip(valid, fit, strict=True))
        kept = functools.reduce(operator.or_, within).astype(jnp.int8)
        if counts.doubtful is not None:
            kept = jnp.where(counts.doubtful, 2 * kept, kept)
        return found.at[k].set(kept), valid, covered + jnp.sum(weight)

    valid = tuple(jnp.zeros(box.open.shape) for box in boxes)
    return lax.fori_loop(0, chunks, chunk, (jnp.zeros((most, size), jnp.int8), valid, jnp.float64(0)))


def screened(
    plan: Plan, n: Numbers, counts: Counts, box: Limits, weight: Array, inside: Array, size: int, some_open: bool
) -> tuple[Array, Array]:
    """Which mappings of a chunk may be wanted for a box, and the weight of those that fit each triple [KS, KW]."""
    fits = what_fits(plan, n, counts, box.packings, size)
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
