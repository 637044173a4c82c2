"""Ordered factorisations of a loop bound, in the reference's order (MODEL.md section 11.2)."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np


def divisors(n: int) -> list[int]:
    """Divisors of n in Timeloop's order: 1, n, then each small divisor with its partner (12: 1 12 2 6 3 4)."""
    result = []
    for i in range(1, math.isqrt(n) + 1):
        if n % i == 0:
            result.append(i)
            if n // i != i:
                result.append(n // i)
    return result


@lru_cache(maxsize=4096)
def _splits(m: int, slots: int, order: tuple[int, ...]) -> np.ndarray:
    if slots == 1:
        return np.array([[m]], np.int64)
    parts = []
    for last in order:
        if m % last == 0:
            head = _splits(m // last, slots - 1, order)
            parts.append(np.hstack([head, np.full((len(head), 1), last, np.int64)]))
    return np.vstack(parts)


def splits(m: int, slots: int, bound: int) -> np.ndarray:
    """All ways to write m as an ordered product over `slots` >= 1 slots, int64 [ways, slots].

    `bound` is the dimension's whole bound, whose divisors (in their order) are tried for the last slot first.
    """
    return _splits(m, slots, tuple(divisors(bound)))
