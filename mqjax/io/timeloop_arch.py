"""Timeloop v0.3 accelerators (arch, ERT, ART and constraint files) as documents of our own format.

What Timeloop makes of these files is kept (MODEL.md sections 2 and 8): capacity = depth * block size; the energy of an
access is the largest over the arguments of the first action found; a memory without such an action takes the built-in
SRAM fit. Attributes may be spelled with hyphens or underscores.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from mqjax.errors import InputError
from mqjax.io.documents import Document, read_document, shown
from mqjax.io.timeloop_constraints import V04, kept_tensors, read_constraints

V04_TAGS = {f"!{name}": V04 for name in ("Container", "Component", "Parallel", "Pipelined", "Hierarchical", "Nothing")}

# Timeloop looks for these anywhere in the name of a class, and passes over components of other classes.
STORAGE_CLASSES = ("DRAM", "SRAM", "regfile", "smartbuffer", "storage")
COMPUTE_CLASSES = ("mac", "compute")

# Actions that are looked up for an access, first found first taken.
ACTIONS = {
    "read": ("random_read", "read"),
    "fill": ("random_fill", "random_write", "fill", "write"),
    "update": ("random_update", "random_write", "update", "write"),
    "mac": ("mac_random", "mult_random", "mac", "mult", "compute"),
}

# Attributes that change what Timeloop computes, with the value that changes nothing.
WITHOUT_COUNTERPART: dict[str, Any] = {
    "min_utilization": 0,
    "shared_bandwidth": None,
    "vector_access_energy": None,
    "addr_gen_energy": None,
    "cluster_area": None,
    "metadata_datawidth": 0,
    "allow_overbooking": False,
    "network_read": None,
    "network_fill": None,
    "network_drain": None,
    "network_update": None,
}


class Imported(NamedTuple):
    """An accelerator in our format, and sentences about what in the files has no counterpart there."""

    document: dict[str, Any]
    without_counterpart: list[str]


class _Part(NamedTuple):
    """A storage level or the MACs: `name` without index range, all its instances, where it stands, its attributes."""

    name: str
    full_name: str
    kind: str
    instances: int
    loc: tuple[str | int, ...]
    attributes: dict[str, Any]


def import_accelerator(name: str, tables: Path, rules: Path) -> Imported:
    """The accelerator of arch.yaml, ERT.yaml and ART.yaml in `tables`, arch_constraints.yaml and map_constraints.yaml in
    `rules`, under the name `name`. Raises `InputError` naming file, line and key."""
    notes: list[str] = []
    arch = _read(tables / "arch.yaml")
    parts = list(_parts(arch, notes))
    macs = [part for part in parts if part.kind == "compute"]
    levels = [part for part in parts if part.kind == "storage"]
    if len(macs) != 1 or not levels:
        problem = f"must hold one compute component and some storage, not {len(macs)} and {len(levels)}"
        raise arch.error(("architecture",), problem)
    names = [part.name for part in parts]
    for part in parts:
        if names.count(part.name) > 1:
            raise arch.error(
                (*part.loc, "name"), f"the name {shown(part.name)} is used twice; constraints need one each"
            )
    energies = _energies(_read(tables / "ERT.yaml"), names)
    areas = _areas(_read(tables / "ART.yaml"), names)
    inner = [*levels[1:], macs[0]]
    fanouts = {level.name: below.instances // level.instances for level, below in zip(levels, inner, strict=True)}
    taken: set[tuple[str, ...]] = set()
    hardware, kept = read_constraints(_read(rules / "arch_constraints.yaml"), fanouts, taken, notes)
    heuristics, kept_too = read_constraints(_read(rules / "map_constraints.yaml"), fanouts, taken, notes)
    document = {
        "name": name,
        "mac": _mac(arch, macs[0], energies, areas, notes),
        "levels": [_level(arch, part, energies, areas, notes) for part in reversed(levels)],
        "constraints": {"arch": hardware, "paper": heuristics},
    }
    for level in document["levels"]:
        level["keep"] = kept_tensors(level["name"], [*kept, *kept_too])
    return Imported(document, notes)


def _read(path: Path) -> Document:
    return read_document(path, foreign=V04_TAGS)


# --- The tree of components ------------------------------------------------------------------------------------------


def _parts(arch: Document, notes: list[str]) -> Iterator[_Part]:
    """Storage and compute components, outermost first."""
    if isinstance(arch.value, dict) and isinstance(arch.value.get("architecture"), dict):
        tree = arch.value["architecture"]
        if str(tree.get("version")) == "0.4" or ("nodes" in tree and "subtree" not in tree):
            raise arch.error(("architecture",), V04)
    loc: tuple[str | int, ...] = ("architecture",)
    path, count = "", 1
    arch.at((*loc, "subtree"), list)
    while "subtree" in arch.at(loc, dict):
        trees = arch.at((*loc, "subtree"), list)
        if len(trees) != 1:
            raise arch.error((*loc, "subtree"), f"must hold one subtree (of many instances), not {len(trees)}")
        loc = (*loc, "subtree", 0)
        name, instances = _name(arch, loc)
        path, count = f"{path}.{name}".lstrip("."), count * instances
        for i in range(len(arch.at((*loc, "local"), list, []))):
            part = _part(arch, (*loc, "local", i), path, count)
            if part.kind:
                yield part
            else:
                notes.append(f"{part.name}: a component of a class that stores and computes nothing is left out")


def _name(arch: Document, loc: tuple[str | int, ...]) -> tuple[str, int]:
    """A component's name without its index range, and how many instances the range counts."""
    text = arch.at((*loc, "name"), str)
    found = re.fullmatch(r"([^\[\].]+?)\s*(?:\[(\d{1,9})\.\.(\d{1,9})\]|\[(\d{1,9})\])?", text, re.ASCII)
    if not found or (found[2] and int(found[3]) < int(found[2])):
        raise arch.error(
            (*loc, "name"), f"must be a name, with an index range as in PE[0..15] or none, not {shown(text)}"
        )
    return found[1], int(found[3]) - int(found[2]) + 1 if found[2] else 1


