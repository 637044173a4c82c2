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
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from mqjax.mapper.levels.charges import INPUTS, WRITE, Charges
from mqjax.mapper.levels.packings import Packings
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


class Ended(NamedTuple):
    """What is inside a boundary and the boundary itself cost where the run of innermost loops ends in the level outside, but
    for the tensor that it leaves unchanged, which crosses as if the run were inside."""

    others: np.ndarray  # float64 [X, U] by the extents inside, or with the loop along `placed`
    own: np.ndarray  # float64 [X, U] by the extents with all loops of the run
    dims: list[int]  # of the other loops of the run
    placed: int | None


class Bounds:
    """What the boundaries 1 to b - 1 cost at least at some packings, by the extents inside boundary b and by which tensor the
    run of innermost loops outside it leaves unchanged.

    least: per boundary b = 1 to L - 1 and tensor float64 [X, U], inf where nothing fits; `None` stands for no tensor. inside:
    per boundary the least of these. parts: per boundary b = 1 to L - 1 and tensor. windows: per boundary. root: what all
    boundaries but that to the MACs take at least, float64 [U]. fixed, most: what constraints say of each level's loops.
    """

    def __init__(self, charges: Charges, packings: Packings) -> None:
        self.charges, self.packings, space = charges, packings, charges.space
        self.fixed, self.most = fixed_factors(space), largest_factors(space)
        lattice = charges.lattice
        start = np.zeros((lattice.size, len(packings)))
        start[~charges.fits(1, packings.operands)] = np.inf
        for d, factor in self.fixed[0].items():
            start[lattice.extents[:, d] != factor] = np.inf
        start[(lattice.extents > self.most[0]).any(axis=1)] = np.inf
        self.parts: list[list[BoundaryTerms]] = [[]]
        self.windows: list[Windows | None] = [None]
        self.least: list[dict[int | None, np.ndarray]] = [{}, dict.fromkeys((0, 1, 2, None), start)]
        self.inside: list[np.ndarray] = [start, start]
        self._idle = idle_dims(space)
        for b in range(1, charges.depth):
            self._price_boundary(b)
            if b < charges.depth - 1:
                self._place_level(b)
        self.root = self._place_all(charges.depth - 1) if charges.depth > 1 else start[-1]

    def take(self, some: np.ndarray) -> Bounds:
        """Those of some packings."""
        taken, known = copy.copy(self), {}

        def of(values: np.ndarray) -> np.ndarray:
            if id(values) not in known:
                known[id(values)] = values[:, some]
            return known[id(values)]

        taken.packings, taken.root = self.packings.take(some), self.root[some]
        taken.inside = [of(values) for values in self.inside]
        taken.least = [{t: of(values) for t, values in at.items()} for at in self.least]
        taken.parts = [[BoundaryTerms(*map(of, part)) for part in at] for at in self.parts]
        return taken

    def _price_boundary(self, b: int) -> None:
        """What boundary b costs, by the extents inside it."""
        charges = self.charges
        plain = [self._cost(b, t, charges.boxes[b, t] * charges.trips) for t in range(len(TENSORS))]
        windows = sliding_inputs(charges, b)
        self.windows.append(windows)
        self.parts.append([self._part(b, t, plain, windows) for t in range(len(TENSORS))])

    def _place_level(self, b: int) -> None:
        """From what is inside boundary b to what is inside boundary b + 1."""
        lattice, fixed = self.charges.lattice, self.fixed[b]
        every = range(len(lattice.bounds))
        closed, extended = [], {}
        for tensor, dims in enumerate(self._idle):
            rest = [d for d in every if d not in dims]
            extended[tensor] = self._extended(b, tensor)
            for run, own, idle, _ in self._ended(b, tensor):
                run = lattice.least(run, idle, fixed)
                run += own
                closed.append(lattice.least(run, rest, fixed))
        generic = functools.reduce(np.minimum, closed)
        overfull = ~self.charges.fits(b + 1, self.packings.operands)
        generic[overfull] = np.inf
        outside: dict[int | None, np.ndarray] = {None: generic}
        for tensor in range(len(TENSORS)):
            outside[tensor] = generic
            if (values := extended[tensor]) is not None:
                outside[tensor] = np.minimum(generic, values)
                outside[tensor][overfull] = np.inf
        self.least.append(outside)
        self.inside.append(functools.reduce(np.minimum, [outside[t] for t in range(len(TENSORS))]))

    def _ended(self, b: int, tensor: int) -> Iterator[Ended]:
        """What boundary b and those inside it cost where the run that leaves a tensor unchanged ends in the level outside."""
        lattice, part, dims, windows = self.charges.lattice, self.parts[b][tensor], self._idle[tensor], self.windows[b]
        for d in windows.dims if windows is not None and tensor != INPUTS else []:
            if d in dims:
                # The first loop slides, so that its box grows as if it were inside.
                slid = lattice.least(part.others.copy(), [d], self.fixed[b]) + part.plain_inputs
                yield Ended(slid, part.own, [other for other in dims if other != d], d)
        if tensor == INPUTS:
            yield Ended(part.others.copy(), part.closed_inputs, dims, None)
        else:
            yield Ended(part.others + part.closed_inputs, part.own, dims, None)

    def _place_all(self, b: int) -> np.ndarray:
        """What the boundaries 1 to b cost at least where the outermost level takes all that is left, float64 [U]."""
        lattice, fixed = self.charges.lattice, self.fixed[b]
        found = [np.full(len(self.packings), np.inf)]
        for tensor in range(len(TENSORS)):
            for run, own, dims, placed in self._ended(b, tensor):
                fits = np.ones(lattice.size, bool)
                for d, bound in enumerate(lattice.bounds):
                    if d in fixed or d == placed:
                        fits &= lattice.extents[:, d] * (1 if d == placed else fixed[d]) == bound
                rows = np.flatnonzero(fits)
                if len(rows):
                    mixed = rows + (lattice.places[-1] - lattice.places[rows])[:, dims].sum(axis=1)
                    found.append((run[rows] + own[mixed]).min(axis=0))
        least = functools.reduce(np.minimum, found)
        return np.where(self.charges.fits(b + 1, self.packings.operands)[-1], least, np.inf)

    def _part(self, b: int, tensor: int, plain: list[np.ndarray], windows: Windows | None) -> BoundaryTerms:
        """What the bounds at boundary b are made of where its run leaves a tensor unchanged."""
        others = self.least[b][tensor].copy()
        for t in range(len(TENSORS)):
            if t not in (tensor, INPUTS):
                others += plain[t]
        inputs = plain[INPUTS]
        if windows is None:
            return BoundaryTerms(others, plain[tensor], inputs, inputs, inputs)
        ended, going_on = (self._inputs(b, x, tensor) for x in (windows.closed, windows.open))
        return BoundaryTerms(others, going_on if tensor == INPUTS else plain[tensor], inputs, ended, going_on)

    def _extended(self, b: int, tensor: int) -> np.ndarray | None:
        """The least where the run or the window of innermost loops goes on outside the level, so that the level has no
        other loops, float64 [X, U]; `None` where the constraints rule that out."""
        lattice, part, fixed, windows = self.charges.lattice, self.parts[b][tensor], self.fixed[b], self.windows[b]
        every, dims = range(len(lattice.bounds)), self._idle[tensor]
        groups = [dims] if windows is None else [dims, *windows.groups]
        possible = [group for group in groups if all(fixed.get(d, 1) == 1 for d in every if d not in group)]
        if not possible:
            return None
        # Whatever a run gains outside, the tensor crosses at least as if all of its loops were inside.
        lowest = part.others + lattice.outermost(part.own, dims)
        if tensor != INPUTS:
            lowest += part.open_inputs
        return functools.reduce(np.minimum, [lattice.least(lowest.copy(), group, fixed) for group in possible])

    def _cost(self, b: int, tensor: int, crossing: np.ndarray, fills: bool = True) -> np.ndarray:
        """pJ of `crossing` [X], float64 [X, U]; without `fills` only what is read outside."""
        found = self.charges.of(b, tensor)
        kept = found if fills else [charge for charge in found if charge.direction != WRITE]
        ways = self.packings.ways[tensor]
        return self.packings.total([(tensor, self.charges.cost(kept, crossing[:, None], ways[:, None]))])

    def _inputs(self, b: int, crossing: Crossing, tensor: int) -> np.ndarray:
        """pJ of Inputs where the innermost loops outside leave a tensor unchanged, at least, float64 [X, U]."""
        cost = self._cost(b, INPUTS, crossing.whole[tensor])
        helped = np.flatnonzero(crossing.read[tensor] < crossing.whole[tensor])
        if len(helped):
            cost[helped] = self._cost(b, INPUTS, crossing.read[tensor][helped], fills=False)
        return cost


def cheapest(charges: Charges, packings: Packings) -> np.ndarray:
    """What the boundaries but that to the MACs cost if every tensor crosses each as seldom as its boxes and windows ever
    allow, float64 [U]. Often what the best mapping takes."""
    total = np.zeros(len(packings))
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
            total += packings.total([(t, charges.cost(found, np.array([[once]]), packings.ways[t][:, None]))])[0]
    return total
