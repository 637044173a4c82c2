"""Constraints of Timeloop, v0.3 and v0.4, as rules of our own format: what spatial and temporal loops may be, what levels keep."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from mqjax.io.documents import TAG, Document, shown
from mqjax.io.timeloop_tree import Loc, Target
from mqjax.projection import LOOPS
from mqjax.types import TENSORS

TOP_KEYS = ("architecture_constraints", "mapspace_constraints", "constraints", "mapspace")
"""Of constraint files, at the top."""

KEEPING_KINDS = ("bypass", "bypassing", "datatype", "dataspace")
"""Of constraints that say which tensors a level keeps."""


class Keep(NamedTuple):
    """What a constraint says about the tensors of `level`: those to keep (None: not said) and those to pass by."""

    level: str
    keep: list[str] | None
    bypass: list[str]


class ConstraintReader:
    """Reads constraints, whose names of components `targets` explains; what is given, also in several files, is given once."""

    def __init__(self, targets: Mapping[str, Target], notes: list[str]) -> None:
        self.targets, self.notes = targets, notes
        self._taken: set[tuple[str, ...]] = set()
        self._said: list[Keep] = []

    def kept(self, level: str) -> list[str]:
        """The tensors that a level keeps: those listed; else all that it does not bypass."""
        here = [entry for entry in self._said if entry.level == level]
        listed = [tensor for entry in here for tensor in entry.keep or ()]
        if any(entry.keep is not None for entry in here):
            return [tensor for tensor in TENSORS if tensor in listed]
        return [tensor for tensor in TENSORS if not any(tensor in entry.bypass for entry in here)]

    def of_file(self, file: Document) -> list[dict]:
        """The rules of a constraint file in our format."""
        root = file.value if isinstance(file.value, dict) else {}
        key = next((key for key in TOP_KEYS if key in root), None)
        if key is None:
            raise file.error((), f"a constraint file has one of the keys {', '.join(TOP_KEYS)}")
        loc: Loc = (key,) if isinstance(root[key], list) else (key, "targets")
        rules: list[dict] = []
        for i in range(len(file.at(loc, list))):
            entry, here = file.at((*loc, i), dict), (*loc, i)
            name_key = "name" if "name" in entry and "target" not in entry else "target"
            name = file.at((*here, name_key), str)
            if name not in self.targets:
                raise file.error(
                    (*here, name_key), f"unknown level {shown(name)}; levels are {', '.join(self.targets)}"
                )
            if "type" not in entry and entry.keys() & {*KEEPING_KINDS, "spatial", "temporal"}:
                rules += self._of_node(file, here, name)  # as v0.4 has it
            else:
                rules += self._entry(file, here, name, file.at((*here, "type"), str))
        return rules

    def of_nodes(self, arch: Document, nodes: Sequence[tuple[str, Loc]]) -> list[dict]:
        """The rules in the constraints of v0.4 nodes."""
        return [rule for name, loc in nodes for rule in self._of_node(arch, loc, name)]

    def _of_node(self, file: Document, loc: Loc, name: str) -> list[dict]:
        found = []
        for kind, content in file.at(loc, dict).items():
            if kind in ("target", "name", "type", TAG):
                continue
            if isinstance(content, dict) or kind in (*KEEPING_KINDS, "spatial", "temporal"):
                found += self._entry(file, (*loc, kind), name, kind)
            else:
                self.notes.append(f"{name}: the constraint {kind} has no counterpart and is left out")
        return found

    def _entry(self, file: Document, loc: Loc, name: str, kind: str) -> list[dict]:
        """The rules of one constraint, none or one."""
        entry, target = file.at(loc, dict), self.targets[name]
        if kind in KEEPING_KINDS:
            if target.level is not None:
                self._said.append(
                    Keep(target.level, _tensors(file, (*loc, "keep")), _tensors(file, (*loc, "bypass")) or [])
                )
            understood = {"keep", "bypass"}
        elif kind in ("spatial", "temporal"):
            understood = {"factors", "permutation", *(["split"] if kind == "spatial" else [])}
        else:
            self.notes.append(f"{name}: a constraint of the type {shown(kind)} has no counterpart and is left out")
            return []
        for key in entry.keys() - understood - {"target", "name", "type", TAG}:
            if entry[key] not in (None, [], {}, False):
                self.notes.append(f"{name}: {key} of {kind} constraints has no counterpart and is left out")
        level = target.spatial if kind == "spatial" else target.level
        if kind in KEEPING_KINDS:
            return []
        if level is None:
            factors = _read_rule(file, loc, name, kind, target.fanout).get("factors", {})
            if any(factor != 1 for factor in factors.values()):
                self.notes.append(f"{name}: its constraint on {kind} loops, of which it has none, is left out")
            return []
        rule = _read_rule(file, loc, level, kind, target.fanout)
        given = [("factors", dim) for key in ("factors", "max_factors") for dim in rule.get(key, ())]
        for words in [*given, *((key,) for key in ("permutation", "split") if key in rule)]:
            if (level, kind, *words) in self._taken:
                problem = f"{' of '.join(reversed(words))} is given twice for the {kind} loops of {level}"
                raise file.error((*loc, words[0]), f"{problem}; give it once, in one of the files")
            self._taken.add((level, kind, *words))
        return [rule]


def _tensors(file: Document, loc: Loc) -> list[str] | None:
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


def _read_rule(file: Document, loc: Loc, target: str, kind: str, fanout: int) -> dict[str, Any]:
    entry = file.at(loc, dict)
    rule: dict[str, Any] = {"level": target, "type": kind}
    if entry.get("factors") is not None:
        found = _factors(file, (*loc, "factors"), target, fanout if kind == "spatial" else None)
        rule |= {key: factors for key, factors in zip(("factors", "max_factors"), found, strict=True) if factors}
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


def _factors(file: Document, loc: Loc, target: str, fanout: int | None) -> tuple[dict[str, int | str], dict[str, int]]:
    """Fixed factors, and upper bounds, from a text, a list or a mapping: `C=16 M4 S<=3`, [C=16, M=4], {C: 16}; 0 is the whole
    bound. An upper bound that the fan-out implies says nothing.
    """
    given = file.at(loc, object)
    if isinstance(given, dict):
        texts = [f"{dim}={factor}" for dim, factor in given.items()]
    elif isinstance(given, list):
        texts = [str(entry) for entry in given]
    else:
        texts = [str(given)]
    factors: dict[str, int | str] = {}
    most: dict[str, int] = {}
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
            if dim in factors or dim in most:
                raise file.error(loc, f"{target}: the factor of {dim} is given twice")
            if sign == "<=" and factor == 0:
                raise file.error(loc, f"{target}: the upper bound of {dim} must be at least 1, not 0")
            if sign == "<=" and factor > 1:
                most[dim] = factor
            else:
                factors[dim] = factor or "full"
    return factors, most
