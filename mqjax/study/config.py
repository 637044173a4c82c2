"""Settings of a study, with their defaults: the only home of both."""

from __future__ import annotations

import dataclasses
import datetime
from pathlib import Path
from typing import Any

from mqjax.errors import InputError
from mqjax.models.files import SIZES
from mqjax.types import DEPTHWISE, SECONDS, check_effort, depthwise_view


@dataclasses.dataclass(frozen=True)
class StudyConfig:
    """What a study is about; `mqjax search --help` explains every field under the same name."""

    arch: str = "eyeriss"
    dialect: str = "2024"
    network: str = "mobilenetv1"
    width_multiplier: float | None = None
    resolution: int | None = None
    classes: int | None = None
    channels: int | None = None
    depthwise: str = DEPTHWISE[0]
    constraints: str = "paper"
    pad: int | None = 0
    seconds: float = SECONDS
    dataset: str = "fashion_mnist"
    data_dir: str | None = None
    checkpoint: str | None = None
    accuracy: str = "ptq"
    judge: str | None = None
    objectives: tuple[str, ...] = ("error", "energy")
    map_by: str | None = None
    population: int = 64
    surrogate: bool = True
    generations: int | None = None
    images: int = 2000
    test_images: int = 10_000
    retrain: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "depthwise", depthwise_view(self.depthwise))
        check_effort(self.pad, self.seconds)
        if self.seed < 0:
            raise InputError(f"--seed must not be negative, but is {self.seed}")
        for name in ("images", "test_images"):
            if getattr(self, name) < 1:
                raise InputError(f"--{name.replace('_', '-')} must be at least 1, not {getattr(self, name)}")
        if self.retrain < 0:
            raise InputError(f"--retrain must be a number of epochs, 0 for none, not {self.retrain}")

    @property
    def sizes(self) -> dict[str, float]:
        """The sizes that are given, which must be those of the trained network."""
        return {name: getattr(self, name) for name in SIZES if getattr(self, name) is not None}

    def settings(self) -> dict[str, Any]:
        """As config.json holds them."""
        return {**dataclasses.asdict(self), "objectives": ",".join(self.objectives)}

    @classmethod
    def from_settings(cls, settings: dict[str, Any], path: Path) -> StudyConfig:
        """From the content of the file `path`, or of an older run's. Raises `InputError` for a missing setting."""
        settings = {**NEWER, **settings}
        names = [field.name for field in dataclasses.fields(cls)]
        if missing := [name for name in names if name not in settings]:
            raise InputError(f"{path}: the setting {missing[0]!r} is missing")
        for field in dataclasses.fields(cls):
            value = settings[field.name]
            if not _is_of_type(str(field.type), value):
                raise InputError(
                    f"{path}: the setting {field.name!r} must be {TYPE_NAMES[str(field.type)]}, not {value!r:.60}"
                )
        return cls(
            **{**{name: settings[name] for name in names}, "objectives": tuple(settings["objectives"].split(","))}
        )

    def default_folder(self) -> Path:
        """A folder of its own for a run that begins now."""
        from mqjax.models.files import network_name

        stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
        return Path("runs") / f"{network_name(self.network)}-{Path(self.arch).stem}-{stamp}"


TYPE_NAMES = {
    "str": "text",
    "str | None": "text or null",
    "int": "a whole number",
    "int | None": "a whole number or null",
    "float": "a number",
    "float | None": "a number or null",
    "bool": "true or false",
    "tuple[str, ...]": "names with commas between them",
}
"""What a setting's type is called in config.json."""


def _is_of_type(kind: str, value: Any) -> bool:
    """Whether a value of config.json is of the kind that a setting's type asks for."""
    if value is None:
        return "None" in kind
    if kind == "bool":
        return isinstance(value, bool)
    if kind.startswith("int"):
        return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63
    if kind.startswith("float"):
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, str)


GENERATIONS = {True: 3, False: 24}
"""Default number of generations with and without a surrogate."""

REHEARSED = 5
"""Generations of the rehearsal for each one of the search."""

NEWER = {
    **dict.fromkeys(SIZES),
    "constraints": "paper",
    "pad": 0,
    "seconds": SECONDS,
    "map_by": None,
    "judge": None,
    "surrogate": False,
}
"""What runs were made with whose config.json lacks these settings."""
