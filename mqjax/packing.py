"""Packing of quantized operands in memory words: the only home of that rule (MODEL.md sections 5 and 15).

A word of `word_bits` holds floor(word_bits / bits) operands. Without a bit-width, or with one equal to the word,
an operand takes a word. The division is applied to whole counts, so operands of different tiles share words.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, lru_cache
from typing import NamedTuple

import numpy as np

from mqjax.arch import Arch
from mqjax.types import TENSORS, WIDTHS, BitWidths


def operands_per_word(word_bits: int, bits: int | None) -> int:
    """Operands in one word; 1 where nothing is packed. A width above the word also gives 1: the tensor must
    bypass such a level, which `Arch.check_widths` ensures."""
    return 1 if bits is None else max(1, word_bits // bits)


def words(elements, operands):
    """Words that hold `elements` operands, `operands` to a word: ceil(elements / operands), for integer arrays."""
    return -(-elements // operands)


def packing_table(arch: Arch, bits: BitWidths) -> np.ndarray:
    """Operands per word, int64 [level, tensor], inner to outer and in the order of `TENSORS`."""
    return np.array(
        [[operands_per_word(level.word_bits, width) for width in bits.by_tensor()] for level in arch.levels], np.int64
    ).reshape(len(arch.levels), len(TENSORS))


class Packings(NamedTuple):
    """The distinct packings behind some width triples. per_tensor: float64 [K, L] for Weights, Inputs, Outputs;
    triples: for each width triple the index of its packing of each tensor, int [triples, 3]."""

    per_tensor: tuple[np.ndarray, np.ndarray, np.ndarray]
    triples: np.ndarray


def distinct_packings(arch: Arch, bits: Sequence[BitWidths]) -> Packings:
    """Widths that pack alike at every level are evaluated once.

    Several triples are filled up with copies to as many packings as `all_widths` has, so that most sets of triples
    share one compiled program.
    """
    return _distinct_packings(arch, tuple(bits))


@lru_cache(maxsize=64)
def _distinct_packings(arch: Arch, bits: tuple[BitWidths, ...]) -> Packings:
    tables = np.stack([packing_table(arch, triple) for triple in bits])  # [triples, L, T]
    per_tensor, indices = [], []
    for tensor in range(len(TENSORS)):
        unique, index = np.unique(tables[:, :, tensor], axis=0, return_inverse=True)
        copies = _most_packings(arch)[tensor] - len(unique) if len(bits) > 1 else 0
        unique = np.concatenate([unique, np.repeat(unique[-1:], max(0, copies), axis=0)])
        per_tensor.append(unique.astype(np.float64))
        indices.append(index.reshape(-1))
    return Packings((per_tensor[0], per_tensor[1], per_tensor[2]), np.stack(indices, axis=1))


@cache
def _most_packings(arch: Arch) -> list[int]:
    """Number of distinct packings of each tensor over the widths 2..8."""
    tables = np.stack([packing_table(arch, BitWidths(width, width, width)) for width in WIDTHS])
    return [len(np.unique(tables[:, :, tensor], axis=0)) for tensor in range(len(TENSORS))]
