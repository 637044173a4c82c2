"""Constraint files of Timeloop v0.3 as rules of our own format: what spatial and temporal loops may be, what levels keep."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from mqjax.io.documents import Document, shown
from mqjax.projection import LOOPS
from mqjax.types import TENSORS

V04 = "this is a Timeloop v0.4 file; only v0.3 files (architecture.version: 0.3 with subtree and local) can be imported"


class Keep(NamedTuple):
    """What a constraint says about the tensors of `level`: those to keep (None: not said) and those to pass by."""

    level: str
    keep: list[str] | None
    bypass: list[str]


def kept_tensors(level: str, said: Sequence[Keep]) -> list[str]:
    """The tensors that a level keeps: those listed; else all that it does not bypass."""
    here = [entry for entry in said if entry.level == level]
    listed = [tensor for entry in here for tensor in entry.keep or ()]
    if any(entry.keep is not None for entry in here):
        return [tensor for tensor in TENSORS if tensor in listed]
    return [tensor for tensor in TENSORS if not any(tensor in entry.bypass for entry in here)]


def read_constraints(
    file: Document, fanouts: Mapping[str, int], taken: set[tuple[str, ...]], notes: list[str]
) -> tuple[list[dict], list[Keep]]:
    """The rules of a constraint file in our format, and what it says about bypassing.

    `fanouts` has the children of one instance of each level, outermost first. `taken` gathers what was given, over files.
    """
    keys = ("architecture_constraints", "mapspace_constraints", "constraints", "mapspace")
    root = file.value if isinstance(file.value, dict) else {}
    key = next((key for key in keys if key in root), None)
    if key is None:
        raise file.error((), f"a constraint file has one of the keys {', '.join(keys)}")
    loc: tuple[str | int, ...] = (key,)
    if not isinstance(root[key], list):
        if isinstance(root[key], dict) and str(root[key].get("version")) == "0.4":
            raise file.error(loc, V04)
        loc = (key, "targets")
    rules, kept = [], []
    for i in range(len(file.at(loc, list))):
        entry, here = file.at((*loc, i), dict), (*loc, i)
        name_key = "name" if "name" in entry and "target" not in entry else "target"
        target = file.at((*here, name_key), str)
        if target not in fanouts:
            raise file.error((*here, name_key), f"unknown level {shown(target)}; levels are {', '.join(fanouts)}")
        kind = file.at((*here, "type"), str)
        if kind in ("bypass", "bypassing", "datatype", "dataspace"):
            kept.append(Keep(target, _tensors(file, (*here, "keep")), _tensors(file, (*here, "bypass")) or []))
        elif kind in ("spatial", "temporal"):
            rules.append(_rule(file, here, target, kind, fanouts[target]))
            given = [("factors", dim) for dim in rules[-1].get("factors", ())]
            for words in [*given, *((key,) for key in ("permutation", "split") if key in rules[-1])]:
                if (target, kind, *words) in taken:
                    problem = f"{' of '.join(reversed(words))} is given twice for the {kind} loops of {target}"
                    raise file.error((*here, words[0]), f"{problem}; give it once, in one of the files")
                taken.add((target, kind, *words))
        else:
            notes.append(f"{target}: a constraint of the type {shown(kind)} has no counterpart and is left out")
    return rules, kept


def _tensors(file: Document, loc: tuple[str | int, ...]) -> list[str] | None:
    """A list of tensors, or None where the key is missing."""
    entry = file.at(loc[:-1], dict)
    if loc[-1] not in entry:
        return None
    tensors = entry[loc[-1]]
    if tensors is None:
        return []
    if not isinstance(tensors, list) or any(tensor not in TENSORS for tensor in tensors):
        raise file.error(loc, f"must be a list out of {', '.join(TENSORS)}, not {shown(tensors)}")
    return tensors


def _rule(file: Document, loc: tuple[str | int, ...], target: str, kind: str, fanout: int) -> dict[str, Any]:
    entry = file.at(loc, dict)
    rule: dict[str, Any] = {"level": target, "type": kind}
    if entry.get("factors") is not None and (
        factors := _factors(file, (*loc, "factors"), target, fanout if kind == "spatial" else None)
    ):
        rule["factors"] = factors
    if entry.get("permutation") is not None:
        given = entry["permutation"]
        # Lists of dimensions, and any blanks or commas between them, say the same as one word.
        text = "".join(given) if isinstance(given, list) and all(isinstance(x, str) for x in given) else given
        order = re.sub(r"[\s,]+", "", text) if isinstance(text, str) else ""
        if not isinstance(text, str) or len(set(order)) != len(order) or not set(order) <= set(LOOPS):
            problem = f"must list dimensions out of {''.join(LOOPS)}, each once, not {shown(given)}"
            raise file.error((*loc, "permutation"), problem)
        if order:
            rule["permutation"] = order
    if kind == "spatial" and entry.get("split") is not None:
        split = entry["split"]
        if isinstance(split, bool) or not isinstance(split, int) or split < 0:
            raise file.error((*loc, "split"), f"must be a whole number of dimensions on X, not {shown(split)}")
        # Beyond the last dimension all lie on X.
        rule["split"] = min(split, len(LOOPS))
    return rule


def _factors(file: Document, loc: tuple[str | int, ...], target: str, fanout: int | None) -> dict[str, int | str]:
    """Fixed factors from a text, a list or a mapping: `C=16 M4`, [C=16, M=4], {C: 16}; 0 is the whole bound.

    An upper bound is accepted where it fixes the factor (at 1) or where the fan-out already implies it.
    """
    given = file.at(loc, object)
    if isinstance(given, dict):
        texts = [f"{dim}={factor}" for dim, factor in given.items()]
    elif isinstance(given, list):
        texts = [str(entry) for entry in given]
    else:
        texts = [str(given)]
    factors: dict[str, int | str] = {}
    for text in texts:
        rest = text.strip(" \t\r\n,;")
        while rest:
            found = re.match(r"([A-Za-z]+)\s*(<=|=*)\s*([0-9]{1,15})(?![0-9A-Za-z_.]*[a-z_.])[\s,;]*", rest, re.ASCII)
            if not found:
                raise file.error(
                    loc, f"{target}: {shown(rest)} must be factors such as C=16, C16 or S=0 (the whole bound)"
                )
            dim, sign, factor = found[1], found[2], int(found[3])
            if dim not in LOOPS:
                raise file.error(loc, f"{target}: unknown dimension {shown(dim)}; dimensions are {' '.join(LOOPS)}")
            rest = rest[found.end() :]
            if sign == "<=" and fanout is not None and fanout <= factor:
                continue
            if sign == "<=" and factor != 1:
                problem = (
                    f"{target}: the upper bound {dim}<={factor} has no counterpart; fix the factor as {dim}={factor}"
                )
                raise file.error(loc, f"{problem} or remove it")
            if dim in factors:
                raise file.error(loc, f"{target}: the factor of {dim} is given twice")
            factors[dim] = factor or "full"
    return factors
