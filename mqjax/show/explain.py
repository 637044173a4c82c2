"""Why a mapping costs what it costs: the evaluator's numbers by level and tensor, and what bounds it.

Nothing is computed twice: the records hold what `evaluate` adds up, so their sums are its costs to the last bit.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from mqjax.arch import Arch, Level
from mqjax.cost.exact.evaluator import Analysed, analyse_mappings
from mqjax.cost.exact.price import Priced, Validity
from mqjax.cost.packing import widths_of
from mqjax.mapspace.mapping import Record, encode
from mqjax.types import TENSORS, BitWidths, Layer


@dataclasses.dataclass(frozen=True)
class TensorUse:
    """One tensor at one level. Counts are per instance and in packed words, but `tile_elements`; energy is that of all
    instances. Counts are 0 where the tensor bypasses the level, and `None` where the mapping does not fit."""

    tensor: str
    kept: bool
    operands_per_word: int
    tile_elements: int
    tile_words: int
    reads: int | None
    fills: int | None
    updates: int | None
    energy_pj: float | None


@dataclasses.dataclass(frozen=True)
class LevelUse:
    """One storage level. Loops are (dimension, bound) and (dimension, bound, axis), outer to inner, without those of bound 1.

    words: capacity that the kept tiles take, of `capacity_words` (`None`: unlimited). fanout, hardware_fanout: children
    of one instance along X and Y, in use and at hand. read_rate, write_rate: words per cycle and instance that the MACs'
    pace asks for, with limits as in `Level`. cycles: what the level alone needs. problems: why the mapping does not fit.
    """

    name: str
    temporal: tuple[tuple[str, int], ...]
    spatial: tuple[tuple[str, int, str], ...]
    instances: int
    hardware_instances: int
    fanout: tuple[int, int]
    hardware_fanout: tuple[int, int]
    words: int
    capacity_words: int | None
    read_rate: float | None
    write_rate: float | None
    read_limit: float | None
    write_limit: float | None
    cycles: int | None
    energy_pj: float | None
    tensors: tuple[TensorUse, ...]
    problems: tuple[str, ...]

    @property
    def utilization(self) -> float | None:
        """Share of the capacity in use, above 1 where it overflows; `None` where the level is unlimited."""
        return None if self.capacity_words is None else self.words / self.capacity_words


@dataclasses.dataclass(frozen=True)
class Explanation:
    """What a mapping of `layer` costs and why. Levels run from the innermost outwards, as in an `Arch`.

    layer: with the bounds that the mapping has. energy_pj and cycles equal `evaluate`'s: inf and 0 where the mapping does
    not fit. compute_cycles: what the MACs need. bound: what sets the cycles, "compute" or a level and its side.
    """

    arch: str
    layer: Layer
    bits: BitWidths
    mapping: tuple[Any, ...]
    valid: bool
    energy_pj: float
    cycles: int
    mac: str
    macs_used: int
    macs: int
    mac_pj: float | None
    compute_cycles: int
    bound: str | None
    levels: tuple[LevelUse, ...]

    @property
    def edp(self) -> float:
        """Energy-delay product, pJ * cycles; inf where the mapping does not fit."""
        return self.energy_pj * self.cycles if self.valid else float("inf")

    @property
    def problems(self) -> tuple[str, ...]:
        """Why the mapping does not fit, level by level; empty where it fits."""
        return tuple(f"{level.name}: {problem}" for level in self.levels for problem in level.problems)

    def metric(self, name: str) -> float:
        """ "energy" (pJ), "edp" (pJ * cycles) or "delay" (cycles); inf where the mapping does not fit."""
        delay = float(self.cycles) if self.valid else float("inf")
        return {"energy": self.energy_pj, "edp": self.edp, "delay": delay}[name]


def explain(arch: Arch, layer: Layer, bits: BitWidths, mapping: Record) -> Explanation:
    """What `mapping` (a record) of `layer` costs on `arch` at bit-widths `bits`, by level and tensor, and why.

    Raises `InputError` for a mapping whose loops do not make up the layer, and for widths that do not fit a word. One
    that exceeds a capacity or a fan-out is explained: its `problems` say by how much.
    """
    arch.check_widths(bits, layer)
    arrays = encode(arch, [layer], [mapping])
    (part,) = analyse_mappings(arch, [layer], arrays)
    widths = widths_of(arch, bits)
    validity, priced = part.cost(arch, widths)
    valid = bool(validity.valid[0])
    by_name = {entry["level"]: entry for entry in mapping}
    levels = tuple(
        _explained_level(arch, s, by_name[level.name], part, validity, priced, widths.operands)
        for s, level in enumerate(arch.levels)
    )
    steps = int(priced.compute_cycles[0])
    return Explanation(
        arch=arch.name,
        layer=layer,
        bits=bits,
        mapping=tuple(mapping),
        valid=valid,
        energy_pj=float(priced.energy_pj[0]) if valid else float("inf"),
        cycles=int(priced.cycles[0]) if valid else 0,
        mac=arch.mac.name,
        macs_used=int(np.prod(part.analysis.instances_xy[0, 0])),
        macs=arch.mac.instances,
        mac_pj=float(priced.mac_pj[0]) if valid else None,
        compute_cycles=steps,
        bound=_bound(levels, steps, int(priced.cycles[0])) if valid else None,
        levels=levels,
    )


def _explained_level(
    arch: Arch, s: int, entry: Any, part: Analysed, validity: Validity, priced: Priced, packing: np.ndarray
) -> LevelUse:
    level, fits, analysis = arch.levels[s], bool(validity.valid[0]), part.analysis
    steps = float(priced.compute_cycles[0])
    reads, writes = priced.reads[0, s].sum(), (priced.fills + priced.updates)[0, s].sum()
    fan = tuple(int(n) for n in analysis.fan_xy[0, s])
    return LevelUse(
        name=level.name,
        temporal=tuple((dim, bound) for dim, bound in entry.get("temporal", ()) if bound > 1),
        spatial=tuple((dim, bound, axis) for dim, bound, axis in entry.get("spatial", ()) if bound > 1),
        instances=int(np.prod(analysis.instances_xy[0, s + 1])),
        hardware_instances=level.instances,
        fanout=(fan[0], fan[1]),
        hardware_fanout=arch.fanout[s],
        words=int(validity.needed_words[0, s]),
        capacity_words=level.capacity_words,
        read_rate=float(reads) / steps if fits else None,
        write_rate=float(writes) / steps if fits else None,
        read_limit=level.read_bandwidth,
        write_limit=level.write_bandwidth,
        cycles=int(priced.level_cycles[0, s]) if fits else None,
        energy_pj=float(priced.level_pj[0, s]) if fits else None,
        tensors=tuple(_tensor(part, priced, packing, s, t, fits) for t in range(len(TENSORS))),
        problems=tuple(_problems(level, arch.fanout[s], validity, fan, s)),
    )


def _tensor(part: Analysed, priced: Priced, packing: np.ndarray, s: int, t: int, fits: bool) -> TensorUse:
    at = (0, s, t)
    return TensorUse(
        tensor=TENSORS[t],
        kept=bool(part.keep[at]),
        operands_per_word=int(packing[s, t]),
        tile_elements=int(priced.tile[at]),
        tile_words=int(priced.tile_words[at]),
        reads=int(priced.reads[at]) if fits else None,
        fills=int(priced.fills[at]) if fits else None,
        updates=int(priced.updates[at]) if fits else None,
        energy_pj=float(priced.tensor_pj[at]) if fits else None,
    )


def _problems(level: Level, fanout: tuple[int, int], validity: Validity, fan: tuple[int, ...], s: int) -> list[str]:
    found = [
        f"the spatial loops on {axis} make {fan[a]} children, {fan[a] - fanout[a]} more than the {fanout[a]} of the hardware"
        for a, axis in enumerate("XY")
        if validity.over_fanout[0, s, a]
    ]
    if validity.over_capacity[0, s] and level.capacity_words is not None:
        needed, most = int(validity.needed_words[0, s]), level.capacity_words
        found.append(f"the tiles take {needed:,} words, {needed - most:,} more than the capacity of {most:,}")
    return found


def _bound(levels: tuple[LevelUse, ...], steps: int, cycles: int) -> str:
    """What sets the cycles: a level's reads or writes where these take longer than the MACs."""
    slowest = max(levels, key=lambda level: level.cycles or 0)
    if not steps < (slowest.cycles or 0) == cycles:
        return "compute"
    sides = (slowest.read_rate, slowest.read_limit), (slowest.write_rate, slowest.write_limit)
    shares = [0.0 if limit is None else (rate or 0.0) / limit for rate, limit in sides]
    return f"{slowest.name} {'reads' if shares[0] >= shares[1] else 'writes'}"
