"""Turn a Timeloop v0.3 accelerator (arch.yaml, ERT.yaml, ART.yaml, constraint files) into a file of hw/.

    python experiments/import_timeloop.py NAME CONFIG_DIR/16bit_int CONFIG_DIR > hw/NAME.yaml

The first folder holds arch.yaml, ERT.yaml and ART.yaml; the second arch_constraints.yaml and map_constraints.yaml.
Rules as in MODEL.md sections 2 and 8: capacity = depth * block size; energy = the largest over the arguments of the
first action found; a component without such an action takes the built-in SRAM fit.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import yaml

ACTIONS = {
    "read": ("random_read", "read"),
    "fill": ("random_fill", "random_write", "fill", "write"),
    "update": ("random_update", "random_write", "update", "write"),
    "mac": ("mac_random", "mult_random", "mac", "mult", "compute"),
}


def component(full_name: str) -> str:
    """The last part of a component's path, without index ranges."""
    return re.sub(r"\[.*?\]", "", full_name).split(".")[-1]


def walk(tree: dict, count: int = 1):
    """Yield (count, component) of every local component, outermost first."""
    for node in tree.get("local", []):
        yield count * multiplicity(node["name"]), node
    for sub in tree.get("subtree", []):
        yield from walk(sub, count * multiplicity(sub["name"]))


def multiplicity(name: str) -> int:
    found = re.search(r"\[(\d+)\.\.(\d+)\]", name)
    return int(found[2]) - int(found[1]) + 1 if found else 1


def energy(actions: dict[str, float], kind: str, attributes: dict) -> float:
    for action in ACTIONS[kind]:
        if action in actions:
            return actions[action]
    return sram_fit(attributes)


def sram_fit(attributes: dict) -> float:
    """Timeloop's built-in table for a memory without ERT actions, pJ per access."""
    cluster = attributes.get("cluster-size", 1)
    width = attributes["word-bits"] * attributes.get("block-size", 1) * cluster
    rows = attributes["memory_depth"]
    return ((5 / 99.5) * (width * rows / 8192 - 0.5) + 1) * width / 16 / cluster


def constraints(path: Path, key: str) -> tuple[list[dict], dict[str, list[str]]]:
    """The factor rules of a constraint file and the tensors that each level keeps."""
    rules, keeps = [], {}
    for target in yaml.safe_load(path.read_text())[key]["targets"]:
        if target["type"] in ("bypass", "datatype"):
            keeps[target["target"]] = target.get("keep", [])
            continue
        rule: dict = {"level": target["target"], "type": target["type"]}
        if "factors" in target:
            pairs = (pair.split("=") for pair in target["factors"].split())
            rule["factors"] = {d: "full" if v == "0" else int(v) for d, v in pairs}
        if "permutation" in target:
            rule["permutation"] = target["permutation"].replace(" ", "")
        if "split" in target:
            rule["split"] = target["split"]
        rules.append(rule)
    return rules, keeps


def main(name: str, tables: Path, rules: Path) -> None:
    arch = yaml.safe_load((tables / "arch.yaml").read_text())["architecture"]
    energies: dict[str, dict[str, float]] = {}
    for table in yaml.safe_load((tables / "ERT.yaml").read_text())["ERT"]["tables"]:
        actions = energies.setdefault(component(table["name"]), {})
        for action in table["actions"]:
            actions[action["name"]] = max(action["energy"], actions.get(action["name"], 0.0))
    art = yaml.safe_load((tables / "ART.yaml").read_text())["ART"]["tables"]
    areas = {component(row["name"]): row["area"] for row in art}
    hardware, keeps = constraints(rules / "arch_constraints.yaml", "architecture_constraints")
    heuristics, _ = constraints(rules / "map_constraints.yaml", "mapspace_constraints")

    levels = []
    mac: dict = {}
    for count, node in walk(arch["subtree"][0]):
        attributes, short = node["attributes"], component(node["name"])
        mesh_x = attributes.get("meshX", 1)
        mesh = [mesh_x, count // mesh_x]
        if node["class"] in ("intmac", "compute"):
            mac = {"name": short, "mesh": mesh, "energy_pj": energy(energies[short], "mac", attributes)}
            mac["area_um2"] = areas[short]
            continue
        block, word_bits = attributes.get("block-size", 1), attributes["word-bits"]
        depth = attributes.get("memory_depth", attributes.get("depth"))
        width = attributes.get("memory_width", attributes.get("width", word_bits * block))
        level = {
            "name": short,
            "mesh": mesh,
            "capacity_words": "unlimited" if depth is None else depth * block,
            "word_bits": word_bits,
            "block_words": block,
            "cluster": attributes.get("cluster-size", width // (word_bits * block)),
        }
        if "read_bandwidth" in attributes:
            level["bandwidth"] = {"read": attributes["read_bandwidth"], "write": attributes["write_bandwidth"]}
        level["energy_pj"] = {k: energy(energies[short], k, attributes) for k in ("read", "fill", "update")}
        level["area_um2"] = areas[short]
        level["keep"] = keeps.get(short, ["Weights", "Inputs", "Outputs"])
        levels.append(level)
    document = {
        "name": name,
        "mac": mac,
        "levels": levels[::-1],
        "constraints": {"arch": hardware, "paper": heuristics},
    }
    yaml.dump(document, sys.stdout, sort_keys=False, default_flow_style=None, width=110)


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
