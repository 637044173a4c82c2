"""What a sweep's compiled program is shaped by (`Plan`), and the numbers it is given (`Numbers`)."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, NamedTuple

import numpy as np

from mqjax.arch import Arch
from mqjax.cost.packing import INPUTS, largest_mac_pj, mac_cost, macs_vary
from mqjax.mapspace.space import Mapspace
from mqjax.projection import SLIDING, TENSORS, alike
from mqjax.types import BitWidths, Layer


class Ranks(NamedTuple):
    """Which dimensions index which tensor in the shapes that share a program.

    own: per tensor the dimensions that have a rank for themselves, and whether they do in all of these shapes; if not,
    `Numbers.indexes` says so of a layer. pairs: dimensions that share a rank of Inputs, along its width and its height.
    """

    own: tuple[tuple[tuple[int, bool], ...], ...]
    pairs: tuple[tuple[int, ...], ...]


def make_ranks(shape: str) -> Ranks:
    """The ranks of all shapes with the dimensions of `shape`. A dimension that a shape lacks may index what it likes there."""
    family = alike(shape)
    loops = family[0].loops
    own = []
    for tensor in range(len(TENSORS)):
        of_tensor = []
        for d, dim in enumerate(loops):
            found = {any(len(r) == 1 and r[0].dim == dim for r in x.ranks[tensor]) for x in family if dim not in x.unit}
            if True in found:
                of_tensor.append((d, False not in found))
        own.append(tuple(of_tensor))
    return Ranks(tuple(own), tuple(tuple(loops.index(term.dim) for term in rank) for rank in SLIDING))


@dataclasses.dataclass(frozen=True)
class Plan:
    """What shapes the compiled program: the accelerator's structure and its constraints, no numbers and no layer.

    tiling: per tiling level (storage level, spatial, dims in fixed order, dims in free order), inner to outer; only
    dimensions whose factor may exceed 1 are listed. columns: per group of the mapspace, the (dim, tiling level) of each
    column of its table. single: dimensions with one possible slot, whose factor is the layer's bound.
    """

    ranks: Ranks
    keep: tuple[tuple[bool, bool, bool], ...]
    tiling: tuple[tuple[int, bool, tuple[int, ...], tuple[int, ...]], ...]
    columns: tuple[tuple[tuple[int, int], ...], ...]
    single: tuple[int, ...]
    limited: tuple[int, ...]  # levels with a capacity
    throttled: tuple[int, ...]  # levels with a bandwidth
    dialect: str
    forwarding: bool  # whether mappings outside the fast path must be told apart (`Mapspace.may_forward`)

    @property
    def free_levels(self) -> tuple[int, ...]:
        """Tiling levels with a free loop order of two or more dimensions."""
        return tuple(t for t, level in enumerate(self.tiling) if not level[1] and len(level[3]) > 1)


def make_plan(space: Mapspace) -> Plan:
    """The plan of a mapspace. Mapspaces of layers with batch 1 share one plan, those with larger batches another."""
    arch = space.arch
    unit = () if space.layer.N > 1 else (space.layer.loops.index("N"),)
    slots = [tuple(d for d in space.slots(t) if d not in unit) for t in range(len(space.tiling))]
    tiling = []
    for t, level in enumerate(space.tiling):
        fixed = tuple(d for d in space.prefix(t) if d in slots[t])
        tiling.append((level.level, level.spatial, fixed, tuple(d for d in space.free_dims(t) if d in slots[t])))
    count = {d: sum(d in s for s in slots) for d in range(len(space.layer.loops))}
    columns = []
    for group in space.groups:
        of_group = [(d, t) for d in group.dims for t in range(len(slots)) if d in slots[t] and count[d] > 1]
        columns.append(tuple(of_group))
    levels = arch.levels
    return Plan(
        ranks=make_ranks(space.layer.shape),
        keep=tuple(level.keep for level in levels),
        tiling=tuple(tiling),
        columns=tuple(columns),
        single=tuple(d for d in count if count[d] == 1),
        limited=tuple(s for s, level in enumerate(levels) if level.capacity_words is not None),
        throttled=tuple(
            s for s, level in enumerate(levels) if level.read_bandwidth is not None or level.write_bandwidth is not None
        ),
        dialect=arch.dialect,
        forwarding=space.may_forward,
    )


class Numbers(NamedTuple):
    """Traced numbers of a layer and an accelerator. All float64 but the flags."""

    bounds: Any  # [D] loop bounds
    step: Any  # [D] how far a unit step of a dimension moves along its rank of Inputs; 0 where it has none
    indexes: Any  # bool [T, D] whether a dimension indexes a tensor
    capacity: Any  # [L]
    block: Any  # [L]
    clusters: Any  # [L]
    bandwidth: Any  # [L, 2]
    energy: Any  # [L, 3]
    mac_energy: Any  # [] pJ of an operation; 0 where that depends on the widths (`mqjax.cost.packing.MacTerms`)
    macs: Any  # [] operations of the layer
    tie: Any  # [] cycles per pJ, small enough never to outweigh one cycle


def numbers(arch: Arch, layer: Layer) -> Numbers:
    """The traced numbers of a layer on an accelerator."""
    tech = arch.tech
    steps = {d: n for rank in layer.projection.ranks[INPUTS] for d, n in layer.coefficients(rank).items()}
    # No count of a tensor at a level exceeds the MACs times what strides and dilations spread Inputs by; reads, fills and
    # updates are sums of at most three counts.
    spread = max(layer.Wstride, layer.Wdilation) * max(layer.Hstride, layer.Hdilation)
    most = layer.macs * spread * float(largest_mac_pj(arch) + 9 * tech.energy.sum())
    return Numbers(
        bounds=np.array(layer.bounds, np.float64),
        step=np.array([steps.get(dim, 0) for dim in layer.loops], np.float64),
        indexes=np.array([[dim in relevant for dim in layer.loops] for relevant in layer.projection.relevant]),
        capacity=tech.capacity,
        block=tech.block,
        clusters=tech.clusters,
        bandwidth=tech.bandwidth,
        energy=tech.energy,
        mac_energy=np.float64(0 if macs_vary(arch) else mac_cost(arch, BitWidths()).energy_pj),
        macs=np.float64(layer.macs),
        tie=np.float64(2.0 ** -math.ceil(math.log2(4 * most + 1))),
    )
