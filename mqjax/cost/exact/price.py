"""From deliveries to words, energy and cycles (MODEL.md sections 4, 5, 7, 8 and 10).

Runs on the host in NumPy: float64 with IEEE rounding and a fixed order of operations, so that results are the same to
the last bit whatever device did the reuse analysis (XLA may fuse multiplications with additions, which rounds
differently). Counts are float64 until they are rounded, and exact below 2^53.

Axes: B mappings, L levels (inner to outer), T tensors (Weights, Inputs, Outputs), S signatures of multicasts.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from mqjax.arch import Arch
from mqjax.cost.exact.multicast import Signatures
from mqjax.cost.exact.nest import Analysis
from mqjax.cost.packing import Widths, compute_cycles, words
from mqjax.types import TENSORS

OUTPUTS = TENSORS.index("Outputs")


class Traffic(NamedTuple):
    """What moves, before packing: elements per instance; the same at all bit-widths."""

    reads: np.ndarray  # int64 [B, L, T], 0 where bypassed
    fills: np.ndarray  # int64 [B, L, T]
    updates: np.ndarray  # int64 [B, L, T]
    temporal_reductions: np.ndarray  # int64 [B, L, T]
    links: np.ndarray  # float64 [B, L, T] elements handed from neighbour to neighbour
    network: Signatures | None  # after bypassed levels have passed their demand on; None: not wanted


class Validity(NamedTuple):
    """Where a mapping does not fit (MODEL.md section 4)."""

    over_fanout: np.ndarray  # bool [B, L, 2] along X and Y
    over_capacity: np.ndarray  # bool [B, L]
    needed_words: np.ndarray  # int64 [B, L] capacity that the kept tiles take

    @property
    def constructs(self) -> np.ndarray:
        """bool [B]: the spatial loops fit the array."""
        return np.asarray(~self.over_fanout.any(axis=(1, 2)))

    @property
    def valid(self) -> np.ndarray:
        """bool [B]: the mapping fits."""
        return self.constructs & ~self.over_capacity.any(axis=1)


class Priced(NamedTuple):
    """Everything that a batch of mappings costs. Words are packed and per instance unless stated."""

    tile: np.ndarray  # int64 [B, L, T] elements, 0 where bypassed
    part: np.ndarray  # int64 [B, L, T] elements, 0 where bypassed
    tile_words: np.ndarray  # int64 [B, L, T]
    reads: np.ndarray  # int64 [B, L, T]
    fills: np.ndarray  # int64 [B, L, T]
    updates: np.ndarray  # int64 [B, L, T]
    temporal_reductions: np.ndarray  # int64 [B, L, T]
    vectors: np.ndarray  # int64 [B, L, T, 3] block accesses: read, fill, update
    clusters: np.ndarray  # int64 [B, L] clusters in use
    cluster_pj: np.ndarray  # float64 [B, L, T]
    instance_pj: np.ndarray  # float64 [B, L, T]
    tensor_pj: np.ndarray  # float64 [B, L, T] all instances
    level_pj: np.ndarray  # float64 [B, L]
    mac_pj: np.ndarray  # float64 [B]
    energy_pj: np.ndarray  # float64 [B]
    compute_cycles: np.ndarray  # int64 [B] what the MACs need
    slowdown: np.ndarray  # float64 [B, L]
    level_cycles: np.ndarray  # int64 [B, L]
    cycles: np.ndarray  # int64 [B]


def check(arch: Arch, analysis: Analysis, keep: np.ndarray, packing: np.ndarray) -> Validity:
    """Fan-out and capacity of every level. keep: bool [B, L, T]; packing: operands per word, int64 [B, L, T]."""
    needed = np.where(keep, words(analysis.tile, packing), 0).sum(axis=2)
    over_fanout = np.asarray(analysis.fan_xy > np.array(arch.fanout))
    return Validity(over_fanout, needed > arch.tech.capacity, needed)


def _total(values: np.ndarray) -> np.ndarray:
    """Sum over the last axis, first to last: NumPy's own sum adds pairwise and could round differently."""
    return np.cumsum(values, axis=-1)[..., -1]


def _round(values: np.ndarray) -> np.ndarray:
    """Half away from zero, as C's round."""
    whole = np.trunc(values)
    return (whole + np.where(np.abs(values - whole) >= 0.5, np.sign(values), 0.0)).astype(np.int64)


