"""The fast path: cost of all mappings of a mapspace for all packings at once, as one compiled program.

Where neighbours cannot forward data to each other (`Mapspace.may_forward` is false), the model of MODEL.md sections 6
and 7
collapses: between a level that keeps a tensor and the next one that does, bypassed levels only pass demand outwards, so

    content at the next keeper = Delta * product of multicast groups in between
    Delta = F S_0 - (F - d0) sum_{j: D_j = v_0} (S_j - S_{j+1}),    S_j = product of the bounds of loops j, j+1, ...

with loop 0 the innermost loop of bound > 1 outside the tile. For tensors without halo the sum telescopes: Delta = F S_r
with r the first relevant loop. Counts contain no bit-width; a packing enters as ceil(count / (operands * block)).

Exactness: every count is an integer below 2^48 held in float64 and so exact, and the ceilings are exact (`_ceil`).
Energies may be off by an ulp, as XLA may fuse multiplications with additions; so this module only selects candidates, whose costs
the exact evaluator then computes.

Axes: N mappings of a chunk; per tensor its distinct packings (Weights, Inputs, Outputs: KW, KI, KO).
"""

from __future__ import annotations

import dataclasses
import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from mqjax.arch import Arch
from mqjax.mapspace import Mapspace
from mqjax.types import DIMS, TENSORS, Layer

