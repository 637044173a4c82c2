"""Reuse analysis: from loop nests to tiles and deliveries, in whole elements. No bit-widths, no energies.

This is MODEL.md sections 3 and 6 for any mapping of an accelerator's levels, batched and compiled; the closed form
of what Timeloop's nest analysis computes by walking the nest:

    Delta[t][s] = F + W_0 d0 + sum_{j>=1} W_j (d0 if D_j == v_0 else F)

All arithmetic is int64 and so exact: the only quotient is an integer one. Vectors over a tensor's ranks are compared
through one integer, a mixed-radix number in which no component can carry into the next (`rank_keys`). Nothing here
depends on the size of an array: children of a fan-out are counted by `multicast`, and looked at one by one only where
they may forward data to each other (`forwarding`).

Axes: B mappings, L levels, K loop slots per level, J = L * K temporal loops inner to outer, T tensors, D dimensions,
R ranks.
"""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from mqjax.mapspace.mapping import Mappings
from mqjax.projection import SLIDING, SLIDING_DIMS, TENSORS, alike
from mqjax.types import Layer

INPUTS = TENSORS.index("Inputs")

PAIRS = tuple((rank, *dims) for rank, dims in enumerate(SLIDING_DIMS))
"""The ranks of Inputs along which two dimensions move: (rank, kernel dimension, output dimension). All others move
along one dimension at most."""


class Problem(NamedTuple):
    """A layer as traced numbers."""

    coefficients: Any  # int64 [T, R, D]: rank length = 1 + sum coefficient * (extent - 1)
    keys: Any  # int64 [T, D]: what a unit step of a dimension adds to the key of a position


def problem(layer: Layer) -> Problem:
    """The ranks of the three tensors of `layer` (MODEL.md section 1); those of `SLIDING` come first in Inputs."""
    ranks = max(len(ranks) for projection in alike(layer.shape) for ranks in projection.ranks)
    coefficients = np.zeros((len(TENSORS), ranks, len(layer.loops)), np.int64)
    for tensor, of_tensor in enumerate(layer.projection.ranks):
        own = itertools.count(len(SLIDING) if tensor == INPUTS else 0)
        for rank in of_tensor:
            place = SLIDING.index(rank) if rank in SLIDING else next(own)
            for dim, coefficient in layer.coefficients(rank).items():
                coefficients[tensor, place, layer.loops.index(dim)] = coefficient
    return Problem(coefficients, rank_keys(coefficients, layer.bounds))


def equally_long(problems: list[Problem]) -> list[Problem]:
    """The problems with axes of equal lengths: ranks and dimensions that a layer lacks are empty."""
    ranks, dims = np.max([problem.coefficients.shape[1:] for problem in problems], axis=0)

    def padded(problem: Problem) -> Problem:
        more = [(0, 0), (0, ranks - problem.coefficients.shape[1]), (0, dims - problem.coefficients.shape[2])]
        return Problem(np.pad(problem.coefficients, more), np.pad(problem.keys, [more[0], more[2]]))

    return [padded(problem) for problem in problems]


def rank_keys(coefficients: np.ndarray, bounds: tuple[int, ...]) -> np.ndarray:
    """Weights that turn a vector over ranks into one integer, injectively for every difference that can occur.

    Positions and shifts are at most a rank's length in magnitude, so differences of two of them stay below four
    lengths, the radix used here. At most five ranks are longer than 1, and their lengths multiply to less than 2^53, so that
    the radices multiply to less than 2^64: keys that wrap around still differ.
    """
    lengths = 1 + coefficients @ (np.array(bounds, np.int64) - 1)  # [T, R]
    radix = np.where(lengths > 1, 4 * lengths + 1, 1)
    place = np.cumprod(np.concatenate([np.ones_like(radix[:, :1]), radix[:, :-1]], axis=1), axis=1)
    return np.einsum("tr,trd->td", place, coefficients)


class Analysis(NamedTuple):
    """What a mapping does, per mapping: all int64, traced, or NumPy arrays once analysed. Level axis: inner to outer."""

    tile: Any  # [B, L, T] elements of the tile of one instance
    part: Any  # [B, L, T] distinct elements that pass through one instance (partition size)
    delta: Any  # [B, L, T] elements delivered to one child (the MAC for level 0) over the whole run
    scatter: Any  # [B, L, T] children along the dimensions that move over a tensor
    spatial: Any  # [B, L, D] children in use along each dimension
    inside: Any  # [B, L, D] extents of a child
    fan: Any  # [B, L] children in use
    fan_xy: Any  # [B, L, 2] children in use along X and Y
    instances_xy: Any  # [B, L + 1, 2] instances in use along X and Y: the MAC array, then the levels
    steps: Any  # [B] temporal steps of the whole nest: compute cycles
    fresh: Any  # [B, L] elements of Inputs that a step delivers which neighbours may forward
    jump: Any  # [B, J] how far the Inputs of a child move when loop j advances, as a key, less the level's base
    base: Any  # [B, L]
    times: Any  # [B, L, J] how often a neighbour may have what this step of loop j delivers; 0 where none can


