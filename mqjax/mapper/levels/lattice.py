"""The extents that a layer's temporal loops can have inside a level, as a grid with an axis for every prime power.

A dimension of bound 12 = 2^2 * 3 has two axes, of lengths 3 and 2. What divides an extent lies at or before it along every
axis, so the least value over all divisors is a running minimum along each axis in turn.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, lru_cache

import numpy as np


def _prime_powers(n: int) -> list[tuple[int, int]]:
    """(prime, exponent) of n."""
    found, p = [], 2
    while n > 1:
        count = 0
        while n % p == 0:
            n, count = n // p, count + 1
        if count:
            found.append((p, count))
        p = p + 1 if p * p <= n else max(n, p + 1)
    return found


class Lattice:
    """The divisors of some bounds, one per dimension; axis X: all their combinations, flat.

    shape: the grid's. dim: int [axes], whose dimension an axis is. extents: int64 [X, D]. exponents: int64 [X, axes].
    """

    def __init__(self, bounds: tuple[int, ...]) -> None:
        self.bounds = np.array(bounds, np.int64)
        powers = [(d, p, n) for d, bound in enumerate(bounds) for p, n in _prime_powers(bound)]
        self._along: dict[tuple[int, ...], tuple[np.ndarray, np.ndarray]] = {}
        self.shape = tuple(n + 1 for _, _, n in powers)
        self.dim = np.array([d for d, _, _ in powers], np.int64)
        self._primes = [p for _, p, _ in powers]
        self.size = int(np.prod(self.shape, dtype=np.int64))
        self.exponents = (
            np.stack([x.reshape(-1) for x in np.indices(self.shape)] or [np.zeros(1, np.int64)][:0], axis=1)
            if powers
            else np.zeros((1, 0), np.int64)
        )
        self.strides = np.array([int(np.prod(self.shape[a + 1 :])) for a in range(len(powers))], np.int64)
        self.extents = np.ones((self.size, len(bounds)), np.int64)
        for a, (d, p, _) in enumerate(powers):
            self.extents[:, d] *= p ** self.exponents[:, a]
        # What each dimension contributes to a flat position.
        self.places = np.zeros((self.size, len(bounds)), np.int64)
        for a, (d, _, _) in enumerate(powers):
            self.places[:, d] += self.exponents[:, a] * self.strides[a]

    @cached_property
    def _codes(self) -> list[tuple[np.ndarray, int]]:
        """Exponents as digits of 64-bit words, int64 [X] each, every digit below a free bit; int64 masks of these bits."""
        words, shift = [(np.zeros(self.size, np.int64), 0)], 0
        for a, length in enumerate(self.shape):
            bits = int(length - 1).bit_length() + 1
            if shift + bits > 62:
                words.append((np.zeros(self.size, np.int64), 0))
                shift = 0
            code, free = words[-1]
            words[-1] = code | (self.exponents[:, a] << shift), free | (1 << (shift + bits - 1))
            shift += bits
        return words

    def divides(self, inner: np.ndarray, outer: np.ndarray) -> np.ndarray:
        """Whether the extents at places `inner` [I] divide those at `outer` [O], bool [O, I]."""
        found = np.ones((len(outer), len(inner)), bool)
        for code, free in self._codes:
            # A digit that is less takes the free bit above it.
            found &= ((code[outer] | free)[:, None] - code[inner]) & free == free
        return found

    def along(self, dims: list[int]) -> tuple[np.ndarray, np.ndarray]:
        """The extents of some dimensions: places int64 of all their combinations, the others being 1, and which of these
        each place has, int64 [X]."""
        key = tuple(dims)
        if key not in self._along:
            own = self.places[:, dims].sum(axis=1)
            self._along[key] = np.unique(own, return_inverse=True)
        return self._along[key]

    def least(self, values: np.ndarray, dims: Sequence[int], fixed: dict[int, int], moving: bool = False) -> np.ndarray:
        """The least of `values` [X, U] over the extents that become each extent when the loops of a level along `dims`
        are added to them: any bounds, but those of `fixed` dimensions as they are. moving: one bound exceeds 1 at least.
        Changes `values`."""
        grid = values.reshape(*self.shape, -1)
        for a, d in enumerate(self.dim):
            if d not in dims:
                continue
            line = np.moveaxis(grid, a, 0)
            if d not in fixed:
                for i in range(1, len(line)):
                    np.minimum(line[i], line[i - 1], out=line[i])
                continue
            rest, shift = fixed[int(d)], 0
            while rest % self._primes[a] == 0:
                rest, shift = rest // self._primes[a], shift + 1
            if shift:
                line[shift:] = line[:-shift].copy() if shift < len(line) else np.inf
                line[:shift] = np.inf
        if moving and not any(fixed.get(d, 1) > 1 for d in dims):
            least = grid.copy()
            grid[...] = np.inf
            for a, d in enumerate(self.dim):
                if d in dims and d not in fixed:
                    line = np.moveaxis(grid, a, 0)[1:]
                    np.minimum(line, np.moveaxis(least, a, 0)[:-1], out=line)
        return values

    def plus_outermost(self, values: np.ndarray, others: np.ndarray, dims: Sequence[int]) -> np.ndarray:
        """`values` [X, U] plus `others` [X, U] at the whole bounds of `dims`."""
        whole = tuple(slice(-1 if d in dims else 0, None) for d in self.dim)
        outermost = others.reshape(*self.shape, -1)[whole]
        return (values.reshape(*self.shape, -1) + outermost).reshape(values.shape)


@lru_cache(maxsize=64)
def lattice(bounds: tuple[int, ...]) -> Lattice:
    """The lattice of some bounds; many spreads leave the same."""
    return Lattice(bounds)
