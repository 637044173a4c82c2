"""What sliding windows save at most of the Inputs that cross a boundary (MODEL.md section 6, docs/PROOF.md).

Axes: X extents of the temporal loops inside, T tensors.
"""

from __future__ import annotations

import math
from functools import cache
from typing import NamedTuple

import numpy as np

from mqjax.cost.exact.nest import PAIRS
from mqjax.mapper.levels.charges import INPUTS, OUTPUTS, Charges
from mqjax.mapspace.factors import divisors
from mqjax.types import TENSORS

WEIGHTS = TENSORS.index("Weights")


class Crossing(NamedTuple):
    """Elements of Inputs that cross a boundary at least, float64 [X], per tensor that the innermost loops outside leave
    unchanged; and those that are read outside, where neighbours may hand over the others."""

    whole: dict[int, np.ndarray]
    read: dict[int, np.ndarray]


class Windows(NamedTuple):
    """What sliding windows leave of the Inputs that cross a boundary, at least.

    closed: where a window ends inside the level outside the boundary, but for what its first loop saves by sliding. open:
    where it may go on further out. dims: along which Inputs slide. groups: loops of a level that let a window go on.
    """

    closed: Crossing
    open: Crossing
    dims: list[int]
    groups: list[list[int]]


def sliding_inputs(charges: Charges, b: int) -> Windows | None:
    """The windows of the Inputs that cross boundary b; `None` where the layer has none."""
    space = charges.space
    pairs = [pair for pair in PAIRS if all(space.layer.bounds[d] > 1 for d in pair[1:])]
    if not pairs:
        return None
    full = charges.boxes[b, INPUTS].astype(np.float64) * charges.trips
    closed, open_ = (Crossing(*({t: full.copy() for t in range(len(TENSORS))} for _ in range(2))) for _ in range(2))
    for pair in pairs:
        _slide_pair(charges, b, pair, closed, open_)
    dims = [d for pair in pairs for d in pair[1:]]
    children = int(charges.spatial[b, dims].prod())
    if children > 1:
        # Of the children whose data lie at one end, in the direction of a move, no neighbour has what the move brings.
        near = np.any([_reached(charges, b, pair) for pair in pairs], axis=0)
        for tensor in (OUTPUTS, WEIGHTS):
            handed = np.where(near, open_.read[tensor] / children, np.inf)
            for crossing in (open_, closed):
                np.minimum(crossing.read[tensor], handed, out=crossing.read[tensor])
    idle = [d for d in space.dims if d not in space.relevant(TENSORS[INPUTS])]
    groups = [dims] if (charges.spatial[:, dims] > 1).any() else [pair[1:] for pair in pairs]
    return Windows(closed, open_, dims, [[*group, *idle] for group in groups])