def analyse(problem: Problem, mappings: Mappings) -> Analysis:
    """Analyse a batch of mappings, each with a problem of its own (a leading axis B)."""
    return jax.vmap(_analyse_one)(problem, mappings)


class _Steps(NamedTuple):
    """Temporal loops outside each level, for one mapping, and what their steps deliver to the tile of the level below.

    D_j is `jump` of loop j plus `base` of the level: v_j less the shifts of all loops inside j, of which those inside the
    level do not count.
    """

    weight: Array  # [L, J] how often a loop advances over the whole run; 0 where it has bound 1 or is inside
    is_first: Array  # bool [L, J] loop 0
    alike: Array  # bool [L, J, T] D_j == v_0
    jump: Array  # [J, T + R] keys of the tensors, then ranks of Inputs
    base: Array  # [L, T + R]
    first_trips: Array  # [L] bound of loop 0, 1 where there is none
    full: Array  # [L, T] F
    fresh: Array  # [L, T] d0


def _extents(mappings: Mappings, width: int) -> tuple[Array, Array, Array, Array]:
    """For one mapping, with D = width: extents [L, D] covered by levels 0..s, the same with only the spatial loops of s and without
    any of s, and the strides of the temporal loops [L, K]."""
    dims = jnp.stack([mappings.spatial_dim, mappings.temporal_dim], axis=1)  # [L, 2, K]
    bounds = jnp.stack([mappings.spatial_bound, mappings.temporal_bound], axis=1)
    depth = len(dims)
    one_hot = dims[..., None] == jnp.arange(width)  # [L, 2, K, D]
    own = jnp.where(one_hot, bounds[..., None], 1)
    groups = jnp.prod(own, axis=2).reshape(2 * depth, width)
    after = jnp.cumprod(groups, axis=0)
    before = jnp.concatenate([jnp.ones_like(after[:1]), after[:-1]]).reshape(depth, 2, width)
    after = after.reshape(depth, 2, width)
    covered = jnp.cumprod(own[:, 1], axis=1) * before[:, 1, None]  # [L, K, D], this loop included
    stride = jnp.sum(jnp.where(one_hot[:, 1], covered, 0), axis=-1) // bounds[:, 1]
    return lax.optimization_barrier((after[:, 1], after[:, 0], before[:, 0], stride))


def _rank_lengths(coefficients: Array, extents: Array) -> Array:
    """[..., T, R] rank lengths of the boxes of extents [..., D]."""
    return 1 + jnp.sum(coefficients * (extents[..., None, None, :] - 1), axis=-1)


