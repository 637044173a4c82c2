"""Several packings at once: what moves across a boundary is the same for all, and only its price differs.

What a tensor costs depends on how that tensor is packed, which is one of a few ways; the 125 packings of all width triples combine
five ways of each. Axes: U packings, V ways to pack a tensor, L levels, T tensors.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mqjax.types import TENSORS


class Packings:
    """Operands in a word, int64 [U, L, T]. ways: per tensor, those that differ, int64 [L, V].

    most: operands in a word where it is asked what fits, at least as many, [U, L, T]. whole: whether a part of a word counts as one.
    `corners` relaxes both.
    """

    def __init__(self, operands: np.ndarray, most: np.ndarray | None = None, *, whole: bool = True) -> None:
        self.operands, self.most, self.whole = operands, operands if most is None else most, whole
        self.ways: list[np.ndarray] = []
        self._spread: list[np.ndarray] = []
        for t in range(len(TENSORS)):
            unique, place = np.unique(operands[:, :, t], axis=0, return_inverse=True)
            self.ways.append(unique.T)
            self._spread.append((np.arange(len(unique))[:, None] == place.reshape(-1)).astype(np.float64))

    def __len__(self) -> int:
        return len(self.operands)

    def take(self, some: np.ndarray) -> Packings:
        return Packings(self.operands[some], self.most[some], whole=self.whole)

    def corners(self) -> tuple[Packings, np.ndarray]:
        """A few packings C, and weights float64 [U, C]: costs at the few, weighted and summed, bound those at each of these packings.

        The few combine the densest and the sparsest way to pack each tensor. If parts of a word cost that part, what a mapping costs is
        linear in words per operand; so the least that any mapping costs is concave in these, and nowhere below what is
        interpolated between its values at the corners.
        """
        densest, sparsest = self.operands.max(axis=0), self.operands.min(axis=0)  # [L, T]
        operands, weights = densest[None], np.ones((len(self), 1))
        for t in range(len(TENSORS)):
            differ = densest[:, t] > sparsest[:, t]
            if not differ.any():
                continue
            words, least, most = (1 / x[..., differ, t] for x in (self.operands, densest, sparsest))
            sparse = ((words - least) / (most - least)).min(axis=1)[:, None]  # in every level no more than it has
            other = operands.copy()
            other[:, :, t] = sparsest[:, t]
            operands = np.concatenate([operands, other])
            weights = np.concatenate([weights * (1 - sparse), weights * sparse], axis=1)
        return Packings(operands, np.broadcast_to(densest, operands.shape), whole=False), weights

    def total(self, costs: Sequence[tuple[int, np.ndarray]]) -> np.ndarray:
        """The sum of what tensors cost in each of their ways, (tensor, float64 [N, V]): float64 [N, U]."""
        tensors, values = zip(*costs, strict=True)
        # One product of matrices, where all but one of the terms of each tensor are 0, is quicker than picking columns.
        return np.concatenate(values, axis=1) @ np.concatenate([self._spread[t] for t in tensors])
