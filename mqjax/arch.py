"""Accelerators: storage levels, their capacities and energies, and the constraints on mappings.

Levels are numbered from the innermost (0) to the outermost (DRAM); the MAC array lies below level 0
(MODEL.md section 2). An `Arch` is frozen and hashes by value. What shapes a compiled program (`Arch.structure`)
is kept apart from the numbers that are traced (`Arch.tech`), so two energy tables share one compilation.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np

from mqjax.errors import InputError, unknown
from mqjax.types import TENSORS, BitWidths, Layer

FULL = 0
"""A fixed factor of 0 means the whole bound of the dimension, as in Timeloop."""

DIALECTS = ("2024", "2023")
"""Which fills of Outputs are charged: "2024" elides the first fill of each partial sum, "2023" charges it."""


class WidthTable(NamedTuple):
    """A number by the widths of the operands, for MACs with modes: that of the narrowest modes that hold them.

    inputs, weights: bits of the modes, ascending; values: a row for each mode of Inputs.
    """

    inputs: tuple[int, ...]
    weights: tuple[int, ...]
    values: tuple[tuple[float, ...], ...]


class WidthFormula(NamedTuple):
    """constant + inputs * i + weights * w + product * i * w, where Inputs have i bits and Weights w."""

    constant: float = 0.0
    inputs: float = 0.0
    weights: float = 0.0
    product: float = 0.0


ByWidth = float | WidthTable | WidthFormula
"""A number that may depend on the widths of the operands (see `mqjax.cost.packing`)."""


@dataclasses.dataclass(frozen=True)
class Mac:
    """The multiply-accumulate units: `mesh` is (X, Y), energy is per operation, area per unit.

    operations_per_cycle: of one unit; cycles_per_operation: its reciprocal, in its stead.
    """

    name: str
    mesh: tuple[int, int]
    energy_pj: ByWidth
    area_um2: float
    operations_per_cycle: ByWidth = 1.0
    cycles_per_operation: ByWidth | None = None

    def tables(self) -> list[tuple[str, WidthTable]]:
        """The tables by width among its numbers, with their names."""
        numbers = [(field.name, getattr(self, field.name)) for field in dataclasses.fields(self)]
        return [(name, number) for name, number in numbers if isinstance(number, WidthTable)]

    @property
    def instances(self) -> int:
        return self.mesh[0] * self.mesh[1]


def short_tables(mac: Mac, unpacked_bits: Sequence[int]) -> Iterator[tuple[str, str, str]]:
    """The tables that lack a mode for unpacked operands, of so many bits per tensor: their key, the side, and what is wrong."""
    for name, table in mac.tables():
        for side, bits in zip(("weights", "inputs"), unpacked_bits, strict=False):
            if getattr(table, side)[-1] < bits:
                yield name, side, f"the last mode must hold unpacked operands, which have {bits} bits"


@dataclasses.dataclass(frozen=True)
class Level:
    """A storage level. Capacities and bandwidths count words of `word_bits`, per instance; `None` is unlimited.

    Energies are per vector access of `block_words` words. `keep` flags the tensors (Weights, Inputs, Outputs)
    that the level stores; the others bypass it. `cluster` instances share one physical memory.
    """

    name: str
    mesh: tuple[int, int]
    capacity_words: int | None
    word_bits: int
    block_words: int
    cluster: int
    read_bandwidth: float | None
    write_bandwidth: float | None
    read_pj: float
    fill_pj: float
    update_pj: float
    area_um2: float
    keep: tuple[bool, bool, bool]

    @property
    def instances(self) -> int:
        return self.mesh[0] * self.mesh[1]


@dataclasses.dataclass(frozen=True)
class Constraint:
    """What a constraint set says about the spatial or temporal loops of one level (MODEL.md section 11.1).

    factors: (dimension, factor) pairs; `FULL` takes the whole bound. permutation: dimensions, innermost first.
    split: how many dimensions of the permutation lie on X (spatial only); `None` leaves it free. max_factors: (dimension, bound)
    pairs; the factor must not exceed the bound. min_utilization: the share of the fan-out that must be in use (spatial only).
    """

    level: str
    spatial: bool
    factors: tuple[tuple[str, int], ...] = ()
    permutation: str = ""
    split: int | None = None
    max_factors: tuple[tuple[str, int], ...] = ()
    min_utilization: float = 0.0


class Repeat(NamedTuple):
    """A constraint that gives again what an earlier one gave: its number, the key at fault, and what that is called."""

    number: int
    key: tuple[str, ...]
    what: str


def repeated_rules(rules: Sequence[Constraint]) -> list[Repeat]:
    """What `rules`, taken together, give twice for the loops of one level: factors, permutations or splits."""
    taken: set[tuple] = set()
    repeats = []
    for number, rule in enumerate(rules):
        given = [(("factors", dim), "factor") for dim, _ in rule.factors]
        given += [(("max_factors", dim), "factor") for dim, _ in rule.max_factors]
        given += [(("permutation",), "permutation")] if rule.permutation else []
        given += [(("split",), "split")] if rule.split is not None else []
        given += [(("min_utilization",), "minimum utilization")] if rule.min_utilization else []
        for key, what in given:
            # A factor is fixed or has an upper bound.
            said = (rule.level, rule.spatial, what, key[-1])
            if said in taken:
                repeats.append(Repeat(number, key, what))
            taken.add(said)
    return repeats


class TilingLevel(NamedTuple):
    """The spatial or the temporal loops of storage level `level`, with what constrains them."""

    level: int
    spatial: bool
    factors: dict[str, int]
    permutation: str
    split: int | None
    max_factors: dict[str, int]
    min_utilization: float = 0.0


class Tech(NamedTuple):
    """The numbers of an accelerator as arrays; axis L is the storage levels, inner to outer. Unlimited is inf.

    All are float64, which holds every integer here exactly (they are far below 2^53).
    """

    mesh: np.ndarray  # [L + 1, 2]: MAC array, then the levels
    fanout: np.ndarray  # [L, 2]: children of one instance along X and Y
    capacity: np.ndarray  # [L] words
    block: np.ndarray  # [L] words
    clusters: np.ndarray  # [L] instances / cluster
    bandwidth: np.ndarray  # [L, 2] read, write; words / cycle / instance
    energy: np.ndarray  # [L, 3] pJ per vector read, fill, update
    area: np.float64  # um^2, whole accelerator


@dataclasses.dataclass(frozen=True)
class Arch:
    """An accelerator. `arch_constraints` is what the hardware demands, `paper_constraints` what the paper adds."""

    name: str
    mac: Mac
    levels: tuple[Level, ...]
    arch_constraints: tuple[Constraint, ...] = ()
    paper_constraints: tuple[Constraint, ...] = ()
    dialect: str = "2024"

    def __post_init__(self) -> None:
        if self.dialect not in DIALECTS:
            raise InputError(unknown("dialect", self.dialect, DIALECTS))
        rules = self.arch_constraints + self.paper_constraints
        for repeat in repeated_rules(rules):
            rule = rules[repeat.number]
            kind = "spatial" if rule.spatial else "temporal"
            raise InputError(
                f"accelerator {self.name!r}: {'.'.join(repeat.key)} of the {kind} loops of {rule.level} is given twice; "
                f"give each {repeat.what} once"
            )
        if self.mac.cycles_per_operation is not None and self.mac.operations_per_cycle != 1:
            raise InputError(f"accelerator {self.name!r}: give operations_per_cycle or cycles_per_operation, not both")
        for name, side, problem in short_tables(self.mac, [self.unpacked_bits(t) for t in range(len(TENSORS))]):
            raise InputError(f"accelerator {self.name!r}: mac.{name}.{side}: {problem}")

    def unpacked_bits(self, tensor: int) -> int:
        """Width of unpacked operands (of `TENSORS`): a word of the innermost level that keeps them."""
        return next(level.word_bits for level in self.levels if level.keep[tensor])

    @cached_property
    def level_names(self) -> tuple[str, ...]:
        return tuple(level.name for level in self.levels)

    @cached_property
    def fanout(self) -> tuple[tuple[int, int], ...]:
        """Per level, children of one instance along X and Y."""
        meshes = [self.mac.mesh, *(level.mesh for level in self.levels)]
        return tuple((a[0] // b[0], a[1] // b[1]) for a, b in zip(meshes, meshes[1:], strict=False))

    @cached_property
    def area_um2(self) -> float:
        """Area of the whole accelerator; the reference parses areas per instance as float32."""
        parts = [self.mac, *self.levels]
        return sum(float(np.float32(part.area_um2)) * part.instances for part in parts)

    @cached_property
    def tech(self) -> Tech:
        def or_inf(value: float | None) -> float:
            return math.inf if value is None else value

        levels = self.levels
        return Tech(
            mesh=np.array([self.mac.mesh, *(level.mesh for level in levels)], np.float64),
            fanout=np.array(self.fanout, np.float64),
            capacity=np.array([or_inf(level.capacity_words) for level in levels], np.float64),
            block=np.array([level.block_words for level in levels], np.float64),
            clusters=np.array([level.instances / level.cluster for level in levels], np.float64),
            bandwidth=np.array([[or_inf(x.read_bandwidth), or_inf(x.write_bandwidth)] for x in levels], np.float64),
            energy=np.array([[x.read_pj, x.fill_pj, x.update_pj] for x in levels], np.float64),
            area=np.float64(self.area_um2),
        )

    def constraint_set(self, name: str) -> tuple[Constraint, ...]:
        """The constraints called "paper" (hardware and heuristics), "arch" (hardware only) or "none"."""
        sets = {"paper": self.arch_constraints + self.paper_constraints, "arch": self.arch_constraints, "none": ()}
        if name not in sets:
            raise InputError(unknown("constraint set", name, sets))
        return sets[name]

    def tiling_levels(self, constraints: str = "paper") -> list[TilingLevel]:
        """Inner to outer: for each storage level its spatial loops, if it has a fan-out, then its temporal ones."""
        merged: dict[tuple[str, bool], TilingLevel] = {}
        for number, (level, fanout) in enumerate(zip(self.levels, self.fanout, strict=True)):
            if fanout != (1, 1):
                merged[level.name, True] = TilingLevel(number, True, {}, "", None, {})
            merged[level.name, False] = TilingLevel(number, False, {}, "", None, {})
        for rule in self.constraint_set(constraints):
            old = merged[rule.level, rule.spatial]
            merged[rule.level, rule.spatial] = old._replace(
                factors={**old.factors, **dict(rule.factors)},
                permutation=rule.permutation or old.permutation,
                split=old.split if rule.split is None else rule.split,
                max_factors={**old.max_factors, **dict(rule.max_factors)},
                min_utilization=rule.min_utilization or old.min_utilization,
            )
        return list(merged.values())

    def too_wide(self, bits: BitWidths) -> tuple[int, Level] | None:
        """A width of `bits` and a level that keeps the tensor but whose words are narrower; `None` if all fit."""
        for tensor, width in enumerate(bits.by_tensor()):
            for level in self.levels:
                if width is not None and level.keep[tensor] and width > level.word_bits:
                    return width, level
        return None

    def check_widths(self, bits: BitWidths, layer: Layer) -> None:
        """Raise `InputError` where a width exceeds the word of a level that keeps the tensor."""
        found = self.too_wide(bits)
        if found is not None:
            width, level = found
            raise InputError(
                f"layer {layer.name!r}: a bit-width of {width} does not fit in the {level.word_bits}-bit "
                f"words of {level.name} in accelerator {self.name!r}"
            )
