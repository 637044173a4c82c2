"""The cost model on the fast path: cost terms of a chunk of mappings, for every packing of each tensor.

Where neighbours cannot forward data to each other and multicast groups are products of bounds, the model of MODEL.md
sections 6 and 7 collapses: between a level that keeps a tensor and the next one that does, bypassed levels only pass
demand outwards, so

    content at the next keeper = Delta * product of multicast groups in between
    Delta = F S_0 - (F - d0) sum_{j: D_j = v_0} (S_j - S_{j+1}),    S_j = product of the bounds of loops j, j+1, ...

with loop 0 the innermost loop of bound > 1 outside the tile. For tensors without halo the sum telescopes: Delta = F S_r
with r the first relevant loop. Counts contain no bit-width; a packing enters as ceil(count / (operands * block)).
Mappings that may be otherwise are told apart (`doubtful`): they get lower bounds here and their price elsewhere.

Exactness: every count is an integer below 2^48 held in float64 and so exact, and the ceilings are exact (`_ceil`).
Energies may be off by an ulp, as XLA may fuse multiplications with additions.

All in one module, of which `mqjax bench` runs a second copy on NumPy.

Axes: N mappings of a chunk; per tensor its distinct packings (Weights, Inputs, Outputs: KW, KI, KO).
"""

from __future__ import annotations

import functools
import math
import operator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from mqjax.cost.fast.plan import Numbers, Plan, Ranks
from mqjax.cost.packing import INPUTS, OUTPUTS, WEIGHTS, Packed
from mqjax.projection import TENSORS

LARGEST_SWEPT = 2.0**48
"""Counts below this are exact here, their ceilings included (`_ceil`)."""

LEAST_PJ = 1e-200
"""Energies of 0 count as this much."""


class Loop(NamedTuple):
    """A temporal loop. `dims` are the dimensions that it may be, `picks[i]` whether it is dims[i] (None: it is)."""

    bound: Any
    level: int
    dims: tuple[int, ...]
    picks: tuple[Any, ...]
    w: Any  # shift of Inputs along width, or None where always 0
    h: Any


class Nest(NamedTuple):
    """A chunk of mappings, unrolled."""

    ranks: Ranks
    loops: list[Loop]  # temporal, inner to outer
    suffix: list[Any]  # S_j: product of the bounds of loops j, j+1, ...; one longer than loops
    extents: list[dict[int, Any]]  # per level: extent of each dimension
    spatial: list[dict[int, Any]]  # per level: bound of each spatial loop
    inside: list[Any]  # per level: number of instances in use
    reach: list[tuple[Any, Any]]  # per level: how far apart along width and height the Inputs of two children may lie


def _multiplied(factors: Any) -> Any:
    return math.prod(factors, start=1.0)


def unroll(plan: Plan, n: Numbers, bound: dict[tuple[int, int], Any], picks: tuple[Array, ...]) -> Nest:
    """Loops, extents and instances from the bounds of all slots. picks: per free level, which of its free dimensions
    stands at each position, int32 [positions] or, if that differs among the mappings, [positions, N]."""
    extent: dict[int, Any] = {d: 1.0 for d in range(n.bounds.shape[0])}
    loops: list[Loop] = []
    extents: list[dict[int, Any]] = []
    spatial: list[dict[int, Any]] = [{} for _ in plan.keep]
    reach: list[tuple[Any, Any]] = [(0.0, 0.0)] * len(plan.keep)
    pairs = plan.ranks.pairs
    step = {d: n.step[d] for pair in pairs for d in pair}
    for t, (level, is_spatial, fixed, free) in enumerate(plan.tiling):
        if is_spatial:
            for d in (*fixed, *free):
                spatial[level][d] = bound[d, t]
            width, height = (
                sum((bound[d, t] - 1) * step[d] * extent[d] for d in pair if d in spatial[level]) for pair in pairs
            )
            reach[level] = width, height
        else:
            shift = {d: step[d] * extent[d] for d in (*fixed, *free) if d in step}
            for d in fixed:
                loops.append(Loop(bound[d, t], level, (d,), (None,), *_shifts(pairs, (d,), (None,), shift)))
            if len(free) == 1:
                loops.append(Loop(bound[free[0], t], level, free, (None,), *_shifts(pairs, free, (None,), shift)))
            elif free:
                order = picks[plan.free_levels.index(t)]
                for position in range(len(free)):
                    is_dim = tuple(order[position] == i for i in range(len(free)))
                    size = _select(is_dim, [bound[d, t] for d in free])
                    loops.append(Loop(size, level, free, is_dim, *_shifts(pairs, free, is_dim, shift)))
        for d in (*fixed, *free):
            extent[d] = extent[d] * bound[d, t]
        if not is_spatial:
            extents.append(dict(extent))
    suffix = [1.0]
    for loop in reversed(loops):
        suffix.append(suffix[-1] * loop.bound)
    inside: list[Any] = [1.0] * len(plan.keep)
    for level in range(len(plan.keep) - 2, -1, -1):
        inside[level] = inside[level + 1] * _multiplied(spatial[level + 1].values())
    return Nest(plan.ranks, loops, suffix[::-1], extents, spatial, inside, reach)


