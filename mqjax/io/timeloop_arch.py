"""Timeloop v0.3 accelerators (arch, ERT, ART and constraint files) as documents of our own format.

What Timeloop makes of these files is kept (MODEL.md sections 2 and 8): capacity = depth * block size; the energy of an
access is the largest over the arguments of the first action found; a memory without such an action takes the built-in
SRAM fit. Attributes may be spelled with hyphens or underscores.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mqjax.errors import InputError
from mqjax.io.documents import Document, read_document, shown
from mqjax.projection import LOOPS
from mqjax.types import TENSORS

V04 = "this is a Timeloop v0.4 file; only v0.3 files (architecture.version: 0.3 with subtree and local) can be imported"
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
    hardware, kept = _constraints(_read(rules / "arch_constraints.yaml"), fanouts, taken, notes)
    heuristics, kept_too = _constraints(_read(rules / "map_constraints.yaml"), fanouts, taken, notes)
    document = {
        "name": name,
        "mac": _mac(arch, macs[0], energies, areas, notes),
        "levels": [_level(arch, part, energies, areas, notes) for part in reversed(levels)],
        "constraints": {"arch": hardware, "paper": heuristics},
    }
    for level in document["levels"]:
        level["keep"] = _kept(level["name"], [*kept, *kept_too])
    return Imported(document, notes)


def _read(path: Path) -> Document:
    return read_document(path, foreign=V04_TAGS)


# --- The tree of components ------------------------------------------------------------------------------------------


def _at(document: Document, loc: Sequence[str | int], kind: type, default: Any = None) -> Any:
    """The value at `loc`, which must be of the type `kind`; `default`, if given, where its key is missing."""
    value = document.value
    for i, part in enumerate(loc):
        if isinstance(part, str) and (not isinstance(value, dict) or part not in value):
            if default is not None and isinstance(value, dict) and i == len(loc) - 1:
                return default
            raise document.error(loc[: i + 1], "this key is missing")
        value = value[part]
    if not isinstance(value, kind):
        words = {dict: "a mapping of keys to values", list: "a list", str: "text"}
        raise document.error(loc, f"must be {words[kind]}, not {shown(value)}")
    return value


def _parts(arch: Document, notes: list[str]) -> Iterator[_Part]:
    """Storage and compute components, outermost first."""
    if isinstance(arch.value, dict) and isinstance(arch.value.get("architecture"), dict):
        tree = arch.value["architecture"]
        if str(tree.get("version")) == "0.4" or ("nodes" in tree and "subtree" not in tree):
            raise arch.error(("architecture",), V04)
    loc: tuple[str | int, ...] = ("architecture",)
    path, count = "", 1
    _at(arch, (*loc, "subtree"), list)
    while "subtree" in _at(arch, loc, dict):
        trees = _at(arch, (*loc, "subtree"), list)
        if len(trees) != 1:
            raise arch.error((*loc, "subtree"), f"must hold one subtree (of many instances), not {len(trees)}")
        loc = (*loc, "subtree", 0)
        name, instances = _name(arch, loc)
        path, count = f"{path}.{name}".lstrip("."), count * instances
        for i in range(len(_at(arch, (*loc, "local"), list, []))):
            part = _part(arch, (*loc, "local", i), path, count)
            if part.kind:
                yield part
            else:
                notes.append(f"{part.name}: a component of a class that stores and computes nothing is left out")


def _name(arch: Document, loc: tuple[str | int, ...]) -> tuple[str, int]:
    """A component's name without its index range, and how many instances the range counts."""
    text = _at(arch, (*loc, "name"), str)
    found = re.fullmatch(r"([^\[\].]+?)\s*(?:\[(\d{1,9})\.\.(\d{1,9})\]|\[(\d{1,9})\])?", text, re.ASCII)
    if not found or (found[2] and int(found[3]) < int(found[2])):
        raise arch.error(
            (*loc, "name"), f"must be a name, with an index range as in PE[0..15] or none, not {shown(text)}"
        )
    return found[1], int(found[3]) - int(found[2]) + 1 if found[2] else 1


def _part(arch: Document, loc: tuple[str | int, ...], path: str, count: int) -> _Part:
    name, instances = _name(arch, loc)
    attributes = {}
    for key, value in _at(arch, (*loc, "attributes"), dict, {}).items():
        plain = str(key).replace("-", "_")
        if plain in attributes:
            raise arch.error((*loc, "attributes", str(key)), "this attribute is given twice, in two spellings")
        attributes[plain] = value
    title = _at(arch, (*loc, "class"), str)
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
    given = _at(arch, part.loc, dict, {})
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
    for i in range(len(_at(document, (key, "tables"), list))):
        full_name = re.sub(r"\[.*?\]", "", _at(document, (key, "tables", i, "name"), str))
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
    value = _at(document, loc, object)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise document.error(loc, f"must be a number of at least 0, not {shown(value)}")
    return value


def _energies(ert: Document, names: list[str]) -> dict[str, dict[str, float]]:
    """Per component and action the energy in pJ, the largest over the action's arguments."""
    energies: dict[str, dict[str, float]] = {}
    for i, component in _table(ert, "ERT", names):
        actions = energies.setdefault(component, {})
        loc = ("ERT", "tables", i, "actions")
        for j in range(len(_at(ert, loc, list))):
            action = _at(ert, (*loc, j, "name"), str)
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


class _Keep(NamedTuple):
    """What a constraint says about the tensors of `level`: those to keep (None: not said) and those to pass by."""

    level: str
    keep: list[str] | None
    bypass: list[str]


def _kept(level: str, said: Sequence[_Keep]) -> list[str]:
    """The tensors that a level keeps: those listed; else all that it does not bypass."""
    here = [entry for entry in said if entry.level == level]
    listed = [tensor for entry in here for tensor in entry.keep or ()]
    if any(entry.keep is not None for entry in here):
        return [tensor for tensor in TENSORS if tensor in listed]
    return [tensor for tensor in TENSORS if not any(tensor in entry.bypass for entry in here)]


def _constraints(
    file: Document, fanouts: Mapping[str, int], taken: set[tuple[str, ...]], notes: list[str]
) -> tuple[list[dict], list[_Keep]]:
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
    for i in range(len(_at(file, loc, list))):
        entry, here = _at(file, (*loc, i), dict), (*loc, i)
        name_key = "name" if "name" in entry and "target" not in entry else "target"
        target = _at(file, (*here, name_key), str)
        if target not in fanouts:
            raise file.error((*here, name_key), f"unknown level {shown(target)}; levels are {', '.join(fanouts)}")
        kind = _at(file, (*here, "type"), str)
        if kind in ("bypass", "bypassing", "datatype", "dataspace"):
            kept.append(_Keep(target, _tensors(file, (*here, "keep")), _tensors(file, (*here, "bypass")) or []))
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
    entry = _at(file, loc[:-1], dict)
    if loc[-1] not in entry:
        return None
    tensors = entry[loc[-1]]
    if tensors is None:
        return []
    if not isinstance(tensors, list) or any(tensor not in TENSORS for tensor in tensors):
        raise file.error(loc, f"must be a list out of {', '.join(TENSORS)}, not {shown(tensors)}")
    return tensors


def _rule(file: Document, loc: tuple[str | int, ...], target: str, kind: str, fanout: int) -> dict[str, Any]:
    entry = _at(file, loc, dict)
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
    given = _at(file, loc, object)
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
