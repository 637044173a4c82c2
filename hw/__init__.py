"""Accelerator descriptions (installed as `mqjax.hw`): the YAML files beside this one, and `load_arch`."""

from __future__ import annotations

from pathlib import Path

from mqjax.arch import Arch
from mqjax.errors import InputError, meant
from mqjax.io.accelerator import read_accelerator

FOLDER = Path(__file__).parent


def shipped() -> list[str]:
    """Names of the accelerators that come with mqjax."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def load_arch(path_or_name: str | Path, *, dialect: str = "2024") -> Arch:
    """A shipped accelerator by name ("eyeriss", "simba", ...), or one of your own by the path of its YAML file.

    `dialect` is "2024" (the first fill of each partial sum is free) or "2023" (it is charged); MODEL.md section 14.
    Raises `InputError` for an unknown name and for a bad file, naming file, line and key.
    """
    text = str(path_or_name)
    if text in shipped():
        return read_accelerator(FOLDER / f"{text}.yaml", dialect=dialect)
    path = Path(path_or_name)
    try:
        exists = path.exists()
    except OSError:
        # A name that is too long, or in a folder that may not be entered.
        exists = False
    if not exists:
        raise InputError(
            f"unknown accelerator {text!r}: neither a file nor one of {', '.join(shipped())}{meant(text, shipped())}"
        )
    return read_accelerator(path, dialect=dialect)
