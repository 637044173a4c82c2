"""Timeloop accelerators, v0.3 and v0.4 (arch, ERT, ART and constraint files) as documents of our own format.

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
from mqjax.io.timeloop_constraints import FILE_KEYS, ConstraintReader, check_branches
from mqjax.io.timeloop_tree import Component, attribute_error, attribute_value, number, read_tree
from mqjax.projection import LOOPS

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


class ImportedArch(NamedTuple):
    """An accelerator in our format, and sentences about what in the files has no counterpart there."""

    document: dict[str, Any]
    without_counterpart: list[str]


def import_accelerator(name: str, tables: Path, rules_folder: Path) -> ImportedArch:
    """The accelerator of arch.yaml, ERT.yaml and ART.yaml in `tables`, arch_constraints.yaml and map_constraints.yaml in
    `rules_folder`, which v0.4 may lack, under the name `name`; files of other names are known by what they hold. Raises
    `InputError` naming file, line and key."""
    notes: list[str] = []
    arch = _document(tables, "arch.yaml", "architecture")
    parts, targets, constraints, parallel = read_tree(arch, _variables(arch, tables), notes)
    names = [part.name for part in parts]
    energies = _action_energies(_document(tables, "ERT.yaml", "ERT"), names, notes)
    areas = _areas(_document(tables, "ART.yaml", "ART"), names)
    rules = ConstraintReader(targets, notes, [name for _, branches in parallel for some in branches for name in some])
    hardware = rules.of_nodes(arch, constraints)
    # v0.4 has constraints in its nodes, and what Timeloop's front end dumps has them beside the architecture.
    beside = [key for key in FILE_KEYS if key in arch.value]
    lists = []
    for key, file in zip(FILE_KEYS, ("arch_constraints.yaml", "map_constraints.yaml"), strict=True):
        if key in beside:
            lists.append(rules.of_file(arch, key))
        elif (rules_folder / file).exists() or not (constraints or beside):
            lists.append(rules.of_file(_document(rules_folder, file, key)))
        else:
            lists.append([])
    for loc, branches in parallel:
        check_branches(arch, loc, [[tensor for name in some for tensor in rules.kept(name)] for some in branches])
    levels = []
    for part in reversed(parts[:-1]):
        # What relays data has rules of its own: it stores nothing, and its temporal loops would say nothing.
        keep = [] if part.kind == "relay" else rules.kept(part.name)
        levels.append({**_read_level(arch, part, energies, areas, notes, stores=bool(keep)), "keep": keep})
    relays = [
        {"level": part.name, "type": "temporal", "factors": dict.fromkeys(LOOPS, 1)}
        for part in parts
        if part.kind == "relay"
    ]
    document = {
        "name": name,
        "mac": _mac(arch, parts[-1], energies, areas, notes),
        "levels": levels,
        "constraints": {"arch": [*hardware, *lists[0], *relays], "paper": lists[1]},
    }
    return ImportedArch(document, notes)


def _document(folder: Path, file: str, key: str) -> Document:
    """The file of that name in a folder or, where there is none, the only one with the key at its top."""
    found = [] if (folder / file).exists() or not folder.is_dir() else _with_key(folder, key)
    if len(found) > 1:
        names = ", ".join(document.path.name for document in found)
        raise InputError(f"{folder}: {names} all have the key {key}; call the one that counts {file}")
    return found[0] if found else read_document(folder / file, tagged=True)


def _with_key(folder: Path, key: str) -> list[Document]:
    """The YAML files of a folder with a key at their top."""
    found = []
    for path in sorted(folder.glob("*.y*ml")):
        try:
            document = read_document(path, tagged=True)
        except InputError:
            continue  # none of ours, or said when it is asked for by name
        inside = document.value.get(key) if isinstance(document.value, dict) else None
        # Accelergy's flattened architectures have neither subtrees nor nodes.
        if inside and (key != "architecture" or not inside.keys().isdisjoint(("subtree", "nodes"))):
            found.append(document)
    return found


def _variables(arch: Document, folder: Path) -> dict[str, Any]:
    """What formulas may name: the variables of the architecture's file and of a variables.yaml beside it."""
    found: dict[str, Any] = {}
    beside = folder / "variables.yaml"
    for document in (read_document(beside),) if beside.exists() else ():
        found |= document.at(("variables",), dict)
    return found | arch.at(("variables",), dict, {})


# --- Energies and areas ----------------------------------------------------------------------------------------------


def _last_part(full_name: str) -> str:
    return re.sub(r"\[.*?\]", "", full_name).split(".")[-1]


def _table_rows(document: Document, key: str, names: list[str]) -> Iterator[tuple[int, str]]:
    """Number and component of each row of an ERT or ART about one of `names`."""
    seen: dict[str, str] = {}
    for i in range(len(document.at((key, "tables"), list))):
        full_name = re.sub(r"\[.*?\]", "", document.at((key, "tables", i, "name"), str))
        short = _last_part(full_name)
        if short not in names:
            continue
        if seen.setdefault(short, full_name) != full_name:
            problem = (
                f"{full_name} and {seen[short]} have the same last name {shown(short)}; name components differently"
            )
            raise document.error((key, "tables", i, "name"), problem)
        yield i, short


def _number_at(document: Document, loc: tuple[str | int, ...]) -> float:
    value = document.at(loc, object)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise document.error(loc, f"must be a number of at least 0, not {shown(value)}")
    return value


