"""Multicast groups by counting: children that take the same data share one delivery (MODEL.md section 6).

A child's data lie, in each rank, at a sum over the dimensions of that rank. Where one dimension moves along a rank,
different indices have different data, so that a group's members differ in the dimensions that do not move over the
tensor at all. Two dimensions move along two ranks of Inputs (`nest.PAIRS`): indices (i, j) with equal i u + j v form a
chain (i + k v/g, j - k u/g), g = gcd(u, v). In a box of n x m indices

    T_c = max(0, n - (c - 1) v/g) max(0, m - (c - 1) u/g)

stretches of c steps fit, so T_c - 2 T_(c+1) + T_(c+2) whole chains have length c, and there are T_1 - T_2 of them.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from mqjax.cost.exact import nest


class Signatures(NamedTuple):
    """Parent accesses by multicast factor g and scatter sc, ascending in (g, sc); slots without accesses are unused."""

    multicast: np.ndarray  # float64 [B, L, T, S] g
    scatter: np.ndarray  # int64 [B, L, T, S] sc, 0 where unused
    accesses: np.ndarray  # float64 [B, L, T, S]


class Entries(NamedTuple):
    """Signatures as a list, in any order; axis N. A (cell, g, sc) may occur more than once."""

    cell: np.ndarray  # int64 [N] position in [B, L, T], flat
    multicast: np.ndarray  # int64 [N]
    scatter: np.ndarray  # int64 [N]
    accesses: np.ndarray  # int64 [N]


def uniform_signatures(analysis: nest.Analysis) -> Signatures:
    """Signatures of mappings in which all groups of a tensor have one size."""
    multicast = analysis.fan[..., None] // analysis.scatter
    accesses = analysis.scatter * analysis.delta
    return Signatures(
        multicast[..., None].astype(np.float64), analysis.scatter[..., None], accesses[..., None].astype(np.float64)
    )


def overlapping(coefficients: np.ndarray, spatial: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """bool [B, L] children lie along both dimensions of a rank of Inputs, and some take the same data. coefficients:
    [B, T, R, D]; spatial, inside: [B, L, D] as in `nest.Analysis`."""
    found = np.zeros(spatial.shape[:2], bool)
    for rank, kernel, output in nest.PAIRS:
        at = np.nonzero((spatial[..., kernel] > 1) & (spatial[..., output] > 1))
        pair = _pair(coefficients[at[0]], spatial[at], inside[at], rank, kernel, output)
        found[at] |= _stretches(pair, 2) > 0
    return found


def number_of_groups(coefficients: np.ndarray, spatial: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Groups of the Inputs of some fan-outs, int64 [N]. coefficients: [N, T, R, D]; spatial, inside: [N, D]."""
    total = _alone(coefficients, spatial)
    for rank, kernel, output in nest.PAIRS:
        pair = _pair(coefficients, spatial, inside, rank, kernel, output)
        total = total * (_stretches(pair, 1) - _stretches(pair, 2))
    return total


def counted(
    coefficients: np.ndarray, spatial: np.ndarray, inside: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(fan-out, multicast, scatter), each int64 [G], of the Inputs of some fan-outs; arguments as `number_of_groups`.

    The two chain lengths multiply to at most the square root of the children along all four dimensions.
    """
    most = math.isqrt(int(np.prod(spatial, axis=1).max(initial=1)))
    width, height = (
        _chains(_pair(coefficients, spatial, inside, rank, kernel, output), most) for rank, kernel, output in nest.PAIRS
    )
    table = np.zeros((len(spatial), most + 1), np.int64)  # groups by the product of their chain lengths
    for length in np.flatnonzero(width.any(axis=0)):
        reach = most // length
        table[:, length : reach * length + 1 : length] += width[:, length, None] * height[:, 1 : reach + 1]
    fan, length = np.nonzero(table)
    alone = _alone(coefficients, spatial)
    still = np.prod(np.where(_moving(coefficients), 1, spatial), axis=1)
    return fan, still[fan] * length, alone[fan] * table[fan, length]


def _moving(coefficients: np.ndarray) -> np.ndarray:
    """bool [N, D] the dimension moves over Inputs."""
    return np.asarray(coefficients[:, nest.INPUTS].any(axis=1))


def _alone(coefficients: np.ndarray, spatial: np.ndarray) -> np.ndarray:
    """[N] children along the dimensions of Inputs that have a rank for themselves."""
    paired = np.isin(np.arange(spatial.shape[1]), [d for _, *dims in nest.PAIRS for d in dims])
    return np.prod(np.where(_moving(coefficients) & ~paired, spatial, 1), axis=1)


class _Pair(NamedTuple):
    """Children along the two dimensions of a rank, [N] each: how many, and by how many indices a chain steps."""

    kernel: np.ndarray
    output: np.ndarray
    kernel_step: np.ndarray
    output_step: np.ndarray


def _pair(coefficients, spatial, inside, rank: int, kernel: int, output: int) -> _Pair:
    u = coefficients[:, nest.INPUTS, rank, kernel] * inside[:, kernel]
    v = coefficients[:, nest.INPUTS, rank, output] * inside[:, output]
    common = np.gcd(u, v)
    return _Pair(spatial[:, kernel], spatial[:, output], v // common, u // common)


def _stretches(pair: _Pair, length) -> np.ndarray:
    """T_length."""
    kernel = np.maximum(0, pair.kernel - (length - 1) * pair.kernel_step)
    return kernel * np.maximum(0, pair.output - (length - 1) * pair.output_step)


def _chains(pair: _Pair, most: int) -> np.ndarray:
    """Whole chains of lengths 0..most, int64 [N, most + 1]; none has length 0."""
    fit = np.stack([_stretches(pair, length) for length in range(1, most + 3)], axis=1)
    chains = fit[:, :-2] - 2 * fit[:, 1:-1] + fit[:, 2:]
    return np.concatenate([np.zeros_like(chains[:, :1]), chains], axis=1)


def merged(entries: Entries, shape: tuple[int, int, int]) -> Signatures:
    """Arrays of the signatures that `entries` lists; equal (cell, g, sc) become one. shape: (B, L, T)."""
    order = np.lexsort((entries.scatter, entries.multicast, entries.cell))
    cell, multicast, scatter, accesses = (x[order] for x in entries)
    new = np.ones(len(order), bool)
    new[1:] = (np.diff(cell) != 0) | (np.diff(multicast) != 0) | (np.diff(scatter) != 0)
    start = np.flatnonzero(new)
    accesses, cell = np.add.reduceat(accesses, start), cell[start]
    slot = np.arange(len(start)) - np.searchsorted(cell, cell)
    arrays = []
    for values, kind in ((multicast[start], np.float64), (scatter[start], np.int64), (accesses, np.float64)):
        table = np.zeros((math.prod(shape), int(slot.max()) + 1), kind)
        table[cell, slot] = values
        arrays.append(table.reshape(*shape, -1))
    return Signatures(*arrays)
