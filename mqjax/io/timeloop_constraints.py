"""Constraints of Timeloop, v0.3 and v0.4, as rules of our own format: what spatial and temporal loops may be, what levels keep."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from mqjax.io.documents import TAG, Document, shown
from mqjax.io.timeloop_tree import Loc, Target
from mqjax.projection import LOOPS, PROJECTIONS, TENSORS

FILE_KEYS = ("architecture_constraints", "mapspace_constraints")
"""Of what the hardware demands, and of what shall shrink the mapspace: at the top of constraint files."""

TOP_KEYS = (*FILE_KEYS, "constraints", "mapspace")
"""At the top of constraint files."""

KEEPING_KINDS = ("bypass", "bypassing", "datatype", "dataspace")
"""Of constraints that say which tensors a level keeps."""

KEEPING_KEYS = ("keep", "keep_only", "bypass", "bypass_only")

FACTOR_KEYS = ("factors", "factors_only", "no_iteration_over_dataspaces", "must_iterate_over_dataspaces")
"""Of constraints on loops, those that fix factors or bound them; the last three are v0.4's."""


_RELEVANT: dict[str, str] = dict(zip(TENSORS, PROJECTIONS["grouped"].relevant, strict=True))
"""The dimensions that index each tensor."""


class Keep(NamedTuple):
    """What a constraint says about the tensors of `level`: those to keep (None: not said) and those to pass by."""

    level: str
    keep: list[str] | None
    bypass: list[str]


class ConstraintReader:
    """Reads constraints, whose names of components `targets` explains; what is given, also in several files, is given once.
    Components in `branches` of a `!Parallel` node keep what they say they keep, and nothing else."""

    def __init__(self, targets: Mapping[str, Target], notes: list[str], branches: Sequence[str] = ()) -> None:
        self.targets, self.notes, self.branches = targets, notes, branches
        self._taken: set[tuple[str, ...]] = set()
        self._said: list[Keep] = []

    def kept(self, level: str) -> list[str]:
        """The tensors that a level keeps: those listed; else all that it does not bypass."""
        here = [entry for entry in self._said if entry.level == level]
        listed = [tensor for entry in here for tensor in entry.keep or ()]
        if level in self.branches or any(entry.keep is not None for entry in here):
            return [tensor for tensor in TENSORS if tensor in listed]
        return [tensor for tensor in TENSORS if not any(tensor in entry.bypass for entry in here)]

    def of_file(self, file: Document, key: str | None = None) -> list[dict]:
        """The rules of a constraint file in our format, those under `key` or the first of `TOP_KEYS`."""
        root = file.value if isinstance(file.value, dict) else {}
        key = key or next((key for key in TOP_KEYS if key in root), None)
        if key is None:
            raise file.error((), f"a constraint file has one of the keys {', '.join(TOP_KEYS)}")
        content = root[key]
        # An old form of v0.3 has the list under mapspace.constraints.
        old = isinstance(content, dict) and "targets" not in content and isinstance(content.get("constraints"), list)
        loc: Loc = (key,) if isinstance(content, list) else (key, "constraints" if old else "targets")
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
                found += self._entry(file, (*loc, kind), name, kind, of_node=True)
            else:
                self.notes.append(f"{name}: the constraint {kind} has no counterpart and is left out")
        return found

    def _entry(self, file: Document, loc: Loc, name: str, kind: str, *, of_node: bool = False) -> list[dict]:
        """The rules of one constraint, none or one. of_node: it is written as v0.4's nodes have them."""
        entry, target = file.at(loc, dict), self.targets[name]
        if kind in KEEPING_KINDS:
            keep, only, bypass, bypass_only = (_tensors(file, (*loc, key)) for key in KEEPING_KEYS)
            if bypass_only is not None:
                keep = [*(keep or ()), *(tensor for tensor in TENSORS if tensor not in bypass_only)]
            if only is not None:
                keep = [*(keep or ()), *only]
            if target.level is not None:
                self._said.append(Keep(target.level, keep, [*(bypass or ()), *(bypass_only or ())]))
            understood = {*KEEPING_KEYS}
        elif kind in ("spatial", "temporal"):
            understood = {*FACTOR_KEYS, "permutation", *(["split"] if kind == "spatial" else [])}
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
        if of_node and "split" in rule:
            self._count_unlisted(name, rule)
        given = [("factors", dim) for key in ("factors", "max_factors") for dim in rule.get(key, ())]
        for words in [*given, *((key,) for key in ("permutation", "split") if key in rule)]:
            if (level, kind, *words) in self._taken:
                problem = f"{' of '.join(reversed(words))} is given twice for the {kind} loops of {level}"
                raise file.error((*loc, words[0]), f"{problem}; give it once, in one of the files")
            self._taken.add((level, kind, *words))
        return [rule]

    def _count_unlisted(self, name: str, rule: dict[str, Any]) -> None:
        """Timeloop's front end for v0.4 puts dimensions of factor 1 and of bound 1 that a permutation leaves out before those
        that it lists, and the split counts them, too. Which bounds are 1 is the layer's to say: here N's."""
        order, split = rule.get("permutation", ""), rule["split"]
        ones = {dim for dim, factor in rule.get("factors", {}).items() if factor == 1} | {"N"}
        before = len(ones - set(order) - {"G"})
        if 0 < split < len(LOOPS) and before:
            rule["split"] = max(0, split - before)
            self.notes.append(
                f"{name}: split = {split} counts the dimensions of factor 1 and of bound 1 that the permutation leaves out; with N "
                f"of 1, and no other bound, {rule['split']} of those listed lie on X; list all dimensions to have it otherwise"
            )


