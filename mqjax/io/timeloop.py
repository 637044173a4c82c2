"""Timeloop's map YAML: what its tools read to evaluate a given mapping."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from mqjax.errors import InputError
from mqjax.io.documents import read_document
from mqjax.io.files import write_atomically
from mqjax.types import DIMS, TENSORS


def mapping_document(mapping: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A mapping record as Timeloop's `mapping:` document, outermost level first.

    Permutations list the innermost dimension first; the first `split` dimensions of a spatial one lie on X.
    """
    targets: list[dict[str, Any]] = []
    for level in reversed(mapping):
        keep = [tensor for tensor in TENSORS if tensor in level["keep"]]
        bypass = [tensor for tensor in TENSORS if tensor not in keep]
        targets.append({"target": level["level"], "type": "bypass", "keep": keep, "bypass": bypass})
        targets.append({"target": level["level"], "type": "temporal", **_loops(level["temporal"])})
        if level["spatial"]:
            # Timeloop numbers the dimensions on X before those on Y.
            loops = sorted(reversed(level["spatial"]), key=lambda loop: loop[2])[::-1]
            split = sum(loop[2] == "X" for loop in loops)
            targets.append({"target": level["level"], "type": "spatial", **_loops(loops), "split": split})
    return {"mapping": targets}


def _loops(loops: Sequence[Sequence[Any]]) -> dict[str, str]:
    """Factors and permutation of loops listed outer to inner."""
    bounds = {dim: 1 for dim in DIMS}
    bounds |= {loop[0]: loop[1] for loop in loops}
    order = [loop[0] for loop in reversed(loops)]
    permutation = "".join([*order, *(dim for dim in DIMS if dim not in order)])
    return {"factors": " ".join(f"{dim}={bound}" for dim, bound in bounds.items()), "permutation": permutation}


def write_mapping(path: Path, mapping: Sequence[Mapping[str, Any]], *, note: str = "") -> None:
    """Write a mapping record as Timeloop map YAML, with a one-line note as a comment above it."""
    text = yaml.safe_dump(mapping_document(mapping), sort_keys=False, default_flow_style=None)
    write_atomically(path, (f"# {note}\n" if note else "") + text)


def read_mapping(path: Path, level_names: Sequence[str]) -> list[dict[str, Any]]:
    """The mapping record (levels inner to outer, as `level_names`) of a Timeloop map YAML file that lists all loops."""
    try:
        targets = read_document(path).value["mapping"]
        record = {name: {"level": name, "temporal": [], "spatial": [], "keep": list(TENSORS)} for name in level_names}
        for target in targets:
            entry = record[target["target"]]
            if target["type"] in ("bypass", "datatype"):
                entry["keep"] = list(target["keep"])
                continue
            bounds = dict(pair.split("=") for pair in target["factors"].split())
            loops = [[dim, int(bounds[dim])] for dim in target["permutation"].replace(" ", "")]
            if target["type"] == "spatial":
                loops = [[*loop, "X" if i < target["split"] else "Y"] for i, loop in enumerate(loops)]
            entry[target["type"]] = loops[::-1]
    except InputError:
        raise
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: not a complete Timeloop mapping: {error!r}") from None
    return list(record.values())
