"""What bit-widths mean on an accelerator: the only home of packing (MODEL.md sections 5 and 15) and of the energy and pace
of MACs by width (section 16).

A word of `word_bits` holds floor(word_bits / bits) operands. Without a bit-width, or with one equal to the word,
an operand takes a word. The division is applied to whole counts, so operands of different tiles share words.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from functools import cache, lru_cache
from typing import Any, NamedTuple

import numpy as np

from mqjax.arch import Arch, ByWidth, Mac, WidthFormula, WidthTable
from mqjax.errors import InputError
from mqjax.types import TENSORS, WIDTHS, BitWidths

WEIGHTS, INPUTS, OUTPUTS = range(len(TENSORS))

PACE_MOST = 2**24
"""Numerators and denominators of paces at most, so that cycles can be counted exactly."""


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


# --- MACs ------------------------------------------------------------------------------------------------------------


class MacCost(NamedTuple):
    """What MACs cost at some widths: the energy of an operation in pJ; a unit takes `cycles` cycles for `operations`
    operations, both whole and without a common divisor."""

    energy_pj: float
    cycles: int
    operations: int


def macs_vary(arch: Arch) -> bool:
    """Whether the MACs do anything but one operation a cycle at one energy."""
    mac = arch.mac
    pace = mac.operations_per_cycle if mac.cycles_per_operation is None else mac.cycles_per_operation
    return not isinstance(mac.energy_pj, float | int) or pace != 1


def mac_cost(arch: Arch, bits: BitWidths) -> MacCost:
    """What MACs cost at `bits`; unpacked operands have the width of `Arch.unpacked_bits`."""
    return _mac_cost(arch, bits.inputs, bits.weights)


@lru_cache(maxsize=2**12)
def _mac_cost(arch: Arch, inputs: int | None, weights: int | None) -> MacCost:
    mac = arch.mac
    inputs = arch.unpacked_bits(INPUTS) if inputs is None else inputs
    weights = arch.unpacked_bits(WEIGHTS) if weights is None else weights
    pace = _pace(mac, inputs, weights)
    if max(pace.numerator, pace.denominator) > PACE_MOST:
        raise InputError(
            f"accelerator {arch.name!r}: {pace} cycles for an operation of {inputs}-bit Inputs and {weights}-bit Weights "
            f"is too fine a fraction; write the pace of its MACs with fewer digits"
        )
    return MacCost(float(_at_widths(mac.energy_pj, inputs, weights)), pace.numerator, pace.denominator)


def _pace(mac: Mac, inputs: int, weights: int) -> Fraction:
    """Cycles of an operation."""
    if mac.cycles_per_operation is None:
        return 1 / _at_widths(mac.operations_per_cycle, inputs, weights)
    return _at_widths(mac.cycles_per_operation, inputs, weights)


def _at_widths(number: ByWidth, inputs: int, weights: int) -> Fraction:
    """A number of an accelerator at two widths, exact: decimal digits are taken as they are written."""
    if isinstance(number, WidthTable):
        # Beyond the last mode nothing is computed (`Arch.check_widths`), so any number will do.
        i, w = (
            next((place for place, mode in enumerate(modes) if width <= mode), -1)
            for modes, width in ((number.inputs, inputs), (number.weights, weights))
        )
        return _exact(number.values[i][w])
    if isinstance(number, WidthFormula):
        constant, of_inputs, of_weights, product = map(_exact, number)
        return constant + of_inputs * inputs + of_weights * weights + product * inputs * weights
    return _exact(number)


def _exact(number: float) -> Fraction:
    return Fraction(str(number))


def largest_mac_pj(arch: Arch) -> float:
    """No operation at any width that fits the words takes more energy."""
    energy = arch.mac.energy_pj
    if isinstance(energy, WidthTable):
        return max(map(max, energy.values))
    return mac_cost(arch, BitWidths()).energy_pj


def slowest_pace(arch: Arch) -> int:
    """What a number of steps is multiplied by, at most, on the way to cycles, at any width that fits the words."""
    faster, slower = arch.mac.operations_per_cycle, arch.mac.cycles_per_operation
    number = faster if slower is None else slower
    if isinstance(number, WidthTable):
        values = [_exact(value) for row in number.values for value in row]
        most = max(values)
    else:
        values = [_exact(value) for value in (number if isinstance(number, WidthFormula) else [number])]
        most = _at_widths(number, arch.unpacked_bits(INPUTS), arch.unpacked_bits(WEIGHTS))
    whole = math.lcm(*(value.denominator for value in values))
    return whole if slower is None else math.ceil(most * whole)


class Widths(NamedTuple):
    """What bit-widths mean, for one triple or, along leading axes, several."""

    operands: np.ndarray  # int64 [..., L, T] operands per word
    mac_pj: np.ndarray  # float64 [...] energy of an operation
    cycles: np.ndarray  # int64 [...] see `MacCost`
    operations: np.ndarray  # int64 [...]

    def take(self, rows: Any) -> Widths:
        """Those at `rows` of the first axis."""
        return Widths(*(array[rows] for array in self))

    @staticmethod
    def join(parts: Sequence[Widths]) -> Widths:
        return Widths(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


def widths_of(arch: Arch, bits: BitWidths) -> Widths:
    """What a triple means on an accelerator."""
    mac = mac_cost(arch, bits)
    return Widths(packing_table(arch, bits), np.array(mac.energy_pj), np.array(mac.cycles), np.array(mac.operations))


def stacked_widths(arch: Arch, bits: Sequence[BitWidths]) -> Widths:
    """What several triples mean, along a leading axis."""
    found = {triple: widths_of(arch, triple) for triple in dict.fromkeys(bits)}
    return Widths(*(np.stack(arrays) for arrays in zip(*(found[triple] for triple in bits), strict=True)))


def compute_cycles(steps: np.ndarray, widths: Widths) -> np.ndarray:
    """Cycles that MACs take for so many operations each, rounded up, int64 [...]."""
    whole, rest = np.divmod(steps, widths.operations)
    return whole * widths.cycles + words(rest * widths.cycles, widths.operations)


# --- Several triples at once -----------------------------------------------------------------------------------------


class MacTerms(NamedTuple):
    """MACs of all pairs of packings. KS pairs of an Inputs and an Outputs packing, KW packings of Weights, KC paces."""

    energy_pj: Any  # float64 [KS, KW] of an operation
    pace: Any  # int32 [KS, KW], which of
    cycles: Any  # float64 [KC]
    operations: Any  # float64 [KC]


class Packed(NamedTuple):
    """What compiled programs read of a box. tensors: for Weights, Inputs and Outputs operands per word, float64 [K, L], from
    few to many; mac: `None` where MACs cost the same at all widths."""

    tensors: tuple[Any, Any, Any]
    mac: MacTerms | None = None


class PackingBox(NamedTuple):
    """The distinct packings behind some width triples that are priced together.

    bits: int [B], the positions of these triples in the caller's list. per_tensor: float64 [K, L] operands per word for
    Weights, Inputs, Outputs, from few to many; widths that pack alike but cost MACs differently have rows of their own.
    triples: int [U, 3], the distinct triples, as indices into these. inverse: int [B] into `triples`. mac: costs by
    (Inputs packing, Weights packing); macs_vary: whether they differ, or are not one operation a cycle.
    """

    bits: np.ndarray
    per_tensor: tuple[np.ndarray, np.ndarray, np.ndarray]
    triples: np.ndarray
    inverse: np.ndarray
    mac: tuple[tuple[MacCost, ...], ...]
    macs_vary: bool

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
    def widths(self) -> Widths:
        """What each triple means; axis U."""
        chosen = [table[self.triples[:, t]] for t, table in enumerate(self.per_tensor)]
        of_triple = [self.mac[i][w] for w, i, _ in self.triples.tolist()]
        energy, cycles, operations = zip(*of_triple, strict=True)
        operands = np.stack(chosen, axis=2).astype(np.int64)
        return Widths(operands, np.array(energy, np.float64), np.array(cycles), np.array(operations))

    @property
    def packed(self) -> Packed:
        """What compiled programs read."""
        if not self.macs_vary:
            return Packed(self.per_tensor)
        paces = sorted({cost[1:] for row in self.mac for cost in row}, key=lambda pace: Fraction(*pace))
        repeats = len(self.per_tensor[OUTPUTS])
        energy = np.array([[cost.energy_pj for cost in row] for row in self.mac], np.float64)
        pace = np.array([[paces.index(cost[1:]) for cost in row] for row in self.mac], np.int32)
        cycles, operations = np.array(paces, np.float64).T
        mac = MacTerms(np.repeat(energy, repeats, axis=0), np.repeat(pace, repeats, axis=0), cycles, operations)
        return Packed(self.per_tensor, mac)


def packing_boxes(arch: Arch, bits: Sequence[BitWidths]) -> tuple[PackingBox, ...]:
    """The distinct packings of `bits`; widths that pack alike at every level, and cost MACs alike, are evaluated once.

    Triples with unpacked operands, which are much wider than packed ones, go to a box of their own. Boxes of several
    triples are filled up with copies to as many packings as `all_widths` has, so that most share one compiled program.
    """
    return _packing_boxes(arch, tuple(bits))


@lru_cache(maxsize=64)
def _packing_boxes(arch: Arch, bits: tuple[BitWidths, ...]) -> tuple[PackingBox, ...]:
    unpacked = np.array([None in triple.by_tensor() for triple in bits], bool)
    boxes = []
    for members in (np.flatnonzero(~unpacked), np.flatnonzero(unpacked)):
        if not len(members):
            continue
        widths = [bits[i].by_tensor() for i in members]
        of_width = [_modes(arch, widths, tensor) for tensor in range(len(TENSORS))]
        modes = [sorted(set(found.values())) for found in of_width]
        indices = [
            [found.index(of[w[t]]) for t, (found, of) in enumerate(zip(modes, of_width, strict=True))] for w in widths
        ]
        triples, inverse = np.unique(np.array(indices), axis=0, return_inverse=True)
        if len(members) > 1:
            counts = zip(modes, _most_packings(arch), strict=True)
            modes = [found + found[-1:] * (most - len(found)) for found, most in counts]
        weights, inputs, outputs = (np.array([mode.operands for mode in found], np.float64) for found in modes)
        some_width = [{mode: width for width, mode in of.items()} for of in of_width]
        mac = tuple(
            tuple(_mac_cost(arch, some_width[INPUTS][i], some_width[WEIGHTS][w]) for w in modes[WEIGHTS])
            for i in modes[INPUTS]
        )
        tables = weights, inputs, outputs
        boxes.append(PackingBox(members, tables, triples, inverse.reshape(-1), mac, macs_vary(arch)))
    return tuple(boxes)


class _Mode(NamedTuple):
    """How the accelerator treats a width of a tensor: operands per word at each level, and what MACs cost with each width
    of the other operand."""

    operands: tuple[int, ...]
    macs: tuple[MacCost, ...]


def _modes(arch: Arch, widths: Sequence[tuple[int | None, ...]], tensor: int) -> dict[int | None, _Mode]:
    """The mode of each width that a tensor has in some triples, in the order of `TENSORS`."""
    own, of_weights, of_inputs = (
        list(dict.fromkeys(triple[t] for triple in widths)) for t in (tensor, WEIGHTS, INPUTS)
    )
    found = {}
    for width in own:
        operands = tuple(operands_per_word(level.word_bits, width) for level in arch.levels)
        pairs = {WEIGHTS: [(i, width) for i in of_inputs], INPUTS: [(width, w) for w in of_weights], OUTPUTS: []}
        found[width] = _Mode(operands, tuple(_mac_cost(arch, *pair) for pair in pairs[tensor]))
    return found


@cache
def _most_packings(arch: Arch) -> list[int]:
    """Number of distinct packings of each tensor (Weights, Inputs, Outputs) over the widths 2..8."""
    widths = [(width,) * len(TENSORS) for width in WIDTHS]
    return [len(set(_modes(arch, widths, tensor).values())) for tensor in range(len(TENSORS))]
