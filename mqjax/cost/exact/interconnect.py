"""Statistics of the networks between levels (MODEL.md section 9): reported, but without energy in this model.

One network lies inside each level. Its hops depend on where each child is, so they are counted child by child, and
only here: what a mapping costs never needs them.

Axes: B mappings, L levels (inner to outer), T tensors, S signatures of multicasts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mqjax.arch import Arch
from mqjax.cost.exact import children, nest
from mqjax.cost.exact.evaluator import Analysed, problems
from mqjax.cost.exact.forwarding import receiving
from mqjax.cost.exact.multicast import Signatures
from mqjax.cost.exact.price import OUTPUTS
from mqjax.cost.packing import is_packed, words
from mqjax.mapspace.mapping import Mappings
from mqjax.types import TENSORS, BitWidths, Layer


class Networks(NamedTuple):
    """What the networks of a batch of mappings carry. Slots of S that are not `used` mean nothing."""

    used: np.ndarray  # bool [B, L, T, S]
    multicast: np.ndarray  # int64 [B, L, T, S]
    scatter: np.ndarray  # int64 [B, L, T, S]
    accesses: np.ndarray  # float64 [B, L, T, S] packed
    hops: np.ndarray  # float64 [B, L, T, S] hop-weighted
    ingresses: np.ndarray  # float64 [B, L, T]
    reductions: np.ndarray  # int64 [B, L, T]
    links: np.ndarray  # int64 [B, L, T] packed
    mean_hops: np.ndarray  # float64 [B, L, T] per ingress


def networks(
    arch: Arch,
    part: Analysed,
    layers: Sequence[Layer],
    mappings: Mappings,
    bits: Sequence[BitWidths],
    packing: np.ndarray,
) -> Networks:
    """Statistics of `part`, whose mapping i is mappings[i], for layers[i] at bits[i]; packing: operands per word of
    these, int64 [B, L, T]."""
    network = part.traffic.network
    if network is None:
        raise ValueError("the networks' statistics need the signatures of all multicasts")
    used = (network.scatter > 0) & (network.accesses > 0)
    accesses = _packed(arch, _with_rereads(arch, part, network), bits, packing)
    accesses = np.where(used, accesses, 0.0)
    if arch.dialect == "2023":
        hops = _mean_field_hops(network.multicast, part.analysis.fan[:, :, None, None]) * accesses
    else:
        hops = _hop_accesses(arch, part, layers, mappings, network)
    hops = np.where(used & (accesses > 0), hops, 0.0)
    ingresses = np.cumsum(accesses, axis=-1)[..., -1]
    reductions = np.zeros(ingresses.shape[:2])
    for slot in range(accesses.shape[-1]):  # in the order of the signatures: the reference truncates each sum
        more = (network.multicast - 1)[:, :, OUTPUTS, slot] * accesses[:, :, OUTPUTS, slot]
        reductions = np.where(used[:, :, OUTPUTS, slot], np.trunc(reductions + more), reductions)
    total = np.cumsum(hops, axis=-1)[..., -1]
    return Networks(
        used=used,
        multicast=network.multicast.astype(np.int64),
        scatter=network.scatter,
        accesses=accesses,
        hops=hops,
        ingresses=ingresses,
        reductions=np.where(np.arange(len(TENSORS)) == OUTPUTS, reductions[..., None], 0).astype(np.int64),
        links=words(part.traffic.links.astype(np.int64), packing),
        mean_hops=np.divide(total, ingresses, out=np.zeros_like(total), where=ingresses != 0),
    )


def reduces(arch: Arch, level: int) -> bool:
    """Whether a level adds to partial sums by itself. A DRAM cannot: it sends them out to be added to.

    An outermost level without a capacity is a DRAM; with one it is a buffer.
    """
    return level < len(arch.levels) - 1 or arch.levels[level].capacity_words is not None


def _with_rereads(arch: Arch, part: Analysed, network: Signatures) -> np.ndarray:
    """Accesses [B, L, T, S], partial sums that are sent out before they are added to included."""
    accesses = network.accesses.copy()
    for level in range(accesses.shape[1]):
        if not reduces(arch, level):
            stored = np.where(part.keep, part.analysis.part, 0)[:, level, OUTPUTS, None]
            # The reference takes the first writes off each signature.
            accesses[:, level, OUTPUTS] = 2 * accesses[:, level, OUTPUTS] - stored
    return accesses


def _packed(arch: Arch, accesses: np.ndarray, bits: Sequence[BitWidths], packing: np.ndarray) -> np.ndarray:
    """Accesses rounded up to whole elements, then divided by the operands of a word, where operands are packed."""
    active = {
        widths: [[is_packed(level.word_bits, width) for width in widths.by_tensor()] for level in arch.levels]
        for widths in set(bits)
    }
    packs = np.array([active[widths] for widths in bits])[..., None]
    return np.where(packs, np.ceil(accesses) / packing[..., None], accesses)


def _mean_field_hops(multicast: np.ndarray, fan: np.ndarray) -> np.ndarray:
    """Hops of one multicast in the 2023 dialect: those of a square array of the children in use, wherever they are."""
    root_m, root_f = np.sqrt(np.maximum(multicast, 1)), np.sqrt(fan)
    return root_f * (root_m + 0.5 - 1 / root_m) - (root_m - 1) / 2


def _hop_accesses(
    arch: Arch, part: Analysed, layers: Sequence[Layer], mappings: Mappings, network: Signatures
) -> np.ndarray:
    """Hop-weighted accesses of each signature, float64 [B, L, T, S]. A bypassed level rescales accesses, not these."""
    analysis, moved = part.analysis, part.forwarded
    hops = np.zeros(network.accesses.shape)
    usual = analysis.delta.copy()
    if moved is not None:
        np.subtract.at(usual[..., nest.INPUTS], (moved.row, moved.level), moved.amount)
    problem, which = problems(layers)
    # A level without spatial loops has no network to cross; more children than there are have no places.
    fits = (analysis.fan_xy <= np.array(arch.fanout)).all(axis=(1, 2))
    row, level, tensor = np.nonzero((usual > 0) & (analysis.fan > 1)[..., None] & fits[:, None, None])
    at = (row, level)
    fans = children.fans(
        level,
        problem.keys[which[row], tensor],
        mappings.spatial_dim[at],
        mappings.spatial_bound[at],
        analysis.inside[at],
    )
    _add_hops(arch, hops, network, fans, (row, level, tensor), usual[row, level, tensor])
    if moved is not None and len(moved.row):
        tensor = np.full(len(moved.row), nest.INPUTS)
        _add_hops(arch, hops, network, moved.fans, (moved.row, moved.level, tensor), moved.amount, moved.move)
    return hops


def _add_hops(
    arch: Arch,
    hops: np.ndarray,
    network: Signatures,
    fans: children.Fans,
    cells: tuple[np.ndarray, ...],
    deliveries: np.ndarray,
    move: np.ndarray | None = None,
) -> None:
    """Add to `hops` those of `deliveries` [N] to the fan-outs of `cells` (row, level, tensor, each [N]); with a `move`
    [N] only to children that no neighbour serves."""
    moves = [] if move is None else [move]
    first, which = children.distinct_fans(fans, *moves)
    cases = fans.take(first)
    for level, some in children.slices(cases):
        key, sizes = children.positions(cases.take(some)), cases.sizes[some]
        wanted = np.arange(key.shape[1]) < sizes[:, None]
        if move is not None:
            wanted &= ~receiving(key, sizes, move[first[some]], arch.fanout[level][0])
        groups = children.grouped(key, wanted, arch.fanout[level])
        count = np.bincount(groups.fan, minlength=len(some))
        begin = np.cumsum(count) - count
        place = np.full(len(first), -1)
        place[some] = np.arange(len(some))
        case = place[which]
        for offset in range(int(count.max(initial=0))):
            # One signature of each fan-out at a time: a fan-out has few, and no slot is met twice.
            n = np.flatnonzero((case >= 0) & (offset < np.where(case >= 0, count[case], 0)))
            group = begin[case[n]] + offset
            at = tuple(x[n] for x in cells)
            same = (network.multicast[at] == groups.multicast[group, None]) & (
                network.scatter[at] == groups.scatter[group, None]
            )
            np.add.at(hops, (*at, np.argmax(same, axis=1)), groups.hops[group] * deliveries[n])
