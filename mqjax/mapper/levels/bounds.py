"""Lower bounds of what the temporal loops inside a boundary cost, for all extents at once (docs/PROOF.md).

Of the order of a level's loops only the innermost ones matter: the run of those that leave a tensor unchanged. Placed
innermost, they let the tensor cross the boundary as often as if they were inside, so that its cost follows from their
extents outside the level and the extents of its other dimensions inside. What a run that began further out may add, and
what sliding windows, coincidences and neighbours may save, is granted in full.

Axes: X extents of the temporal loops inside, U packings, T tensors.
"""

from __future__ import annotations

import copy
import functools
import math
from typing import NamedTuple

import numpy as np

from mqjax.cost.exact.nest import PAIRS
from mqjax.mapper.levels.charges import INPUTS, OUTPUTS, WRITE, Charges
from mqjax.mapspace.space import Mapspace
from mqjax.types import TENSORS

WEIGHTS = TENSORS.index("Weights")


def idle_dims(space: Mapspace) -> list[list[int]]:
    """The dimensions whose loops leave each tensor unchanged; no dimension does so to two tensors."""
    return [[d for d in space.dims if d not in space.relevant(tensor)] for tensor in TENSORS]


def fixed_factors(space: Mapspace) -> list[dict[int, int]]:
    """Per level, inner to outer, the bounds that the constraints fix of its temporal loops."""
    fixed: list[dict[int, int]] = [{} for _ in space.arch.levels]
    for d in space.dims:
        for t, factor in space.fixed(d, space.layer.bounds[d]).items():
            if not space.tiling[t].spatial:
                fixed[space.tiling[t].level][d] = factor
    return fixed