def _steps(problem: Problem, mappings: Mappings, inside: Array, stride: Array) -> _Steps:
    depth, slots = mappings.temporal_dim.shape
    dim, trips = mappings.temporal_dim.reshape(-1), jnp.reshape(mappings.temporal_bound, -1)
    stride = stride.reshape(-1)
    loops = jnp.arange(depth * slots)
    start = jnp.arange(depth) * slots
    outside = jnp.flip(jnp.cumprod(jnp.flip(trips)))  # this loop included
    weight = jnp.where(loops >= start[:, None], (trips - 1) * (outside // trips), 0)

    # Loops of bound 1 never step.
    size = jnp.where(trips > 1, stride, 0)
    units = jnp.concatenate([problem.keys, problem.coefficients[INPUTS]])  # [T + R, D]
    shift = units[:, dim].T * size[:, None]  # [J, T + R], v_j
    covered = jnp.cumsum(shift, axis=0)
    # Barriers keep XLA from computing the same again for each level.
    shift, jump, base, weight = lax.optimization_barrier(
        (shift, 2 * shift - covered, covered[start] - shift[start], weight)
    )

    first = jnp.flip(lax.cummin(jnp.flip(jnp.where(trips > 1, loops, len(loops)))))[start]  # [L]
    exists, at = first < len(loops), jnp.minimum(first, len(loops) - 1)
    tensors = len(TENSORS)
    first_shift = jnp.where(exists[:, None], shift[at, :tensors], 0)  # [L, T]
    step = jnp.where(exists, size[at], 0)
    first_ranks = problem.coefficients[:, :, dim[at]].transpose(2, 0, 1) * step[:, None, None]  # [L, T, R]
    lengths = _rank_lengths(problem.coefficients, inside)
    full = jnp.prod(lengths, axis=-1)
    fresh = full - jnp.prod(jnp.maximum(0, lengths - first_ranks), axis=-1)
    return _Steps(
        weight=weight,
        is_first=loops == first[:, None],
        alike=jump[:, :tensors] == (first_shift - base[:, :tensors])[:, None],
        jump=jump,
        base=base,
        first_trips=jnp.where(exists, trips[at], 1),
        full=full,
        fresh=fresh,
    )


def _deliveries(steps: _Steps) -> Array:
    """Delta [L, T] without forwarding; level 0 is not meaningful here."""
    weight = steps.weight[..., None]
    repeated = jnp.sum(jnp.where(steps.alike, weight, 0), axis=1)
    return steps.full * (1 + jnp.sum(weight, axis=1)) - (steps.full - steps.fresh) * repeated


def _repeats(steps: _Steps) -> Array:
    """[L, J] how often a step of each loop delivers Inputs after a step of the same shape: only then may neighbours
    forward them."""
    full, fresh = steps.full[:, INPUTS, None], steps.fresh[:, INPUTS, None]
    repeated = jnp.where(steps.alike[..., INPUTS] & ~steps.is_first, steps.weight, 0)
    # A step of loop 0 with a partial overlap is preceded by one of its own shape once per repeated outer step.
    first = (steps.first_trips[:, None] - 1) * jnp.sum(repeated, axis=1, keepdims=True)
    overlapping = jnp.where(steps.is_first, first, repeated)
    return jnp.where(fresh == full, steps.weight, jnp.where(fresh > 0, overlapping, 0))


def _reachable(problem: Problem, spatial: Array, inside: Array, steps: _Steps) -> Array:
    """bool [L, J] the move of Inputs can be a difference between two children. Never misses one.

    In a rank with one dimension all moves are multiples of what the children cover together, so only 0 is in reach.
    """
    unit = problem.coefficients[INPUTS] * inside[:, None]  # [L, R, D]
    reach = jnp.sum(unit * (spatial[:, None] - 1), axis=-1)  # [L, R]
    apart = [
        jnp.abs(steps.jump[:, rank] + steps.base[:, rank, None]) for rank in range(len(TENSORS), steps.jump.shape[1])
    ]
    found = jnp.prod(spatial, axis=-1)[:, None] > 1
    for rank in range(len(apart)):
        found &= apart[rank] <= reach[:, rank, None]
    for rank, kernel, output in PAIRS:
        # With children along one of the two dimensions, they lie a whole number of its steps apart.
        along_kernel, along_output = spatial[:, kernel] > 1, spatial[:, output] > 1
        single = jnp.where(along_kernel, unit[:, rank, kernel], unit[:, rank, output])
        found &= lax.rem(apart[rank], jnp.where(along_kernel & along_output, 1, single)[:, None]) == 0
    return found


def _analyse_one(problem: Problem, mappings: Mappings) -> Analysis:
    whole, with_spatial, inside, stride = _extents(mappings, problem.keys.shape[-1])
    spatial = with_spatial // inside
    steps = _steps(problem, mappings, inside, stride)
    tile = jnp.prod(_rank_lengths(problem.coefficients, whole), axis=-1)
    total_steps = jnp.prod(mappings.temporal_bound)
    fan = jnp.prod(spatial, axis=-1)
    on_axis = mappings.spatial_axis[..., None] == jnp.arange(2)
    fan_xy = jnp.prod(jnp.where(on_axis, mappings.spatial_bound[..., None], 1), axis=1)
    outer = jnp.flip(jnp.cumprod(jnp.flip(fan_xy, 0), axis=0), 0)  # [L, 2], this level's fan-out included
    # The MACs take one operand a step, whatever the loops, and forward nothing.
    times = jnp.where(_reachable(problem, spatial, inside, steps), _repeats(steps), 0).at[0].set(0)
    return Analysis(
        tile=tile,
        part=_partitions(tile, _rank_lengths(problem.coefficients, with_spatial).prod(-1), fan),
        delta=_deliveries(steps).at[0].set(total_steps),
        scatter=jnp.prod(jnp.where(problem.keys > 0, spatial[:, None], 1), axis=-1),
        spatial=spatial,
        inside=inside,
        fan=fan,
        fan_xy=fan_xy,
        instances_xy=jnp.concatenate([outer, jnp.ones_like(outer[:1])]),
        steps=total_steps,
        fresh=steps.fresh[:, INPUTS],
        jump=steps.jump[:, INPUTS],
        base=steps.base[:, INPUTS],
        times=times,
    )


def _muldiv(a: Array, b: Array, divisor: Array) -> Array:
    """a * b // divisor for positive int64 below 2^53 whose product may exceed 2^63, as long as the quotient is below 2^53.

    A float64 quotient is at most a few off; what it leaves is small, so it comes out right although the products wrap around.
    """
    guess = jnp.floor(a.astype(jnp.float64) * b.astype(jnp.float64) / divisor).astype(jnp.int64)
    return guess + (a * b - guess * divisor) // divisor


def _partitions(tile: Array, spatial_box: Array, fan: Array) -> Array:
    """Partition sizes [L, T], from the outermost level inwards, with the reference's integer divisions."""

    def inwards(outer: Array, level: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        tile, box, fan = level  # tile of this level; box and fan-out of the level outside it
        part = _muldiv(outer, tile, jnp.where(fan > 1, box, tile))
        return part, part

    _, inner = lax.scan(inwards, tile[-1], (tile[:-1], spatial_box[1:], fan[1:]), reverse=True)
    return jnp.concatenate([inner, tile[-1:]])
