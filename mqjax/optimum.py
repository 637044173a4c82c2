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
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any, NamedTuple

import jax
import numpy as np

from mqjax import sweep
from mqjax.arch import Arch
from mqjax.errors import InputError
from mqjax.evaluator import Analysed, analyse_mappings, check_counts
from mqjax.mapping import Mappings, decode
from mqjax.mapspace import Mapspace
from mqjax.packing import packing_table
from mqjax.sweep import METRICS
from mqjax.types import TENSORS, WIDTHS, BitWidths, Layer

BLOCK_ROWS = 2**15
"""Rows of a group's table on the device at a time; fixed, so that all layers share one compiled program."""

CHUNKS_PER_CALL = 16

NUMBERS_AT_ONCE = 2**20
"""Largest size of an array in exact pricing: enough to amortize the calls, and no more memory than the sweep takes."""

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
    """Widths that pack alike at every level are evaluated once.

    Several triples are filled up with copies to as many packings as `all_widths` has, so that most sets of triples
    share one compiled program.
    """
    tables = np.stack([packing_table(arch, triple) for triple in bits])  # [triples, L, T]
    per_tensor, indices = [], []
    for tensor in range(len(TENSORS)):
        unique, index = np.unique(tables[:, :, tensor], axis=0, return_inverse=True)
        copies = _most_packings(arch)[tensor] - len(unique) if len(bits) > 1 else 0
        unique = np.concatenate([unique, np.repeat(unique[-1:], max(0, copies), axis=0)])
        per_tensor.append(unique.astype(np.float64))
        indices.append(index.reshape(-1))
    return Packings((per_tensor[0], per_tensor[1], per_tensor[2]), np.stack(indices, axis=1))


@cache
def _most_packings(arch: Arch) -> list[int]:
    """Number of distinct packings of each tensor over the widths 2..8."""
    tables = np.stack([packing_table(arch, BitWidths(width, width, width)) for width in WIDTHS])
    return [len(np.unique(tables[:, :, tensor], axis=0)) for tensor in range(len(TENSORS))]


class _Block(NamedTuple):
    """A part of the distinct space: one loop order, and some rows of every group."""

    order: dict[int, tuple[int, ...]]
    rows: tuple[np.ndarray, ...]
    counted: bool  # whether the multiplicities count here: each factorisation counts in its first order only

    @property
    def size(self) -> int:
        return int(np.prod([len(rows) for rows in self.rows], dtype=np.int64))

    def at(self, numbers: np.ndarray, space: Mapspace) -> tuple[list[tuple[int, ...]], np.ndarray]:
        """The rows of each group, and the weights, of the mappings with these numbers in the block."""
        positions = np.unravel_index(numbers, [len(rows) for rows in self.rows])
        picks = [rows[at] for rows, at in zip(self.rows, positions, strict=True)]
        weights = np.full(len(numbers), float(self.counted))
        for group, pick in zip(space.groups, picks, strict=True):
            weights *= group.weight[pick]
        return [tuple(int(p) for p in row) for row in zip(*picks, strict=True)], weights


def _blocks(space: Mapspace) -> Iterator[_Block]:
    """The distinct space in mapping order."""
    for number, choice in enumerate(itertools.product(*(group.orders for group in space.groups))):
        order: dict[int, tuple[int, ...]] = {}
        for of_group, _ in choice:
            order |= of_group
        parts = [[rows[start : start + BLOCK_ROWS] for start in range(0, len(rows), BLOCK_ROWS)] for _, rows in choice]
        for rows in itertools.product(*parts):
            yield _Block(order, rows, number == 0)


class _Job(NamedTuple):
    """Some chunks of a block, and its tables."""

    block: _Block
    tables: sweep.Tables
    picks: tuple[np.ndarray, ...]
    first: int
    chunks: int


class Sweeper:
    """Runs the compiled sweep over one mapspace."""

    def __init__(self, space: Mapspace, packings: Packings) -> None:
        self.space, self.packings = space, packings
        self.plan = sweep.make_plan(space)
        self.numbers = sweep.numbers(space.arch, space.layer, packings.per_tensor)
        triples = int(np.prod([len(p) for p in packings.per_tensor]))
        self.size = 2**12 if triples > 1 else 2**13

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
                table[c, : len(rows)] = group.bounds(d, t)[rows]
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
            best, valid, covered = sweep.minima(
                self.plan,
                self.numbers,
                job.tables,
                job.picks,
                np.int64(job.first),
                np.int64(job.chunks),
                self.size,
                CHUNKS_PER_CALL,
            )
        return np.asarray(best)[: job.chunks], np.asarray(valid), float(covered)

    def costs(self, job: _Job, chunk: int, triples: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Approximate energies and cycles of the mappings of a chunk that fit, for each packing triple W, I, O."""
        with jax.enable_x64(True):
            terms: list[Any] = [None if x is None else np.asarray(x) for x in self._terms(job, chunk)[0]]
        weights_pj, weights_cycles, shared_pj, shared_cycles, coupled = terms
        for w, i, o in triples:
            s = i * len(self.packings.per_tensor[2]) + o
            cycles = np.maximum(weights_cycles[w], shared_cycles[s])
            if coupled is not None:
                cycles = np.maximum(cycles, coupled[s, w])
            fits = np.isfinite(cycles)
            yield (weights_pj[w] + shared_pj[s])[fits], cycles[fits]

    def candidates(self, job: _Job, chunk: int, limits: np.ndarray) -> list[tuple[int, ...]]:
        """Rows of each group, for the mappings of a chunk that come within the limits."""
        with jax.enable_x64(True):
            found = sweep.candidates(self._terms(job, chunk)[0], self.numbers.tie, limits)
        numbers = (job.first + chunk) * self.size + np.flatnonzero(np.asarray(found))
        return job.block.at(numbers, self.space)[0]


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
    check_counts(space.layer, sweep.LARGEST_COUNT)
    packings = distinct_packings(space.arch, bits)
    decision = _Decision(space, packings)
    covered = _exhaust(space, decision) if space.may_forward else _sweep(space, decision)
    return decision.solution(bits, covered)


def _sweep(space: Mapspace, decision: _Decision) -> bool:
    """Sweep approximately, decide exactly. Returns whether every mapping that fits the fan-outs was counted."""
    sweeper = Sweeper(space, decision.packings)
    jobs = list(sweeper.jobs())
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        results = list(pool.map(sweeper.minima, jobs))
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
    for block in _blocks(space):
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
        at_once = max(1, NUMBERS_AT_ONCE // part.signatures.accesses.size)
        for first in range(0, count, at_once):
            some = packing[first : first + at_once]
            # One long batch: all mappings with the first packing, then all with the next.
            repeated = part.take(np.tile(np.arange(mappings), len(some)))
            validity, priced = repeated.cost(arch, np.repeat(some, mappings, axis=0))
            at = np.ix_(range(first, first + len(some)), part.rows)
            fits[at] = validity.valid.reshape(len(some), mappings)
            energy[at] = priced.energy_pj.reshape(len(some), mappings)
            cycles[at] = priced.cycles.reshape(len(some), mappings)
    return fits, energy, cycles
