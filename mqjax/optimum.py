"""Proven-optimal mappings: sweep the whole distinct space, then decide among near-ties with the exact evaluator.

The sweep yields, per chunk, the least approximate cost of every width triple. Chunks that come within rounding of the
best are looked at again, and their candidates are priced exactly. Ties are broken by (metric, cycles, energy, mapping
order), so the answer depends on neither chunk size nor device.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import itertools
import os
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from mqjax.arch import Arch
from mqjax.errors import InputError
from mqjax.evaluator import Analysed, analyse_mappings, check_counts
from mqjax.mapping import Mappings, decode
from mqjax.mapspace import Mapspace
from mqjax.packing import Packings, distinct_packings
from mqjax.sweep import METRICS, Sweeper, blocks
from mqjax.terms import LARGEST_COUNT
from mqjax.types import BitWidths, Layer, all_widths

ROWS_AT_ONCE = 2**13
"""Mappings times packings that are priced together: enough to amortize the calls, in little memory."""

NEAR = {"energy": 1 + 1e-12, "edp": 1 + 1e-12, "delay": 1 + 2**-49}
"""Approximate costs within these factors of the least are decided exactly."""


@dataclasses.dataclass(frozen=True)
class Optimum:
    """The best mapping of a layer at one width triple by one metric, with exact costs, and what was covered.

    nominal_size counts as Timeloop does; pruned_size drops permutations of loops of bound 1; distinct is what was
    evaluated; valid_mappings counts those of the pruned space that fit. covered: every mapping of the space was priced
    or is equivalent to one that was, so the optimum is proven.
    """

    layer: Layer
    bits: BitWidths
    metric: str
    energy_pj: float
    cycles: int
    mapping: list[dict[str, Any]]
    nominal_size: int
    pruned_size: int
    distinct: int
    valid_mappings: int
    covered: bool

    @property
    def edp(self) -> float:
        """Energy-delay product, pJ * cycles."""
        return self.energy_pj * self.cycles


def best_mappings(
    arch: Arch,
    layer: Layer,
    bits: Sequence[BitWidths] | BitWidths | str = "all",
    *,
    metrics: Sequence[str] = ("energy",),
    constraints: str = "paper",
) -> list[dict[str, Optimum]]:
    """For each width triple, and each metric out of "energy", "edp", "delay", the proven-optimal mapping of `layer`.

    bits: one or several `BitWidths`, "native", or "all" (the 343 triples of 2..8, in the order of `all_widths`).
    Raises `InputError` for unknown metrics, widths that do not fit a word, and where no mapping fits.
    """
    for metric in metrics:
        if metric not in METRICS:
            raise InputError(f"unknown metric {metric!r}; it must be one of {', '.join(METRICS)}")
    triples = width_triples(bits)
    for triple in triples:
        arch.check_widths(triple, layer)
    space = Mapspace(arch, layer, constraints=constraints)
    solution = solve(space, triples)
    return [{metric: solution.optimum(metric, i) for metric in metrics} for i in range(len(triples))]


def width_triples(bits: Sequence[BitWidths] | BitWidths | str) -> list[BitWidths]:
    """The triples that `bits` means: see `best_mappings`."""
    if isinstance(bits, BitWidths):
        return [bits]
    if isinstance(bits, str):
        return all_widths() if bits == "all" else [BitWidths.parse(bits)]
    return list(bits)


@dataclasses.dataclass(frozen=True)
class Solution:
    """Optimal mappings of one layer for several width triples by all metrics.

    energy_pj, cycles: [3, triples] of the optimum by each of `METRICS`; index: [3, triples] into `mappings`;
    valid: [triples] mappings of the pruned space that fit.
    """

    space: Mapspace
    bits: tuple[BitWidths, ...]
    energy_pj: np.ndarray
    cycles: np.ndarray
    index: np.ndarray
    mappings: list[list[dict[str, Any]]]
    valid: np.ndarray
    covered: bool

    def optimum(self, metric: str, i: int) -> Optimum:
        """The optimum by `metric` of triple i. Raises `InputError` where nothing fits."""
        m, space = METRICS.index(metric), self.space
        if self.index[m, i] < 0:
            raise InputError(
                f"layer {space.layer.name!r}: no mapping fits {space.arch.name!r} at bit-widths {self.bits[i]} "
                f"under the constraints {space.constraints!r}"
            )
        return Optimum(
            layer=space.layer,
            bits=self.bits[i],
            metric=metric,
            energy_pj=float(self.energy_pj[m, i]),
            cycles=int(self.cycles[m, i]),
            mapping=self.mappings[self.index[m, i]],
            nominal_size=space.size,
            pruned_size=space.pruned_size,
            distinct=space.distinct,
            valid_mappings=int(self.valid[i]),
            covered=self.covered,
        )


def solve(space: Mapspace, bits: Sequence[BitWidths]) -> Solution:
    """Cover the whole of `space` for all `bits` and all metrics."""
    check_counts(space.layer, LARGEST_COUNT)
    packings = distinct_packings(space.arch, bits)
    decision = _Decision(space, packings)
    covered = _exhaust(space, decision) if space.may_forward else _sweep(space, decision)
    return decision.solution(bits, covered)


def _sweep(space: Mapspace, decision: _Decision) -> bool:
    """Sweep approximately, decide exactly. Returns whether every mapping that fits the fan-outs was counted."""
    sweeper = Sweeper(space, decision.packings)
    jobs = list(sweeper.jobs())
    # Minima over chunks do not depend on where a chunk was swept, so neither does the optimum.
    devices = jax.local_devices()
    with concurrent.futures.ThreadPoolExecutor(max(len(devices), os.cpu_count() or 1)) as pool:
        results = list(pool.map(sweeper.minima, jobs, itertools.cycle(devices)))
    best = np.concatenate([result[0] for result in results])  # [chunks, KS, KW, 3]
    decision.valid += np.sum([result[1] for result in results], axis=0)
    limits = best.min(axis=0) * np.array([NEAR[m] for m in METRICS])
    near = ((best <= limits) & np.isfinite(best)).any(axis=(1, 2, 3))
    first, found = 0, []
    for job in jobs:
        for chunk in np.flatnonzero(near[first : first + job.chunks]):
            found.append(space.materialize(job.block.order, sweeper.candidates(job, int(chunk), limits)))
        first += job.chunks
    if found:
        decision.consider(Mappings(*(np.concatenate(parts) for parts in zip(*found, strict=True))))
    return round(sum(result[2] for result in results)) == space.fanout_valid


def _exhaust(space: Mapspace, decision: _Decision, batch: int = 2048) -> bool:
    """Price every mapping with the exact evaluator: slower, but also where neighbours may forward data."""
    counted = 0.0
    for block in blocks(space):
        for start in range(0, block.size, batch):
            numbers = np.arange(start, min(start + batch, block.size))
            rows, weights = block.at(numbers, space)
            counted += weights.sum()
            decision.consider(space.materialize(block.order, rows), weights)
    # The order of spatial loops matters to forwarding and is not enumerated.
    free = any(len(set(space.free_dims(t)) & set(space.movable(t))) > 1 for t in space.free_splits)
    return round(counted) == space.fanout_valid and not free


class _Decision:
    """The best mappings so far by exact cost; ties go by (metric, cycles, energy, mapping order)."""

    def __init__(self, space: Mapspace, packings: Packings) -> None:
        self.space, self.packings = space, packings
        self.unique, inverse = np.unique(packings.triples, axis=0, return_inverse=True)
        self.inverse = inverse.reshape(-1)
        shape = (len(METRICS), len(self.unique))
        self.energy, self.cycles = np.full(shape, np.inf), np.zeros(shape, np.int64)
        self.value = np.full(shape, np.inf)
        self.best: dict[tuple[int, int], Mappings] = {}
        kw, ki, ko = (len(p) for p in packings.per_tensor)
        self.valid = np.zeros((ki * ko, kw))

    def consider(self, mappings: Mappings, weights: np.ndarray | None = None) -> None:
        """Let mappings, later in order than all before, compete; `weights` are added to the valid counts."""
        if not len(mappings):
            return
        arch, layer = self.space.arch, self.space.layer
        parts = list(analyse_mappings(arch, [layer] * len(mappings), mappings, chunk=64))
        ko = len(self.packings.per_tensor[2])
        chosen = [p[self.unique[:, t]] for t, p in enumerate(self.packings.per_tensor)]
        fits, energy, cycles = _exact(arch, parts, np.stack(chosen, axis=2).astype(np.int64), len(mappings))
        for u, (w, i, o) in enumerate(self.unique):
            if weights is not None:
                self.valid[i * ko + o, w] += weights[fits[u]].sum()
            if fits[u].any():
                self._compete(u, mappings, fits[u], energy[u], cycles[u])

    def _compete(self, u: int, mappings: Mappings, fits: np.ndarray, energy: np.ndarray, cycles: np.ndarray) -> None:
        for m, value in enumerate((np.where(fits, energy, 0.0), np.where(fits, energy, 0.0) * cycles, cycles)):
            value = np.where(fits, value, np.inf)
            least = np.flatnonzero(value == value.min())
            row = least[np.lexsort((least, energy[least], cycles[least]))[0]]
            challenger = (value[row], cycles[row], energy[row])
            if challenger < (self.value[m, u], self.cycles[m, u], self.energy[m, u]):
                self.value[m, u], self.cycles[m, u], self.energy[m, u] = challenger
                self.best[m, u] = mappings.take(slice(row, row + 1))

    def solution(self, bits: Sequence[BitWidths], covered: bool) -> Solution:
        """What was found, for each of `bits`."""
        index = np.full(self.energy.shape, -1)
        places: dict[bytes, int] = {}
        records: list[list[dict[str, Any]]] = []
        for (m, u), mapping in sorted(self.best.items(), key=lambda item: item[0]):
            key = b"".join(array.tobytes() for array in mapping)
            if key not in places:
                places[key] = len(records)
                records.append(decode(self.space.arch, mapping, 0))
            index[m, u] = places[key]
        w, i, o = self.packings.triples.T
        valid = self.valid[i * len(self.packings.per_tensor[2]) + o, w]
        return Solution(
            space=self.space,
            bits=tuple(bits),
            energy_pj=self.energy[:, self.inverse],
            cycles=self.cycles[:, self.inverse],
            index=index[:, self.inverse],
            mappings=records,
            valid=np.rint(valid).astype(np.int64),
            covered=covered,
        )


def _exact(arch: Arch, parts: list[Analysed], packing: np.ndarray, size: int):
    """Validity, energy and cycles [U, size] of all mappings of `parts` at packings [U, L, T]."""
    count = len(packing)
    fits, energy = np.zeros((count, size), bool), np.full((count, size), np.inf)
    cycles = np.zeros((count, size), np.int64)
    for part in parts:
        mappings = len(part.rows)
        at_once = max(1, ROWS_AT_ONCE // mappings)
        for first in range(0, count, at_once):
            some = packing[first : first + at_once]
            # One long batch: all mappings with the first packing, then all with the next.
            repeated = part.take(np.tile(np.arange(mappings), len(some)))
            validity, priced = repeated.cost(arch, np.repeat(some, mappings, axis=0))
            at = np.ix_(np.arange(first, first + len(some)), part.rows)
            fits[at] = validity.valid.reshape(len(some), mappings)
            energy[at] = priced.energy_pj.reshape(len(some), mappings)
            cycles[at] = priced.cycles.reshape(len(some), mappings)
    return fits, energy, cycles