class Bounds:
    """What the boundaries 1 to b - 1 cost at least at some packings, int64 [U, L, T], by the extents inside boundary b and by which tensor the run of
    innermost loops outside it leaves unchanged.

    parts: per boundary b = 1 to L - 1 and tensor, both [X, U]: what is inside and the other tensors cost by the extents
    inside, and what the tensor costs by the extents that it crosses with. least: per boundary b = 1 to L and tensor float64 [X, U], inf where nothing fits; None stands for no tensor.
    """

    def __init__(self, charges: Charges, operands: np.ndarray) -> None:
        self.charges, space = charges, charges.space
        fixed, idle, lattice = fixed_factors(space), idle_dims(space), charges.lattice
        start = np.zeros((lattice.size, len(operands)))
        start[~charges.fits(1, operands)] = np.inf
        for d, factor in fixed[0].items():
            start[lattice.extents[:, d] != factor] = np.inf
        self.parts: list[list[tuple[np.ndarray, np.ndarray]]] = [[]]
        self.least: list[dict[int | None, np.ndarray]] = [{}, dict.fromkeys((0, 1, 2, None), start)]
        for b in range(1, charges.depth):
            self._place_level(b, fixed[b], idle, operands)

    @property
    def root(self) -> np.ndarray:
        """What all boundaries but that to the MACs take at least, float64 [U]."""
        return self.least[-1][None][-1]

    def of(self, u: int) -> Bounds:
        """Those of one packing."""
        one = copy.copy(self)
        one.least = [{t: values[:, u : u + 1] for t, values in at.items()} for at in self.least]
        one.parts = [[(x[:, u : u + 1], y[:, u : u + 1]) for x, y in at] for at in self.parts]
        return one

    def _place_level(self, b: int, fixed: dict[int, int], idle: list[list[int]], operands: np.ndarray) -> None:
        """From what is inside boundary b to what is inside boundary b + 1."""
        charges, lattice = self.charges, self.charges.lattice
        plain = [self._cost(b, t, charges.boxes[b, t] * charges.trips, operands) for t in range(len(TENSORS))]
        windows = sliding_inputs(charges, b)
        every = list(range(len(lattice.bounds)))
        closed, extended = [], {}
        self.parts.append([])
        for tensor, dims in enumerate(idle):
            rest = [d for d in every if d not in dims]
            base = self.least[b][tensor].copy()
            for t in range(len(TENSORS)):
                if t not in (tensor, INPUTS):
                    base += plain[t]
            loose = plain[INPUTS] if windows is None else self._inputs(b, windows.open, tensor, operands)
            tight = plain[INPUTS] if windows is None else self._inputs(b, windows.closed, tensor, operands)
            if tensor == INPUTS:
                open_others, others, own, closed_own = base, base, loose, tight
            else:
                open_others, others, own, closed_own = base + loose, base + tight, plain[tensor], plain[tensor]
            self.parts[b].append((open_others.copy(), own))
            if b < charges.depth - 1:
                extended[tensor] = self._extended(open_others, own, dims, fixed, windows)
            if windows is not None and tensor != INPUTS:
                # The first loop slides, so that its box grows as if it were inside.
                for d in windows.dims:
                    if d in dims:
                        slid = lattice.least(base.copy(), [d], fixed) + plain[INPUTS]
                        run = lattice.least(slid, [other for other in dims if other != d], fixed)
                        run += own
                        closed.append(lattice.least(run, rest, fixed))
            run = lattice.least(others, dims, fixed)
            run += closed_own
            closed.append(lattice.least(run, rest, fixed))
        generic = functools.reduce(np.minimum, closed)
        overfull = ~charges.fits(b + 1, operands)
        generic[overfull] = np.inf
        outside: dict[int | None, np.ndarray] = {None: generic}
        for tensor in range(len(TENSORS)):
            outside[tensor] = generic
            if extended.get(tensor) is not None:
                outside[tensor] = np.minimum(generic, extended[tensor])
                outside[tensor][overfull] = np.inf
        self.least.append(outside)

    def _extended(
        self, others: np.ndarray, own: np.ndarray, dims: list[int], fixed: dict[int, int], windows: Windows | None
    ) -> np.ndarray | None:
        """The least where the run or the window of innermost loops goes on outside the level, so that the level has no
        other loops, float64 [X, U]; `None` where the constraints rule that out."""
        lattice = self.charges.lattice
        every = range(len(lattice.bounds))
        # Whatever a run gains outside, the tensor crosses at least as if all of its loops were inside.
        lowest = others + lattice.outermost(own, dims)
        groups = [dims] if windows is None else [dims, *windows.groups]
        possible = [group for group in groups if all(fixed.get(d, 1) == 1 for d in every if d not in group)]
        if not possible:
            return None
        return functools.reduce(np.minimum, [lattice.least(lowest.copy(), group, fixed) for group in possible])

    def _cost(self, b: int, tensor: int, crossing: np.ndarray, operands: np.ndarray, fills: bool = True) -> np.ndarray:
        """pJ of `crossing` [X], float64 [X, U]; without `fills` only what is read outside."""
        found = self.charges.of(b, tensor)
        kept = found if fills else [charge for charge in found if charge.direction != WRITE]
        packings, place = np.unique(operands[:, :, tensor], axis=0, return_inverse=True)
        return self.charges.cost(kept, crossing[:, None], packings.T[:, None])[:, place.reshape(-1)]

    def _inputs(self, b: int, crossing: Crossing, tensor: int, operands: np.ndarray) -> np.ndarray:
        """pJ of Inputs where the innermost loops outside leave a tensor unchanged, at least, float64 [X, U]."""
        cost = self._cost(b, INPUTS, crossing.whole[tensor], operands)
        helped = np.flatnonzero(crossing.read[tensor] < crossing.whole[tensor])
        if len(helped):
            cost[helped] = self._cost(b, INPUTS, crossing.read[tensor], operands, fills=False)[helped]
        return cost