def _select(is_dim: tuple[Any, ...], values: list[Any]) -> Any:
    result = values[-1]
    for flag, value in zip(is_dim[:-1], values[:-1], strict=True):
        result = jnp.where(flag, value, result)
    return result


def _shifts(
    pairs: tuple[tuple[int, ...], ...], dims: tuple[int, ...], picks: tuple[Any, ...], shift: dict[int, Any]
) -> tuple[Any, Any]:
    """How far one step of a loop moves Inputs along width and height; `None` where it never does."""
    result = []
    for pair in pairs:
        if not any(d in pair for d in dims):
            result.append(None)
        elif len(dims) == 1:
            result.append(shift[dims[0]])
        else:
            result.append(_select(picks, [shift[d] if d in pair else 0.0 for d in dims]))
    return tuple(result)


def _is_one_of(loop: Loop, dims: tuple[int, ...]) -> Any:
    """Whether a loop runs over one of `dims`: a Python bool where the plan decides, else a traced flag."""
    inside = [d in dims for d in loop.dims]
    if all(inside) or not any(inside):
        return inside[0]
    flags = [pick for pick, is_in in zip(loop.picks, inside, strict=True) if is_in]
    return functools.reduce(operator.or_, flags)


def _relevant(tensor: int, loop: Loop, nest: Nest, n: Numbers) -> Any:
    """Whether Weights or Outputs depend on the loop."""
    own = nest.ranks.own[tensor]
    sure = _is_one_of(loop, tuple(d for d, always in own if always))
    perhaps = [(d, _is_one_of(loop, (d,))) for d, always in own if not always]
    flags = [is_dim & n.indexes[tensor, d] for d, is_dim in perhaps if is_dim is not False]
    return sure if sure is True or not flags else functools.reduce(operator.or_, flags) | sure


def _deliveries(tensor: int, level: int, nest: Nest, n: Numbers) -> Any:
    """Delta of the tile that `level` holds of Weights or Outputs."""
    first = next(j for j in range(len(nest.loops) + 1) if j == len(nest.loops) or nest.loops[j].level > level)
    factor: Any = 1.0
    for j in range(len(nest.loops) - 1, first - 1, -1):
        relevant = _relevant(tensor, nest.loops[j], nest, n)
        if relevant is not False:
            counts = nest.loops[j].bound > 1
            factor = jnp.where(counts if relevant is True else counts & relevant, nest.suffix[j], factor)
    return _tile(tensor, level, nest, n) * factor


def _input_lengths(level: int, nest: Nest, n: Numbers) -> list[Any]:
    """Width and height of the tile of Inputs."""
    e = nest.extents[level]
    return [1 + sum(n.step[d] * (e[d] - 1) for d in pair) for pair in nest.ranks.pairs]


