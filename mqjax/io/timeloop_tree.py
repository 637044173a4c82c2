"""The components of Timeloop's architectures: v0.3, a tree of subtrees, and v0.4, a list of nodes each inside the one before.

What v0.3 calls the spatial loops of a level, those below it, v0.4 gives to the node inside that has many instances. Where
nodes fan out one inside the other with no storage between them, a level that stores nothing stands for each outer one.
The branches of a `!Parallel` node hold different tensors, so that one after the other they are levels like all others.
What Timeloop's front end dumps is v0.4 as a tree of subtrees, and is read like v0.3.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from mqjax.errors import InputError
from mqjax.io.documents import TAG, Document, shown
from mqjax.io.formulas import FormulaError, formula_value

Loc = tuple[str | int, ...]

# Timeloop looks for these anywhere in the name of a class, and passes over components of other classes.
STORAGE_CLASSES = ("DRAM", "SRAM", "regfile", "smartbuffer", "storage")
COMPUTE_CLASSES = ("mac", "compute")

NODE_KEYS = frozenset(("name", "class", "subclass", "attributes", "spatial", "constraints", "nodes", TAG))
"""Of v0.4 nodes, with a meaning here; those that only tell Accelergy what to estimate do not count."""

FOR_ACCELERGY = frozenset(("required_actions", "enabled", "area_scale", "energy_scale", "top_level"))


class Target(NamedTuple):
    """What a constraint on a component is about: the level whose spatial loops it constrains, over how many children, and the
    level whose temporal loops and tensors it constrains; `None` where there is none."""

    spatial: str | None
    fanout: int
    level: str | None


@dataclasses.dataclass(frozen=True)
class Component:
    """A storage level, the MACs, or a level that stores nothing ("relay"): its name without index range, its instances as
    [X, Y], where its attributes stand, and these, with underscores."""

    name: str
    kind: str
    mesh: list[int]
    loc: Loc
    attributes: dict[str, Any]
    variables: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """What formulas may name beside the attributes."""

    @property
    def instances(self) -> int:
        return self.mesh[0] * self.mesh[1]


class Tree(NamedTuple):
    """Parts, outermost first; what constraints on each name are about; where v0.4 nodes have constraints, by name; and where
    its `!Parallel` nodes are, with the names of the storage in each of their branches."""

    parts: list[Component]
    targets: dict[str, Target]
    constraints: list[tuple[str, Loc]]
    parallel: list[tuple[Loc, list[list[str]]]]


def read_tree(arch: Document, variables: Mapping[str, Any], notes: list[str]) -> Tree:
    """The components of an architecture, whose formulas may name `variables`; what is left out is noted. Raises `InputError`
    naming file, line and key."""
    tree = arch.at(("architecture",), dict)
    flat = "subtree" not in tree and ("nodes" in tree or str(tree.get("version")) == "0.4")
    found = _Nodes(arch, variables, notes).read() if flat else _read_subtrees(arch, variables, notes)
    macs = [part for part in found.parts if part.kind == "compute"]
    levels = [part for part in found.parts if part.kind == "storage"]
    if len(macs) != 1 or not levels:
        problem = f"must hold one compute component and some storage, not {len(macs)} and {len(levels)}"
        raise arch.error(("architecture",), problem)
    names = [part.name for part in found.parts]
    for part in found.parts:
        if names.count(part.name) > 1:
            raise arch.error(
                (*part.loc[:-1], "name"), f"the name {shown(part.name)} is used twice; constraints need one each"
            )
    if found.parts[-1] is not macs[0]:
        raise arch.error((*macs[0].loc[:-1], "name"), "the compute component must be the innermost")
    return found


def number(arch: Document, part: Component, *keys: str) -> int | None:
    """The positive whole number under the first of the attributes `keys` (with underscores) that is given."""
    for key in keys:
        value = attribute_value(arch, part, key)
        if value is None:
            continue
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise attribute_error(arch, part, key, f"must be a positive whole number, not {shown(value)}")
        return value
    return None


def attribute_value(arch: Document, part: Component, key: str) -> Any:
    """The value of an attribute, which may be a formula; `None` where it is not given. Raises `InputError` where the formula is
    none."""
    value = part.attributes.get(key)
    if not isinstance(value, str):
        return value
    try:
        return formula_value(value, {**part.variables, **part.attributes}, (key,))
    except FormulaError as error:
        raise attribute_error(arch, part, key, str(error)) from None


def attribute_error(arch: Document, part: Component, key: str, problem: str) -> InputError:
    """An error about an attribute, as the file spells it."""
    given = arch.at(part.loc, dict, {})
    spelled = next((str(k) for k in given if str(k).replace("-", "_") == key), key)
    return arch.error((*part.loc, spelled), problem)


def _kind(title: str) -> str:
    """What a component of a class is, or nothing."""
    if any(word in title for word in STORAGE_CLASSES):
        return "storage"
    return "compute" if any(word in title for word in COMPUTE_CLASSES) else ""


def _attributes(arch: Document, loc: Loc) -> dict[str, Any]:
    """Attributes of a component, with underscores."""
    attributes: dict[str, Any] = {}
    for key, value in arch.at((*loc, "attributes"), dict, {}).items():
        plain = str(key).replace("-", "_")
        if plain in attributes:
            raise arch.error((*loc, "attributes", str(key)), "this attribute is given twice, in two spellings")
        attributes[plain] = value
    return attributes


def _base_name(arch: Document, loc: Loc) -> tuple[str, int]:
    """A component's name without its index range, and how many instances the range counts."""
    text = arch.at((*loc, "name"), str)
    found = re.fullmatch(r"([^\[\].]+?)\s*(?:\[(\d{1,9})\.\.(\d{1,9})\]|\[(\d{1,9})\])?", text, re.ASCII)
    if not found or (found[2] and int(found[3]) < int(found[2])):
        raise arch.error(
            (*loc, "name"), f"must be a name, with an index range as in PE[0..15] or none, not {shown(text)}"
        )
    return found[1], int(found[3]) - int(found[2]) + 1 if found[2] else 1