def _reached(charges: Charges, b: int, pair: tuple[int, ...]) -> np.ndarray:
    """Whether a move along a pair of dimensions may be equal to the distance of two children that lie along it, bool [X]."""
    lattice, (rank, *dims) = charges.lattice, pair
    spatial = charges.spatial[b, dims]
    if spatial.prod() == 1:
        return np.zeros(lattice.size, bool)
    rows, place = lattice.along(dims)
    extents = lattice.extents[rows]
    outside = (lattice.bounds // extents)[:, dims] > 1
    steps = charges.coefficients[INPUTS, rank, dims] * extents[:, dims] * charges.inside[b, dims]
    reach = (steps * (spatial - 1)).sum(axis=1)
    near = outside.all(axis=1) | (outside & (steps * spatial <= reach[:, None])).any(axis=1)
    return near[place]


def _slide_pair(charges: Charges, b: int, pair: tuple[int, ...], closed: Crossing, open_: Crossing) -> None:
    """Lower what crosses boundary b by what windows along one pair of dimensions may save."""
    lattice, spatial = charges.lattice, charges.spatial
    rank, *dims = pair
    full = charges.boxes[b, INPUTS].astype(np.float64) * charges.trips
    # All of this follows from the extents of the pair.
    rows, place = lattice.along(dims)
    extents = lattice.extents[rows]
    length = charges.lengths(b, INPUTS, extents)[:, rank]
    outside = (lattice.bounds // extents)[:, dims]
    steps = charges.coefficients[INPUTS, rank, dims] * extents[:, dims] * charges.inside[b, dims]
    moves = steps * spatial[b, dims]
    both = (outside > 1).all(axis=1)
    equal = both & (moves[:, 0] == moves[:, 1])
    double = both & ((moves[:, 0] == 2 * moves[:, 1]) | (moves[:, 1] == 2 * moves[:, 0]))
    siblings = bool(spatial[b].prod() > charges.scatter(b, INPUTS))
    unmoved = bool((spatial[b:, dims] == 1).all())
    columns = np.column_stack([moves, outside, length]).tolist()
    for first, tensor in ((0, OUTPUTS), (1, WEIGHTS), (None, INPUTS)):
        moving = np.ones(len(rows), bool) if first is None else outside[:, first] > 1
        # Rounded down, so that no access is counted that is not made.
        whole, read = (
            (1 - np.array([_saved(first, row, charges.depth - b, helped, unmoved) for row in columns])) * (1 - 1e-12)
            for helped in (False, siblings)
        )
        changed = equal if first is None else moving & (double | equal)
        for crossing, where in ((open_, moving), (closed, changed)):
            _lower(crossing.whole[tensor], full, where, whole, place)
            _lower(crossing.read[tensor], full, where, read, place)


def _lower(values: np.ndarray, full: np.ndarray, where: np.ndarray, shares: np.ndarray, place: np.ndarray) -> None:
    """Lower `values` [X] to shares of `full` [X], where they are lowered; where, shares: of what is at each place."""
    if where.any():
        np.minimum(values, full * np.where(where, shares, np.inf)[place], out=values)


def _saved(first: int | None, row: list[int], levels: int, siblings: bool, unmoved: bool) -> float:
    """The share of elements that windows save at most. first: which of the pair's dimensions, kernel or output, the
    innermost loop has, `None` one that leaves Inputs unchanged; row: moves along both, loops outside along both, length."""
    kernel, output, kernels, outputs, length = row
    if first is not None and (kernels, outputs)[first] == 1:
        return 0.0
    # With spatial loops in between, or several kernel loops, moves are not followed one by one.
    if unmoved and (kernels == 1 or all(kernels % p for p in range(2, math.isqrt(kernels) + 1))):
        return saved_most(first, kernel, output, kernels, outputs, levels, length, siblings)
    if first is None:
        return 1 - 1 / (kernels * outputs) if min(kernels, outputs) > 1 else 0.0
    fresh = 0.0 if siblings and min(kernels, outputs) > 1 else min(1.0, (kernel, output)[first] / length)
    return (1 - 1 / (kernels * outputs)) * (1 - fresh)


@cache
def saved_most(
    first: int | None, kernel: int, output: int, kernels: int, outputs: int, levels: int, length: int, siblings: bool
) -> float:
    """The share of elements that the best window saves, of all windows of loops along one pair of dimensions: at most one
    kernel loop, of bound `kernels`, and output loops whose bounds multiply to a divisor of `outputs`, one a level.

    first: 0 where the kernel loop comes first, 1 where an output loop does, `None` where loops that leave Inputs unchanged
    do. kernel, output: how far a box of `length` moves in a step of either. siblings: whether children that take the
    same data may hand them over in a step that moves nothing. Steps of loop j that repeat the first move, D_j = v_0,
    bring only what is new; see MODEL.md section 6.
    """
    start = (kernel, output, 0)[2 if first is None else first]
    alike = 1 - min(1.0, start / length)
    best = 0.0

    def follow(moved: int, trips: int, covered: int, used: bool, left: int, saved: float) -> None:
        nonlocal best
        best = max(best, saved)
        if saved + 1 / trips <= best:
            return
        apart_of = [(kernel - moved, kernels, True)] if kernels > 1 and not used else []
        if left:
            # Divisors as bounds: the rest may stand further out.
            apart_of += [(output * covered - moved, n, False) for n in divisors(outputs // covered) if n > 1]
        for apart, bound, is_kernel in apart_of:
            if moved == 0 and trips == 1 and first is not None and is_kernel != (first == 0):
                continue
            gain = alike if apart == start else 1.0 if apart == 0 and siblings and start else 0.0
            move = kernel if is_kernel else output * covered
            follow(
                moved + move, trips * bound, covered if is_kernel else covered * bound, used or is_kernel,
                left if is_kernel else left - 1, saved + gain * (bound - 1) / (trips * bound),
            )  # fmt: skip

    follow(0, 1, 1, False, levels, 0.0)
    return best
