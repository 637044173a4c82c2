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
from typing import NamedTuple

import numpy as np

from mqjax.mapper.levels.charges import INPUTS, WRITE, Charges
from mqjax.mapper.levels.windows import Crossing, Windows, sliding_inputs
from mqjax.mapspace.space import Mapspace
from mqjax.types import TENSORS


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


def largest_factors(space: Mapspace) -> np.ndarray:
    """Upper bounds of the temporal loops of each level, float64 [L, D]."""
    most = np.full((len(space.arch.levels), len(space.dims)), np.inf)
    for level in space.tiling:
        if not level.spatial:
            for dim, bound in level.max_factors.items():
                most[level.level, space.layer.loops.index(dim)] = bound
    return most


class BoundaryTerms(NamedTuple):
    """What the bounds at a boundary are made of where its run leaves a certain tensor unchanged, float64 [X, U] each."""

    others: np.ndarray  # what is inside, and the other tensors without Inputs, by the extents inside
    own: np.ndarray  # the tensor, by the extents that it crosses with
    plain_inputs: np.ndarray  # Inputs whose window saves nothing
    closed_inputs: np.ndarray  # Inputs whose window ends in the level outside
    open_inputs: np.ndarray  # Inputs whose window goes on further out


class Bounds:
    """What the boundaries 1 to b - 1 cost at least at some packings, int64 [U, L, T], by the extents inside boundary b and
    by which tensor the run of innermost loops outside it leaves unchanged.

    least: per boundary b = 1 to L and tensor float64 [X, U], inf where nothing fits; `None` stands for no tensor. parts: per
    boundary b = 1 to L - 1 and tensor. windows: per boundary. fixed, most: what constraints say of each level's loops.
    """

    def __init__(self, charges: Charges, operands: np.ndarray) -> None:
        self.charges, space = charges, charges.space
        self.fixed, self.most = fixed_factors(space), largest_factors(space)
        idle, lattice = idle_dims(space), charges.lattice
        start = np.zeros((lattice.size, len(operands)))
        start[~charges.fits(1, operands)] = np.inf
        for d, factor in self.fixed[0].items():
            start[lattice.extents[:, d] != factor] = np.inf
        start[(lattice.extents > self.most[0]).any(axis=1)] = np.inf
        self.parts: list[list[BoundaryTerms]] = [[]]
        self.windows: list[Windows | None] = [None]
        self.least: list[dict[int | None, np.ndarray]] = [{}, dict.fromkeys((0, 1, 2, None), start)]
        for b in range(1, charges.depth):
            self._place_level(b, self.fixed[b], idle, operands)

    @property
    def root(self) -> np.ndarray:
        """What all boundaries but that to the MACs take at least, float64 [U]."""
        return self.least[-1][None][-1]

    def of(self, u: int) -> Bounds:
        """Those of one packing."""
        one = copy.copy(self)
        one.least = [{t: values[:, u : u + 1] for t, values in at.items()} for at in self.least]
        one.parts = [[BoundaryTerms(*(values[:, u : u + 1] for values in part)) for part in at] for at in self.parts]
        return one

    def _place_level(self, b: int, fixed: dict[int, int], idle: list[list[int]], operands: np.ndarray) -> None:
        """From what is inside boundary b to what is inside boundary b + 1."""
        charges, lattice = self.charges, self.charges.lattice
        plain = [self._cost(b, t, charges.boxes[b, t] * charges.trips, operands) for t in range(len(TENSORS))]
        windows = sliding_inputs(charges, b)
        self.windows.append(windows)
        every = list(range(len(lattice.bounds)))
        closed, extended = [], {}
        self.parts.append([])
        for tensor, dims in enumerate(idle):
            part = self._part(b, tensor, plain, windows, operands)
            self.parts[b].append(part)
            rest = [d for d in every if d not in dims]
            if b < charges.depth - 1:
                extended[tensor] = self._extended(part, tensor, dims, fixed, windows)
            for d in windows.dims if windows is not None and tensor != INPUTS else []:
                if d in dims:
                    # The first loop slides, so that its box grows as if it were inside.
                    slid = lattice.least(part.others.copy(), [d], fixed) + part.plain_inputs
                    run = lattice.least(slid, [other for other in dims if other != d], fixed)
                    closed.append(lattice.least(run + part.own, rest, fixed))
            run = part.others.copy() if tensor == INPUTS else part.others + part.closed_inputs
            run = lattice.least(run, dims, fixed)
            run += part.closed_inputs if tensor == INPUTS else part.own
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

    def _part(
        self, b: int, tensor: int, plain: list[np.ndarray], windows: Windows | None, operands: np.ndarray
    ) -> BoundaryTerms:
        """What the bounds at boundary b are made of where its run leaves a tensor unchanged."""
        others = self.least[b][tensor].copy()
        for t in range(len(TENSORS)):
            if t not in (tensor, INPUTS):
                others += plain[t]
        inputs = plain[INPUTS]
        if windows is None:
            return BoundaryTerms(others, plain[tensor], inputs, inputs, inputs)
        ended, going_on = (self._inputs(b, x, tensor, operands) for x in (windows.closed, windows.open))
        return BoundaryTerms(others, going_on if tensor == INPUTS else plain[tensor], inputs, ended, going_on)

    def _extended(
        self, part: BoundaryTerms, tensor: int, dims: list[int], fixed: dict[int, int], windows: Windows | None
    ) -> np.ndarray | None:
        """The least where the run or the window of innermost loops goes on outside the level, so that the level has no
        other loops, float64 [X, U]; `None` where the constraints rule that out."""
        lattice = self.charges.lattice
        every = range(len(lattice.bounds))
        groups = [dims] if windows is None else [dims, *windows.groups]
        possible = [group for group in groups if all(fixed.get(d, 1) == 1 for d in every if d not in group)]
        if not possible:
            return None
        # Whatever a run gains outside, the tensor crosses at least as if all of its loops were inside.
        lowest = part.others + lattice.outermost(part.own, dims)
        if tensor != INPUTS:
            lowest += part.open_inputs
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