def _bypass(
    signatures: Signatures, analysis: Analysis, keep: np.ndarray, links: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pass the demand of bypassed levels outwards (MODEL.md section 7.3).

    Returns accesses [B, L, T, S] and link transfers as the networks see them, and content [B, L, T] of the levels.
    """
    accesses, links = signatures.accesses.copy(), links.copy()
    content = _total(accesses)
    delivered = _total(accesses * signatures.multicast)
    for level in range(accesses.shape[1] - 1):
        outer, skip = level + 1, ~keep[:, level]
        fan = analysis.fan[:, outer, None]
        with np.errstate(divide="ignore", invalid="ignore"):
            factor = np.where(skip, content[:, level] * fan / delivered[:, outer], 1.0)
        accesses[:, outer] *= factor[..., None]
        content[:, outer] = np.where(skip, _total(accesses[:, outer]), content[:, outer])
        links[:, outer] = np.where(skip, 0.0, links[:, outer])
    return accesses, links, content


def traffic(arch: Arch, analysis: Analysis, signatures: Signatures, links: np.ndarray, keep: np.ndarray) -> Traffic:
    """Traffic of a batch of mappings (MODEL.md section 7); keep: bool [B, L, T]."""
    # Each quotient is rounded before they are added, as the reference does.
    inner_pas = _total(signatures.accesses * signatures.multicast / analysis.fan[..., None, None])
    pas = np.concatenate([inner_pas[:, 1:], np.zeros_like(inner_pas[:, :1])], axis=1)
    accesses, links, content = _bypass(signatures, analysis, keep, links.astype(np.float64))
    instances = np.prod(analysis.instances_xy, axis=-1)  # [B, L + 1]
    peer = np.zeros_like(links)
    peer[:, :-1] = links[:, 1:] / instances[:, 1:-1, None]
    reads, fills, updates, reductions = (
        np.where(keep, count, 0) for count in _accesses(arch, analysis, keep, content, pas, peer)
    )
    return Traffic(reads, fills, updates, reductions, links, signatures._replace(accesses=accesses))


def price(arch: Arch, analysis: Analysis, moved: Traffic, keep: np.ndarray, widths: Widths) -> Priced:
    """Cost of a batch of valid mappings; keep: bool [B, L, T], widths: what theirs mean, of axis B or for all."""
    tech, packing = arch.tech, widths.operands
    instances = np.prod(analysis.instances_xy, axis=-1)  # [B, L + 1]
    reads, fills, updates, reductions = (words(count, packing) for count in moved[:4])
    counts = np.stack([reads, fills, updates], axis=-1)
    vectors = words(counts, tech.block.astype(np.int64)[:, None, None])
    used = instances[:, 1:].astype(np.float64)  # [B, L]
    clusters = np.minimum(used, tech.clusters)
    energy = tech.energy[:, None]
    cluster_pj = vectors[..., 0] * energy[..., 0] + vectors[..., 1] * energy[..., 1] + vectors[..., 2] * energy[..., 2]
    instance_pj = cluster_pj / (used / clusters)[..., None]
    tensor_pj = instance_pj * used[..., None]
    level_pj = _total(tensor_pj)
    computes = analysis.steps * instances[:, 0]
    mac_pj = computes * widths.mac_pj
    computing = compute_cycles(analysis.steps, widths)
    slowdown, level_cycles = _throttle(arch, computing, counts)
    return Priced(
        tile=np.where(keep, analysis.tile, 0),
        part=np.where(keep, analysis.part, 0),
        tile_words=np.where(keep, words(analysis.tile, packing), 0),
        reads=reads,
        fills=fills,
        updates=updates,
        temporal_reductions=reductions,
        vectors=vectors,
        clusters=clusters.astype(np.int64),
        cluster_pj=cluster_pj,
        instance_pj=instance_pj,
        tensor_pj=tensor_pj,
        level_pj=level_pj,
        mac_pj=mac_pj,
        energy_pj=_total(np.concatenate([mac_pj[:, None], level_pj], axis=1)),
        compute_cycles=computing,
        slowdown=slowdown,
        level_cycles=level_cycles,
        cycles=np.maximum(computing, level_cycles.max(axis=1)),
    )


def _accesses(arch: Arch, analysis: Analysis, keep: np.ndarray, content, pas, peer) -> tuple[np.ndarray, ...]:
    """Reads, fills, updates and temporal reductions in elements, int64 [B, L, T] (MODEL.md sections 7.5 and 14)."""
    output = np.arange(len(TENSORS)) == OUTPUTS
    # The first write of each partial sum needs no read ("first read elision").
    reads = _round(content + peer - np.where(output, analysis.part, 0))
    updates = np.where(output, _round(content), 0)
    depth = keep.shape[1]
    outermost = depth - 1 - np.argmax(keep[:, ::-1, OUTPUTS], axis=1)
    if arch.dialect == "2024":
        elided = np.where(np.arange(depth) == outermost[:, None], 0, analysis.part[:, :, OUTPUTS])
        output_fills = _round((pas + peer)[:, :, OUTPUTS] - elided)
    else:
        output_fills = np.trunc((pas + peer)[:, :, OUTPUTS]).astype(np.int64)
    fills = np.trunc(pas + peer).astype(np.int64)
    fills[:, :, OUTPUTS] = output_fills
    return reads, fills, updates, np.where(output, reads, 0)


def _throttle(arch: Arch, computing: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Slowdown [B, L] and cycles [B, L] of each level (MODEL.md section 10), where the MACs need `computing` cycles [B].
    counts: [B, L, T, 3]."""
    steps = computing[:, None].astype(np.float64)
    read_demand = _total(counts[..., 0] / steps[..., None])
    write_demand = _total((counts[..., 1] + counts[..., 2]) / steps[..., None])
    slowdown = np.ones_like(read_demand)
    for demand, limit in ((read_demand, arch.tech.bandwidth[:, 0]), (write_demand, arch.tech.bandwidth[:, 1])):
        with np.errstate(divide="ignore", invalid="ignore"):
            slowdown = np.where(demand > limit, np.minimum(slowdown, limit / demand), slowdown)
    return slowdown, np.ceil(steps / slowdown).astype(np.int64)