def _own_ranks(tensor: int, extents: dict[int, Any], nest: Nest, n: Numbers) -> Any:
    """Product of the extents along the ranks of a tensor that have one dimension."""
    return _multiplied(
        extents[d] if always else jnp.where(n.indexes[tensor, d], extents[d], 1.0)
        for d, always in nest.ranks.own[tensor]
        if d in extents
    )


def _tile(tensor: int, level: int, nest: Nest, n: Numbers) -> Any:
    """Elements of the tile that one instance of `level` holds (MODEL.md section 1)."""
    lengths = _input_lengths(level, nest, n) if tensor == INPUTS else []
    return _multiplied([_own_ranks(tensor, nest.extents[level], nest, n), *lengths])


def _input_deliveries(level: int, nest: Nest, n: Numbers) -> Any:
    """Delta of the tile of Inputs at `level`, with halos and coincidences.

    `at_w`, `at_h` is v_0 plus the sum of all shifts so far: loop j repeats the first move where its own shift equals
    that. A loop along another rank gets a shift of its own, larger than any sum of real ones, so that it never matches.
    """
    alone = tuple(d for d, _ in nest.ranks.own[INPUTS])
    at_w: Any = 0.0
    at_h: Any = 0.0
    first_w: Any = 0.0
    first_h: Any = 0.0
    started: Any = False
    repeated: Any = 0.0
    for j, loop in enumerate(nest.loops):
        if loop.level <= level:
            continue
        moves = loop.bound > 1
        far = _is_one_of(loop, alone)
        w, h = loop.w, loop.h
        if far is not False:
            huge = 2.0 ** (200 + 4 * j)
            w = huge if far is True else jnp.where(far, huge, 0.0 if w is None else w)
        starts = moves if started is False else moves & ~started
        if far is not True:
            same = (at_w == (0.0 if w is None else w)) & (at_h == (0.0 if h is None else h))
            alike = same if w is None and h is None else same | starts
            if far is not False:
                alike = alike & ~far
            repeated = repeated + jnp.where(alike, nest.suffix[j] - nest.suffix[j + 1], 0.0)
        if w is not None:
            first_w = jnp.where(starts, w, first_w)
            at_w = at_w + jnp.where(moves, jnp.where(starts, 2 * w, w), 0.0)
        if h is not None:
            first_h = jnp.where(starts, h, first_h)
            at_h = at_h + jnp.where(moves, jnp.where(starts, 2 * h, h), 0.0)
        started = moves if started is False else moves | started
    width, height = _input_lengths(level, nest, n)
    own = _own_ranks(INPUTS, nest.extents[level], nest, n)
    overlap = own * jnp.maximum(width - first_w, 0.0) * jnp.maximum(height - first_h, 0.0)
    first = next((j for j, loop in enumerate(nest.loops) if loop.level > level), len(nest.loops))
    return own * width * height * nest.suffix[first] - overlap * repeated


def doubtful(plan: Plan, nest: Nest, n: Numbers) -> Any:
    """Which mappings may be outside the fast path; `None` where the space has none (`mqjax.mapspace.doubt`)."""
    if not plan.forwarding:
        return None
    found: Any = jnp.zeros((), bool)
    for level, spatial in enumerate(nest.spatial):
        for first, second in plan.ranks.pairs:
            if first in spatial and second in spatial:
                found |= (spatial[first] > 1) & (spatial[second] > 1)
        if spatial and level > 0:
            found |= _forwards(level, nest, n) & (_multiplied(spatial.values()) > 1)
    return found


