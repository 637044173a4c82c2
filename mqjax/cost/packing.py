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


def is_packed(word_bits: int, bits: int | None) -> bool:
    """Whether operands of `bits` are treated as packed: at any width but the word's own, also where one fills a word."""
    return bits is not None and bits != word_bits


def wasted_bits(word_bits: int, bits: int | None) -> int:
    """Bits of a word that stay unused; 0 where nothing is packed."""
    return 0 if bits is None or bits >= word_bits else word_bits % bits


def words(elements, operands):
    """Words that hold `elements` operands, `operands` to a word: ceil(elements / operands), for integer arrays."""
    return -(-elements // operands)


def packing_table(arch: Arch, bits: BitWidths) -> np.ndarray:
    """Operands per word, int64 [level, tensor], inner to outer and in the order of `TENSORS`."""
    return np.array(
        [[operands_per_word(level.word_bits, width) for width in bits.by_tensor()] for level in arch.levels], np.int64
    ).reshape(len(arch.levels), len(TENSORS))


class PackingBox(NamedTuple):
    """The distinct packings behind some width triples that are priced together.

    bits: int [B], the positions of these triples in the caller's list. per_tensor: float64 [K, L] operands per word for
    Weights, Inputs, Outputs, from few to many. triples: int [U, 3], the distinct triples, as indices into these.
    inverse: int [B] into `triples`.
    """

    bits: np.ndarray
    per_tensor: tuple[np.ndarray, np.ndarray, np.ndarray]
    triples: np.ndarray
    inverse: np.ndarray

    @property
    def shape(self) -> tuple[int, int]:
        """KS pairs of an Inputs and an Outputs packing, and KW packings of Weights."""
        weights, inputs, outputs = (len(table) for table in self.per_tensor)
        return inputs * outputs, weights

    @property
    def places(self) -> tuple[np.ndarray, np.ndarray]:
        """Where the triples lie in arrays of `shape`."""
        w, i, o = self.triples.T
        return i * len(self.per_tensor[2]) + o, w

    @property
    def operands(self) -> np.ndarray:
        """Operands per word of each triple, int64 [U, L, T]."""
        chosen = [table[self.triples[:, t]] for t, table in enumerate(self.per_tensor)]
        return np.stack(chosen, axis=2).astype(np.int64)


def packing_boxes(arch: Arch, bits: Sequence[BitWidths]) -> tuple[PackingBox, ...]:
    """The distinct packings of `bits`; widths that pack alike at every level are evaluated once.

    Triples with native operands, which are much wider than packed ones, go to a box of their own. Boxes of several
    triples are filled up with copies to as many packings as `all_widths` has, so that most share one compiled program.
    """
    return _packing_boxes(arch, tuple(bits))


@lru_cache(maxsize=64)
def _packing_boxes(arch: Arch, bits: tuple[BitWidths, ...]) -> tuple[PackingBox, ...]:
    native = np.array([None in triple.by_tensor() for triple in bits], bool)
    boxes = []
    for members in (np.flatnonzero(~native), np.flatnonzero(native)):
        if not len(members):
            continue
        tables = np.stack([packing_table(arch, bits[i]) for i in members])  # [B, L, T]
        per_tensor, indices = [], []
        for tensor in range(len(TENSORS)):
            unique, index = np.unique(tables[:, :, tensor], axis=0, return_inverse=True)
            copies = _most_packings(arch)[tensor] - len(unique) if len(members) > 1 else 0
            unique = np.concatenate([unique, np.repeat(unique[-1:], max(0, copies), axis=0)])
            per_tensor.append(unique.astype(np.float64))
            indices.append(index.reshape(-1))
        triples, inverse = np.unique(np.stack(indices, axis=1), axis=0, return_inverse=True)
        weights, inputs, outputs = per_tensor
        boxes.append(PackingBox(members, (weights, inputs, outputs), triples, inverse.reshape(-1)))
    return tuple(boxes)


@cache
def _most_packings(arch: Arch) -> list[int]:
    """Number of distinct packings of each tensor (Weights, Inputs, Outputs) over the widths 2..8."""
    tables = np.stack([packing_table(arch, BitWidths(width, width, width)) for width in WIDTHS])
    return [len(np.unique(tables[:, :, tensor], axis=0)) for tensor in range(len(TENSORS))]