def check_branches(arch: Document, loc: Loc, kept: Sequence[Sequence[str]]) -> None:
    """Raise `InputError` unless each tensor is kept in just one of the branches at `loc`; kept: tensors by branch."""
    for tensor in TENSORS:
        number = sum(tensor in tensors for tensors in kept)
        if number != 1:
            problem = f"{tensor} must be kept in one branch of !Parallel, not in {number or 'none'}"
            raise arch.error(
                loc, f"{problem}; say so in the constraints of its component: dataspace: {{keep: [{tensor}]}}"
            )


def _tensors(file: Document, loc: Loc) -> list[str] | None:
    """A list of tensors, or None where the key is missing."""
    entry = file.at(loc[:-1], dict)
    if loc[-1] not in entry:
        return None
    tensors = entry[loc[-1]]
    if tensors is None:
        return []
    if tensors == ["*"]:
        return list(TENSORS)
    if not isinstance(tensors, list) or any(tensor not in TENSORS for tensor in tensors):
        raise file.error(loc, f"must be a list out of {', '.join(TENSORS)}, not {shown(tensors)}")
    return tensors


def _read_rule(file: Document, loc: Loc, target: str, kind: str, fanout: int) -> dict[str, Any]:
    entry = file.at(loc, dict)
    rule: dict[str, Any] = {"level": target, "type": kind}
    fixed, most = _all_factors(file, loc, target, fanout if kind == "spatial" else None)
    rule |= {key: factors for key, factors in (("factors", fixed), ("max_factors", most)) if factors}
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


def _all_factors(
    file: Document, loc: Loc, target: str, fanout: int | None
) -> tuple[dict[str, int | str], dict[str, int]]:
    """Fixed factors and upper bounds, from all the keys of a constraint on loops."""
    entry = file.at(loc, dict)
    given = [key for key in FACTOR_KEYS if entry.get(key) is not None]
    fixed: dict[str, int | str] = {}
    most: dict[str, int] = {}
    for key in ("factors", "factors_only"):
        if key in given:
            more_fixed, more_most = _factors(file, (*loc, key), target, fanout)
            before, more = {**fixed, **most}, {**more_fixed, **more_most}
            if twice := [dim for dim in before.keys() & more.keys() if before[dim] != more[dim]]:
                raise file.error((*loc, key), f"{target}: the factor of {min(twice)} is given twice")
            fixed, most = fixed | more_fixed, most | more_most
    ones = {dim for dim in LOOPS if "factors_only" in given and dim not in fixed and dim not in most}
    for key, over in (("no_iteration_over_dataspaces", True), ("must_iterate_over_dataspaces", False)):
        if key in given:
            inside = {dim for tensor in _tensors(file, (*loc, key)) or () for dim in _RELEVANT[tensor]}
            still = [dim for dim in LOOPS if (dim in inside) == over]
            if wrong := [dim for dim in still if fixed.get(dim, 1) != 1]:
                raise file.error(
                    (*loc, key), f"{target}: the factor of {wrong[0]} must be 1 then, but another is given"
                )
            ones.update(still)
    fixed |= dict.fromkeys((dim for dim in LOOPS if dim in ones), 1)
    return fixed, {dim: factor for dim, factor in most.items() if dim not in ones}


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
                hint = "; what Timeloop's cnn-layer calls K is M here" if dim == "K" else ""
                raise file.error(
                    loc, f"{target}: unknown dimension {shown(dim)}; dimensions are {' '.join(LOOPS)}{hint}"
                )
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