def _forwards(level: int, nest: Nest, n: Numbers) -> Any:
    """Whether a step of the loops outside `level` may move Inputs as far as the data of two of its children lie apart.

    Such a step is the first of its kind nowhere, and follows one of the same shape: either all of them deliver whole
    tiles, as tiles of loop 0 do not overlap, or some outer loop repeats the move of loop 0 (MODEL.md section 6).
    """
    alone = tuple(d for d, _ in nest.ranks.own[INPUTS])
    inside_w: Any = 0.0  # sum of the shifts of the loops further in
    inside_h: Any = 0.0
    first_w: Any = 0.0
    first_h: Any = 0.0
    started: Any = False
    meets: Any = False
    repeats: Any = False
    reach_w, reach_h = nest.reach[level]
    for j, loop in enumerate(nest.loops):
        if loop.level < level:
            continue
        moves = loop.bound > 1
        w, h = (0.0 if shift is None else shift for shift in (loop.w, loop.h))
        far = _is_one_of(loop, alone)
        if far is not False:
            w = jnp.where(far, 2.0 ** (200 + 4 * j), w)
        starts = moves & ~jnp.asarray(started)
        meets |= moves & (jnp.abs(w - inside_w) <= reach_w) & (jnp.abs(h - inside_h) <= reach_h)
        repeats |= moves & ~starts & (w == inside_w + first_w) & (h == inside_h + first_h)
        first_w, first_h = jnp.where(starts, w, first_w), jnp.where(starts, h, first_h)
        inside_w, inside_h = inside_w + jnp.where(moves, w, 0.0), inside_h + jnp.where(moves, h, 0.0)
        started |= moves
    width, height = _input_lengths(level - 1, nest, n)
    disjoint = (first_w >= width) | (first_h >= height)
    return meets & (disjoint | repeats) & ((first_w > 0) | (first_h > 0))


class _Traffic(NamedTuple):
    """Accesses of a tensor at a level that keeps it, in elements per instance; `None` where there can be none."""

    tile: Any
    reads: Any
    fills: Any
    updates: Any


def _multicast_groups(tensor: int, level: int, nest: Nest, n: Numbers) -> Any:
    """Number of multicast groups at a level: the product of its relevant spatial bounds."""
    spatial = nest.spatial[level]
    sliding = [d for pair in nest.ranks.pairs for d in pair] if tensor == INPUTS else []
    return _multiplied([_own_ranks(tensor, spatial, nest, n), *(spatial[d] for d in sliding if d in spatial)])


def _traffic(plan: Plan, tensor: int, nest: Nest, n: Numbers, doubt: Any) -> dict[int, _Traffic]:
    """Reads, fills and updates at every level that keeps the tensor (MODEL.md section 7); of Inputs of doubtful mappings
    the least that there can be."""
    keepers = [s for s, keep in enumerate(plan.keep) if keep[tensor]]
    outermost = len(plan.keep) - 1
    result = {}
    demand, passed = nest.suffix[0], -1
    least = demand
    for s in keepers:
        content = demand * _multiplied(_multicast_groups(tensor, u, nest, n) for u in range(passed + 1, s + 1))
        tile = _tile(tensor, s, nest, n)
        delivered = fills = None
        if s < outermost:
            delivered = fills = _input_deliveries(s, nest, n) if tensor == INPUTS else _deliveries(tensor, s, nest, n)
        if tensor == INPUTS and doubt is not None:
            # A first delivery comes from the parent, once for all children; quotients may round a fill down.
            content = jnp.where(doubt, least, content)
            fills = None if fills is None else jnp.where(doubt, tile - 1, fills)
            least = tile
        if tensor == OUTPUTS:
            outputs = _tile(OUTPUTS, outermost, nest, n)
            part = outputs / _multiplied(_multicast_groups(OUTPUTS, u, nest, n) for u in range(s + 1, outermost + 1))
            if fills is not None and plan.dialect == "2024":
                fills = fills - part
            result[s] = _Traffic(tile, content - part, fills, content)
        else:
            result[s] = _Traffic(tile, content, fills, None)
        demand, passed = delivered, s
    return result


def _ceil(count: Any, divisor: Any) -> Any:
    """ceil(count / divisor), exact: a quotient that is no integer lies at least 1 / divisor above one, and a count
    below 2^48 times a rounded reciprocal is off by far less than a quarter of that."""
    return jnp.ceil(count * (1.0 / divisor) - 0.25 / divisor)


class Counts(NamedTuple):
    """What the cost of a chunk of mappings follows from at any packing."""

    traffic: list[dict[int, _Traffic]]  # per tensor, per level that keeps it
    inside: list[Any]  # per level, instances in use
    steps: Any  # temporal steps
    mac_pj: Any
    doubtful: Any  # bool: what is said of Inputs are lower bounds; `None` where that cannot be