def _part(arch: Document, loc: tuple[str | int, ...], path: str, count: int) -> _Part:
    name, instances = _name(arch, loc)
    attributes = {}
    for key, value in arch.at((*loc, "attributes"), dict, {}).items():
        plain = str(key).replace("-", "_")
        if plain in attributes:
            raise arch.error((*loc, "attributes", str(key)), "this attribute is given twice, in two spellings")
        attributes[plain] = value
    title = arch.at((*loc, "class"), str)
    kind = "storage" if any(word in title for word in STORAGE_CLASSES) else ""
    if not kind and any(word in title for word in COMPUTE_CLASSES):
        kind = "compute"
    return _Part(name, f"{path}.{name}", kind, count * instances, (*loc, "attributes"), {**attributes, "class": title})


def _number(arch: Document, part: _Part, *keys: str) -> int | None:
    """The positive whole number under the first of the attributes `keys` (with underscores) that is given."""
    for key in keys:
        value = part.attributes.get(key)
        if value is None:
            continue
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise _attribute_error(arch, part, key, f"must be a positive whole number, not {shown(value)}")
        return value
    return None


def _attribute_error(arch: Document, part: _Part, key: str, problem: str) -> InputError:
    given = arch.at(part.loc, dict, {})
    spelled = next((str(k) for k in given if str(k).replace("-", "_") == key), key)
    return arch.error((*part.loc, spelled), problem)