_C, _M, _R, _S, _N, _P, _Q = range(len(DIMS))
_W, _I, _O = range(len(TENSORS))
LARGEST_COUNT = 2.0**48
"""Counts below this are exact here, their ceilings included (`_ceil`)."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """What shapes the compiled program: the accelerator's structure and its constraints, no numbers and no layer.

    tiling: per tiling level (storage level, spatial, dims in fixed order, dims in free order), inner to outer; only
    dimensions whose factor may exceed 1 are listed. columns: per group of the mapspace, the (dim, tiling level) of each
    column of its table. single: dimensions with one possible slot, whose factor is the layer's bound.
    """

    keep: tuple[tuple[bool, bool, bool], ...]
    tiling: tuple[tuple[int, bool, tuple[int, ...], tuple[int, ...]], ...]
    columns: tuple[tuple[tuple[int, int], ...], ...]
    single: tuple[int, ...]
    limited: tuple[int, ...]  # levels with a capacity
    throttled: tuple[int, ...]  # levels with a bandwidth
    dialect: str

    @property
    def free_levels(self) -> tuple[int, ...]:
        """Tiling levels with a free loop order of two or more dimensions."""
        return tuple(t for t, level in enumerate(self.tiling) if not level[1] and len(level[3]) > 1)


def make_plan(space: Mapspace) -> Plan:
    """The plan of a mapspace. Mapspaces of layers with batch 1 share one plan, those with larger batches another."""
    arch = space.arch
    unit = () if space.layer.N > 1 else (_N,)
    slots = [tuple(d for d in space.slots(t) if d not in unit) for t in range(len(space.tiling))]
    tiling = []
    for t, level in enumerate(space.tiling):
        fixed = tuple(d for d in space.prefix(t) if d in slots[t])
        tiling.append((level.level, level.spatial, fixed, tuple(d for d in space.free_dims(t) if d in slots[t])))
    count = {d: sum(d in s for s in slots) for d in range(len(DIMS))}
    columns = []
    for group in space.groups:
        of_group = [(d, t) for d in group.dims for t in range(len(slots)) if d in slots[t] and count[d] > 1]
        columns.append(tuple(of_group))
    levels = arch.levels
    return Plan(
        keep=tuple(level.keep for level in levels),
        tiling=tuple(tiling),
        columns=tuple(columns),
        single=tuple(d for d in count if count[d] == 1),
        limited=tuple(s for s, level in enumerate(levels) if level.capacity_words is not None),
        throttled=tuple(
            s for s, level in enumerate(levels) if level.read_bandwidth is not None or level.write_bandwidth is not None
        ),
        dialect=arch.dialect,
    )


class Numbers(NamedTuple):
    """Traced numbers of a layer, an accelerator and its packings. All float64 but the flag."""

    bounds: Any  # [D] loop bounds
    stride: Any  # [2] Wstride, Hstride
    dilation: Any  # [2]
    depthwise: Any  # bool []
    capacity: Any  # [L]
    block: Any  # [L]
    clusters: Any  # [L]
    bandwidth: Any  # [L, 2]
    energy: Any  # [L, 3]
    mac_energy: Any  # []
    tie: Any  # [] cycles per pJ, small enough never to outweigh one cycle
    packings: tuple[Any, Any, Any]  # per tensor [K, L] operands per word


def numbers(arch: Arch, layer: Layer, packings: tuple[np.ndarray, np.ndarray, np.ndarray]) -> Numbers:
    """The traced numbers; packings: per tensor (Weights, Inputs, Outputs) operands per word [K, L]."""
    tech = arch.tech
    # Generous: twice a read, a fill and an update at every level for each MAC.
    most = layer.macs * layer.Wstride * layer.Hstride * float(tech.mac_energy + 6 * tech.energy.sum())
    return Numbers(
        bounds=np.array(layer.bounds, np.float64),
        stride=np.array([layer.Wstride, layer.Hstride], np.float64),
        dilation=np.array([layer.Wdilation, layer.Hdilation], np.float64),
        depthwise=np.array(layer.shape == "depthwise"),
        capacity=tech.capacity,
        block=tech.block,
        clusters=tech.clusters,
        bandwidth=tech.bandwidth,
        energy=tech.energy,
        mac_energy=tech.mac_energy,
        tie=np.float64(2.0 ** -math.ceil(math.log2(4 * most))),
        packings=tuple(np.asarray(p, np.float64) for p in packings),  # type: ignore[arg-type]
    )


class _Loop(NamedTuple):
    """A temporal loop. `dims` are the dimensions that it may be, `picks[i]` whether it is dims[i] (None: it is)."""

    bound: Any
    level: int
    dims: tuple[int, ...]
    picks: tuple[Any, ...]
    w: Any  # shift of Inputs along width, or None where always 0
    h: Any


class _Nest(NamedTuple):
    """A chunk of mappings, unrolled."""

    loops: list[_Loop]  # temporal, inner to outer
    suffix: list[Any]  # S_j: product of the bounds of loops j, j+1, ...; one longer than loops
    extents: list[dict[int, Any]]  # per level: extent of each dimension
    spatial: list[dict[int, Any]]  # per level: bound of each spatial loop
    inside: list[Any]  # per level: number of instances in use


def _product(factors: Any) -> Any:
    return math.prod(factors, start=1.0)


def _unroll(plan: Plan, n: Numbers, bound: dict[tuple[int, int], Any], picks: tuple[Array, ...]) -> _Nest:
    """Loops, extents and instances from the bounds of all slots. picks: per free level, the free dims in order."""
    extent: dict[int, Any] = {d: 1.0 for d in range(len(DIMS))}
    loops: list[_Loop] = []
    extents: list[dict[int, Any]] = []
    spatial: list[dict[int, Any]] = [{} for _ in plan.keep]
    step = {_P: n.stride[0], _Q: n.stride[1], _R: n.dilation[0], _S: n.dilation[1]}
    for t, (level, is_spatial, fixed, free) in enumerate(plan.tiling):
        if is_spatial:
            for d in (*fixed, *free):
                spatial[level][d] = bound[d, t]
        else:
            shift = {d: step[d] * extent[d] for d in (*fixed, *free) if d in step}
            for d in fixed:
                loops.append(_Loop(bound[d, t], level, (d,), (None,), *_shifts((d,), (None,), shift)))
            if len(free) == 1:
                loops.append(_Loop(bound[free[0], t], level, free, (None,), *_shifts(free, (None,), shift)))
            elif free:
                order = picks[plan.free_levels.index(t)]
                for position in range(len(free)):
                    is_dim = tuple(order[position] == i for i in range(len(free)))
                    size = _select(is_dim, [bound[d, t] for d in free])
                    loops.append(_Loop(size, level, free, is_dim, *_shifts(free, is_dim, shift)))
        for d in (*fixed, *free):
            extent[d] = extent[d] * bound[d, t]
        if not is_spatial:
            extents.append(dict(extent))
    suffix = [1.0]
    for loop in reversed(loops):
        suffix.append(suffix[-1] * loop.bound)
    inside: list[Any] = [1.0] * len(plan.keep)
    for level in range(len(plan.keep) - 2, -1, -1):
        inside[level] = inside[level + 1] * _product(spatial[level + 1].values())
    return _Nest(loops, suffix[::-1], extents, spatial, inside)


def _select(is_dim: tuple[Any, ...], values: list[Any]) -> Any:
    result = values[-1]
    for flag, value in zip(is_dim[:-1], values[:-1], strict=True):
        result = jnp.where(flag, value, result)
    return result


def _shifts(dims: tuple[int, ...], picks: tuple[Any, ...], shift: dict[int, Any]) -> tuple[Any, Any]:
    """How far one step of a loop moves Inputs along width and height; `None` where it never does."""
    result = []
    for rank in ((_P, _R), (_Q, _S)):
        if not any(d in rank for d in dims):
            result.append(None)
        elif len(dims) == 1:
            result.append(shift[dims[0]])
        else:
            result.append(_select(picks, [shift[d] if d in rank else 0.0 for d in dims]))
    return tuple(result)


def _is_one_of(loop: _Loop, dims: tuple[int, ...]) -> Any:
    """Whether a loop runs over one of `dims`: a Python bool where the plan decides, else a traced flag."""
    inside = [d in dims for d in loop.dims]
    if all(inside) or not any(inside):
        return inside[0]
    flags = [pick for pick, is_in in zip(loop.picks, inside, strict=True) if is_in]
    return jnp.any(jnp.stack(flags))


def _relevant(tensor: int, loop: _Loop, n: Numbers) -> Any:
    """Whether Weights or Outputs depend on the loop; M has bound 1 in depthwise layers, so it may count either way."""
    if tensor == _W:
        return _is_one_of(loop, (_C, _M, _R, _S))
    dense = _is_one_of(loop, (_M, _N, _P, _Q))
    channel = _is_one_of(loop, (_C,))
    if dense is True or channel is False:
        return dense
    return (channel & n.depthwise) | dense


def _deliveries(tensor: int, level: int, nest: _Nest, n: Numbers) -> Any:
    """Delta of the tile that `level` holds of Weights or Outputs."""
    first = next(j for j in range(len(nest.loops) + 1) if j == len(nest.loops) or nest.loops[j].level > level)
    factor: Any = 1.0
    for j in range(len(nest.loops) - 1, first - 1, -1):
        relevant = _relevant(tensor, nest.loops[j], n)
        if relevant is not False:
            counts = nest.loops[j].bound > 1
            factor = jnp.where(counts if relevant is True else counts & relevant, nest.suffix[j], factor)
    return _tile(tensor, level, nest, n) * factor


def _input_lengths(level: int, nest: _Nest, n: Numbers) -> tuple[Any, Any]:
    e = nest.extents[level]
    width = n.stride[0] * (e[_P] - 1) + n.dilation[0] * (e[_R] - 1) + 1
    height = n.stride[1] * (e[_Q] - 1) + n.dilation[1] * (e[_S] - 1) + 1
    return width, height


def _tile(tensor: int, level: int, nest: _Nest, n: Numbers) -> Any:
    """Elements of the tile that one instance of `level` holds (MODEL.md section 1)."""
    e = nest.extents[level]
    if tensor == _W:
        return e[_C] * e[_M] * e[_R] * e[_S]
    if tensor == _O:
        return e[_N] * e[_P] * e[_Q] * e[_M] * jnp.where(n.depthwise, e[_C], 1.0)
    width, height = _input_lengths(level, nest, n)
    return e[_N] * e[_C] * width * height


def _input_deliveries(level: int, nest: _Nest, n: Numbers) -> Any:
    """Delta of the tile of Inputs at `level`, with halos and coincidences.

    `at_w`, `at_h` is v_0 plus the sum of all shifts so far: loop j repeats the first move where its own shift equals
    that. A loop over C or N gets a shift of its own, larger than any sum of real ones, so that it never matches.
    """
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
        far = _is_one_of(loop, (_C, _N))
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
    e = nest.extents[level]
    overlap = e[_N] * e[_C] * jnp.maximum(width - first_w, 0.0) * jnp.maximum(height - first_h, 0.0)
    first = next((j for j, loop in enumerate(nest.loops) if loop.level > level), len(nest.loops))
    return e[_N] * e[_C] * width * height * nest.suffix[first] - overlap * repeated


class _Traffic(NamedTuple):
    """Accesses of a tensor at a level that keeps it, in elements per instance; `None` where there can be none."""

    tile: Any
    reads: Any
    fills: Any
    updates: Any


def _groups(tensor: int, level: int, nest: _Nest, n: Numbers) -> Any:
    """Number of multicast groups at a level: the product of its relevant spatial bounds."""
    relevant = {_W: (_C, _M, _R, _S), _I: (_N, _C, _P, _Q, _R, _S), _O: (_M, _N, _P, _Q)}[tensor]
    factor = _product(b for d, b in nest.spatial[level].items() if d in relevant)
    if tensor == _O and _C in nest.spatial[level]:
        factor = factor * jnp.where(n.depthwise, nest.spatial[level][_C], 1.0)
    return factor


def _traffic(plan: Plan, tensor: int, nest: _Nest, n: Numbers) -> dict[int, _Traffic]:
    """Reads, fills and updates at every level that keeps the tensor (MODEL.md section 7)."""
    keepers = [s for s, keep in enumerate(plan.keep) if keep[tensor]]
    outermost = len(plan.keep) - 1
    result = {}
    demand, passed = nest.suffix[0], -1
    for s in keepers:
        content = demand * _product(_groups(tensor, u, nest, n) for u in range(passed + 1, s + 1))
        tile = _tile(tensor, s, nest, n)
        delivered = fills = None
        if s < outermost:
            delivered = fills = _input_deliveries(s, nest, n) if tensor == _I else _deliveries(tensor, s, nest, n)
        if tensor == _O:
            outputs = _tile(_O, outermost, nest, n)
            part = outputs / _product(_groups(_O, u, nest, n) for u in range(s + 1, outermost + 1))
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


class Costs(NamedTuple):
    """Cost terms of a chunk. A triple's energy is weights_pj + shared_pj, its cycles the maximum of the cycle terms;
    cycles are inf where a tile does not fit. KS = KI * KO pairs of an Inputs and an Outputs packing."""

    weights_pj: Array  # [KW, N]
    weights_cycles: Array  # [KW, N]
    shared_pj: Array  # [KS, N], MACs included
    shared_cycles: Array  # [KS, N]
    coupled_cycles: Array | None  # [KS, KW, N], only if some level holds Weights beside another tensor


def _costs(plan: Plan, n: Numbers, nest: _Nest, size: int) -> Costs:
    traffic = [_traffic(plan, tensor, nest, n) for tensor in range(len(TENSORS))]
    computes = nest.suffix[0] * nest.inside[0] * _product(nest.spatial[0].values())
    # Without the barrier XLA would recompute the counts for every packing.
    traffic, inside, steps, mac = lax.optimization_barrier(
        (traffic, nest.inside, nest.suffix[0], computes * n.mac_energy)
    )
    energy, cycles = zip(
        *(
            (
                _energy(traffic[t], n, inside, n.packings[t], size),
                _own_cycles(plan, t, traffic[t], n, n.packings[t], steps, size),
            )
            for t in range(len(TENSORS))
        ),
        strict=True,
    )
    pairs = {_I: n.packings[_I][:, None], _O: n.packings[_O][None]}
    shared_cycles = jnp.maximum(cycles[_I][:, None], cycles[_O])
    shared_cycles = jnp.maximum(shared_cycles, _joint_cycles(plan, traffic, n, pairs, steps))
    shared_pj = energy[_I][:, None] + energy[_O] + mac
    return Costs(
        weights_pj=energy[_W],
        weights_cycles=cycles[_W],
        shared_pj=shared_pj.reshape(-1, size),
        shared_cycles=shared_cycles.reshape(-1, size),
        coupled_cycles=_coupled_cycles(plan, traffic, n, steps, size),
    )


def _coupled_cycles(plan: Plan, traffic: list[dict[int, _Traffic]], n: Numbers, steps: Any, size: int) -> Array | None:
    """Cycles [KS, KW, N] of the levels that Weights share with other tensors; `None` if there are none."""
    if not any(plan.keep[s][_W] and sum(plan.keep[s]) > 1 for s in (*plan.limited, *plan.throttled)):
        return None
    cube = {_W: n.packings[_W][None, None], _I: n.packings[_I][:, None, None], _O: n.packings[_O][None, :, None]}
    cycles = jnp.broadcast_to(steps, (len(n.packings[_I]), len(n.packings[_O]), len(n.packings[_W]), size))
    for tensors in ((_W, _I), (_W, _O), (_W, _I, _O)):
        cycles = jnp.maximum(cycles, _joint_cycles(plan, traffic, n, {t: cube[t] for t in tensors}, steps))
    return cycles.reshape(-1, *cycles.shape[2:])


def _energy(traffic: dict[int, _Traffic], n: Numbers, inside: list[Any], packing: Array, size: int) -> Array:
    """Energy of one tensor at all levels, pJ, [K, N] (MODEL.md section 8)."""
    total: Any = jnp.zeros((len(packing), size))
    for s, entry in traffic.items():
        per_vector = (packing[:, s] * n.block[s])[:, None]
        kinds = ((entry.reads, 0), (entry.fills, 1), (entry.updates, 2))
        vectors = sum(_ceil(count, per_vector) * n.energy[s, kind] for count, kind in kinds if count is not None)
        total = total + vectors * jnp.minimum(inside[s], n.clusters[s])
    return total


def _own_cycles(
    plan: Plan, tensor: int, traffic: dict[int, _Traffic], n: Numbers, packing: Array, steps: Any, size: int
) -> Array:
    """Cycles [K, N] that the levels need which a tensor has to itself; inf where it does not fit one of them."""
    cycles: Any = jnp.broadcast_to(steps, (len(packing), size))
    for s, entry in traffic.items():
        if sum(plan.keep[s]) > 1:
            continue
        operands = packing[:, s][:, None]
        if s in plan.throttled:
            cycles = jnp.maximum(cycles, _throttled(s, [(entry, operands)], n, steps))
        if s in plan.limited:
            # ceil(tile / operands) <= capacity, without a division
            cycles = jnp.where(entry.tile <= n.capacity[s] * operands, cycles, jnp.inf)
    return cycles


def _joint_cycles(
    plan: Plan, traffic: list[dict[int, _Traffic]], n: Numbers, packings: dict[int, Array], steps: Any
) -> Any:
    """Cycles that the levels need which exactly these tensors share; inf where they do not fit together.

    packings: per tensor an array [..., L] whose leading axes, one per tensor, lead those of the result [..., N].
    """
    cycles: Any = steps
    for s, keep in enumerate(plan.keep):
        if tuple(t for t in range(len(TENSORS)) if keep[t]) != tuple(sorted(packings)):
            continue
        users = [(traffic[t][s], packing[..., s][..., None]) for t, packing in packings.items()]
        if s in plan.throttled:
            cycles = jnp.maximum(cycles, _throttled(s, users, n, steps))
        if s in plan.limited:
            needed = sum(_ceil(entry.tile, operands) for entry, operands in users)
            cycles = jnp.where(needed <= n.capacity[s], cycles, jnp.inf)
    return cycles


def _throttled(level: int, users: list[tuple[_Traffic, Any]], n: Numbers, steps: Any) -> Any:
    """Cycles of a level with limited bandwidth, in the reference's floating-point steps (MODEL.md section 10)."""
    read: Any = 0.0
    write: Any = 0.0
    for entry, operands in users:
        read = read + _ceil(entry.reads, operands) / steps
        written = sum(_ceil(count, operands) for count in (entry.fills, entry.updates) if count is not None)
        write = write + written / steps
    limit_read, limit_write = n.bandwidth[level, 0], n.bandwidth[level, 1]
    slowdown = jnp.where(read > limit_read, limit_read / read, 1.0)
    slowdown = jnp.minimum(slowdown, jnp.where(write > limit_write, limit_write / write, 1.0))
    return jnp.ceil(steps / slowdown)


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