def counts_of(plan: Plan, n: Numbers, nest: Nest) -> Counts:
    """The counts of a chunk."""
    doubt = doubtful(plan, nest, n)
    traffic = [_traffic(plan, tensor, nest, n, doubt) for tensor in range(len(TENSORS))]
    computes = nest.suffix[0] * nest.inside[0] * _multiplied(nest.spatial[0].values())
    # Without the barrier XLA would recompute the counts for every packing.
    return Counts(*lax.optimization_barrier((traffic, nest.inside, nest.suffix[0], computes * n.mac_energy, doubt)))


class Costs(NamedTuple):
    """Cost terms of a chunk; `triple` says how they combine. Cycles are inf where a tile does not fit, and where a mapping is
    doubtful. KS = KI * KO pairs of an Inputs and an Outputs packing. Where MACs differ by width, cycles have an axis KC of
    their paces, and shared_pj lacks the MACs."""

    weights_pj: Array  # [KW, N]
    weights_cycles: Array  # [(KC,) KW, N]
    shared_pj: Array  # [KS, N], MACs included
    shared_cycles: Array  # [KS, (KC,) N]
    coupled_cycles: Array | None  # [KS, (KC,) KW, N], only if some level holds Weights beside another tensor
    mac_pj: Array | None  # [KS, KW] of the layer's MACs, only where they differ by width
    pace: Array | None  # int [KS, KW]

    @property
    def of_pairs(self) -> tuple[Array | None, ...]:
        """What belongs to the pairs, each with axis KS first."""
        return self.shared_pj, self.shared_cycles, self.coupled_cycles, self.mac_pj, self.pace

    def pair(self, of_pair: tuple[Array | None, ...]) -> Costs:
        """The costs of one pair, without axis KS, from its part of `of_pairs`."""
        return Costs(self.weights_pj, self.weights_cycles, *of_pair)  # type: ignore

    def triple(self, w: Any) -> tuple[Array, Array]:
        """Energy in pJ and cycles, each [N], of a pair (see `pair`) with packing w of Weights."""
        energy, weights_cycles, shared_cycles = (
            self.weights_pj[w] + self.shared_pj,
            self.weights_cycles,
            self.shared_cycles,
        )
        coupled = self.coupled_cycles
        if self.mac_pj is not None and self.pace is not None:
            energy, k = energy + self.mac_pj[w], self.pace[w]
            weights_cycles, shared_cycles = weights_cycles[k], shared_cycles[k]
            coupled = None if coupled is None else coupled[k]
        slowest = shared_cycles if coupled is None else jnp.maximum(shared_cycles, coupled[w])
        return energy, jnp.maximum(weights_cycles[w], slowest)


def compute_cycles(counts: Counts, cycles: Any, operations: Any) -> Any:
    """What the MACs need at a pace (`mqjax.cost.packing.MacCost`)."""
    return _ceil(counts.steps * cycles, operations)


