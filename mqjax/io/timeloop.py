"""Timeloop's map YAML: what its tools read to evaluate a given mapping."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from mqjax.errors import unknown
from mqjax.io.documents import Document, read_document, shown
from mqjax.io.files import write_atomically
from mqjax.projection import DIMS, names_of
from mqjax.types import TENSORS


def mapping_document(mapping: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A mapping record as Timeloop's `mapping:` document, outermost level first.

    Permutations list the innermost dimension first; the first `split` dimensions of a spatial one lie on X.
    """
    targets: list[dict[str, Any]] = []
    names = names_of({loop[0] for level in mapping for kind in ("temporal", "spatial") for loop in level[kind]})
    for level in reversed(mapping):
        keep = [tensor for tensor in TENSORS if tensor in level["keep"]]
        bypass = [tensor for tensor in TENSORS if tensor not in keep]
        targets.append({"target": level["level"], "type": "bypass", "keep": keep, "bypass": bypass})
        targets.append({"target": level["level"], "type": "temporal", **_loops(names, level["temporal"])})
        if level["spatial"]:
            # Timeloop numbers the dimensions on X before those on Y.
            loops = sorted(reversed(level["spatial"]), key=lambda loop: loop[2])[::-1]
            split = sum(loop[2] == "X" for loop in loops)
            targets.append({"target": level["level"], "type": "spatial", **_loops(names, loops), "split": split})
    return {"mapping": targets}


def _loops(names: Sequence[str], loops: Sequence[Sequence[Any]]) -> dict[str, str]:
    """Factors and permutation of loops, over dimensions of these names, listed outer to inner."""
    bounds = dict.fromkeys(names, 1)
    bounds |= {loop[0]: loop[1] for loop in loops}
    order = [loop[0] for loop in reversed(loops)]
    permutation = "".join([*order, *(dim for dim in names if dim not in order)])
    return {"factors": " ".join(f"{dim}={bound}" for dim, bound in bounds.items()), "permutation": permutation}


def write_mapping(path: Path, mapping: Sequence[Mapping[str, Any]], *, note: str = "") -> None:
    """Write a mapping record as Timeloop map YAML, with a one-line note as a comment above it."""
    write_atomically(path, mapping_text(mapping, note=note))


def mapping_text(mapping: Sequence[Mapping[str, Any]], *, note: str = "") -> str:
    """A mapping record as Timeloop map YAML, with a one-line note as a comment above it."""
    text = yaml.safe_dump(mapping_document(mapping), sort_keys=False, default_flow_style=None)
    return (f"# {note}\n" if note else "") + text


def read_mapping(path: Path, level_names: Sequence[str], dims: Sequence[str] = DIMS) -> list[dict[str, Any]]:
    """The mapping record (levels inner to outer, as `level_names`) of a Timeloop map YAML file, over dimensions `dims`.

    Factors that are left out are 1; a level without a bypass directive keeps everything. Raises `InputError` naming file,
    line and key.
    """
    document = read_document(path)
    if not isinstance(document.value, dict) or not isinstance(document.value.get("mapping"), list):
        raise document.error((), "a map file has the key mapping with a list of targets")
    record = {name: {"level": name, "temporal": [], "spatial": [], "keep": list(TENSORS)} for name in level_names}
    seen: set[tuple[str, str]] = set()
    for number, target in enumerate(document.value["mapping"]):
        loc = ("mapping", number)
        if not isinstance(target, dict):
            raise document.error(loc, f"must be a mapping with target and type, not {shown(target)}")
        name, kind = (_text_at(document, loc, target, key) for key in ("target", "type"))
        if name not in record:
            raise document.error((*loc, "target"), unknown("level", name, level_names))
        kind = "bypass" if kind in ("datatype", "dataspace", "bypassing") else kind
        if kind not in _KEYS:
            raise document.error((*loc, "type"), unknown("type", kind, _KEYS))
        extra = [key for key in target if key not in ("target", "type", *_KEYS[kind])]
        if extra:
            raise document.error((*loc, extra[0]), unknown("key", extra[0], ("target", "type", *_KEYS[kind])))
        if (name, kind) in seen:
            raise document.error(loc, f"the {kind} directive of {name} is given twice; give it once")
        seen.add((name, kind))
        if kind == "bypass":
            record[name]["keep"] = _tensors_at(document, loc, target)
            continue
        loops = _listed(document, loc, target, dims)
        if kind == "spatial":
            split = target.get("split", len(dims))
            if isinstance(split, bool) or not isinstance(split, int) or split < 0:
                problem = f"must be a whole number of loops on X, innermost first, not {shown(split)}"
                raise document.error((*loc, "split"), problem)
            loops = [[*loop, "X" if i < split else "Y"] for i, loop in enumerate(loops)]
        record[name][kind] = loops[::-1]
    return list(record.values())