def _action_energies(ert: Document, names: list[str], notes: list[str]) -> dict[str, dict[str, float]]:
    """Per component and action the energy in pJ, the largest over the action's arguments."""
    energies: dict[str, dict[str, float]] = {}
    for i, component in _table_rows(ert, "ERT", names):
        actions = energies.setdefault(component, {})
        loc = ("ERT", "tables", i, "actions")
        for j in range(len(ert.at(loc, list))):
            action = ert.at((*loc, j, "name"), str)
            actions[action] = max(_number_at(ert, (*loc, j, "energy")), actions.get(action, 0.0))
        if actions.get("leak", 0.0) > 0:
            notes.append(f"{component}: leakage of {actions['leak']:g} pJ a cycle has no counterpart and is left out")
    return energies


def _areas(art: Document, names: list[str]) -> dict[str, float]:
    return {component: _number_at(art, ("ART", "tables", i, "area")) for i, component in _table_rows(art, "ART", names)}


def _area_of_unit(part: Component, areas: Mapping[str, float], notes: list[str]) -> float:
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


def _mac(arch: Document, part: Component, energies: Mapping, areas: Mapping, notes: list[str]) -> dict[str, Any]:
    energy = _first(energies.get(part.name, {}), "mac")
    if energy is None:
        raise arch.error(part.loc[:-1], f"the ERT has none of the actions {', '.join(ACTIONS['mac'])} of {part.name}")
    return {"name": part.name, "mesh": part.mesh, "energy_pj": energy, "area_um2": _area_of_unit(part, areas, notes)}


def _word(arch: Document, part: Component) -> tuple[int, int, int]:
    """Bits of a word, words of a block, and cluster size. Of the last two, the one that is not given follows from the width,
    which is that of the cluster or, in some files, of one of its members."""
    word_bits = number(arch, part, "word_bits", "word_width", "datawidth") or 16
    block, cluster = number(arch, part, "block_size", "n_words"), number(arch, part, "cluster_size")
    keys = ("width", "memory_width", "data_storage_width")
    width = number(arch, part, *keys)
    if width is None:
        return word_bits, block or 1, cluster or 1
    row = word_bits * (block or 1)
    whole = width % (row * (cluster or 1)) == 0
    if width % row or (block and cluster and width not in (row, row * cluster)):
        problem = (
            f"the width {width} must be a multiple of {block or 1} words of {word_bits} bits, or give cluster-size"
        )
        raise attribute_error(arch, part, next(key for key in keys if key in part.attributes), problem)
    if cluster is None:
        return word_bits, block or 1, width // row
    return word_bits, block or width // (row * cluster if whole else row), cluster


def _capacity(arch: Document, part: Component, word_bits: int, block: int) -> int | None:
    """Words per instance; None where no size is given."""
    depths = ("depth", "memory_depth", "data_storage_depth")
    given = [key for key in ("entries", *depths, "sizeKB") if part.attributes.get(key) is not None]
    if len(given) > 1 and not set(depths) >= set(given):
        raise attribute_error(
            arch, part, given[1], f"{part.name} has its size twice; give one of {' and '.join(given)}"
        )
    size = number(arch, part, "entries")
    if size is None and (depth := number(arch, part, *depths)):
        size = depth * block
    if size is None and (kilobytes := number(arch, part, "sizeKB")):
        size = kilobytes * 1024 * 8 // word_bits
    return size


def _read_level(
    arch: Document, part: Component, energies: Mapping, areas: Mapping, notes: list[str], *, stores: bool
) -> dict[str, Any]:
    """A level without what it keeps; one that stores nothing needs no energies."""
    word_bits, block, cluster = _word(arch, part)
    capacity = _capacity(arch, part, word_bits, block)
    buffering = attribute_value(arch, part, "multiple_buffering") or 1
    if isinstance(buffering, bool) or not isinstance(buffering, int | float) or not 1 <= buffering < math.inf:
        raise attribute_error(arch, part, "multiple_buffering", f"must be a number from 1, not {shown(buffering)}")
    usable = capacity if capacity is None else math.floor(capacity / buffering)
    if usable == 0:
        raise attribute_error(arch, part, "multiple_buffering", f"leaves none of the {capacity} words of {part.name}")
    for key, neutral in WITHOUT_COUNTERPART.items():
        if part.attributes.get(key, neutral) != neutral:
            notes.append(f"{part.name}: {key} = {shown(part.attributes[key])} has no counterpart and is left out")
    level: dict[str, Any] = {
        "name": part.name,
        "mesh": part.mesh,
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
        if energy is None and not stores:
            energy = 0.0
        if energy is None:
            if capacity is None or "DRAM" in part.attributes["class"]:
                names = ", ".join(ACTIONS[kind])
                raise arch.error(part.loc[:-1], f"the ERT has none of the actions {names} of {part.name}")
            energy = sram_fit(word_bits, block, cluster, math.ceil(capacity / block))
            notes.append(f"{part.name}: the ERT has no {kind} action, so Timeloop's built-in SRAM fit is taken")
        level["energy_pj"][kind] = energy
    level["area_um2"] = 0.0 if part.kind == "relay" else _area_of_unit(part, areas, notes)
    return level


def _bandwidth(arch: Document, part: Component) -> dict[str, float]:
    """Words per cycle read and written, as far as they are limited."""
    result: dict[str, float] = {}
    for key, kinds, share in (
        ("bandwidth", ("read", "write"), 2),
        ("read_bandwidth", ("read",), 1),
        ("write_bandwidth", ("write",), 1),
    ):
        value = attribute_value(arch, part, key)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
            raise attribute_error(arch, part, key, f"must be a positive number of words per cycle, not {shown(value)}")
        # A bandwidth without direction is halved between reads and writes.
        result |= {kind: value / share if share > 1 else value for kind in kinds}
    return result