def cost_terms(plan: Plan, n: Numbers, counts: Counts, packings: Packed, size: int) -> Costs:
    """Cost terms of a chunk of `size` mappings for all packings."""
    energy = [_energy(n, counts, tensor, packings.tensors[tensor], size) for tensor in range(len(TENSORS))]
    shared_pj = energy[INPUTS][:, None] + energy[OUTPUTS] + counts.mac_pj
    fits = what_fits(plan, n, counts, packings, size)

    def of_pace(computing: Any) -> tuple[Array, Array, Array | None]:
        cycles = {t: _cycles(plan, n, counts, computing, _axes(packings, t), size) for t in _SHARERS}
        shared = jnp.maximum(cycles[INPUTS,][:, None], cycles[OUTPUTS,])
        shared = jnp.maximum(shared, cycles[INPUTS, OUTPUTS]).reshape(-1, size)
        coupled = None
        if fits.coupled is not None:
            coupled = functools.reduce(jnp.maximum, (cycles[tensors] for tensors in _COUPLED))
            coupled = coupled.reshape(fits.coupled.shape)
        return cycles[WEIGHTS,], shared, coupled

    mac = packings.mac
    if mac is None:
        weights_cycles, shared_cycles, coupled = of_pace(counts.steps)
    else:
        paces = compute_cycles(counts, mac.cycles[:, None], mac.operations[:, None])
        weights_cycles, shared_cycles, coupled = jax.vmap(of_pace)(paces)
    priced = fits.weights if counts.doubtful is None else fits.weights & ~counts.doubtful
    shared_cycles = jnp.where(fits.shared, shared_cycles, jnp.inf)
    if coupled is not None and fits.coupled is not None:
        coupled = jnp.where(fits.coupled, coupled, jnp.inf)
    if mac is not None:
        shared_cycles = jnp.moveaxis(shared_cycles, 0, 1)
        coupled = None if coupled is None else jnp.moveaxis(coupled, 0, 1)
    return Costs(
        weights_pj=energy[WEIGHTS],
        weights_cycles=jnp.where(priced, weights_cycles, jnp.inf),
        # Nothing is free: with an energy of 0 the EDP of what does not fit would be no number.
        shared_pj=jnp.maximum(shared_pj, LEAST_PJ).reshape(-1, size),
        shared_cycles=shared_cycles,
        coupled_cycles=coupled,
        mac_pj=None if mac is None else n.macs * mac.energy_pj,
        pace=None if mac is None else mac.pace,
    )


class Fits(NamedTuple):
    """Which mappings of a chunk fit the memories; a triple's mapping fits where all of its flags are set."""

    weights: Array  # bool [KW, N]
    shared: Array  # bool [KS, N]
    coupled: Array | None  # bool [KS, KW, N], only if some level holds Weights beside another tensor


def what_fits(plan: Plan, n: Numbers, counts: Counts, packings: Packed, size: int) -> Fits:
    """Which mappings of a chunk fit at which packings."""
    fits = {tensors: _tiles_fit(plan, n, counts, _axes(packings, tensors), size) for tensors in _SHARERS}
    shared = fits[INPUTS,][:, None] & fits[OUTPUTS,] & fits[INPUTS, OUTPUTS]
    coupled = None
    if any(plan.keep[s][WEIGHTS] and sum(plan.keep[s]) > 1 for s in (*plan.limited, *plan.throttled)):
        cube = (*(len(packings.tensors[t]) for t in (INPUTS, OUTPUTS, WEIGHTS)), size)
        together = functools.reduce(operator.and_, (fits[tensors] for tensors in _COUPLED))
        coupled = jnp.broadcast_to(together, cube).reshape(-1, *cube[2:])
    return Fits(fits[WEIGHTS,], shared.reshape(-1, size), coupled)


def least_energies(n: Numbers, counts: Counts, packings: Packed, size: int) -> list[Array]:
    """Lower bounds without a division, with fractions of words: energy in pJ per tensor [K, N]."""
    return [_energy(n, counts, tensor, packings.tensors[tensor], size, whole=False) for tensor in range(len(TENSORS))]


def least_cycles(
    plan: Plan, n: Numbers, counts: Counts, packings: Packed, computing: Any, size: int, slack: float
) -> Array:
    """Cycles [N] of the packings with most operands, where the MACs need `computing`; times 1 - slack where a level's
    bandwidth sets them."""
    weights, inputs, outputs = (packing[-1:] for packing in packings.tensors)
    most = Packed((weights, inputs, outputs))
    cycles = [_cycles(plan, n, counts, computing, _axes(most, t), size, slack).reshape(size) for t in _SHARERS]
    return functools.reduce(jnp.maximum, cycles)