_KEYS = {
    "bypass": ("keep", "bypass"),
    "temporal": ("factors", "permutation"),
    "spatial": ("factors", "permutation", "split"),
}
"""What each type of directive may say."""


def _text_at(document: Document, loc: tuple[str | int, ...], target: dict[str, Any], key: str) -> str:
    value = target.get(key)
    if not isinstance(value, str):
        problem = f"must be text, not {shown(value)}" if key in target else "this key is missing"
        raise document.error((*loc, key), problem)
    return value


def _words_at(document: Document, loc: tuple[str | int, ...], target: dict[str, Any], key: str) -> str:
    """The text under a key, or the texts of a list there, as v0.4 has them."""
    value = target.get(key)
    if isinstance(value, list) and all(isinstance(word, str) for word in value):
        return " ".join(value)
    return _text_at(document, loc, target, key)


def _tensors_at(document: Document, loc: tuple[str | int, ...], target: dict[str, Any]) -> list[str]:
    for key in ("keep", "bypass"):
        value = target.get(key, [])
        if (
            not isinstance(value, list)
            or any(tensor not in TENSORS for tensor in value)
            or len(set(value)) < len(value)
        ):
            problem = f"must be a list out of {', '.join(TENSORS)}, each once, not {shown(value)}"
            raise document.error((*loc, key), problem)
    keep, bypass = target.get("keep", []), target.get("bypass", [])
    both = [tensor for tensor in keep if tensor in bypass]
    if both:
        raise document.error((*loc, "bypass"), f"{both[0]} is kept and bypassed; say one")
    return [tensor for tensor in TENSORS if tensor in keep or ("keep" not in target and tensor not in bypass)]


def _listed(
    document: Document, loc: tuple[str | int, ...], target: dict[str, Any], dims: Sequence[str]
) -> list[list[Any]]:
    """Loops of a directive, innermost first."""
    bounds: dict[str, int] = {}
    for part in _words_at(document, loc, target, "factors").replace(",", " ").split():
        pair = re.fullmatch(r"([A-Z])=?([0-9]{1,18})", part, re.ASCII)
        if pair is None or pair[1] not in dims or int(pair[2]) < 1:
            problem = f"{shown(part)} must be a dimension out of {' '.join(dims)} and its bound, such as C=4"
            raise document.error((*loc, "factors"), problem)
        if pair[1] in bounds:
            raise document.error((*loc, "factors"), f"the factor of {pair[1]} is given twice")
        bounds[pair[1]] = int(pair[2])
    order = _words_at(document, loc, target, "permutation").replace(" ", "").replace(",", "")
    if len(set(order)) < len(order) or not set(order) <= set(dims):
        problem = f"must list dimensions out of {''.join(dims)}, each once, not {shown(order)}"
        raise document.error((*loc, "permutation"), problem)
    lost = [dim for dim, bound in bounds.items() if bound > 1 and dim not in order]
    if lost:
        raise document.error((*loc, "permutation"), f"lacks {lost[0]}, whose factor is {bounds[lost[0]]}")
    return [[dim, bounds.get(dim, 1)] for dim in order]
