"""Reading accelerator files (YAML): one validation, one frozen `Arch`; nothing behind this module sees YAML.

The format is that of the files in hw/, which are also its examples: `mac`, then `levels` from the innermost outwards,
then `constraints` with the lists `arch` (what the hardware demands) and `paper` (heuristics of the paper).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from mqjax.arch import FULL, Arch, Constraint, Level, Mac, repeated_rules, short_tables
from mqjax.errors import InputError, meant
from mqjax.io.documents import Document, read_document, shown
from mqjax.io.schema import RULES, AcceleratorFile, ConstraintPart, ConstraintsPart, LevelPart, MacPart, Part, keys_at
from mqjax.types import TENSORS


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


def _model_or_errors(document: Document) -> AcceleratorFile | list[InputError]:
    wrong = []
    try:
        model = AcceleratorFile.model_validate(document.value)
    except ValidationError as error:
        found = error.errors(include_url=False)
        wrong = [document.error(each["loc"], _explain(each, keys_at(each["loc"]))) for each in found]
        model = _right_parts(document.value)
    return [*wrong, *_inconsistencies(document, model)] or model


def _right_parts(value: dict) -> AcceleratorFile:
    """What is right in a document that is not: optional keys that are wrong have their defaults, required ones are `None`."""

    def part(model: type[Part], value: Any) -> Any:
        required = [name for name, field in model.model_fields.items() if field.is_required()]
        kept = model.model_construct(**dict.fromkeys(required))
        for key in model.model_fields:
            if isinstance(value, dict) and key in value:
                with contextlib.suppress(ValidationError):
                    setattr(kept, key, value[key])
        return kept

    def parts(model: type[Part], values: Any) -> list[Any]:
        return [part(model, value) for value in values] if isinstance(values, list) else []

    given = value.get("constraints")
    groups: dict[str, Any] = {}
    if isinstance(given, dict):
        groups = {group: parts(ConstraintPart, given.get(group)) for group in RULES}
    return AcceleratorFile.model_construct(
        mac=part(MacPart, value.get("mac")),
        levels=parts(LevelPart, value.get("levels")),
        constraints=ConstraintsPart.model_construct(**groups),
    )


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


def _inconsistencies(document: Document, model: AcceleratorFile) -> Iterator[InputError]:
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
    rules = [(group, i, r) for group in RULES for i, r in enumerate(getattr(model.constraints, group))]
    for group, i, rule in rules:
        yield from _rule_errors(document, ("constraints", group, i), rule, names, flat)
    rules = [(group, i, rule) for group, i, rule in rules if None not in (rule.level, rule.type)]
    for repeat in repeated_rules([_to_constraint(rule) for _, _, rule in rules]):
        group, i, _ = rules[repeat.number]
        yield document.error(("constraints", group, i, *repeat.key), f"this {repeat.what} is given twice")


def _mac_errors(document: Document, model: AcceleratorFile) -> Iterator[InputError]:
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
    document: Document, loc: tuple, rule: ConstraintPart, names: list[str], flat: set[str]
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


def _to_constraint(rule: ConstraintPart) -> Constraint:
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


def _to_mac(mac: MacPart) -> Mac:
    return Mac(mac.name, mac.mesh, mac.energy_pj, mac.area_um2, mac.operations_per_cycle, mac.cycles_per_operation)


def _to_arch(model: AcceleratorFile, dialect: str) -> Arch:
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
