"""What run folders hold, read without trust: their JSON files are checked before anything uses them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated, Any

import pydantic
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from mqjax.errors import InputError, unknown
from mqjax.io.documents import key_path
from mqjax.objectives import OBJECTIVES
from mqjax.types import UNPACKED


def _finite(value: float) -> float:
    if not math.isfinite(value):
        raise ValueError("must be a finite number")
    return value


Number = Annotated[float, AfterValidator(_finite)]
NotNegative = Annotated[int, Field(ge=0, le=2**63)]
Fraction = Annotated[float, Field(ge=0, le=1)]
ShortText = Annotated[str, Field(min_length=1, max_length=200)]
WidthsText = Annotated[str, Field(pattern=r"^([1-9][0-9]?/[1-9][0-9]?/[1-9][0-9]?|" + UNPACKED + ")$")]


class _Strict(BaseModel):
    """Types as they are: 1.0 is no integer, "8" no number. Keys of newer versions are let through."""

    model_config = ConfigDict(strict=True, extra="allow")


class _Layer(_Strict):
    name: ShortText
    bits: WidthsText
    energy_pj: Number
    cycles: NotNegative
    level_pj: dict[str, Number]
    mapped_as: dict[str, NotNegative]
    mapping: list[dict[str, Any]]


class _Entry(_Strict):
    objectives: dict[str, Number]
    memory_bits: Number
    energy_pj: Number
    cycles: NotNegative
    layers: Annotated[list[_Layer], Field(min_length=1)]
    test_accuracy: Fraction | None = None
    retrained_accuracy: Fraction | None = None


class _Member(_Entry):
    id: NotNegative
    generation: NotNegative


class _Uniform(_Entry):
    width: Annotated[int, Field(ge=1, le=64)]


class _Unpacked(_Strict):
    energy_pj: Number
    cycles: NotNegative
    layers: list[_Layer]


class _Generation(_Strict):
    generation: NotNegative
    evaluations: NotNegative
    hypervolume: Number


class _Mapspace(_Strict):
    unique_layers: NotNegative
    nominal: Annotated[int, Field(ge=0)]
    covered: bool
    padded: dict[str, str] = {}


class _Images(_Strict):
    split: str
    images: NotNegative
    float: Fraction


class _Losses(_Strict):
    kernels: Annotated[dict[str, list[Number]], Field(min_length=1)]
    tensors: Annotated[dict[str, list[Number]], Field(min_length=1)]


class _Surrogate(_Strict):
    rank_correlation: Number | None
    fitted_correlation: Number | None = None
    rehearsed: NotNegative = 0
    gap: Number | None
    slack: Number
    first_population: NotNegative
    losses: _Losses


class _FrontFile(_Strict):
    arch: ShortText
    objectives: Annotated[dict[str, str], Field(min_length=1)]
    metric: str
    layers: list[ShortText]
    members: list[_Member]
    uniform: list[_Uniform]
    native: _Unpacked | None
    history: list[_Generation]
    evaluations: NotNegative
    seconds: dict[str, Number]
    mapspace: _Mapspace
    test: _Images | None = None
    surrogate: _Surrogate | None = None


class _Device(_Strict):
    kind: str
    count: NotNegative


class _Settings(_Strict):
    network: str
    dataset: str


class _Config(_Strict):
    settings: _Settings
    versions: dict[str, str]
    device: _Device


def read_front(folder: str | Path) -> dict[str, Any]:
    """The content of a finished run's front.json. Raises `InputError` naming the file and the key that is wrong."""
    path = Path(folder) / "front.json"
    document = _checked(path, _FrontFile)
    count, names = len(document["layers"]), set(document["objectives"])
    for name in names - set(OBJECTIVES):
        raise InputError(f"{path}: objectives: {unknown('objective', name, tuple(OBJECTIVES))}")
    for kind in ("members", "uniform"):
        for place, entry in enumerate(document[kind]):
            where = f"{path}: {kind}[{place}]"
            if len(entry["layers"]) != count:
                raise InputError(
                    f"{where}.layers: there must be {count} layers, as in layers, not {len(entry['layers'])}"
                )
            if any(layer["bits"] == UNPACKED for layer in entry["layers"]):
                raise InputError(f"{where}.layers: bits must be three widths, such as 8/4/8, not {UNPACKED!r}")
            if set(entry["objectives"]) != names:
                raise InputError(f"{where}.objectives: there must be a value of each of {', '.join(sorted(names))}")
    return document


def read_config(folder: str | Path) -> dict[str, Any]:
    """The content of a run's config.json; its settings are checked by `StudyConfig.from_settings`."""
    return _checked(Path(folder) / "config.json", _Config)


def member_of(folder: str | Path, document: dict[str, Any], member: int) -> dict[str, Any]:
    """A member of a front by its number."""
    members = {entry["id"]: entry for entry in document["members"]}
    if member not in members:
        listed = ", ".join(map(str, members)) or "none"
        raise InputError(f"{Path(folder) / 'front.json'} has no member {member}; its members are {listed}")
    return members[member]


def _checked(path: Path, model: type[pydantic.BaseModel]) -> dict[str, Any]:
    document = read_json(path)
    try:
        model.model_validate(document)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        problem = first["msg"].removeprefix("Value error, ")
        place = key_path(first["loc"])
        raise InputError(f"{path}: {place[:200] + ': ' if place else ''}{problem[0].lower()}{problem[1:]}") from None
    return document


def read_json(path: Path) -> Any:
    """Content of a file of a run. Raises `InputError` naming it where it is missing or not JSON."""
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"{path.parent} is not a finished search run: it has no {path.name}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read: {' '.join(str(error).split())[:200]}") from None