def _chunk(plan: Plan, n: Numbers, tables: Tables, picks: tuple[Array, ...], start: Array, size: int):
    """Cost terms of mappings start, start + 1, ..., of a block; those past its end do not fit. Also their weights."""
    number = start + jnp.arange(size, dtype=jnp.float64)
    bound: dict[tuple[int, int], Any] = {}
    weight: Any = 1.0
    rest = number
    filled = [g for g, slots in enumerate(plan.columns) if slots]
    if len(filled) == 1:
        # The only table is read in order, and slices are much faster than gathers.
        (g,) = filled

        def part(column: Array) -> Array:
            return lax.dynamic_slice(column, (start.astype(jnp.int32),), (size,))

        bound = {slot: part(tables.columns[g][c]) for c, slot in enumerate(plan.columns[g])}
        weight = part(tables.weights[g])
        rest = jnp.where(number < tables.rows[g], 0.0, 1.0)
        filled = []
        for other in range(len(plan.columns)):
            if other != g:
                weight = weight * tables.weights[other][0]
    for g in range(len(tables.columns) - 1, -1, -1) if filled else ():
        rows = tables.rows[g]
        # A float division is faster than an integer one; half a unit keeps the floor exact.
        above = jnp.floor((rest + 0.5) * (1.0 / rows))
        row = jnp.minimum(rest - above * rows, rows - 1).astype(jnp.int32)
        rest = above
        for c, slot in enumerate(plan.columns[g]):
            bound[slot] = jnp.take(tables.columns[g][c], row, mode="clip")
        weight = weight * jnp.take(tables.weights[g], row, mode="clip")
    beyond = jnp.where(rest > 0, jnp.inf, 0.0)
    weight = jnp.where(rest > 0, 0.0, weight)
    for t, (_, _, fixed, free) in enumerate(plan.tiling):
        for d in (*fixed, *free):
            bound.setdefault((d, t), n.bounds[d] if d in plan.single else 1.0)
    costs = _costs(plan, n, _unroll(plan, n, bound, picks), size)
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
    pairs, weights = len(n.packings[_I]) * len(n.packings[_O]), len(n.packings[_W])

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
