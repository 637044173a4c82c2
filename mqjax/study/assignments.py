"""Bit-width assignments as users write them."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from mqjax.errors import InputError
from mqjax.network.wiring import Wiring
from mqjax.study.stored import member_of, read_front
from mqjax.types import WIDTHS


def parse_assignment(text: str, wiring: Wiring) -> np.ndarray:
    """A genome int32 [T + L] from "4" (all widths), "8/4" (stored tensors/weights), the digits of a genome as in
    evaluated.csv, or "RUN:ID", a member of a finished search's front. Raises `InputError` for anything else."""
    if re.fullmatch(r"\d", text):
        return _in_range(np.full(wiring.genes, int(text)), text)
    if re.fullmatch(r"\d/\d", text):
        genome = np.full(wiring.genes, int(text[0]))
        genome[wiring.kernel_genes] = int(text[2])
        return _in_range(genome, text)
    if re.fullmatch(rf"\d{{{wiring.genes}}}", text):
        return _in_range(np.array([int(digit) for digit in text]), text)
    folder, _, member = text.rpartition(":")
    path = Path(folder) / "front.json"
    if folder and member.isdigit():
        entry = member_of(folder, read_front(folder), int(member))
        rows = [[int(width) for width in layer["bits"].split("/")] for layer in entry["layers"]]
        layers = len(wiring.layers)
        if len(rows) != layers:
            raise InputError(f"member {member} of {path} has {len(rows)} layers, but the network has {layers}")
        inputs, kernels, outputs = np.array(rows).T
        tensors = np.zeros(len(wiring.tensors) + 1, int)
        tensors[list(wiring.writes)], tensors[list(wiring.reads)] = outputs, inputs
        genome = np.empty(wiring.genes, int)
        genome[wiring.tensor_genes], genome[wiring.kernel_genes] = tensors[:-1], kernels
        return _in_range(genome, text)
    raise InputError(
        f"bit-widths must be like 4, 8/4 (inputs/weights), {wiring.genes} digits (a genome: input and weight width "
        f"of each of the {len(wiring.layers)} layers in a chain) or RUN:ID (a member of a search's front), not {text!r}"
    )


def _in_range(widths: np.ndarray, text: str) -> np.ndarray:
    if widths.min() < WIDTHS[0] or widths.max() > WIDTHS[-1]:
        raise InputError(f"bit-widths must lie in {WIDTHS[0]}..{WIDTHS[-1]}, not {text!r}")
    return widths.astype(np.int32)
