"""Records of evaluated mappings: JSON lines in the schema of the reference data.

Read are `arch`, `dims`, `shape`, `bitwidths` and `mapping`; written are the input's tags plus `valid` and either
`fail` or `stats`. Word counts are packed; energies are in pJ, areas in um^2.
"""

from __future__ import annotations

import gzip
import json
import math
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mqjax.arch import Arch
from mqjax.cost.exact.evaluator import Analysed, analyse_mappings
from mqjax.cost.exact.interconnect import Networks, networks
from mqjax.cost.exact.price import OUTPUTS
from mqjax.cost.packing import Widths, stacked_widths, wasted_bits
from mqjax.errors import InputError, meant
from mqjax.mapspace.mapping import encode
from mqjax.types import TENSORS, BitWidths, Layer

LINE_MOST = 2**26
"""Characters of a record: a line without an end would fill the memory, and compressed it may look small."""


def read_records(path: str | Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number, record) of each line of a .jsonl or .jsonl.gz file (several gzip members are read through)."""
    path = Path(path)
    number = 0
    try:
        with gzip.open(path, "rt") if path.suffix == ".gz" else open(path) as lines:
            for number, line in enumerate(iter(lambda: lines.readline(LINE_MOST), ""), start=1):
                if len(line) == LINE_MOST:
                    raise InputError(f"{path}, line {number}: a record has less than {LINE_MOST} characters")
                if not line.strip():
                    continue
                try:
                    record = json.loads(line)
                except (ValueError, RecursionError) as error:
                    reason = error.msg if isinstance(error, json.JSONDecodeError) else "too long a number or too deep"
                    raise InputError(f"{path}, line {number}: not valid JSON: {reason}") from None
                if not isinstance(record, dict):
                    raise InputError(f"{path}, line {number}: a record must be a JSON object")
                yield number, record
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise InputError(f"cannot read records file {path} after line {number}: {error}") from None


def parse(record: dict[str, Any]) -> tuple[Layer, BitWidths]:
    """Layer and bit-widths of a record."""
    for key in ("dims", "mapping"):
        if key not in record:
            raise InputError(f"the record has no key {key!r}")
    name = str(record.get("layer", "layer"))[:100]
    if not isinstance(record["dims"], dict):
        raise InputError("dims must be an object with the keys C M R S N P Q and strides and dilations")
    layer = Layer.from_dims(record["dims"], shape=record.get("shape", "cnn"), name=name)
    given = record.get("bitwidths")
    given = {} if given is None else given
    if not isinstance(given, dict):
        raise InputError(f"bitwidths must be an object with the keys {', '.join(TENSORS)}, not {given!r:.60}")
    unknown = [tensor for tensor in given if tensor not in TENSORS]
    if unknown:
        raise InputError(
            f"bitwidths has the unknown tensor {unknown[0]!r:.60}; use {', '.join(TENSORS)}{meant(unknown[0], TENSORS)}"
        )
    return layer, BitWidths(given.get("Inputs"), given.get("Weights"), given.get("Outputs"))


def evaluate_records(
    arch: Arch, records: Sequence[dict[str, Any]], *, where: Sequence[str] | None = None
) -> list[dict[str, Any]]:
    """Evaluate records on `arch`, in order. Each result has the record's tags, `valid`, and `fail` or `stats`.

    Raises `InputError` naming the first record that cannot be evaluated by its place in `where` (default: "record k",
    counted from 1).
    """
    layers: list[Layer] = []
    bits: list[BitWidths] = []
    mappings: list[Any] = []
    for number, record in enumerate(records):
        try:
            layer, widths = parse(record)
            arch.check_widths(widths, layer)
            encode(arch, [layer], [record["mapping"]])
        except InputError as error:
            place = f"record {number + 1}" if where is None else where[number]
            raise InputError(f"{place}: {error}") from None
        layers.append(layer)
        bits.append(widths)
        mappings.append(record["mapping"])
    results: list[dict[str, Any]] = [{} for _ in records]
    if not records:
        return results
    arrays = encode(arch, layers, mappings)
    for part in analyse_mappings(arch, layers, arrays):
        of_part, widths = [layers[row] for row in part.rows], [bits[row] for row in part.rows]
        meant = stacked_widths(arch, widths)
        carried = networks(arch, part, of_part, arrays.take(part.rows), widths, meant.operands)
        writer = _RecordWriter(arch, part, meant, carried)
        for i, row in enumerate(part.rows):
            tags = {key: value for key, value in records[row].items() if key not in ("valid", "fail", "stats")}
            results[row] = {**tags, **writer.outcome(i, bits[row])}
    return results


class _RecordWriter:
    """Turns the arrays of a batch into nested records."""

    def __init__(self, arch: Arch, part: Analysed, widths: Widths, carried: Networks) -> None:
        self.arch, self.analysis, self.keep = arch, part.analysis, part.keep
        self.widths, self.carried = widths, carried
        self.validity, self.priced = part.cost(arch, widths)
        self.valid = self.validity.valid
        self.instances = np.prod(part.analysis.instances_xy, axis=-1)
        areas = [float(np.float32(part.area_um2)) for part in (arch.mac, *arch.levels)]
        self.tile_area = areas[:1]
        for area, (x, y) in zip(areas[1:], arch.fanout, strict=True):
            self.tile_area.append(self.tile_area[-1] * x * y + area)

    def outcome(self, i: int, bits: BitWidths) -> dict[str, Any]:
        if not self.valid[i]:
            return {"valid": False, "fail": self._fail(i)}
        names = self.arch.level_names
        inner = [self.arch.mac.name, *names]
        return {
            "valid": True,
            "stats": {
                "levels": {name: self._level(i, s, bits) for s, name in enumerate(names)},
                "networks": {f"{name} <==> {inner[s]}": self._network(i, s) for s, name in enumerate(names)},
                "mac": self._mac(i),
                "totals": self._totals(i),
            },
        }

    def _fail(self, i: int) -> dict[str, Any]:
        over = self.validity.over_fanout[i]
        if over.any():
            levels = [
                {
                    "level": name,
                    "reason": "".join(
                        f"mapped fanout{axis} {self.analysis.fan_xy[i, s, a]} exceeds hardware fanout{axis} "
                        f"{self.arch.fanout[s][a]}"
                        for a, axis in enumerate("XY")
                        if over[s, a]
                    ),
                }
                for s, name in enumerate(self.arch.level_names)
                if over[s].any()
            ]
            return {"stage": "construct", "levels": levels}
        levels = [
            {
                "level": level.name,
                "reason": f"mapped tile size {self.validity.needed_words[i, s]} exceeds buffer capacity {level.capacity_words}",
            }
            for s, level in enumerate(self.arch.levels)
            if self.validity.over_capacity[i, s]
        ]
        return {"stage": "pre_evaluation", "levels": levels}

    def _level(self, i: int, s: int, bits: BitWidths) -> dict[str, Any]:
        p = self.priced
        accesses = (p.reads + p.fills + p.updates)[i, s].sum()
        return {
            "cycles": int(p.level_cycles[i, s]),
            "slowdown": float(p.slowdown[i, s]),
            "leakage_energy_pJ": 0,
            "energy_total_pJ": float(p.level_pj[i, s]),
            "accesses_total": int(accesses * self.instances[i, s + 1]),
            "tensors": {tensor: self._tensor(i, s, t, bits) for t, tensor in enumerate(TENSORS)},
        }

    def _tensor(self, i: int, s: int, t: int, bits: BitWidths) -> dict[str, Any]:
        p, at = self.priced, (i, s, t)
        reads, fills, updates = int(p.reads[at]), int(p.fills[at]), int(p.updates[at])
        accesses = reads + fills + updates
        computing, slowdown = float(p.compute_cycles[i]), float(p.slowdown[i, s])
        x, y = self.analysis.instances_xy[i, s + 1]
        return {
            "keep": bool(self.keep[at]),
            "tile_size": int(p.tile[at]),
            "partition_size": int(p.part[at]),
            "utilized_capacity": int(p.tile_words[at]),
            "operands_per_word": int(self.widths.operands[at]),
            "wasted_bits": wasted_bits(self.arch.levels[s].word_bits, bits.by_tensor()[t]),
            "utilized_instances": int(x * y),
            "utilized_x": int(x),
            "utilized_y": int(y),
            "utilized_clusters": int(p.clusters[i, s]),
            "reads": reads,
            "fills": fills,
            "updates": updates,
            "temporal_reductions": int(p.temporal_reductions[at]),
            "address_generations": (updates if t == OUTPUTS else reads) + fills,
            "scalar_read": reads,
            "scalar_fill": fills,
            "scalar_update": updates,
            "vector_read": int(p.vectors[at][0]),
            "vector_fill": int(p.vectors[at][1]),
            "vector_update": int(p.vectors[at][2]),
            "energy_per_access_pJ": float(p.instance_pj[at]) / accesses if accesses else None,
            "cluster_access_energy_pJ": float(p.cluster_pj[at]),
            "energy_per_instance_pJ": float(p.instance_pj[at]),
            "energy_pJ": float(p.tensor_pj[at]),
            "temporal_reduction_energy_pJ": 0,
            "addr_gen_energy_pJ": 0,
            "read_bandwidth": reads / computing * slowdown,
            "write_bandwidth": (fills + updates) / computing * slowdown,
        }

    def _network(self, i: int, s: int) -> dict[str, Any]:
        return {
            "tile_width_um": math.sqrt(self.tile_area[s]),
            "energy_total_pJ": 0,
            "tensors": {tensor: self._transfers(i, s, t) for t, tensor in enumerate(TENSORS)},
        }

    def _transfers(self, i: int, s: int, t: int) -> dict[str, Any]:
        carried, at = self.carried, (i, s, t)
        signatures = [
            {
                "multicast": int(carried.multicast[at][k]),
                "scatter": int(carried.scatter[at][k]),
                "accesses": float(carried.accesses[at][k]),
                "hops_weighted": float(carried.hops[at][k]),
            }
            for k in np.flatnonzero(carried.used[at])
        ]
        return {
            "fanout": int(self.analysis.fan[i, s]),
            "multicast_factor": max((signature["multicast"] for signature in signatures), default=0),
            "ingresses": float(carried.ingresses[at]),
            "ingress_by_multicast": signatures,
            "link_transfers": int(carried.links[at]),
            "spatial_reductions": int(carried.reductions[at]),
            "num_hops": float(carried.mean_hops[at]),
            "energy_per_hop_pJ": 0,
            "energy_pJ": 0,
            "link_transfer_energy_pJ": 0,
            "spatial_reduction_energy_pJ": 0,
            "utilized_instances": int(self.instances[i, s + 1]),
        }

    def _mac(self, i: int) -> dict[str, Any]:
        x, y = (int(n) for n in self.analysis.instances_xy[i, 0])
        steps, whole = int(self.analysis.steps[i]), self._mac_cycles(i)
        return {
            "name": self.arch.mac.name,
            "utilized_instances": x * y,
            "utilized_x": x,
            "utilized_y": y,
            "computes": steps * x * y,
            "algorithmic_computes": steps * x * y,
            "cycles": int(self.priced.compute_cycles[i]),
            "ideal_cycles": whole / self.arch.mac.instances,
            "energy_pJ": float(self.priced.mac_pj[i]),
        }

    def _mac_cycles(self, i: int) -> float:
        """Cycles that one MAC would take for everything."""
        computes = int(self.analysis.steps[i]) * int(self.instances[i, 0])
        return computes * int(self.widths.cycles[i]) / int(self.widths.operations[i])

    def _totals(self, i: int) -> dict[str, Any]:
        p, cycles = self.priced, int(self.priced.cycles[i])
        outermost = (p.reads + p.fills + p.updates)[i, -1].sum()
        return {
            "cycles": cycles,
            "utilization": self._mac_cycles(i) / self.arch.mac.instances / cycles,
            "energy_pJ": float(p.energy_pj[i]),
            "edp_pJ_cycles": float(p.energy_pj[i]) * cycles,
            "area_um2": self.arch.area_um2,
            "last_level_accesses": int(outermost * self.instances[i, -1]),
        }
