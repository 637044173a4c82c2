"""Lower bounds of what the temporal loops inside a boundary cost, for all extents at once (docs/PROOF.md).

Of the order of a level's loops only the innermost ones matter: the run of those that leave a tensor unchanged. Placed
innermost, they let the tensor cross the boundary as often as if they were inside, so that its cost follows from their
extents outside the level and the extents of its other dimensions inside. A run goes on through a *chain* of levels that have no other
loops; what sliding windows, coincidences and neighbours may save is granted in full.

Axes: X extents of the temporal loops inside, U packings, T tensors.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

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


class Chain(NamedTuple):
    """What the boundaries inside another one cost at least where the run of innermost loops outside it goes on through some
    levels just inside, the chain, which have no other loops, float64 [X, U].

    inside: all but the run's tensor in the chain, by the extents inside. own: that tensor in the chain, by the extents with all
    loops of the run, as if they were inside. first: the innermost boundary in the chain that it crosses.
    """

    inside: np.ndarray
    own: np.ndarray
    first: int


class Terms(NamedTuple):
    """What the bounds at a boundary are made of where the innermost loops outside leave a certain tensor unchanged, float64
    [X, U] each. Lists have an entry for each chain inside the boundary.

    others: what is inside, and at the boundary the other tensors without Inputs. own: the tensor in the chain and at the boundary,
    by the extents with all loops of the run; ended: that of Inputs whose window ends in the level outside. The rest is for
    Inputs at the boundary where another tensor has the run: their window saves nothing, ends in the level outside, or goes on.
    """

    others: list[np.ndarray]
    own: list[np.ndarray]
    ended: list[np.ndarray]
    plain_inputs: np.ndarray
    closed_inputs: np.ndarray
    open_inputs: np.ndarray


def _lower(values: np.ndarray, others: np.ndarray) -> np.ndarray:
    """The lower of each two; changes `values`."""
    return np.minimum(values, others, out=values)


def _may_have_only(dims: Sequence[int], fixed: dict[int, int]) -> bool:
    """Whether a level may have no loops but those along some dimensions. fixed: bounds that constraints fix."""
    return all(factor == 1 for d, factor in fixed.items() if d not in dims)


class Bounds:
    """What the boundaries 1 to b - 1 cost at least at some packings, by the extents inside boundary b and by which tensor the
    innermost loops outside it leave unchanged.

    least: per boundary b = 1 to L and tensor float64 [X, U], inf where nothing fits; `None` stands for no tensor, the only one at
    boundary L. inside: per boundary the least of these. chains, parts: per boundary and tensor. windows: per boundary. root: what
    all boundaries but that to the MACs take at least, float64 [U]. fixed, most: what constraints say of each level's loops.
    never_idle: dimensions whose loops leave no tensor unchanged.
    """

    def __init__(self, charges: Charges, packings: Packings) -> None:
        self.charges, self.packings, space = charges, packings, charges.space
        self.fixed, self.most = fixed_factors(space), largest_factors(space)
        lattice = charges.lattice
        start = np.zeros((lattice.size, len(packings)))
        start[~charges.fits(1, packings.most)] = np.inf
        for d, factor in self.fixed[0].items():
            start[lattice.extents[:, d] != factor] = np.inf
        start[(lattice.extents > self.most[0]).any(axis=1)] = np.inf
        self.parts: list[list[Terms]] = [[]]
        self.windows: list[Windows | None] = [None]
        self.least: list[dict[int | None, np.ndarray]] = [{}, dict.fromkeys((0, 1, 2, None), start)]
        self.inside: list[np.ndarray] = [start, start]
        chains = [Chain(start, np.zeros_like(start), 1)]
        self.chains: list[list[list[Chain]]] = [[], [chains for _ in TENSORS]]
        self._idle = idle_dims(space)
        self.never_idle = [d for d in space.dims if not any(d in dims for dims in self._idle)]
        for b in range(1, charges.depth):
            self._place_level(b, self._price_boundary(b))
        self.root = self.least[-1][None][-1]  # no loops are outside

    def take(self, some: np.ndarray) -> Bounds:
        """Those of some packings."""
        taken, known = copy.copy(self), {}

        def of(values: Any) -> Any:
            if isinstance(values, list):
                return [of(each) for each in values]
            if id(values) not in known:
                known[id(values)] = values.take(some, axis=1)
            return known[id(values)]

        taken.packings, taken.root = self.packings.take(some), self.root[some]
        taken.inside = of(self.inside)
        taken.least = [{t: of(values) for t, values in at.items()} for at in self.least]
        taken.parts = [[Terms(*map(of, part)) for part in at] for at in self.parts]
        taken.chains = [
            [[Chain(of(x.inside), of(x.own), x.first) for x in chains] for chains in at] for at in self.chains
        ]
        return taken

    def within(self, b: int, tensor: int | None, place: np.ndarray, run: np.ndarray) -> np.ndarray:
        """What the boundaries inside b cost at least, float64 [N, U], by the extents inside, flat, and the product of the bounds
        of the run outside b, which leaves a tensor unchanged; int64 [N] each."""
        if tensor is None or (tensor == INPUTS and any(windows is not None for windows in self.windows[:b])):
            return self.least[b][tensor][place]
        found, own, last = np.inf, np.zeros(1), b
        for chain in sorted(self.chains[b][tensor], key=lambda chain: -chain.first):
            for boundary in range(chain.first, last):
                crossing = self.charges.boxes[boundary, tensor][place] * self.charges.trips[place] // run
                own = own + self._cost(boundary, tensor, crossing)
            last = chain.first
            found = np.minimum(found, chain.inside[place] + own)
        return np.asarray(found)

    def _price_boundary(self, b: int) -> np.ndarray:
        """What boundary b costs, by the extents inside it. Where no run or window saves anything: float64 [X, U], with what is
        inside."""
        charges = self.charges
        plain = [self._cost(b, t, charges.boxes[b, t] * charges.trips) for t in range(len(TENSORS))]
        # Where Inputs do not cross, it does not matter how they slide.
        windows = sliding_inputs(charges, b) if charges.of(b, INPUTS) else None
        self.windows.append(windows)
        self.parts.append([self._part(b, t, plain, windows) for t in range(len(TENSORS))])
        return self.least[b][None] + sum(plain)

    def _part(self, b: int, tensor: int, plain: list[np.ndarray], windows: Windows | None) -> Terms:
        """What the bounds at boundary b are made of where its run leaves a tensor unchanged."""
        inputs = [plain[INPUTS]] * 3
        if windows is not None:
            inputs[1:] = (self._inputs(b, x, tensor) for x in (windows.closed, windows.open))
        chains = self.chains[b][tensor]
        more = sum(plain[t] for t in range(len(TENSORS)) if t not in (tensor, INPUTS))
        others = [chain.inside + more for chain in chains]
        if tensor != INPUTS:
            own = [chain.own + plain[tensor] for chain in chains]
            return Terms(others, own, own, *inputs)
        ended, own = ([chain.own + of_boundary for chain in chains] for of_boundary in inputs[1:])
        return Terms(others, own, ended, *inputs)

    def _place_level(self, b: int, plain: np.ndarray) -> None:
        """From what is inside boundary b to what is inside boundary b + 1. plain: see `_price_boundary`."""
        lattice, fixed = self.charges.lattice, self.fixed[b]
        every = range(len(lattice.bounds))
        overfull = ~self.charges.fits(b + 1, self.packings.most)
        ended = []
        for tensor, dims in enumerate(self._idle):
            run = functools.reduce(_lower, self._runs(b, tensor))
            ended.append(lattice.least(run, [d for d in every if d not in dims], fixed))
        if self.never_idle:
            run = lattice.least(plain.copy(), self.never_idle, fixed, moving=True)
            ended.append(lattice.least(run, [d for d in every if d not in self.never_idle], fixed))
        generic = functools.reduce(_lower, ended)
        generic[overfull] = np.inf
        outside: dict[int | None, np.ndarray] = {None: generic}
        if _may_have_only([], fixed):
            # A level without loops leaves what is outside as it is.
            outside[None] = np.minimum(generic, np.where(overfull, np.inf, plain))
        self.least.append(outside)
        if b == self.charges.depth - 1:
            return  # no run or window goes on
        going_on = (run for tensor in range(len(TENSORS)) for run in self._windows_going_on(b, tensor))
        shortest = functools.reduce(np.minimum, going_on, generic)
        shortest[overfull] = np.inf
        self.chains.append([self._chains(b, tensor, shortest, overfull) for tensor in range(len(TENSORS))])
        for tensor, dims in enumerate(self._idle):
            # Whatever a run gains outside, its tensor crosses at least as if all loops of its dimensions were inside.
            parts = (lattice.plus_outermost(chain.inside, chain.own, dims) for chain in self.chains[-1][tensor])
            outside[tensor] = functools.reduce(_lower, parts)
        self.inside.append(functools.reduce(np.minimum, outside.values()))

    def _runs(self, b: int, tensor: int) -> Iterator[np.ndarray]:
        """What boundary b and those inside it cost where the innermost loops of level b leave a tensor unchanged, and their run
        ends in the level, by the extents with the loops of the run, float64 [X, U]."""
        lattice, part, dims, fixed = self.charges.lattice, self.parts[b][tensor], self._idle[tensor], self.fixed[b]
        windows = self.windows[b]
        sliding = [] if windows is None or tensor == INPUTS else [d for d in dims if d in windows.dims]
        for others, own, ended in zip(part.others, part.own, part.ended, strict=True):
            for d in sliding:
                # The first loop slides, so that its box grows as if it were inside.
                slid = lattice.least(others.copy(), [d], fixed, moving=True) + part.plain_inputs
                yield lattice.least(slid, [other for other in dims if other != d], fixed) + own
            inside = others.copy() if tensor == INPUTS else others + part.closed_inputs
            yield lattice.least(inside, dims, fixed, moving=True) + ended

    def _windows_going_on(self, b: int, tensor: int) -> Iterator[np.ndarray]:
        """What boundary b and those inside it cost where all loops of level b belong to a window that goes on further out, the
        innermost leave a tensor unchanged, and other loops end their run, float64 [X, U]."""
        lattice, part, dims, fixed = self.charges.lattice, self.parts[b][tensor], self._idle[tensor], self.fixed[b]
        windows = self.windows[b]
        if windows is None or all(
            map(np.array_equal, (part.open_inputs, *part.own), (part.closed_inputs, *part.ended))
        ):
            return  # it saves nothing that one does not which ends in the level
        for group in windows.groups:
            if _may_have_only(group, fixed):
                for others, own in zip(part.others, part.own, strict=True):
                    inside = others.copy() if tensor == INPUTS else others + part.open_inputs
                    run = lattice.least(inside, [d for d in dims if d in group], fixed, moving=True) + own
                    yield lattice.least(run, [d for d in group if d not in dims], fixed)

    def _chains(self, b: int, tensor: int, shortest: np.ndarray, overfull: np.ndarray) -> list[Chain]:
        """The chains inside boundary b + 1. shortest: what is inside it where the run does not go on further in."""
        found = [Chain(shortest, np.zeros_like(shortest), b + 1)]
        part, dims, fixed = self.parts[b][tensor], self._idle[tensor], self.fixed[b]
        if not _may_have_only(dims, fixed):
            return found
        for chain, others, own in zip(self.chains[b][tensor], part.others, part.own, strict=True):
            inside = others.copy() if tensor == INPUTS else others + part.open_inputs
            inside = self.charges.lattice.least(inside, dims, fixed)
            inside[overfull] = np.inf
            if chain.first == b and not self.charges.of(b, tensor):
                # What crosses no boundary in the chain costs as much as if the chain were shorter.
                found[0] = found[0]._replace(inside=np.minimum(found[0].inside, inside))
            else:
                found.append(Chain(inside, own, chain.first))
        return found

    def _cost(self, b: int, tensor: int, crossing: np.ndarray, fills: bool = True) -> np.ndarray:
        """pJ of `crossing` [X], float64 [X, U]; without `fills` only what is read outside."""
        found = self.charges.of(b, tensor)
        kept = found if fills else [charge for charge in found if charge.direction != WRITE]
        ways, whole = self.packings.ways[tensor], self.packings.whole
        return self.packings.total([(tensor, self.charges.cost(kept, crossing[:, None], ways[:, None], whole=whole))])

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
