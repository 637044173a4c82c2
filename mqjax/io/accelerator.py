"""Reading accelerator files (YAML): one validation, one frozen `Arch`; nothing behind this module sees YAML.

The format is that of the files in hw/, which are also its examples: `mac`, then `levels` from the innermost outwards,
then `constraints` with the lists `arch` (what the hardware demands) and `paper` (heuristics of the paper).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainValidator, ValidationError

from mqjax.arch import (
    FULL,
    Arch,
    Constraint,
    Level,
    Mac,
    repeated_rules,
    short_tables,
)
from mqjax.errors import InputError, meant
from mqjax.io.documents import Document, read_document, shown
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


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, validate_assignment=True)


class _Mac(_Model):
    name: Name
    mesh: Mesh
    energy_pj: AmountByWidth
    area_um2: Amount = 0.0
    operations_per_cycle: Pace = 1.0
    cycles_per_operation: Pace = None


class _Energy(_Model):
    read: Amount
    fill: Amount
    update: Amount


class _Bandwidth(_Model):
    read: Rate = None
    write: Rate = None


class _Level(_Model):
    name: Name
    mesh: Mesh
    capacity_words: Capacity
    word_bits: Count
    block_words: Count
    cluster: Count = 1
    bandwidth: Annotated[_Bandwidth, BeforeValidator(_rates)] = _Bandwidth()
    energy_pj: Annotated[_Energy, BeforeValidator(_as_mapping)]
    area_um2: Amount = 0.0
    keep: Annotated[list[str], PlainValidator(_keep)]


class _Constraint(_Model):
    level: Name
    type: Literal["spatial", "temporal"]
    factors: Annotated[dict[Dim, Factor], BeforeValidator(_as_mapping)] = {}
    max_factors: Annotated[dict[Dim, Count], BeforeValidator(_as_mapping)] = {}
    permutation: Annotated[str, PlainValidator(_as_permutation)] = ""
    split: Annotated[int | None, PlainValidator(_split)] = None
    min_utilization: Annotated[float, PlainValidator(_share)] = 0.0


Rules = Annotated[list[Annotated[_Constraint, BeforeValidator(_as_mapping)]], BeforeValidator(_list)]


class _Constraints(_Model):
    arch: Rules = []
    paper: Rules = []


_RULES = tuple(_Constraints.model_fields)


class _Accelerator(_Model):
    name: Name
    mac: Annotated[_Mac, BeforeValidator(_as_mapping)]
    levels: Annotated[
        list[Annotated[_Level, BeforeValidator(_as_mapping)]], BeforeValidator(_list), Field(min_length=1)
    ]
    constraints: Annotated[_Constraints, BeforeValidator(_as_mapping)] = _Constraints()


def read_accelerator(path: Path, *, dialect: str = "2024") -> Arch:
    """The accelerator described by the YAML file `path`. Raises `InputError` naming file, line and key."""
    return accelerator(read_document(path), dialect=dialect)


def accelerator(document: Document, *, dialect: str = "2024") -> Arch:
    """The accelerator that a document describes. Raises `InputError` naming file, line and key."""
    if not isinstance(document.value, dict):
        problem = "an accelerator file is a mapping with the keys name, mac, levels and constraints"
        raise document.error((), f"the file is empty; {problem}" if document.root is None else problem)
    found = _model_or_errors(document)
    if isinstance(found, list):
        raise found[0]
    return _to_arch(found, dialect)


def findings(path: Path) -> list[InputError]:
    """All that is wrong with an accelerator file: its keys in order, then rules that span several, as far as these are right."""
    try:
        document = read_document(path)
        if not isinstance(document.value, dict):
            accelerator(document)
    except InputError as error:
        return [error]
    found = _model_or_errors(document)
    return found if isinstance(found, list) else []


def _model_or_errors(document: Document) -> _Accelerator | list[InputError]:
    wrong = []
    try:
        model = _Accelerator.model_validate(document.value)
    except ValidationError as error:
        found = error.errors(include_url=False)
        wrong = [document.error(each["loc"], _explain(each, _keys_at(each["loc"]))) for each in found]
        model = _right_parts(document.value)
    return [*wrong, *_inconsistencies(document, model)] or model


def _right_parts(value: dict) -> _Accelerator:
    """What is right in a document that is not: optional keys that are wrong have their defaults, required ones are `None`."""

    def part(model: type[_Model], value: Any) -> Any:
        required = [name for name, field in model.model_fields.items() if field.is_required()]
        kept = model.model_construct(**dict.fromkeys(required))
        for key in model.model_fields:
            if isinstance(value, dict) and key in value:
                with contextlib.suppress(ValidationError):
                    setattr(kept, key, value[key])
        return kept

    def parts(model: type[_Model], values: Any) -> list[Any]:
        return [part(model, value) for value in values] if isinstance(values, list) else []

    given = value.get("constraints")
    groups: dict[str, Any] = {}
    if isinstance(given, dict):
        groups = {group: parts(_Constraint, given.get(group)) for group in _RULES}
    return _Accelerator.model_construct(
        mac=part(_Mac, value.get("mac")),
        levels=parts(_Level, value.get("levels")),
        constraints=_Constraints.model_construct(**groups),
    )


def _keys_at(loc: Sequence[str | int]) -> list[str]:
    """The keys that may stand where the last part of `loc` does."""
    model: type[BaseModel] = _Accelerator
    for part in loc[:-1]:
        model = _BRANCHES.get(part, model) if isinstance(part, str) else model
    return list(model.model_fields)


_BRANCHES: dict[str, type[BaseModel]] = {
    "mac": _Mac,
    "levels": _Level,
    "bandwidth": _Bandwidth,
    "energy_pj": _Energy,
    "constraints": _Constraints,
    "arch": _Constraint,
    "paper": _Constraint,
}
"""The model of what stands below a key."""


def _explain(error: Any, keys: Sequence[str]) -> str:
    """What is wrong and what would be right, where pydantic noticed it; `keys` may stand there."""
    if error["type"] == "extra_forbidden":
        return f"this key is unknown; remove it or correct its spelling{meant(error['loc'][-1], keys)}"
    known = {
        "missing": "this key is missing",
        "invalid_key": "keys are text; put this one in quotes or remove it",
        "too_short": "must have one entry at least",
    }
    if error["type"] == "value_error":
        return str(error["ctx"]["error"])
    if error["type"] in known:
        return known[error["type"]]
    if error["type"] == "literal_error":
        return f"must be {error['ctx']['expected']}, not {shown(error['input'])}"
    return f"{error['msg'][0].lower()}{error['msg'][1:]}, not {shown(error['input'])}"


def _inconsistencies(document: Document, model: _Accelerator) -> Iterator[InputError]:
    """Rules that span several keys, of which those that are wrong themselves are `None`."""
    levels = model.levels
    names = [level.name for level in levels]
    meshes = [model.mac.mesh, *(level.mesh for level in levels)]
    flat = set()
    for i, (level, inner) in enumerate(zip(levels, meshes, strict=False)):
        if level.name is not None and level.name in names[:i]:
            yield document.error(("levels", i, "name"), f"the level name {shown(level.name)} is used twice")
        if level.mesh is None:
            continue
        if inner is not None and (inner[0] % level.mesh[0] or inner[1] % level.mesh[1]):
            yield document.error(("levels", i, "mesh"), f"must divide the mesh {list(inner)} of what is inside")
        if level.mesh[0] * level.mesh[1] % level.cluster:
            yield document.error(("levels", i, "cluster"), "must divide the number of instances")
        if inner == level.mesh:
            flat.add(level.name)
    outermost = levels[-1].keep if levels else None
    if outermost is not None and set(outermost) != set(TENSORS):
        problem = "the outermost level must keep Weights, Inputs and Outputs"
        yield document.error(("levels", len(levels) - 1, "keep"), problem)
    yield from _mac_errors(document, model)
    rules = [(group, i, r) for group in _RULES for i, r in enumerate(getattr(model.constraints, group))]
    for group, i, rule in rules:
        yield from _rule_errors(document, ("constraints", group, i), rule, names, flat)
    rules = [(group, i, rule) for group, i, rule in rules if None not in (rule.level, rule.type)]
    for repeat in repeated_rules([_to_constraint(rule) for _, _, rule in rules]):
        group, i, _ = rules[repeat.number]
        yield document.error(("constraints", group, i, *repeat.key), f"this {repeat.what} is given twice")


def _mac_errors(document: Document, model: _Accelerator) -> Iterator[InputError]:
    if {"operations_per_cycle", "cycles_per_operation"} <= model.mac.model_fields_set:
        problem = "give operations_per_cycle or cycles_per_operation, not both"
        yield document.error(("mac", "cycles_per_operation"), problem)
    levels = model.levels
    if not levels or any(level.keep is None or level.word_bits is None for level in levels):
        return
    if model.mac.energy_pj is None or set(levels[-1].keep) != set(TENSORS):
        return
    words = [next(level.word_bits for level in levels if tensor in level.keep) for tensor in TENSORS]
    for name, side, problem in short_tables(_to_mac(model.mac), words):
        yield document.error(("mac", name, side), problem)


def _rule_errors(
    document: Document, loc: tuple, rule: _Constraint, names: list[str], flat: set[str]
) -> Iterator[InputError]:
    if rule.level is not None and names and None not in names and rule.level not in names:
        problem = f"unknown level {shown(rule.level)}; levels are {', '.join(names)}{meant(rule.level, names)}"
        yield document.error((*loc, "level"), problem)
    if rule.split is not None and rule.type == "temporal":
        yield document.error((*loc, "split"), "only spatial loops have a split between X and Y")
    if rule.min_utilization and rule.type == "temporal":
        yield document.error((*loc, "min_utilization"), "only the fan-out of spatial loops has a utilization")
    if rule.type == "spatial" and rule.level is not None and rule.level in flat:
        problem = f"{rule.level} has no fan-out, so it has no spatial loops to constrain"
        yield document.error((*loc, "type"), problem)


def _to_constraint(rule: _Constraint) -> Constraint:
    factors = tuple((dim, FULL if v == "full" else int(v)) for dim, v in rule.factors.items())
    return Constraint(
        level=rule.level,
        spatial=rule.type == "spatial",
        factors=factors,
        permutation=rule.permutation,
        split=rule.split,
        max_factors=tuple(rule.max_factors.items()),
        min_utilization=rule.min_utilization,
    )


def _to_mac(mac: _Mac) -> Mac:
    return Mac(mac.name, mac.mesh, mac.energy_pj, mac.area_um2, mac.operations_per_cycle, mac.cycles_per_operation)


def _to_arch(model: _Accelerator, dialect: str) -> Arch:
    levels = tuple(
        Level(
            name=level.name,
            mesh=level.mesh,
            capacity_words=None if level.capacity_words == "unlimited" else int(level.capacity_words),
            word_bits=level.word_bits,
            block_words=level.block_words,
            cluster=level.cluster,
            read_bandwidth=level.bandwidth.read,
            write_bandwidth=level.bandwidth.write,
            read_pj=level.energy_pj.read,
            fill_pj=level.energy_pj.fill,
            update_pj=level.energy_pj.update,
            area_um2=level.area_um2,
            keep=(TENSORS[0] in level.keep, TENSORS[1] in level.keep, TENSORS[2] in level.keep),
        )
        for level in model.levels
    )
    return Arch(
        name=model.name,
        mac=_to_mac(model.mac),
        levels=levels,
        arch_constraints=tuple(_to_constraint(rule) for rule in model.constraints.arch),
        paper_constraints=tuple(_to_constraint(rule) for rule in model.constraints.paper),
        dialect=dialect,
    )