def _mesh(arch: Document, part: _Part) -> list[int]:
    """[X, Y]: as given, or all instances along X."""
    x, y = _number(arch, part, "meshX", "mesh_X", "mesh_x"), _number(arch, part, "meshY", "mesh_Y", "mesh_y")
    count = _number(arch, part, "instances") or part.instances
    x = x or (count // y if y else count)
    y = y or count // x
    if x * y != count:
        key = "meshX" if "meshX" in part.attributes else "meshY"
        raise _attribute_error(arch, part, key, f"{part.name} has {count} instances, which are not {x} times {y}")
    return [x, y]


# --- Energies and areas ----------------------------------------------------------------------------------------------


def _short(full_name: str) -> str:
    return re.sub(r"\[.*?\]", "", full_name).split(".")[-1]


def _table(document: Document, key: str, names: list[str]) -> Iterator[tuple[int, str]]:
    """Number and component of each row of an ERT or ART about one of `names`."""
    seen: dict[str, str] = {}
    for i in range(len(document.at((key, "tables"), list))):
        full_name = re.sub(r"\[.*?\]", "", document.at((key, "tables", i, "name"), str))
        short = _short(full_name)
        if short not in names:
            continue
        if seen.setdefault(short, full_name) != full_name:
            problem = (
                f"{full_name} and {seen[short]} have the same last name {shown(short)}; name components differently"
            )
            raise document.error((key, "tables", i, "name"), problem)
        yield i, short


def _amount(document: Document, loc: tuple[str | int, ...]) -> float:
    value = document.at(loc, object)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise document.error(loc, f"must be a number of at least 0, not {shown(value)}")
    return value


def _energies(ert: Document, names: list[str]) -> dict[str, dict[str, float]]:
    """Per component and action the energy in pJ, the largest over the action's arguments."""
    energies: dict[str, dict[str, float]] = {}
    for i, component in _table(ert, "ERT", names):
        actions = energies.setdefault(component, {})
        loc = ("ERT", "tables", i, "actions")
        for j in range(len(ert.at(loc, list))):
            action = ert.at((*loc, j, "name"), str)
            actions[action] = max(_amount(ert, (*loc, j, "energy")), actions.get(action, 0.0))
    return energies


def _areas(art: Document, names: list[str]) -> dict[str, float]:
    return {component: _amount(art, ("ART", "tables", i, "area")) for i, component in _table(art, "ART", names)}


def _area(part: _Part, areas: Mapping[str, float], notes: list[str]) -> float:
    if part.name not in areas:
        notes.append(f"{part.name}: the ART has no area, so 0 is taken")
    return areas.get(part.name, 0.0)


def _first(actions: Mapping[str, float], kind: str) -> float | None:
    return next((actions[action] for action in ACTIONS[kind] if action in actions), None)


def sram_fit(word_bits: int, block: int, cluster: int, rows: int) -> float:
    """Timeloop's built-in energy in pJ per access of a memory without ERT actions."""
    width = word_bits * block * cluster
    return ((5 / 99.5) * (width * rows / 8192 - 0.5) + 1) * width / 16 / cluster


# --- Levels ----------------------------------------------------------------------------------------------------------


def _mac(arch: Document, part: _Part, energies: Mapping, areas: Mapping, notes: list[str]) -> dict[str, Any]:
    energy = _first(energies.get(part.name, {}), "mac")
    if energy is None:
        raise arch.error(part.loc[:-1], f"the ERT has none of the actions {', '.join(ACTIONS['mac'])} of {part.name}")
    return {"name": part.name, "mesh": _mesh(arch, part), "energy_pj": energy, "area_um2": _area(part, areas, notes)}


def _capacity(arch: Document, part: _Part, word_bits: int, block: int) -> int | None:
    """Words per instance; None where no size is given."""
    given = [key for key in ("entries", "depth", "memory_depth", "sizeKB") if part.attributes.get(key) is not None]
    if len(given) > 1 and not {"depth", "memory_depth"} >= set(given):
        raise _attribute_error(
            arch, part, given[1], f"{part.name} has its size twice; give one of {' and '.join(given)}"
        )
    size = _number(arch, part, "entries")
    if size is None and (depth := _number(arch, part, "depth", "memory_depth")):
        size = depth * block
    if size is None and (kilobytes := _number(arch, part, "sizeKB")):
        size = kilobytes * 1024 * 8 // word_bits
    return size


def _level(arch: Document, part: _Part, energies: Mapping, areas: Mapping, notes: list[str]) -> dict[str, Any]:
    word_bits = _number(arch, part, "word_bits", "word_width", "datawidth") or 16
    block = _number(arch, part, "block_size", "n_words") or 1
    width = _number(arch, part, "width", "memory_width")
    cluster = _number(arch, part, "cluster_size")
    if cluster is None and width is not None and width % (word_bits * block):
        problem = f"the width {width} must be a multiple of {block} words of {word_bits} bits, or give cluster-size"
        raise _attribute_error(arch, part, "width" if "width" in part.attributes else "memory_width", problem)
    cluster = cluster or (width or word_bits * block) // (word_bits * block)
    capacity = _capacity(arch, part, word_bits, block)
    buffering = part.attributes.get("multiple_buffering", 1)
    if isinstance(buffering, bool) or not isinstance(buffering, int | float) or not 1 <= buffering < math.inf:
        raise _attribute_error(arch, part, "multiple_buffering", f"must be a number from 1, not {shown(buffering)}")
    usable = capacity if capacity is None else math.floor(capacity / buffering)
    if usable == 0:
        raise _attribute_error(arch, part, "multiple_buffering", f"leaves none of the {capacity} words of {part.name}")
    for key, neutral in WITHOUT_COUNTERPART.items():
        if part.attributes.get(key, neutral) != neutral:
            notes.append(f"{part.name}: {key} = {shown(part.attributes[key])} has no counterpart and is left out")
    level: dict[str, Any] = {
        "name": part.name,
        "mesh": _mesh(arch, part),
        "capacity_words": "unlimited" if usable is None else usable,
        "word_bits": word_bits,
        "block_words": block,
        "cluster": cluster,
    }
    if bandwidth := _bandwidth(arch, part):
        level["bandwidth"] = bandwidth
    actions = energies.get(part.name, {})
    level["energy_pj"] = {}
    for kind in ("read", "fill", "update"):
        energy = _first(actions, kind)
        if energy is None:
            if capacity is None or "DRAM" in part.attributes["class"]:
                names = ", ".join(ACTIONS[kind])
                raise arch.error(part.loc[:-1], f"the ERT has none of the actions {names} of {part.name}")
            energy = sram_fit(word_bits, block, cluster, math.ceil(capacity / block))
            notes.append(f"{part.name}: the ERT has no {kind} action, so Timeloop's built-in SRAM fit is taken")
        level["energy_pj"][kind] = energy
    level["area_um2"] = _area(part, areas, notes)
    return level


def _bandwidth(arch: Document, part: _Part) -> dict[str, float]:
    """Words per cycle read and written, as far as they are limited."""
    result: dict[str, float] = {}
    for key, kinds, share in (
        ("bandwidth", ("read", "write"), 2),
        ("read_bandwidth", ("read",), 1),
        ("write_bandwidth", ("write",), 1),
    ):
        value = part.attributes.get(key)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
            raise _attribute_error(arch, part, key, f"must be a positive number of words per cycle, not {shown(value)}")
        # A bandwidth without direction is halved between reads and writes.
        result |= {kind: value / share if share > 1 else value for kind in kinds}
    return result


# --- Constraints -----------------------------------------------------------------------------------------------------