def cheapest(charges: Charges, operands: np.ndarray) -> np.ndarray:
    """What the boundaries but that to the MACs cost if every tensor crosses each as seldom as its boxes and windows ever
    allow, float64 [U]; operands: int64 [U, L, T]. Often what the best mapping takes."""
    total = np.zeros(len(operands))
    relevant = list(charges.space.relevant(TENSORS[INPUTS]))
    outside = (charges.lattice.bounds // charges.lattice.extents)[:, relevant].prod(axis=1)
    for b in range(1, charges.depth):
        for t in range(len(TENSORS)):
            found = charges.of(b, t)
            if not found:
                continue
            once = charges.boxes[b, t, -1]
            if t == INPUTS:
                # A box has elements between strides that smaller boxes lack, and windows may save by coincidence.
                windows = sliding_inputs(charges, b)
                once = (charges.boxes[b, t] * outside).min()
                if windows is not None:
                    once = np.floor(min(once, *(crossing.min() for crossing in windows.open.read.values())))
                    found = [charge for charge in found if charge.direction != WRITE]
            total += charges.cost(found, np.array(once), operands[:, :, t].T)
    return total


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
    idle = [d for d in space.dims if d not in space.relevant(TENSORS[INPUTS])]
    return Windows(closed, open_, dims, [[*pair[1:], *idle] for pair in pairs])


def _slide_pair(charges: Charges, b: int, pair: tuple[int, ...], closed: Crossing, open_: Crossing) -> None:
    """Lower what crosses boundary b by what windows along one pair of dimensions may save."""
    lattice, spatial = charges.lattice, charges.spatial
    rank, *dims = pair
    box, trips = charges.boxes[b, INPUTS].astype(np.float64), charges.trips
    full, length = box * trips, charges.lengths(b, INPUTS)[:, rank]
    outside = (lattice.bounds // lattice.extents)[:, dims]
    units = [charges.coefficients[INPUTS, rank, d] * lattice.extents[:, d] * charges.inside[b, d] for d in dims]
    moves = [unit * spatial[b, d] for unit, d in zip(units, dims, strict=True)]
    runs, both = outside.prod(axis=1), (outside > 1).all(axis=1)
    # With a single kernel loop moves along both repeat each other only where an output step divides two kernel steps.
    single = _is_prime(outside[:, 0]) & (spatial[b:, dims[0]].prod() == 1)
    mixed = both & (~single | (2 * units[0] % units[1] == 0))
    equal = both & (moves[0] == moves[1])
    double = both & ((moves[0] == 2 * moves[1]) | (moves[1] == 2 * moves[0]))
    siblings = spatial[b].prod() > charges.scatter(b, INPUTS)
    along = [(unit, int(spatial[b, d])) for unit, d in zip(units, dims, strict=True) if spatial[b, d] > 1]

    def lower(values: np.ndarray, where: np.ndarray, least: np.ndarray) -> None:
        values[where] = np.minimum(values, least)[where]

    lower(open_.whole[INPUTS], mixed, full / runs)
    lower(closed.whole[INPUTS], equal, full / runs)
    for own, tensor in enumerate((OUTPUTS, WEIGHTS)):
        moving = outside[:, own] > 1
        fresh = box / length * np.minimum(length, moves[own])
        times = np.where(mixed, runs, outside[:, own])
        least = trips / times * box + (trips - trips / times) * fresh
        lower(open_.whole[tensor], moving, least)
        lower(closed.whole[tensor], moving & (double | equal), least)
        if siblings:
            lower(open_.read[tensor], mixed, full / runs)
            lower(closed.read[tensor], equal, full / runs)
        for unit, children in along:
            near = both | ((outside > 1) & (np.stack(moves, axis=1) <= (unit * (children - 1))[:, None])).any(axis=1)
            lower(open_.read[tensor], near & moving, least / children)
            lower(closed.read[tensor], near & moving, least / children)


def _is_prime(numbers: np.ndarray) -> np.ndarray:
    """Whether numbers, int64 [N], of at most a few thousands are prime."""
    return np.array([n > 1 and all(n % p for p in range(2, math.isqrt(n) + 1)) for n in range(numbers.max() + 1)])[
        numbers
    ]
