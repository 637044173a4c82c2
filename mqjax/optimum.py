"""Proven-optimal mappings: sweep the whole distinct space, then decide among near-ties with the exact evaluator.

The sweep yields, per chunk, the least approximate cost of every width triple. Chunks that come within rounding of the
best are looked at again, and their candidates are priced exactly. Ties are broken by (metric, cycles, energy, mapping order), so
the answer depends on neither chunk size nor device.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import itertools
import os
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from mqjax import nest, price, sweep
from mqjax.arch import Arch
from mqjax.errors import InputError
from mqjax.evaluate import analyse_mappings, evaluate
from mqjax.mapping import Mappings, decode
from mqjax.mapspace import Mapspace
from mqjax.packing import packing_table
from mqjax.sweep import METRICS
from mqjax.types import TENSORS, WIDTHS, BitWidths, Layer

BLOCK_ROWS = 2**15
"""Rows of a group's table on the device at a time; fixed, so that all layers share one compiled program."""

CHUNKS_PER_CALL = 64

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


class Packings(NamedTuple):
    """The distinct packings behind some width triples. per_tensor: float64 [K, L] for Weights, Inputs, Outputs;
    triples: for each width triple the index of its packing of each tensor, int [triples, 3]."""

    per_tensor: tuple[np.ndarray, np.ndarray, np.ndarray]
    triples: np.ndarray


def all_widths() -> list[BitWidths]:
    """The 343 triples of widths 2..8: Inputs slowest, then Weights, then Outputs."""
    return [BitWidths(*triple) for triple in itertools.product(WIDTHS, repeat=3)]


def distinct_packings(arch: Arch, bits: Sequence[BitWidths]) -> Packings:
    """Widths that pack alike at every level are evaluated once."""
    tables = np.stack([packing_table(arch, triple) for triple in bits])  # [triples, L, T]
    per_tensor, indices = [], []
    for tensor in range(len(TENSORS)):
        unique, index = np.unique(tables[:, :, tensor], axis=0, return_inverse=True)
        per_tensor.append(unique.astype(np.float64))
        indices.append(index.reshape(-1))
    return Packings((per_tensor[0], per_tensor[1], per_tensor[2]), np.stack(indices, axis=1))


class _Block(NamedTuple):
    """A part of the distinct space: one loop order, and some rows of every group."""

    order: dict[int, tuple[int, ...]]
    rows: tuple[np.ndarray, ...]
    counted: bool  # whether the multiplicities count here: each factorisation counts in its first order only

    @property
    def size(self) -> int:
        return int(np.prod([len(rows) for rows in self.rows], dtype=np.int64))


def _blocks(space: Mapspace) -> Iterator[_Block]:
    """The distinct space in mapping order."""
    for number, choice in enumerate(itertools.product(*(group.orders for group in space.groups))):
        order: dict[int, tuple[int, ...]] = {}
        for of_group, _ in choice:
            order |= of_group
        parts = [
            [rows[start : start + BLOCK_ROWS] for start in range(0, len(rows), BLOCK_ROWS)] for _, rows in choice
        ]
        for rows in itertools.product(*parts):
            yield _Block(order, rows, number == 0)


class _Job(NamedTuple):
    """Some chunks of a block, and its tables."""

    block: _Block
    tables: sweep.Tables
    picks: tuple[np.ndarray, ...]
    first: int
    chunks: int


