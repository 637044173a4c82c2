"""What moves across a boundary between two levels costs, given the spatial loops (MODEL.md sections 6 to 8).

Boundary b lies under level b: levels 0 to b - 1 are inside, and boundary 0 is that to the MACs. Elements of a tensor that
cross it, to one child over the whole run, are filled into level b - 1 if that keeps the tensor, and read from the first
level outside that does; Outputs go the other way. So every access count belongs to one boundary and one tensor.

Axes: X extents of the temporal loops inside (`lattice`), U packings, L levels, D dimensions, T tensors.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from functools import cached_property
from typing import NamedTuple

import numpy as np

from mqjax.cost.exact.multicast import counted, number_of_groups
from mqjax.cost.exact.nest import INPUTS, PAIRS, problem
from mqjax.cost.exact.price import OUTPUTS
from mqjax.cost.packing import words
from mqjax.mapper.levels.lattice import Lattice, lattice
from mqjax.mapper.levels.packings import Packings
from mqjax.mapspace.space import Mapspace
from mqjax.types import TENSORS

READ, WRITE = range(2)


class Charge(NamedTuple):
    """Accesses of one kind: ceil((crossing * scatter * groups - elided) / words) vector accesses that count `weight` each, where
    words is a block of the level times the operands in a word. direction: READ or WRITE. groups: of children that take the same
    Inputs, at least, at levels where their number depends on the extents (`Charges.overlapping`)."""

    level: int
    weight: float
    scatter: int
    elided: int
    direction: int
    groups: int = 1


class Charges:
    """The charges of a layer whose spatial loops have given bounds, int64 [L, D].

    They are pJ of all instances together; those that `counting` makes are words of one.
    """

    def __init__(self, space: Mapspace, spatial: np.ndarray) -> None:
        self.space, self.spatial, arch = space, spatial, space.arch
        bounds = np.array(space.layer.bounds, np.int64)
        self.lattice: Lattice = lattice(tuple((bounds // spatial.prod(axis=0)).tolist()))
        self.depth = len(arch.levels)
        ones = np.ones_like(bounds)
        self.inside = np.cumprod(np.vstack([ones, spatial]), axis=0)  # [L + 1, D] spatial extents of levels 0 to b - 1
        self.instances = (spatial.prod() // np.cumprod(spatial.prod(axis=1))).astype(np.int64)  # [L]
        clusters = np.minimum(self.instances, arch.tech.clusters)
        self._weights, self._block = arch.tech.energy * clusters[:, None], arch.tech.block
        self.coefficients = problem(space.layer).coefficients  # [T, R, D]
        self.steps = int(self.lattice.bounds.prod())
        relevant = [list(space.relevant(tensor)) for tensor in TENSORS]
        self._children = np.stack([spatial[:, dims].prod(axis=1) for dims in relevant], axis=1).tolist()  # [L, T]
        self._of: dict[tuple[int, int], list[Charge]] = {}

    def counting(self, level: int, direction: int) -> Charges:
        """The same crossings, in words that one instance of a level reads or writes."""
        counted = copy.copy(self)
        counted._weights, counted._block = np.zeros_like(self._weights), np.ones_like(self._block)
        counted._weights[level] = (1, 0, 0) if direction == READ else (0, 1, 1)
        counted._of = {}
        return counted

    @cached_property
    def trips(self) -> np.ndarray:
        """Steps of all temporal loops outside, int64 [X]."""
        return (self.lattice.bounds // self.lattice.extents).prod(axis=1)

    def lengths(self, boundary: int, tensor: int, extents: np.ndarray) -> np.ndarray:
        """Lengths of the ranks of the box inside a boundary, int64 [N, R]; extents: of the temporal loops, int64 [N, D]."""
        return 1 + (extents * self.inside[boundary] - 1) @ self.coefficients[tensor].T

    @cached_property
    def boxes(self) -> np.ndarray:
        """Elements of the box inside each boundary, int64 [L + 1, T, X]."""
        lattice = self.lattice
        found = np.ones((self.depth + 1, len(TENSORS), lattice.size), np.int64)
        for tensor, ranks in enumerate(self.coefficients):
            for coefficients in ranks:
                dims = np.flatnonzero(coefficients).tolist()
                rows, place = lattice.along(dims)
                inside = lattice.extents[rows][:, dims] * self.inside[:, None, dims]
                found[:, tensor] *= (1 + (inside - 1) @ coefficients[dims])[:, place]
        return found

    def scatter(self, level: int, tensor: int) -> int:
        """Children of a level that take different data of a tensor; 1 where that depends on the extents inside."""
        if tensor == INPUTS and level in self.overlapping:
            return 1
        return self._children[level][tensor]

    @cached_property
    def overlapping(self) -> dict[int, np.ndarray]:
        """Groups of children that take the same Inputs, int64 [X], by level, where children lie along both dimensions of a
        sliding pair: their data overlap, and how far depends on the extents inside."""
        found = {}
        for level, bounds in enumerate(self.spatial):
            if any((bounds[dims] > 1).all() for _, *dims in PAIRS):
                found[level] = number_of_groups(*self._fans(level, np.arange(self.lattice.size)))
        return found

    def _fans(self, level: int, place: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """A level's children for extents inside, as `mqjax.cost.exact.multicast` wants them; axis N of `place`."""
        extents = self.lattice.extents[place] * self.inside[level]
        of_layer = self.coefficients, self.spatial[level]
        return *(np.broadcast_to(x, (len(place), *x.shape)) for x in of_layer), extents  # pyright: ignore

    def filled(self, boundary: int, place: np.ndarray, crossing: np.ndarray) -> np.ndarray:
        """Elements of Inputs that are filled inside a boundary where so many cross it, int64 [E] each: as many, but that
        shares of several groups are added as floating-point numbers and cut off (MODEL.md section 7)."""
        if boundary not in self.overlapping:
            return crossing
        unique, row = np.unique(place, return_inverse=True)
        fan, multicast, scatter = counted(*self._fans(boundary, unique))
        order = np.lexsort((scatter, multicast, fan))
        start = np.searchsorted(fan[order], np.arange(len(unique)))
        size = np.bincount(fan, minlength=len(unique))
        total, children = np.zeros(len(place)), float(self.spatial[boundary].prod())
        for k in range(int(size.max(initial=0))):
            has = k < size[row]
            at = order[np.minimum(start[row] + k, len(order) - 1)]
            share = (scatter[at] * crossing).astype(np.float64) * multicast[at] / children
            total += np.where(has, share, 0.0)
        return np.trunc(total).astype(np.int64)

    def of(self, boundary: int, tensor: int) -> list[Charge]:
        """The charges of what crosses a boundary; none where the level inside bypasses the tensor."""
        if (boundary, tensor) not in self._of:
            self._of[boundary, tensor] = [charge for charge in self._charges(boundary, tensor) if charge.weight]
        return self._of[boundary, tensor]

    def _charges(self, boundary: int, tensor: int) -> Iterator[Charge]:
        arch, weights = self.space.arch, self._weights
        keeps = [level.keep[tensor] for level in arch.levels]
        if boundary and not keeps[boundary - 1]:
            return
        outer = next(s for s in range(boundary, self.depth) if keeps[s])
        scatter = math.prod(self.scatter(s, tensor) for s in range(boundary, outer + 1))
        output = tensor == OUTPUTS
        varying = [s for s in self.overlapping if boundary <= s <= outer] if tensor == INPUTS else []
        groups = math.prod(int(self.overlapping[s].min()) for s in varying)
        if boundary:
            elided = self._part(boundary - 1) if output and arch.dialect == "2024" else 0
            yield Charge(boundary - 1, weights[boundary - 1, 1], 1, elided, WRITE)
        yield Charge(outer, weights[outer, 0], scatter, self._part(outer) if output else 0, READ, groups)
        if output:
            yield Charge(outer, weights[outer, 2], scatter, 0, WRITE)

    def _part(self, level: int) -> int:
        """Distinct elements of Outputs that pass through an instance of a level."""
        whole = self.space.layer.elements(TENSORS[OUTPUTS])
        return whole // math.prod(self.scatter(s, OUTPUTS) for s in range(level + 1, self.depth))

    def cost(
        self,
        charges: list[Charge],
        crossing: np.ndarray,
        operands: np.ndarray,
        grouped: bool = False,
        whole: bool = True,
    ) -> np.ndarray:
        """What elements `crossing` a boundary cost; operands: int64 [L, ...], to a word at each level. grouped: they are counted
        once for each of the groups whose number depends on the extents. whole: a part of a word counts as one."""
        total = np.zeros(np.broadcast_shapes(crossing.shape, operands.shape[1:]))
        for charge in charges:
            count = crossing * (charge.scatter if grouped else charge.scatter * charge.groups) - charge.elided
            accesses = count / (operands[charge.level] * self._block[charge.level])
            total += charge.weight * (np.ceil(accesses) if whole else accesses)
        return total

    def of_macs(self, packings: Packings) -> np.ndarray:
        """What the operands of the MACs cost, float64 [U]: the same in all mappings."""
        crossing = np.array([[self.steps]])
        costs = [(t, self.cost(self.of(0, t), crossing, packings.ways[t][:, None])) for t in range(len(TENSORS))]
        return packings.total(costs)[0]

    def most(self, packings: Packings) -> np.ndarray:
        """What no mapping costs more than, float64 [U]."""
        total = np.zeros(len(packings))
        groups = math.prod(int(found.max()) for found in self.overlapping.values())
        for b in range(self.depth):
            for t in range(len(TENSORS)):
                if found := self.of(b, t):
                    # More elements never take fewer words.
                    crossing = (self.boxes[b, t] * self.trips).max() if b else self.steps
                    most = np.array([[crossing * (groups if t == INPUTS else 1)]])
                    costs = self.cost(found, most, packings.ways[t][:, None], grouped=True)
                    total += packings.total([(t, costs)])[0]
        return total

    def fits(self, boundary: int, operands: np.ndarray) -> np.ndarray:
        """Whether the boxes inside a boundary fit the level there, bool [X, U]. operands: int64 [U, L, T]."""
        level = self.space.arch.levels[boundary - 1]
        needed = np.zeros((self.lattice.size, len(operands)), np.int64)
        if level.capacity_words is None:
            return needed == 0
        for tensor, kept in enumerate(level.keep):
            if kept:
                packings, place = np.unique(operands[:, boundary - 1, tensor], return_inverse=True)
                needed += words(self.boxes[boundary, tensor][:, None], packings)[:, place]
        return needed <= level.capacity_words


__all__ = ["INPUTS", "OUTPUTS", "READ", "WRITE", "Charge", "Charges"]
