"""Accelerators as files in the format of hw/."""

from __future__ import annotations

import math
from typing import Any

import yaml

from mqjax.arch import FULL, Arch, ByWidth, Constraint, Level, Mac, WidthFormula, WidthTable
from mqjax.types import TENSORS


def to_yaml(arch: Arch) -> str:
    """The accelerator as a file in the format of hw/ (which knows no dialect)."""
    document = {
        "name": arch.name,
        "mac": {
            "name": arch.mac.name,
            "mesh": list(arch.mac.mesh),
            "energy_pj": _number_document(arch.mac.energy_pj),
            "area_um2": arch.mac.area_um2,
            **_pace_document(arch.mac),
        },
        "levels": [_level_document(level) for level in arch.levels],
        "constraints": {
            "arch": [_rule_document(rule) for rule in arch.arch_constraints],
            "paper": [_rule_document(rule) for rule in arch.paper_constraints],
        },
    }
    return yaml.safe_dump(document, sort_keys=False, default_flow_style=None, width=math.inf)


def _pace_document(mac: Mac) -> dict[str, Any]:
    if mac.cycles_per_operation is not None:
        return {"cycles_per_operation": _number_document(mac.cycles_per_operation)}
    return {} if mac.operations_per_cycle == 1 else {"operations_per_cycle": _number_document(mac.operations_per_cycle)}


def _number_document(number: ByWidth) -> Any:
    if isinstance(number, WidthTable):
        return {
            "inputs": list(number.inputs),
            "weights": list(number.weights),
            "table": [list(row) for row in number.values],
        }
    return number._asdict() if isinstance(number, WidthFormula) else number


def _level_document(level: Level) -> dict[str, Any]:
    document: dict[str, Any] = {
        "name": level.name,
        "mesh": list(level.mesh),
        "capacity_words": "unlimited" if level.capacity_words is None else level.capacity_words,
        "word_bits": level.word_bits,
        "block_words": level.block_words,
        "cluster": level.cluster,
        "energy_pj": {"read": level.read_pj, "fill": level.fill_pj, "update": level.update_pj},
        "area_um2": level.area_um2,
        "keep": [tensor for tensor, kept in zip(TENSORS, level.keep, strict=True) if kept],
    }
    limits = {"read": level.read_bandwidth, "write": level.write_bandwidth}
    limits = {key: value for key, value in limits.items() if value is not None}
    return document | ({"bandwidth": limits} if limits else {})


def _rule_document(rule: Constraint) -> dict[str, Any]:
    document: dict[str, Any] = {"level": rule.level, "type": "spatial" if rule.spatial else "temporal"}
    if rule.factors:
        document["factors"] = {d: "full" if factor == FULL else factor for d, factor in rule.factors}
    if rule.max_factors:
        document["max_factors"] = dict(rule.max_factors)
    if rule.min_utilization:
        document["min_utilization"] = rule.min_utilization
    if rule.permutation:
        document["permutation"] = rule.permutation
    return document | ({} if rule.split is None else {"split": rule.split})
