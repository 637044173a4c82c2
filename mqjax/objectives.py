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
    """

    name: str
    unit: str
    label: str
    combine: Literal["sum", "product", "maximum", "constant", "judged"]
    parts: tuple[str, ...] = ()

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


OBJECTIVES = {
    objective.name: objective
    for objective in (
        Objective("error", "share of images", "validation error", "judged"),
        Objective("energy", "pJ", "energy", "sum", ("energy",)),
        Objective("edp", "pJ*cycles", "EDP", "product", ("energy", "delay")),
        Objective("edp_sum", "pJ*cycles", "sum of layer EDPs", "sum", ("edp",)),
        Objective("delay", "cycles", "delay", "sum", ("delay",)),
        Objective("memory", "bits", "weight memory", "sum", ("weight_bits",)),
        Objective("weight_memory", "bits", "weight memory", "sum", ("weight_bits",)),
        Objective("activation_memory", "bits", "peak activation memory", "maximum", ("live_bits",)),
        Objective("area", "um^2", "area", "constant", ("area",)),
    )
}
"""By name. "weight_memory" is another name of "memory"."""

HARDWARE_OBJECTIVES = tuple(name for name, objective in OBJECTIVES.items() if objective.combine != "judged")


def objective_of(name: str, known: Sequence[str] = tuple(OBJECTIVES)) -> Objective:
    """The objective of that name. Raises `InputError` where it is not among `known`."""
    if name not in known:
        raise InputError(unknown("objective", name, known))
    return OBJECTIVES[name]


def mapping_metric(names: Sequence[str], map_by: str | None = None) -> str:
    """The metric by which every layer's one mapping is chosen: `map_by` or, by default, the one that serves the first of
    the objectives that depends on mappings; "energy" where none does."""
    if map_by is not None:
        if map_by not in METRICS:
            raise InputError(f"mappings can be chosen by {', '.join(METRICS)}, not by {map_by!r}")
        return map_by
    found = (objective_of(name).metric for name in names)
    return next((metric for metric in found if metric is not None), "energy")
