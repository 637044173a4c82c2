"""Seeded local search for good mappings in spaces too large to cover. What it finds is valid and priced exactly, but not
proven to be the best.

A mapping's code is a row of integers: for every dimension the number of its factorisation (`Mapspace.tables`), for every
tiling level the order of its loops, and for every tiling level its split between X and Y. Each generation changes mappings
of a pool in one to three places. The pool is the best mappings known at any width triple by any metric, and those of the
last generations that are best at one triple, drawn anew each time.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

import numpy as np

from mqjax.mapper.decision import Decision
from mqjax.mapspace.mapping import Mappings
from mqjax.mapspace.space import Mapspace
from mqjax.progress import SILENT, Progress
from mqjax.types import BitWidths

CHILDREN = 1024
"""Mappings of a generation."""

POOL = 64
"""Mappings that are kept for their energy, for their EDP, and for their delay."""

PATIENCE = 60
"""The search ends after so many generations without any improvement..."""

ROUNDS_MOST = 400
"""... or after so many in all."""


def search_mappings(
    space: Mapspace,
    bits: Sequence[BitWidths],
    starts: Sequence[Mappings] = (),
    *,
    seed: int = 0,
    deadline: float = math.inf,
    progress: Progress = SILENT,
) -> Decision:
    """Search `space` for mappings that are good for `bits` by all metrics, beginning at `starts`, mappings of it.

    deadline: when to end at the latest, by `time.monotonic`. progress: told after every generation how far the search is.
    """
    generator = np.random.default_rng(seed)
    codec = Codec(space)
    decision = Decision(space, bits, codec.width, codec.nests)
    pool, costs = np.empty((0, codec.width), np.int32), np.empty((2, len(decision.valid), 0))
    # Where no start fits, one of some random mappings may.
    children = np.concatenate([codec.outermost(), *(codec.encode(some) for some in starts), codec.random(generator)])
    decision.searched, idle = 0, 0
    for generation in range(ROUNDS_MOST):
        before = decision.costs()
        within = np.broadcast_to(codec.in_use(children), (len(decision.valid), len(children)))
        costs = np.concatenate([costs, decision.consider(children, within)], axis=2)
        pool = np.concatenate([pool, children])
        decision.searched += len(children)
        idle = 0 if (decision.costs() < before).any() else idle + 1
        progress.say(f"too large to cover, searched: {decision.searched:,} mappings tried, generation {generation + 1}")
        if idle == PATIENCE or time.monotonic() > deadline:
            break
        energy, cycles = costs[:, generator.integers(0, costs.shape[1])]
        ranks = [np.lexsort(keys)[:POOL] for keys in ((cycles, energy), (energy * cycles,), (energy, cycles))]
        kept = np.unique(np.concatenate(ranks))
        pool, costs = pool[kept], costs[:, :, kept]
        children = codec.children(np.concatenate([decision.best(), pool]), generator)
    return decision


class Codec:
    """Codes of a space's mappings: see the module."""

    def __init__(self, space: Mapspace) -> None:
        self.space = space
        self._levels, self._dims = len(space.tiling), len(space.dims)
        self.width = self._dims + self._levels * (self._dims + 1)
        self._numbers = [{row.tobytes(): i for i, row in enumerate(table)} for table in space.tables]
        self._free = [space.free_dims(t) for t in range(self._levels)]
        self._splittable = list(space.free_splits)
        self._factored = [d for d in range(self._dims) if len(space.tables[d]) > 1]
        self._ordered = [t for t in range(self._levels) if len(set(self._free[t]) & set(space.movable(t))) > 1]

    def number(self, d: int, bounds: np.ndarray) -> int:
        """The number of a factorisation of dimension d, int64 [T]."""
        return self._numbers[d][bounds.tobytes()]

    def split(self, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Factorisations [N, D], orders [N, T, D], splits [N, T], as views."""
        factors, orders, splits = np.split(codes, [self._dims, self._dims + self._levels * self._dims], axis=1)
        return factors, orders.reshape(-1, self._levels, self._dims), splits

    def nests(self, codes: np.ndarray) -> Mappings:
        """The loop nests of codes int32 [N, width]."""
        space, (numbers, orders, splits) = self.space, self.split(codes)
        arrays = Mappings.empty(len(codes), len(space.arch.levels), self._dims)
        arrays.keep[:] = [level.keep for level in space.arch.levels]
        bounds = np.stack([table[numbers[:, d]] for d, table in enumerate(space.tables)], axis=2)  # [N, T, D]
        ordered = np.take_along_axis(bounds, orders.astype(np.int64), axis=2)
        for t, level in enumerate(space.tiling):
            s = level.level
            if level.spatial:
                arrays.spatial_dim[:, s], arrays.spatial_bound[:, s] = orders[:, t], ordered[:, t]
                arrays.spatial_axis[:, s] = np.arange(self._dims) >= splits[:, t, None]
            else:
                arrays.temporal_dim[:, s], arrays.temporal_bound[:, s] = orders[:, t], ordered[:, t]
        return arrays

    def in_use(self, codes: np.ndarray) -> np.ndarray:
        """Whether mappings use as much of every fan-out as they must, bool [N]."""
        numbers, _, _ = self.split(codes)
        fits = np.ones(len(codes), bool)
        for t, level in enumerate(self.space.tiling):
            if level.spatial and level.min_utilization:
                used = np.prod([table[numbers[:, d], t] for d, table in enumerate(self.space.tables)], axis=0)
                fits &= used >= self.space.fan(t).least
        return fits

    def _orders(self, t: int, bounds: np.ndarray, given: np.ndarray) -> list[int]:
        """The order of level t nearest to a given one, loops of bound 1 aside."""
        free = [d for d in given if d in self._free[t]]
        return [*self.space.prefix(t), *sorted(free, key=lambda d: bounds[d] > 1)]

    def _split_after(self, t: int, on_x: list[int], order: np.ndarray) -> int:
        """The split of level t that puts the dimensions `on_x` on X: how many of its loops, in order, lie there."""
        fixed = self.space.tiling[t].split
        if fixed is not None:
            return fixed
        return max((place + 1 for place, d in enumerate(order) if d in on_x), default=0)

    def encode(self, mappings: Mappings) -> np.ndarray:
        """Codes of mappings of the space, in which every level has one loop at most of each dimension."""
        codes = np.zeros((len(mappings), self.width), np.int32)
        numbers, orders, splits = self.split(codes)
        for row in range(len(mappings)):
            bounds = np.ones((self._dims, self._levels), np.int64)
            for t, level in enumerate(self.space.tiling):
                kind = "spatial" if level.spatial else "temporal"
                dims, sizes = (getattr(mappings, f"{kind}_{what}")[row, level.level] for what in ("dim", "bound"))
                for dim, size in zip(dims, sizes, strict=True):
                    bounds[dim, t] *= size
                moving = [d for d, size in zip(dims, sizes, strict=True) if size > 1]
                given = np.array([*(d for d in range(self._dims) if d not in moving), *moving])
                orders[row, t] = self._orders(t, bounds[:, t], given)
                if level.spatial:
                    axes = mappings.spatial_axis[row, level.level]
                    on_x = [d for d, size, axis in zip(dims, sizes, axes, strict=True) if size > 1 and axis == 0]
                    splits[row, t] = self._split_after(t, on_x, orders[row, t])
            for d in range(self._dims):
                numbers[row, d] = self.number(d, bounds[d])
        return codes

    def outermost(self) -> np.ndarray:
        """The code of a mapping that keeps as much as it can in the outermost level, [1, width]: it fits if any does."""
        codes = np.zeros((1, self.width), np.int32)
        numbers, orders, splits = self.split(codes)
        for d, table in enumerate(self.space.tables):
            numbers[0, d] = np.argmax(table[:, -1])
        for t, level in enumerate(self.space.tiling):
            orders[0, t] = [*self.space.prefix(t), *self._free[t]]
            splits[0, t] = level.split or 0
        return codes

    def random(self, generator: np.random.Generator) -> np.ndarray:
        """Codes of random mappings, [CHILDREN, width]."""
        codes = np.zeros((CHILDREN, self.width), np.int32)
        numbers, orders, splits = self.split(codes)
        for d, table in enumerate(self.space.tables):
            numbers[:, d] = generator.integers(0, len(table), CHILDREN)
        for t, level in enumerate(self.space.tiling):
            prefix, free = self.space.prefix(t), np.tile(self._free[t], (CHILDREN, 1)).astype(np.int32)
            orders[:, t, : len(prefix)] = prefix
            orders[:, t, len(prefix) :] = generator.permuted(free, axis=1)
            if level.spatial:
                random = generator.integers(0, self._dims + 1, CHILDREN)
                splits[:, t] = random if level.split is None else level.split
        return codes

    def children(self, parents: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """Codes made from `parents` by one to three changes each, without repetitions, [N <= CHILDREN, width]."""
        codes = parents[generator.integers(0, len(parents), CHILDREN)].copy()
        numbers, orders, splits = self.split(codes)
        # Factors matter most, so they move most often.
        moves = [self._move_factor, self._exchange] * 2 if self._factored else []
        moves += [self._reorder] if self._ordered else []
        moves += [self._resplit] if self._splittable else []
        if not moves:
            return parents
        for row in range(CHILDREN):
            for _ in range(generator.integers(1, 4)):
                moves[generator.integers(0, len(moves))](numbers[row], orders[row], splits[row], generator)
        return np.unique(codes, axis=0)

    def _move_factor(self, numbers: np.ndarray, _o: np.ndarray, _s: np.ndarray, generator: np.random.Generator) -> None:
        """Move a prime factor of one dimension between two levels or, one time in four, factorise it anew."""
        d = self._factored[generator.integers(0, len(self._factored))]
        if generator.random() < 0.25:
            numbers[d] = generator.integers(0, len(self.space.tables[d]))
        else:
            source, target = generator.permutation(self._levels)[:2]
            self._shift(numbers, d, source, target, generator)

    def _exchange(self, numbers: np.ndarray, _o: np.ndarray, _s: np.ndarray, generator: np.random.Generator) -> None:
        """Move prime factors of two dimensions between two levels in opposite directions: the levels stay about as full."""
        source, target = generator.permutation(self._levels)[:2]
        there, back = (self._factored[i] for i in generator.integers(0, len(self._factored), 2))
        self._shift(numbers, there, source, target, generator)
        self._shift(numbers, back, target, source, generator)

    def _shift(self, numbers: np.ndarray, d: int, source: int, target: int, generator: np.random.Generator) -> None:
        """Move a prime factor of dimension d from one level to another, if it has any there and the space allows it."""
        bounds = self.space.tables[d][numbers[d]].copy()
        primes = _primes(int(bounds[source]))
        if primes:
            prime = primes[generator.integers(0, len(primes))]
            bounds[source] //= prime
            bounds[target] *= prime
            numbers[d] = self._numbers[d].get(bounds.tobytes(), numbers[d])

    def _reorder(self, _n: np.ndarray, orders: np.ndarray, _s: np.ndarray, generator: np.random.Generator) -> None:
        """Swap two loops of a level."""
        t = self._ordered[generator.integers(0, len(self._ordered))]
        first = self._dims - len(self._free[t])
        i, j = first + generator.permutation(len(self._free[t]))[:2]
        orders[t, [i, j]] = orders[t, [j, i]]

    def _resplit(self, _n: np.ndarray, _o: np.ndarray, splits: np.ndarray, generator: np.random.Generator) -> None:
        splits[self._splittable[generator.integers(0, len(self._splittable))]] = generator.integers(0, self._dims + 1)


def _primes(n: int) -> list[int]:
    """The different prime factors of n."""
    return [p for p in range(2, n + 1) if n % p == 0 and all(p % q for q in range(2, p))]