def _energy(n: Numbers, counts: Counts, tensor: int, packing: Any, size: int, *, whole: bool = True) -> Array:
    """Energy of one tensor at all levels, pJ, [K, N] (MODEL.md section 8); with fractions of words if not `whole`."""
    total: Any = jnp.zeros((len(packing), size))
    for s, entry in counts.traffic[tensor].items():
        kinds = [(c, n.energy[s, kind]) for kind, c in enumerate((entry.reads, entry.fills, entry.updates))]
        per_vector = (packing[:, s] * n.block[s])[:, None]
        used = jnp.minimum(counts.inside[s], n.clusters[s])
        if whole:
            total = total + sum(_ceil(c, per_vector) * pj for c, pj in kinds if c is not None) * used
        else:
            total = total + sum(c * pj for c, pj in kinds if c is not None) * used * (1.0 / per_vector)
    return total


_COUPLED = ((WEIGHTS, INPUTS), (WEIGHTS, OUTPUTS), (WEIGHTS, INPUTS, OUTPUTS))
_SHARERS = ((WEIGHTS,), (INPUTS,), (OUTPUTS,), (INPUTS, OUTPUTS), *_COUPLED)
"""Sets of tensors that may share a level."""


def _axes(packings: Packed, tensors: tuple[int, ...]) -> dict[int, Array]:
    """Operands per word [..., L] of these tensors, on axes of their own in the order Inputs, Outputs, Weights."""
    axes = (INPUTS, OUTPUTS, WEIGHTS) if tensors in _COUPLED else tensors
    return {t: jnp.expand_dims(packings.tensors[t], [i for i, axis in enumerate(axes) if axis != t]) for t in tensors}


def _users(counts: Counts, packings: dict[int, Array], s: int) -> list[tuple[_Traffic, Array]]:
    return [(counts.traffic[t][s], packing[..., s][..., None]) for t, packing in packings.items()]


def _shared_by(plan: Plan, packings: dict[int, Array]) -> list[int]:
    """Levels that keep exactly these tensors."""
    return [s for s, keep in enumerate(plan.keep) if [t for t in range(len(TENSORS)) if keep[t]] == sorted(packings)]


def _tiles_fit(plan: Plan, n: Numbers, counts: Counts, packings: dict[int, Array], size: int) -> Array:
    """Whether the tiles fit the levels that exactly these tensors share, bool [..., N]."""
    shape = (*np.broadcast_shapes(*(packing.shape[:-1] for packing in packings.values())), size)
    fits = jnp.ones(shape, bool)
    for s in _shared_by(plan, packings):
        if s not in plan.limited:
            continue
        users = _users(counts, packings, s)
        if len(users) == 1:
            # ceil(tile / operands) <= capacity, without a division
            fits &= users[0][0].tile <= n.capacity[s] * users[0][1]
        else:
            fits &= sum(_ceil(entry.tile, operands) for entry, operands in users) <= n.capacity[s]
    return fits


def _cycles(
    plan: Plan, n: Numbers, counts: Counts, computing: Any, packings: dict[int, Array], size: int, slack: float = 0.0
) -> Array:
    """Cycles [..., N] that the levels need which exactly these tensors share, at least those that the MACs need."""
    shape = (*np.broadcast_shapes(*(packing.shape[:-1] for packing in packings.values())), size)
    cycles = jnp.broadcast_to(computing, shape)
    for s in _shared_by(plan, packings):
        if s in plan.throttled:
            cycles = jnp.maximum(cycles, _throttled(s, _users(counts, packings, s), n, computing, slack))
    return cycles


def _throttled(level: int, users: list[tuple[_Traffic, Any]], n: Numbers, computing: Any, slack: float) -> Any:
    """Cycles of a level with limited bandwidth, in the reference's floating-point steps (MODEL.md section 10)."""
    read: Any = 0.0
    write: Any = 0.0
    for entry, operands in users:
        read = read + _ceil(entry.reads, operands) / computing
        written = sum(_ceil(count, operands) for count in (entry.fills, entry.updates) if count is not None)
        write = write + written / computing
    limit_read, limit_write = n.bandwidth[level, 0], n.bandwidth[level, 1]
    slowdown = jnp.where(read > limit_read, limit_read / read, 1.0)
    slowdown = jnp.minimum(slowdown, jnp.where(write > limit_write, limit_write / write, 1.0))
    cycles = computing / slowdown
    return jnp.ceil(cycles * (1 - slack) if slack else cycles)
