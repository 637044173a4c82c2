"""What an accelerator file may hold: its keys, and what is right for each; rules that span keys are in
`mqjax.io.accelerator`, which reads the files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainValidator

from mqjax.io.documents import shown
from mqjax.io.numbers import amount, bandwidth, by_width, count, count_or, pace
from mqjax.projection import LOOPS
from mqjax.types import TENSORS

INSTANCES_MOST = 2**24
"""Instances of a level at most: far above any chip, and the evaluator's memory grows with a level's fan-out."""


def _as_mesh(value: Any) -> tuple[int, int]:
    if not isinstance(value, list) or len(value) != 2:
        raise ValueError(f"must be [X, Y], two whole numbers of instances, not {shown(value)}")
    x, y = count(value[0]), count(value[1])
    if x * y > INSTANCES_MOST:
        raise ValueError(f"must have at most {INSTANCES_MOST} instances, not {x * y}")
    return x, y


def _as_name(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"must be text, not {shown(value)}; put it in quotes if it is meant as text")
    if not value or value != value.strip() or not value.isprintable():
        raise ValueError(
            f"must be a name of printable characters that begins and ends with none blank, not {shown(value)}"
        )
    return value


def _split(value: Any) -> int | None:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= len(LOOPS)):
        raise ValueError(f"must be a whole number from 0 to {len(LOOPS)}, not {shown(value)}")
    return value


def _share(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise ValueError(f"must be a share of the fan-out from 0 to 1, not {shown(value)}")
    return float(value)


def _as_permutation(value: Any) -> str:
    if not isinstance(value, str) or len(set(value)) != len(value) or not set(value) <= set(LOOPS):
        raise ValueError(f"must list dimensions out of {''.join(LOOPS)} as text, each once, not {shown(value)}")
    return value


def _keep(value: Any) -> list[str]:
    if not isinstance(value, list) or any(tensor not in TENSORS for tensor in value):
        raise ValueError(f"must be a list out of {', '.join(TENSORS)}, not {shown(value)}")
    if len(set(value)) != len(value):
        raise ValueError(f"must name each tensor once, not {shown(value)}")
    return value


def _as_mapping(value: Any) -> Any:
    if not isinstance(value, dict):
        raise ValueError(f"must be a mapping of keys to values, not {shown(value)}")
    return value


def _rates(value: Any) -> Any:
    return {} if value is None or value == "unlimited" else _as_mapping(value)


def _list(value: Any) -> Any:
    if not isinstance(value, list):
        raise ValueError(f"must be a list, not {shown(value)}")
    return value


Name = Annotated[str, PlainValidator(_as_name)]
Count = Annotated[int, PlainValidator(count)]
Capacity = Annotated[int | str, PlainValidator(count_or("unlimited"))]
Factor = Annotated[int | str, PlainValidator(count_or("full"))]
Amount = Annotated[float, PlainValidator(amount)]
Rate = Annotated[float | None, PlainValidator(bandwidth)]
Mesh = Annotated[tuple[int, int], PlainValidator(_as_mesh)]
AmountByWidth = Annotated[Any, PlainValidator(by_width)]
Pace = Annotated[Any, PlainValidator(pace)]
Dim = Literal["C", "M", "R", "S", "N", "P", "Q", "G"]


class Part(BaseModel):
    """A mapping of an accelerator file; what it leaves out has its default."""

    model_config = ConfigDict(extra="forbid", strict=True, validate_assignment=True)


class MacPart(Part):
    name: Name
    mesh: Mesh
    energy_pj: AmountByWidth
    area_um2: Amount = 0.0
    operations_per_cycle: Pace = 1.0
    cycles_per_operation: Pace = None


class EnergyPart(Part):
    read: Amount
    fill: Amount
    update: Amount


class BandwidthPart(Part):
    read: Rate = None
    write: Rate = None


class LevelPart(Part):
    name: Name
    mesh: Mesh
    capacity_words: Capacity
    word_bits: Count
    block_words: Count
    cluster: Count = 1
    bandwidth: Annotated[BandwidthPart, BeforeValidator(_rates)] = BandwidthPart()
    energy_pj: Annotated[EnergyPart, BeforeValidator(_as_mapping)]
    area_um2: Amount = 0.0
    keep: Annotated[list[str], PlainValidator(_keep)]


class ConstraintPart(Part):
    level: Name
    type: Literal["spatial", "temporal"]
    factors: Annotated[dict[Dim, Factor], BeforeValidator(_as_mapping)] = {}
    max_factors: Annotated[dict[Dim, Count], BeforeValidator(_as_mapping)] = {}
    permutation: Annotated[str, PlainValidator(_as_permutation)] = ""
    split: Annotated[int | None, PlainValidator(_split)] = None
    min_utilization: Annotated[float, PlainValidator(_share)] = 0.0


Rules = Annotated[list[Annotated[ConstraintPart, BeforeValidator(_as_mapping)]], BeforeValidator(_list)]


class ConstraintsPart(Part):
    arch: Rules = []
    paper: Rules = []


RULES = tuple(ConstraintsPart.model_fields)
"""The lists of constraints."""


class AcceleratorFile(Part):
    name: Name
    mac: Annotated[MacPart, BeforeValidator(_as_mapping)]
    levels: Annotated[
        list[Annotated[LevelPart, BeforeValidator(_as_mapping)]], BeforeValidator(_list), Field(min_length=1)
    ]
    constraints: Annotated[ConstraintsPart, BeforeValidator(_as_mapping)] = ConstraintsPart()


def keys_at(loc: Sequence[str | int]) -> list[str]:
    """The keys that may stand where the last part of `loc` does."""
    model: type[BaseModel] = AcceleratorFile
    for part in loc[:-1]:
        model = _BRANCHES.get(part, model) if isinstance(part, str) else model
    return list(model.model_fields)


_BRANCHES: dict[str, type[BaseModel]] = {
    "mac": MacPart,
    "levels": LevelPart,
    "bandwidth": BandwidthPart,
    "energy_pj": EnergyPart,
    "constraints": ConstraintsPart,
    "arch": ConstraintPart,
    "paper": ConstraintPart,
}
"""The model of what stands below a key."""
