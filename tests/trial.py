"""A layer of a random case, and what enumeration by `oracle` says about its space."""

from __future__ import annotations

import random
from functools import cached_property
from typing import Any

import oracle
from mqjax.errors import InputError
from mqjax.mapper.best import best_mappings
from mqjax.mapper.optima import Optimum
from mqjax.mapper.optimum import solve
from mqjax.mapspace.space import Mapspace
from mqjax.types import METRICS, TENSORS, BitWidths, Layer, all_widths
from random_accelerators import Case


class Trial:
    """One layer of a case, and what enumeration says about its space."""

    def __init__(self, case: Case, layer: Layer) -> None:
        self.arch, self.layer, self.constraints = case.arch, layer, case.constraints
        self.bits = [bits for bits in case.bits if oracle.holds(case.arch, by_tensor(bits))]
        self.too_wide = [bits for bits in case.bits if bits not in self.bits]
        self.rng = random.Random(str(case))
        self.enumerated = oracle.Space(case.arch, layer, case.constraints)
        self.space = Mapspace(case.arch, layer, constraints=case.constraints)
        self._alone: dict[BitWidths, dict[str, Optimum] | None] = {}

    def record(self, mapping: Any, bits: BitWidths) -> dict[str, Any]:
        return {
            "dims": self.layer.dims,
            "shape": self.layer.shape,
            "bitwidths": by_tensor(bits),
            "mapping": mapping,
        }

    @cached_property
    def mappings(self) -> list[Any]:
        return list(self.enumerated.mappings())

    @cached_property
    def analyses(self) -> list[oracle.Analysis]:
        return [oracle.Analysis(self.arch, self.record(mapping, BitWidths())) for mapping in self.mappings]

    def costs(self, bits: BitWidths) -> list[tuple[float, int]]:
        """(energy, cycles) of the mappings that fit."""
        used = zip(self.analyses, self.mappings, strict=True)
        found = (
            analysis.price(by_tensor(bits)) for analysis, mapping in used if not self.enumerated.underused(mapping)
        )
        return [(cost["energy_pJ"], cost["cycles"]) for cost in found if cost["valid"]]

    @cached_property
    def nests(self) -> set[Any]:
        """What the mappings of the space are once loops of bound 1 are dropped."""
        return {nest_of(mapping) for mapping in self.mappings}

    @cached_property
    def together(self) -> dict[BitWidths, dict[str, Optimum] | None]:
        """The optima at all widths that fit the words, found at once; `None` where no mapping fits."""
        widths = [bits for bits in (*all_widths(), BitWidths()) if oracle.holds(self.arch, by_tensor(bits))]
        solution = solve(self.space, widths)

        def optimum(i: int) -> dict[str, Optimum] | None:
            try:
                return {metric: solution.optimum(metric, i) for metric in METRICS}
            except InputError:
                return None

        return {bits: optimum(i) for i, bits in enumerate(widths)}

    def alone(self, bits: BitWidths) -> dict[str, Optimum] | None:
        """The optima at these widths by themselves; `None` where they are refused or no mapping fits."""
        if bits not in self._alone:
            try:
                # Under `arch` the paper's padded bounds would be tried as well, which is another space.
                settings = {"metrics": METRICS, "constraints": self.constraints, "pad": None}
                found = best_mappings(self.arch, self.layer, bits, **settings)[0]
            except InputError:
                found = None
            self._alone[bits] = found
        return self._alone[bits]


def by_tensor(bits: BitWidths) -> dict[str, int | None]:
    return dict(zip(TENSORS, bits.by_tensor(), strict=True))


def nest_of(mapping: Any) -> Any:
    return tuple(
        tuple(tuple(tuple(loop) for loop in level[kind] if loop[1] > 1) for kind in ("spatial", "temporal"))
        for level in mapping
    )
