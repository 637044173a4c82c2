"""Several packings at once: what moves across a boundary is the same for all, and only its price differs.

What a tensor costs depends on how that tensor is packed, which is one of a few ways; the 125 packings of all width triples combine
five ways of each. Axes: U packings, V ways to pack a tensor, L levels, T tensors.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mqjax.types import TENSORS


class Packings:
    """Operands in a word, int64 [U, L, T]. ways: per tensor, those that differ, int64 [L, V]."""

    def __init__(self, operands: np.ndarray) -> None:
        self.operands = operands
        self.ways: list[np.ndarray] = []
        self._spread: list[np.ndarray] = []
        for t in range(len(TENSORS)):
            unique, place = np.unique(operands[:, :, t], axis=0, return_inverse=True)
            self.ways.append(unique.T)
            self._spread.append((np.arange(len(unique))[:, None] == place.reshape(-1)).astype(np.float64))

    def __len__(self) -> int:
        return len(self.operands)

    def take(self, some: np.ndarray) -> Packings:
        return Packings(self.operands[some])

    def total(self, costs: Sequence[tuple[int, np.ndarray]]) -> np.ndarray:
        """The sum of what tensors cost in each of their ways, (tensor, float64 [N, V]): float64 [N, U]."""
        tensors, values = zip(*costs, strict=True)
        # One product of matrices, where all but one of the terms of each tensor are 0, is quicker than picking columns.
        return np.concatenate(values, axis=1) @ np.concatenate([self._spread[t] for t in tensors])
