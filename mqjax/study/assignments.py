"""Bit-width assignments as users write them."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from mqjax.errors import InputError
from mqjax.study.runs import read_json
from mqjax.types import WIDTHS


def parse_assignment(text: str, layers: int) -> np.ndarray:
    """Widths int32 [L, 2] of inputs and weights from "4" (all), "8/4" (inputs/weights), the 2 L digits of a genome as in
    evaluated.csv, or "RUN:ID", a member of a finished search's front. Raises `InputError` for anything else."""
    if re.fullmatch(r"\d", text):
        return _checked(np.full((layers, 2), int(text)), text)
    if re.fullmatch(r"\d/\d", text):
        return _checked(np.tile([int(text[0]), int(text[2])], (layers, 1)), text)
    if re.fullmatch(rf"\d{{{2 * layers}}}", text):
        return _checked(np.array([int(digit) for digit in text]).reshape(layers, 2), text)
    folder, _, member = text.rpartition(":")
    path = Path(folder) / "front.json"
    if folder and member.isdigit():
        members = {str(entry["id"]): entry for entry in read_json(path)["members"]}
        if member not in members:
            raise InputError(f"{path} has no member {member}; its members are {', '.join(members)}")
        rows = [[int(width) for width in layer["bits"].split("/")[:2]] for layer in members[member]["layers"]]
        if len(rows) != layers:
            raise InputError(f"member {member} of {path} has {len(rows)} layers, but the network has {layers}")
        return _checked(np.array(rows), text)
    raise InputError(
        f"bit-widths must be like 4, 8/4 (inputs/weights), {2 * layers} digits (input and weight width of each of the "
        f"{layers} layers) or RUN:ID (a member of a search's front), not {text!r}"
    )


def _checked(widths: np.ndarray, text: str) -> np.ndarray:
    if widths.min() < WIDTHS[0] or widths.max() > WIDTHS[-1]:
        raise InputError(f"bit-widths must lie in {WIDTHS[0]}..{WIDTHS[-1]}, not {text!r}")
    return widths.astype(np.int32)
