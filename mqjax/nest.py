"""Reuse analysis: from loop nests to tiles and deliveries, in whole elements. No bit-widths, no energies.

This is MODEL.md sections 3 and 6 for any mapping of an accelerator's levels, batched and compiled; the closed form
of what Timeloop's nest analysis computes by walking the nest:

    Delta[t][s] = F + W_0 d0 + sum_{j>=1} W_j (d0 if D_j == v_0 else F)

All arithmetic is int64 and so exact: the only quotient is an integer one. Vectors over a tensor's ranks are compared
through one integer, a mixed-radix number in which no component can carry into the next (`rank_keys`).

Axes: B mappings, L levels, K loop slots per level, J = L * K temporal loops inner to outer, T tensors, E elements of
a fan-out, D = 7 dimensions, R = 4 ranks.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from mqjax.mapping import Mappings
from mqjax.types import DIMS, TENSORS, Layer

RANKS = 4
_C, _M, _R, _S, _N, _P, _Q = range(len(DIMS))


class Problem(NamedTuple):
    """A layer as traced numbers."""

    coefficients: Any  # int64 [T, R, D]: rank length = 1 + sum coefficient * (extent - 1)
    keys: Any  # int64 [T, D]: what a unit step of a dimension adds to the key of a position


def problem(layer: Layer) -> Problem:
    """The ranks of the three tensors of `layer` (MODEL.md section 1)."""
    coefficients = np.zeros((len(TENSORS), RANKS, len(DIMS)), np.int64)
    weights, inputs, outputs = coefficients
    weights[0, _C] = weights[2, _R] = weights[3, _S] = 1
    inputs[0, _N] = inputs[1, _C] = 1
    inputs[2, [_R, _P]] = layer.Wdilation, layer.Wstride
    inputs[3, [_S, _Q]] = layer.Hdilation, layer.Hstride
    outputs[0, _N] = outputs[2, _Q] = outputs[3, _P] = 1
    if layer.shape == "cnn":
        weights[1, _M] = outputs[1, _M] = 1
    else:
        outputs[1, _C] = 1
    return Problem(coefficients, rank_keys(coefficients, layer.bounds))


def rank_keys(coefficients: np.ndarray, bounds: tuple[int, ...]) -> np.ndarray:
    """Weights that turn a vector over ranks into one integer, injectively for every difference that can occur.

    Positions and shifts are at most a rank's length in magnitude, so differences of two of them stay below four
    lengths, the radix used here.
    """
    lengths = 1 + coefficients @ (np.array(bounds, np.int64) - 1)  # [T, R]
    radix = 4 * lengths + 1
    place = np.cumprod(np.concatenate([np.ones_like(radix[:, :1]), radix[:, :-1]], axis=1), axis=1)
    return np.einsum("tr,trd->td", place, coefficients)


class Analysis(NamedTuple):
    """What a mapping does, per mapping. Level axis: inner to outer. Counts are int64."""

    tile: Array  # [B, L, T] elements of the tile of one instance
    part: Array  # [B, L, T] distinct elements that pass through one instance (partition size)
    delta: Array  # [B, L, T] elements delivered to one child (the MAC for level 0) over the whole run
    groups: Array  # [B, L, T, E] number of multicast groups with g = 1..E members
    group_hops: Array  # float64 [B, L, T, E] hops of one delivery to all groups of a size
    fan: Array  # [B, L] children in use
    fan_xy: Array  # [B, L, 2] children in use along X and Y
    instances_xy: Array  # [B, L + 1, 2] instances in use along X and Y: the MAC array, then the levels
    steps: Array  # [B] temporal steps of the whole nest: compute cycles
    forwardable: Array  # bool [B] some deliveries may come from a neighbour


class Forwarding(NamedTuple):
    """Deliveries that change where children forward data to each other (MODEL.md section 6, link transfers).

    `signature` axes are multicast g and scatter sc, both 0..E, so that entry [g, sc] belongs to (g, sc).
    """

    base: Array  # [B, L, T] deliveries that keep the grouping of `Analysis.groups`
    signature: Array  # [B, L, T, E + 1, E + 1] parent accesses with a changed grouping
    signature_hops: Array  # float64, the same axes: hop-weighted accesses
    links: Array  # [B, L, T] elements handed from neighbour to neighbour


class _Steps(NamedTuple):
    """Temporal loops outside a level, for one mapping. Axes [L, J, T] unless stated."""

    weight: Array  # [L, J] how often a loop advances over the whole run
    move: Array  # D_j as a key
    first_move: Array  # [L, 1, T] v_0 as a key
    is_first: Array  # [L, J]
    full: Array  # [L, T] F
    fresh: Array  # [L, T] d0


def analyse(problem: Problem, mappings: Mappings, fanout: Array, elements: int) -> Analysis:
    """Analyse a batch of mappings. `fanout` [L, 2] is physical; `elements` (static) is E, at least every fan-out."""
    return jax.vmap(partial(_analyse_one, fanout=fanout, elements=elements))(_spread(problem, mappings), mappings)


def forward(problem: Problem, mappings: Mappings, fanout: Array, elements: int) -> Forwarding:
    """The deliveries of a batch of mappings with neighbour forwarding taken into account."""
    return jax.vmap(partial(_forward_one, fanout=fanout, elements=elements))(_spread(problem, mappings), mappings)


def _spread(problem: Problem, mappings: Mappings) -> Problem:
    """One problem for all mappings, or already one for each."""
    if problem.keys.ndim == 3:
        return problem
    batch = mappings.keep.shape[0]
    return Problem(*(jnp.broadcast_to(x, (batch, *x.shape)) for x in problem))


def _extents(mappings: Mappings) -> tuple[Array, Array, Array, Array]:
    """Extents [L, D] covered by levels 0..s, the same with only the spatial loops of s, and loop strides [L, K]."""
    dims = jnp.stack([mappings.spatial_dim, mappings.temporal_dim], axis=1)  # [L, 2, K]
    bounds = jnp.stack([mappings.spatial_bound, mappings.temporal_bound], axis=1)
    depth, _, slots = dims.shape
    one_hot = dims.reshape(-1, 1) == jnp.arange(len(DIMS))
    covered = jnp.cumprod(jnp.where(one_hot, bounds.reshape(-1, 1), 1), axis=0)  # [2LK, D], this loop included
    stride = jnp.sum(jnp.where(one_hot, covered, 0), axis=1) // bounds.reshape(-1)
    covered = covered.reshape(depth, 2, slots, len(DIMS))[:, :, -1]
    stride = stride.reshape(depth, 2, slots)
    return covered[:, 1], covered[:, 0], stride[:, 0], stride[:, 1]


def _rank_lengths(coefficients: Array, extents: Array) -> Array:
    """[..., T, R] rank lengths of the boxes of extents [..., D]."""
    return 1 + jnp.sum(coefficients * (extents[..., None, None, :] - 1), axis=-1)


def _steps(problem: Problem, mappings: Mappings, lengths: Array, stride: Array) -> _Steps:
    """Steps of the temporal loops outside each level, and what they deliver to the tile of the level below."""
    depth, slots = mappings.temporal_dim.shape
    loop_dim, bound = mappings.temporal_dim.reshape(-1), mappings.temporal_bound.reshape(-1)
    loop_level = jnp.repeat(jnp.arange(depth), slots)
    active = (loop_level >= jnp.arange(depth)[:, None]) & (bound > 1)  # [L, J]
    trips = jnp.where(active, bound, 1)
    outside = jnp.flip(jnp.cumprod(jnp.flip(trips, 1), 1), 1) // trips
    weight = jnp.where(active, (bound - 1) * outside, 0)
    is_first = active & (jnp.cumsum(active, axis=1) == 1)

    shift = (problem.keys[:, loop_dim] * stride.reshape(-1)).T  # [J, T], v_j as keys
    shift = jnp.where(active[..., None], shift, 0)
    move = shift - (jnp.cumsum(shift, axis=1) - shift)
    first_move = jnp.sum(jnp.where(is_first[..., None], shift, 0), axis=1, keepdims=True)

    first_dim = jnp.sum(jnp.where(is_first, loop_dim, 0), axis=1)  # [L]
    first_stride = jnp.sum(jnp.where(is_first, stride.reshape(-1), 0), axis=1)
    first_shift = problem.coefficients[:, :, first_dim].transpose(2, 0, 1) * first_stride[:, None, None]  # [L, T, R]
    below = jnp.roll(lengths, 1, axis=0)  # the tile of level s - 1; level 0 is replaced by its caller
    full = jnp.prod(below, axis=-1)
    fresh = full - jnp.prod(jnp.maximum(0, below - first_shift), axis=-1)
    return _Steps(weight, move, first_move, is_first, full, fresh)


def _deliveries(steps: _Steps) -> Array:
    """Delta [L, T] without forwarding; level 0 is not meaningful here."""
    size = jnp.where(steps.move == steps.first_move, steps.fresh[:, None], steps.full[:, None])
    return steps.full + jnp.sum(steps.weight[..., None] * size, axis=1)


class _Grid(NamedTuple):
    """The children of each level's fan-out."""

    fan: Array  # [L]
    fan_xy: Array  # [L, 2]
    width: Array  # [L] columns of the physical grid
    height: Array  # [L]
    position: Array  # [L, E, T] offset of an element's data, as a key
    exists: Array  # [L, E]