class _Sweeper:
    """Runs the compiled sweep over one mapspace."""

    def __init__(self, space: Mapspace, packings: Packings) -> None:
        self.space, self.packings = space, packings
        self.plan = sweep.make_plan(space)
        self.numbers = sweep.numbers(space.arch, space.layer, packings.per_tensor)
        triples = int(np.prod([len(p) for p in packings.per_tensor]))
        self.size = 2**14 if triples == 1 else 2**12

    def jobs(self) -> Iterator[_Job]:
        for block in _blocks(self.space):
            tables, picks = self._tables(block), self._picks(block.order)
            chunks = -(-block.size // self.size)
            for first in range(0, chunks, CHUNKS_PER_CALL):
                yield _Job(block, tables, picks, first, min(CHUNKS_PER_CALL, chunks - first))

    def _tables(self, block: _Block) -> sweep.Tables:
        columns, weights = [], []
        for group, slots, rows in zip(self.space.groups, self.plan.columns, block.rows, strict=True):
            capacity = BLOCK_ROWS if slots else 1
            table = np.ones((len(slots), capacity))
            for c, (d, t) in enumerate(slots):
                table[c, : len(rows)] = group.bounds[rows, group.dims.index(d), t]
            weight = np.zeros(capacity)
            weight[: len(rows)] = group.weight[rows] if block.counted else 0.0
            columns.append(table)
            weights.append(weight)
        return sweep.Tables(tuple(columns), tuple(weights), tuple(np.float64(len(rows)) for rows in block.rows))

    def _picks(self, order: dict[int, tuple[int, ...]]) -> tuple[np.ndarray, ...]:
        """Per free level, which of its free dimensions stands at each position; unit dimensions come last."""
        picks = []
        for t in self.plan.free_levels:
            free = self.plan.tiling[t][3]
            moving = order.get(t, ())
            sequence = [*moving, *(d for d in free if d not in moving)]
            picks.append(np.array([free.index(d) for d in sequence], np.int32))
        return tuple(picks)

    def _terms(self, job: _Job, chunk: int) -> tuple[sweep.Costs, jax.Array]:
        return sweep.terms(self.plan, self.numbers, job.tables, job.picks, np.int64(job.first + chunk), self.size)

    def minima(self, job: _Job) -> tuple[np.ndarray, np.ndarray, float]:
        """Least costs of the chunks of a job [chunks, KS, KW, 3], fitting mappings [KS, KW], and covered ones."""
        with jax.enable_x64(True):
            tie = self.numbers.tie
            results = [sweep.minima(*self._terms(job, chunk), tie) for chunk in range(job.chunks)]
            best, valid, covered = (np.stack([np.asarray(x) for x in part]) for part in zip(*results, strict=True))
        return best, valid.sum(axis=0), float(covered.sum())

    def candidates(self, job: _Job, chunk: int, limits: np.ndarray) -> list[tuple[int, ...]]:
        """Rows of each group, for the mappings of a chunk that come within the limits."""
        with jax.enable_x64(True):
            found = sweep.candidates(self._terms(job, chunk)[0], self.numbers.tie, limits)
        numbers = (job.first + chunk) * self.size + np.flatnonzero(np.asarray(found))
        positions = np.unravel_index(numbers, [len(rows) for rows in job.block.rows])
        picks = [rows[at] for rows, at in zip(job.block.rows, positions, strict=True)]
        return [tuple(int(p) for p in row) for row in zip(*picks, strict=True)]


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
    triples = _triples(bits)
    for triple in triples:
        arch.check_widths(triple, layer)
    space = Mapspace(arch, layer, constraints=constraints)
    solution = solve(space, triples)
    return [
        {metric: solution.optimum(metric, i) for metric in metrics} for i in range(len(triples))
    ]


def _triples(bits: Sequence[BitWidths] | BitWidths | str) -> list[BitWidths]:
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
    """Sweep the whole of `space` for all `bits` and all metrics."""
    packings = distinct_packings(space.arch, bits)
    sweeper = _Sweeper(space, packings)
    jobs = list(sweeper.jobs())
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        results = list(pool.map(sweeper.minima, jobs))
    best = np.concatenate([result[0] for result in results])  # [chunks, KS, KW, 3]
    valid = np.sum([result[1] for result in results], axis=0)
    covered = sum(result[2] for result in results)
    limits = best.min(axis=0) * np.array([NEAR[m] for m in METRICS])
    near = (best <= limits) & np.isfinite(best)
    found = []
    chunk = 0
    for job in jobs:
        for k in range(job.chunks):
            if near[chunk + k].any():
                found.append((job.block.order, sweeper.candidates(job, k, limits)))
        chunk += job.chunks
    return _decide(space, bits, packings, found, valid, round(covered) == space.fanout_valid)


def _decide(space: Mapspace, bits, packings: Packings, found, valid: np.ndarray, covered: bool) -> Solution:
    """Price the candidates exactly and take the best of each triple by (metric, cycles, energy, order)."""
    arch = space.arch
    unique, inverse = np.unique(packings.triples, axis=0, return_inverse=True)
    inverse = inverse.reshape(-1)
    shape = (len(METRICS), len(unique))
    energy, cycles = np.full(shape, np.inf), np.zeros(shape, np.int64)
    index = np.full(shape, -1)
    batches = [space.materialize(order, rows) for order, rows in found if rows]
    mappings = Mappings(*(np.concatenate(parts) for parts in zip(*batches, strict=True))) if batches else None
    if mappings is not None:
        analysis = analyse_mappings(arch, space.layer, mappings)
        for i, (w, ip, o) in enumerate(unique):
            packing = np.stack(
                [packings.per_tensor[0][w], packings.per_tensor[1][ip], packings.per_tensor[2][o]], axis=1
            ).astype(np.int64)
            fits, pj, cyc = _exact(arch, analysis, mappings, packing)
            if not fits.any():
                continue
            for m, value in enumerate((pj, pj * cyc, cyc)):
                value = np.where(fits, value, np.inf)
                pick = np.lexsort((np.arange(len(value)), pj, cyc, value))[0]
                energy[m, i], cycles[m, i], index[m, i] = pj[pick], cyc[pick], pick
    used, renumbered = np.unique(index[index >= 0], return_inverse=True)
    index[index >= 0] = renumbered.reshape(-1)
    records = [decode(arch, mappings, int(row)) for row in used] if mappings is not None else []
    pick = packings.triples
    return Solution(
        space=space,
        bits=tuple(bits),
        energy_pj=energy[:, inverse],
        cycles=cycles[:, inverse],
        index=index[:, inverse],
        mappings=records,
        valid=np.rint(valid[pick[:, 1] * len(packings.per_tensor[2]) + pick[:, 2], pick[:, 0]]).astype(np.int64),
        covered=covered,
    )


def _exact(arch: Arch, analysis: nest.Analysis, mappings: Mappings, packing: np.ndarray):
    """Validity, energy and cycles of mappings without forwarding at one packing [L, T]."""
    per_row = np.broadcast_to(packing, mappings.keep.shape)
    validity = price.check(arch, analysis, mappings.keep, per_row)
    with np.errstate(all="ignore"):
        priced = price.price(
            arch, analysis, price.plain_signatures(analysis), np.zeros_like(analysis.delta), mappings.keep, per_row
        )
    return validity.valid, priced.energy_pj, priced.cycles
