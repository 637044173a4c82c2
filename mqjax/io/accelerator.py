"""Reading accelerator files (YAML): one validation, one frozen `Arch`; nothing behind this module sees YAML.

The format is that of the files in hw/, which are also its examples: `mac`, then `levels` from the innermost outwards,
then `constraints` with the lists `arch` (what the hardware demands) and `paper` (heuristics of the paper).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mqjax.arch import FULL, Arch, Constraint, Level, Mac
from mqjax.errors import InputError
from mqjax.types import DIMS, TENSORS

PositiveInt = Annotated[int, Field(ge=1, strict=True)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Mesh = tuple[PositiveInt, PositiveInt]
Dim = Literal["C", "M", "R", "S", "N", "P", "Q"]
Tensor = Literal["Weights", "Inputs", "Outputs"]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class _Mac(_Model):
    name: str
    mesh: Annotated[Mesh, Field(strict=False)]
    energy_pj: PositiveFloat
    area_um2: Annotated[float, Field(ge=0)] = 0.0


class _Energy(_Model):
    read: PositiveFloat
    fill: PositiveFloat
    update: PositiveFloat


class _Bandwidth(_Model):
    read: PositiveFloat
    write: PositiveFloat


class _Level(_Model):
    name: str
    mesh: Annotated[Mesh, Field(strict=False)]
    capacity_words: PositiveInt | Literal["unlimited"]
    word_bits: PositiveInt
    block_words: PositiveInt
    cluster: PositiveInt = 1
    bandwidth: _Bandwidth | None = None
    energy_pj: _Energy
    area_um2: Annotated[float, Field(ge=0)] = 0.0
    keep: list[Tensor]


class _Constraint(_Model):
    level: str
    type: Literal["spatial", "temporal"]
    factors: dict[Dim, PositiveInt | Literal["full"]] = {}
    permutation: str = ""
    split: Annotated[int, Field(ge=0, le=len(DIMS))] | None = None


class _Constraints(_Model):
    arch: list[_Constraint] = []
    paper: list[_Constraint] = []


class _Accelerator(_Model):
    name: str
    mac: _Mac
    levels: Annotated[list[_Level], Field(min_length=1)]
    constraints: _Constraints = _Constraints()


def read_accelerator(path: Path, *, dialect: str = "2024") -> Arch:
    """The accelerator described by the YAML file `path`. Raises `InputError` naming file, line and key."""
    try:
        text = path.read_text()
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        document = yaml.safe_load(text)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read accelerator file {path}: {error}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise InputError(f"{path}{where}: not valid YAML: {getattr(error, 'problem', error)}") from None
    if not isinstance(document, dict):
        raise InputError(f"{path}: an accelerator file is a mapping with the keys name, mac, levels and constraints")
    try:
        model = _Accelerator.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        raise _located(path, root, first["loc"], _explain(first)) from None
    _check_consistency(path, root, model)
    return _to_arch(model, dialect)


def _explain(error: Any) -> str:
    """Pydantic's message, in our words where its own would not say what is right."""
    if error["type"] == "missing":
        return "this key is missing"
    if error["type"] == "extra_forbidden":
        return "this key is unknown; remove it or correct its spelling"
    return f"{error['msg'][0].lower()}{error['msg'][1:]}, not {error['input']!r}"


def _located(path: Path, root: yaml.Node | None, loc: Sequence[str | int], problem: str) -> InputError:
    """An error that names file, line and key; `loc` is the path of keys and indices to the value."""
    node, line, names = root, 1, []
    for part in loc:
        child = None
        if isinstance(node, yaml.MappingNode):
            child = next(((k, v) for k, v in node.value if k.value == str(part)), None)
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            child = (node.value[part], node.value[part])
        if child is None:
            # The last part of a missing key, or pydantic's name for a branch of a union.
            if isinstance(node, yaml.MappingNode) and isinstance(part, str):
                names.append(part)
            continue
        line, node = child[0].start_mark.line + 1, child[1]
        names.append(f"[{part}]" if isinstance(part, int) else str(part))
    key = ".".join(names).replace(".[", "[")
    return InputError(f"{path}, line {line}: {key}: {problem}")


