"""What a search can minimise: the registry from which costs, axes, columns and the command's help follow."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal

from mqjax.errors import InputError, unknown
from mqjax.types import METRICS


@dataclasses.dataclass(frozen=True)
class Objective:
    """A number to minimise.

    parts: what every layer contributes: "energy" (pJ), "delay" (cycles) and "edp" (their product) of its mapping,
    "weight_bits" and "live_bits" (of stored tensors while it runs); of the accelerator "area". combine: how a network's
    number comes of them; a "product" is of the sums of its parts, and "judged" comes from the judge of accuracy.
    scales: units that people read, ascending, each with what it is in `unit`; without any, `unit` with k, M, G or T.
    total: the key under which front.json has the network's number whether or not it was an objective.
    """

    name: str
    unit: str
    label: str
    combine: Literal["sum", "product", "maximum", "constant", "judged"]
    parts: tuple[str, ...] = ()
    scales: tuple[tuple[float, str], ...] = ()
    total: str | None = None

    @property
    def mapped(self) -> bool:
        """Whether it depends on the layers' mappings."""
        return not set(self.parts).isdisjoint(METRICS)

    @property
    def summed(self) -> tuple[str, ...]:
        """Those of its parts that are summed over layers."""
        return self.parts if self.combine in ("sum", "product") else ()

    @property
    def metric(self) -> str | None:
        """The metric whose optimal mappings serve it best, layer by layer; `None` where mappings do not matter."""
        if not self.mapped:
            return None
        return self.parts[0] if len(self.parts) == 1 else "edp"

    @property
    def heading(self) -> str:
        """Its label and unit, for numbers as they are."""
        return f"{self.label} ({self.unit})"

    def scaled(self, largest: float) -> tuple[float, str]:
        """For numbers up to `largest`: what to divide them by for people to read, and label and unit of the quotient."""
        scales = self.scales or tuple(
            (1000.0**k, prefix + self.unit) for k, prefix in enumerate(("", "k", "M", "G", "T"))
        )
        divisor, unit = max((scale for scale in scales if scale[0] <= largest), default=scales[0])
        return divisor, f"{self.label} ({unit})"


_MICRO = "\N{MICRO SIGN}"
_JOULES = tuple((1000.0**k, unit) for k, unit in enumerate(("pJ", "nJ", f"{_MICRO}J", "mJ", "J")))
_EDPS = tuple((divisor, f"{unit}*cycles") for divisor, unit in _JOULES)
_BYTES = ((1.0, "bits"), (8.0 * 2**10, "KiB"), (8.0 * 2**20, "MiB"))

OBJECTIVES = {
    objective.name: objective
    for objective in (
        Objective("error", "share of images", "validation error", "judged", scales=((0.01, "%"),)),
        Objective("energy", "pJ", "energy", "sum", ("energy",), _JOULES, total="energy_pj"),
        Objective("edp", "pJ*cycles", "EDP", "product", ("energy", "delay"), _EDPS),
        Objective("edp_sum", "pJ*cycles", "sum of layer EDPs", "sum", ("edp",), _EDPS),
        Objective("delay", "cycles", "delay", "sum", ("delay",), total="cycles"),
        Objective("memory", "bits", "weight memory", "sum", ("weight_bits",), _BYTES, total="memory_bits"),
        Objective("weight_memory", "bits", "weight memory", "sum", ("weight_bits",), _BYTES),
        Objective("activation_memory", "bits", "peak activation memory", "maximum", ("live_bits",), _BYTES),
        Objective("area", "um^2", "area", "constant", ("area",), ((1.0, "um^2"), (1e6, "mm^2"))),
    )
}
"""By name. "weight_memory" is another name of "memory"."""

HARDWARE_OBJECTIVES = tuple(name for name, objective in OBJECTIVES.items() if objective.combine != "judged")


def objective_of(name: str, known: Sequence[str] = tuple(OBJECTIVES)) -> Objective:
    """The objective of that name. Raises `InputError` where it is not among `known`."""
    if name not in known:
        raise InputError(unknown("objective", name, known))
    return OBJECTIVES[name]


def sum_of(part: str) -> Objective:
    """The objective that is the sum of this part over layers, such as "edp_sum" of "edp"."""
    return next(
        objective for objective in OBJECTIVES.values() if (objective.combine, objective.parts) == ("sum", (part,))
    )


def mapping_metric(names: Sequence[str], map_by: str | None = None) -> str:
    """The metric by which every layer's one mapping is chosen: `map_by` or, by default, the one that serves the first of
    the objectives that depends on mappings; "energy" where none does."""
    if map_by is not None:
        if map_by not in METRICS:
            raise InputError(f"mappings can be chosen by {', '.join(METRICS)}, not by {map_by!r}")
        return map_by
    found = (objective_of(name).metric for name in names)
    return next((metric for metric in found if metric is not None), "energy")