def _left_out(name: str) -> str:
    return f"{name}: a component of a class that stores and computes nothing is left out"


# --- v0.3 ------------------------------------------------------------------------------------------------------------


def _read_subtrees(arch: Document, variables: Mapping[str, Any], notes: list[str]) -> Tree:
    parts = list(_subtree_parts(arch, variables, notes))
    targets = {}
    for part, below in zip(parts, parts[1:], strict=False):
        targets[part.name] = Target(part.name, below.instances // part.instances, part.name)
    return Tree(parts, targets, [], [])


def _subtree_parts(arch: Document, variables: Mapping[str, Any], notes: list[str]) -> Iterator[Component]:
    loc: Loc = ("architecture",)
    count = 1
    arch.at((*loc, "subtree"), list)
    while "subtree" in arch.at(loc, dict):
        trees = arch.at((*loc, "subtree"), list)
        if len(trees) != 1:
            raise arch.error((*loc, "subtree"), f"must hold one subtree (of many instances), not {len(trees)}")
        loc = (*loc, "subtree", 0)
        count *= _base_name(arch, loc)[1]
        macs: list[Component] = []
        for i in range(len(arch.at((*loc, "local"), list, []))):
            here: Loc = (*loc, "local", i)
            name, instances = _base_name(arch, here)
            title = arch.at((*here, "class"), str)
            attributes = {**_attributes(arch, here), "class": title}
            if kind := _kind(title):
                part = Component(name, kind, [count * instances, 1], (*here, "attributes"), attributes, variables)
                part = dataclasses.replace(part, mesh=_mesh_of(arch, part))
                if kind == "compute":
                    macs.append(part)
                else:
                    yield part
            else:
                notes.append(_left_out(name))
        # Of one list, the MACs are the innermost wherever they stand in it.
        yield from macs


def _mesh_of(arch: Document, part: Component) -> list[int]:
    """[X, Y]: as given, or all instances along X."""
    x, y = number(arch, part, "meshX", "mesh_X", "mesh_x"), number(arch, part, "meshY", "mesh_Y", "mesh_y")
    count = number(arch, part, "instances") or part.instances
    x = x or (count // y if y else count)
    y = y or count // x
    if x * y != count:
        key = "meshX" if "meshX" in part.attributes else "meshY"
        raise attribute_error(arch, part, key, f"{part.name} has {count} instances, which are not {x} times {y}")
    return [x, y]


# --- v0.4 ------------------------------------------------------------------------------------------------------------


class _Nodes:
    """The state of a walk through v0.4 nodes, from the outermost inwards."""

    def __init__(self, arch: Document, variables: Mapping[str, Any], notes: list[str]) -> None:
        self.arch, self.variables, self.notes = arch, variables, notes
        self.parts: list[Component] = []
        self.targets: dict[str, Target] = {}
        self.constraints: list[tuple[str, Loc]] = []
        self.parallel: list[tuple[Loc, list[list[str]]]] = []
        self.mesh = [1, 1]
        self.waiting: tuple[str, Loc] | None = None
        """The last node that fanned out, if no storage has followed it yet."""

    def read(self) -> Tree:
        self._walk(("architecture", "nodes"), {})
        return Tree(self.parts, self.targets, self.constraints, self.parallel)

    def _walk(self, loc: Loc, inherited: dict[str, Any]) -> None:
        """Nodes of a list; a container's attributes hold for all inside it."""
        for i in range(len(self.arch.at(loc, list))):
            inherited = self._node((*loc, i), inherited)

    def _node(self, loc: Loc, inherited: dict[str, Any]) -> dict[str, Any]:
        """A node and what is inside it; returns the attributes that those after it inherit."""
        node = self.arch.at(loc, dict)
        tag = node.get(TAG, "Component" if "class" in node else "Container")
        if tag == "Hierarchical":
            self._walk((*loc, "nodes"), inherited)
        elif tag == "Parallel":
            self._branches((*loc, "nodes"), inherited)
        elif tag in ("Container", "Component"):
            return self._leaf(loc, node, tag, inherited)
        elif tag != "Nothing":
            known = "!Container, !Component, !Hierarchical and !Parallel"
            raise self.arch.error(loc, f"a node of the kind !{tag} has no counterpart; only {known} have")
        return inherited

    def _branches(self, loc: Loc, inherited: dict[str, Any]) -> None:
        """The nodes of a `!Parallel` node."""
        branches, mesh = [], list(self.mesh)
        for i in range(len(self.arch.at(loc, list))):
            before = len(self.parts)
            self._node((*loc, i), inherited)
            if self.mesh != mesh:
                raise self.arch.error((*loc, i), "a branch of !Parallel cannot have many instances")
            branches.append([part.name for part in self.parts[before:] if part.kind == "storage"])
        self.parallel.append((loc, branches))

    def _leaf(self, loc: Loc, node: dict[str, Any], tag: str, inherited: dict[str, Any]) -> dict[str, Any]:
        """A container or a component."""
        name, instances = _base_name(self.arch, loc)
        if name in self.targets:
            raise self.arch.error((*loc, "name"), f"the name {shown(name)} is used twice; constraints need one each")
        for key in node.keys() - NODE_KEYS - FOR_ACCELERGY:
            self.notes.append(f"{name}: {key} has no counterpart and is left out")
        attributes = {**inherited, **_attributes(self.arch, loc)}
        self._fan_out(name, loc, instances, {**self.variables, **attributes})
        if "constraints" in node:
            self.constraints.append((name, (*loc, "constraints")))
        if tag == "Container":
            if "nodes" in node:
                self._walk((*loc, "nodes"), attributes)
            return attributes
        title = self.arch.at((*loc, "class"), str)
        if kind := _kind(title):
            own = {**attributes, "class": title}
            if own.keys().isdisjoint(("block_size", "n_words")):
                own.setdefault("cluster_size", 1)  # as its front end has it, so that the width tells the block
            self.parts.append(Component(name, kind, list(self.mesh), (*loc, "attributes"), own, self.variables))
            self.targets[name] = self.targets[name]._replace(level=name if kind == "storage" else None)
            self.waiting = None
        else:
            self.notes.append(_left_out(name))
        return inherited

    def _fan_out(self, name: str, loc: Loc, instances: int, names: Mapping[str, Any]) -> None:
        """A node begins: of its instances inside the node before, each level so far has its share. Formulas may have `names`."""
        part = Component(name, "", [1, 1], (*loc, "spatial"), dict(self.arch.at((*loc, "spatial"), dict, {})), names)
        x, y = number(self.arch, part, "meshX") or 1, number(self.arch, part, "meshY") or 1
        if instances > 1 and x * y == 1:
            x = instances
        fanout = x * y
        if instances not in (1, fanout):
            raise self.arch.error((*loc, "name"), f"{instances} instances are not {x} times {y}, as spatial says")
        if fanout > 1 and self.waiting is not None:
            relay, place = self.waiting
            self.parts.append(Component(relay, "relay", list(self.mesh), (*place, "attributes"), {"class": "relay"}))
            self.targets[relay] = self.targets[relay]._replace(level=relay)
        above = self.parts[-1].name if self.parts and fanout > 1 else None
        self.targets[name] = Target(above, fanout, None)
        self.mesh = [self.mesh[0] * x, self.mesh[1] * y]
        if fanout > 1 and self.parts:
            self.waiting = name, loc