def _check_consistency(path: Path, root: yaml.Node | None, model: _Accelerator) -> None:
    """Rules that span several keys."""
    names = [level.name for level in model.levels]
    inner = model.mac.mesh
    for i, level in enumerate(model.levels):
        if level.name in names[:i]:
            raise _located(path, root, ("levels", i, "name"), f"the level name {level.name!r} is used twice")
        if inner[0] % level.mesh[0] or inner[1] % level.mesh[1]:
            raise _located(path, root, ("levels", i, "mesh"), f"must divide the mesh {list(inner)} of what is inside")
        if level.mesh[0] * level.mesh[1] % level.cluster:
            raise _located(path, root, ("levels", i, "cluster"), "must divide the number of instances")
        inner = level.mesh
    last = len(names) - 1
    if set(model.levels[last].keep) != set(TENSORS):
        raise _located(
            path, root, ("levels", last, "keep"), "the outermost level must keep Weights, Inputs and Outputs"
        )
    taken: set[tuple[str, str, str]] = set()
    for group in ("arch", "paper"):
        for i, rule in enumerate(getattr(model.constraints, group)):
            _check_rule(path, root, ("constraints", group, i), rule, names)
            for dim in rule.factors:
                if (rule.level, rule.type, dim) in taken:
                    raise _located(path, root, ("constraints", group, i, "factors", dim), "this factor is given twice")
                taken.add((rule.level, rule.type, dim))
    _check_spatial_rules(path, root, model)


def _check_rule(path: Path, root: yaml.Node | None, loc: tuple, rule: _Constraint, names: list[str]) -> None:
    if rule.level not in names:
        raise _located(path, root, (*loc, "level"), f"unknown level {rule.level!r}; levels are {', '.join(names)}")
    if len(set(rule.permutation)) != len(rule.permutation) or not set(rule.permutation) <= set(DIMS):
        problem = f"must list dimensions out of {''.join(DIMS)}, each once, not {rule.permutation!r}"
        raise _located(path, root, (*loc, "permutation"), problem)
    if rule.split is not None and rule.type == "temporal":
        raise _located(path, root, (*loc, "split"), "only spatial loops have a split between X and Y")


def _check_spatial_rules(path: Path, root: yaml.Node | None, model: _Accelerator) -> None:
    meshes = [model.mac.mesh, *(level.mesh for level in model.levels)]
    flat = {level.name for level, a, b in zip(model.levels, meshes, meshes[1:], strict=False) if a == b}
    for group in ("arch", "paper"):
        for i, rule in enumerate(getattr(model.constraints, group)):
            if rule.type == "spatial" and rule.level in flat:
                loc = ("constraints", group, i, "type")
                raise _located(path, root, loc, f"{rule.level} has no fan-out, so it has no spatial loops to constrain")


def _to_arch(model: _Accelerator, dialect: str) -> Arch:
    def constraint(rule: _Constraint) -> Constraint:
        factors = tuple((dim, FULL if v == "full" else int(v)) for dim, v in rule.factors.items())
        return Constraint(rule.level, rule.type == "spatial", factors, rule.permutation, rule.split)

    levels = tuple(
        Level(
            name=level.name,
            mesh=level.mesh,
            capacity_words=None if level.capacity_words == "unlimited" else int(level.capacity_words),
            word_bits=level.word_bits,
            block_words=level.block_words,
            cluster=level.cluster,
            read_bandwidth=level.bandwidth.read if level.bandwidth else None,
            write_bandwidth=level.bandwidth.write if level.bandwidth else None,
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
        mac=Mac(model.mac.name, model.mac.mesh, model.mac.energy_pj, model.mac.area_um2),
        levels=levels,
        arch_constraints=tuple(constraint(rule) for rule in model.constraints.arch),
        paper_constraints=tuple(constraint(rule) for rule in model.constraints.paper),
        dialect=dialect,
    )