def _grid(problem: Problem, mappings: Mappings, stride: Array, fanout: Array, elements: int) -> _Grid:
    bound = mappings.spatial_bound
    on_axis = mappings.spatial_axis[..., None] == jnp.arange(2)
    fan_xy = jnp.prod(jnp.where(on_axis, bound[..., None], 1), axis=1)
    inside = jnp.cumprod(bound, axis=1) // bound  # [L, K]
    element = jnp.arange(elements)
    index = (element[:, None] // inside[:, None]) % bound[:, None]  # [L, E, K]
    shift = problem.keys[:, mappings.spatial_dim] * stride  # [T, L, K]
    position = jnp.einsum("lek,tlk->let", index, shift)
    fan = jnp.prod(bound, axis=1)
    grid = jnp.maximum(fanout.astype(jnp.int64), fan_xy)
    return _Grid(fan, fan_xy, grid[:, 0], grid[:, 1], position, element < fan[:, None])


def _group(grid: _Grid, wanted: Array) -> tuple[Array, Array]:
    """Multicast groups among the `wanted` [L, E, T] elements: their number and their hops, each [L, T, E] for group
    sizes 1..E. Elements with equal positions share a group (MODEL.md section 6)."""
    elements = wanted.shape[1]
    element = jnp.arange(elements)
    column, row = element % grid.width[:, None], element // grid.width[:, None]  # [L, E]
    key = grid.position
    same = (key[:, :, None] == key[:, None, :]) & wanted[:, :, None] & wanted[:, None, :]  # [L, E, E', T]
    size = jnp.sum(same, axis=2)  # [L, E, T]
    leads = wanted & ~jnp.any(same & (element[None, :] < element[:, None])[None, :, :, None], axis=2)

    same_column = same & (column[:, :, None] == column[:, None, :])[..., None]
    top = ~jnp.any(same_column & (row[:, :, None] < row[:, None, :])[..., None], axis=2)
    bottom = ~jnp.any(same_column & (row[:, :, None] > row[:, None, :])[..., None], axis=2)
    above = (row - (grid.height[:, None] - 1) / 2)[..., None]  # rows above the centre, [L, E, 1]
    run = jnp.where(top, jnp.maximum(above, 0), 0.0) + jnp.where(bottom, jnp.maximum(-above, 0), 0.0)
    reach = jnp.max(jnp.where(same, column[:, None, :, None], 0), axis=2)
    hops = jnp.where(wanted, run, 0.0) + jnp.where(leads, reach, 0)

    hops = jnp.where(grid.fan[:, None, None] > 1, hops, 0.0)  # a level without spatial loops has no network to cross
    of_size = size[..., None] == element + 1  # [L, E, T, E]
    count = jnp.sum(of_size & leads[..., None], axis=1)
    return count, jnp.sum(jnp.where(of_size, hops[..., None], 0.0), axis=1)


def _moves(steps: _Steps) -> Array:
    """[L, J, T] how often a step of each loop could be forwarded: it follows a step of the same shape."""
    alike = steps.move == steps.first_move
    disjoint = (steps.fresh == steps.full)[:, None]
    partial_overlap = ((steps.fresh > 0) & (steps.fresh < steps.full))[:, None]
    weight = steps.weight[..., None]
    repeated = jnp.where(alike & ~steps.is_first[..., None], weight, 0)
    # A step of loop 0 with a partial overlap is preceded by one of its own shape once per repeated outer step.
    first_bound_less_one = _first_bound(steps) - 1
    first = jnp.sum(repeated, axis=1, keepdims=True) * first_bound_less_one[:, None, None]
    overlapping = jnp.where(steps.is_first[..., None], first, repeated)
    return jnp.where(disjoint, weight, jnp.where(partial_overlap, overlapping, 0))


def _first_bound(steps: _Steps) -> Array:
    """[L] bound of loop 0: its weight is (n_0 - 1) * (1 + weights of all outer loops)."""
    first = jnp.sum(jnp.where(steps.is_first, steps.weight, 0), axis=1)
    others = jnp.sum(jnp.where(steps.is_first, 0, steps.weight), axis=1)
    return first // (1 + others) + 1


def _receivers(grid: _Grid, move: Array) -> Array:
    """[L, E, T] elements whose next data, `move` [L, T] away, a grid neighbour holds already."""
    elements = grid.exists.shape[1]
    element = jnp.arange(elements)
    width = grid.width[:, None]
    column = element % width
    received = jnp.zeros((*grid.exists.shape, move.shape[-1]), bool)
    neighbours = (
        (element - 1, column > 0),
        (element + 1, column < width - 1),
        (element - width, element >= width),
        (element + width, element >= 0),
    )
    for neighbour, inside in neighbours:
        neighbour = jnp.broadcast_to(neighbour, grid.exists.shape)
        inside = inside & (neighbour >= 0) & (neighbour < grid.fan[:, None])
        at = jnp.take_along_axis(grid.position, jnp.clip(neighbour, 0, elements - 1)[..., None], axis=1)
        received |= (inside & grid.exists)[..., None] & (at - grid.position == move[:, None])
    return received


def _prepare(problem: Problem, mappings: Mappings, fanout: Array, elements: int):
    whole, spatial_only, spatial_stride, temporal_stride = _extents(mappings)
    lengths = _rank_lengths(problem.coefficients, whole)
    steps = _steps(problem, mappings, lengths, temporal_stride)
    grid = _grid(problem, mappings, spatial_stride, fanout, elements)
    return lengths, spatial_only, steps, grid


def _analyse_one(problem: Problem, mappings: Mappings, fanout: Array, elements: int) -> Analysis:
    lengths, spatial_only, steps, grid = _prepare(problem, mappings, fanout, elements)
    tile = jnp.prod(lengths, axis=-1)
    total_steps = jnp.prod(mappings.temporal_bound)
    delta = _deliveries(steps).at[0].set(total_steps)
    wanted = jnp.broadcast_to(grid.exists[..., None], (*grid.exists.shape, len(TENSORS)))
    groups, hops = _group(grid, wanted)

    def any_receiver(found: Array, step: tuple[Array, Array]) -> tuple[Array, None]:
        times, move = step  # each [L, T]
        return found | jnp.any(_receivers(grid, move) & (times > 0)[:, None], axis=(1, 2)), None

    times = _moves(steps).at[0].set(0)
    nobody = jnp.zeros(grid.fan.shape, bool)
    found, _ = jax.lax.scan(any_receiver, nobody, (times.swapaxes(0, 1), steps.move.swapaxes(0, 1)))
    outer = jnp.flip(jnp.cumprod(jnp.flip(grid.fan_xy, 0), axis=0), 0)  # [L, 2], this level's fan-out included
    instances = jnp.concatenate([outer, jnp.ones_like(outer[:1])])
    return Analysis(
        tile=tile,
        part=_partitions(tile, _rank_lengths(problem.coefficients, spatial_only).prod(-1), grid.fan),
        delta=delta,
        groups=groups,
        group_hops=hops,
        fan=grid.fan,
        fan_xy=grid.fan_xy,
        instances_xy=instances,
        steps=total_steps,
        forwardable=jnp.any(found),
    )


def _partitions(tile: Array, spatial_box: Array, fan: Array) -> Array:
    """Partition sizes [L, T], from the outermost level inwards, with the reference's integer divisions."""

    def inwards(outer: Array, level: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        tile, box, fan = level  # tile of this level; box and fan-out of the level outside it
        part = outer * tile // jnp.where(fan > 1, box, tile)
        return part, part

    _, inner = jax.lax.scan(inwards, tile[-1], (tile[:-1], spatial_box[1:], fan[1:]), reverse=True)
    return jnp.concatenate([inner, tile[-1:]])


def _forward_one(problem: Problem, mappings: Mappings, fanout: Array, elements: int) -> Forwarding:
    _, _, steps, grid = _prepare(problem, mappings, fanout, elements)
    wanted = jnp.broadcast_to(grid.exists[..., None], (*grid.exists.shape, len(TENSORS)))
    usual = jnp.sum(_group(grid, wanted)[0], axis=-1)  # [L, T] parent accesses of one delivery
    shape = (*usual.shape, elements + 1, elements + 1)
    size = jnp.arange(elements + 1)

    def step(carry: Forwarding, of_loop: tuple[Array, Array]) -> tuple[Forwarding, None]:
        times, move = of_loop
        received = _receivers(grid, move)
        groups, hops = _group(grid, wanted & ~received)
        forwarded = jnp.sum(received, axis=1)  # [L, T]
        used = (times > 0) & (forwarded > 0) & (jnp.sum(groups, axis=-1) < usual)
        amount = jnp.where(used, times * steps.fresh, 0)
        at = groups[..., None] == size  # [L, T, E, sc]
        groups, hops = groups * amount[..., None], hops * amount[..., None]
        pad = ((0, 0), (0, 0), (1, 0), (0, 0))  # group sizes start at 1, signatures at 0
        return Forwarding(
            base=carry.base - amount,
            signature=carry.signature + jnp.pad(jnp.where(at, groups[..., None], 0), pad),
            signature_hops=carry.signature_hops + jnp.pad(jnp.where(at, hops[..., None], 0.0), pad),
            links=carry.links + amount * forwarded,
        ), None

    start = Forwarding(
        base=_deliveries(steps).at[0].set(jnp.prod(mappings.temporal_bound)),
        signature=jnp.zeros(shape, jnp.int64),
        signature_hops=jnp.zeros(shape, jnp.float64),
        links=jnp.zeros(usual.shape, jnp.int64),
    )
    times = _moves(steps).at[0].set(0)
    return jax.lax.scan(step, start, (times.swapaxes(0, 1), steps.move.swapaxes(0, 1)))[0]
