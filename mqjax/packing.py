"""Packing of quantized operands in memory words: the only home of that rule (MODEL.md sections 5 and 15).

A word of `word_bits` holds floor(word_bits / bits) operands. Without a bit-width, or with one equal to the word,
an operand takes a word. The division is applied to whole counts, so operands of different tiles share words.
"""

from __future__ import annotations

import numpy as np

from mqjax.arch import Arch
from mqjax.types import TENSORS, BitWidths


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
