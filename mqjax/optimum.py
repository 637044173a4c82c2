"""Proven-optimal mappings: sweep the whole distinct space, then decide among near-ties with the exact evaluator.

A sample of the space gives first costs for every width triple. Lower bounds (`mqjax.screen`) then rule out most mappings;
the others are priced for every triple, which lowers the limits for what follows. Those that come within rounding of the
least cost are priced exactly. Ties are broken by (metric, cycles, energy, mapping order), so the answer depends neither
on what was ruled out when, nor on chunk size or device.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import itertools
import os
import threading
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from mqjax.arch import Arch
from mqjax.errors import InputError
from mqjax.evaluator import analyse_mappings, check_counts
from mqjax.mapping import Mappings, decode
from mqjax.mapspace import Mapspace
from mqjax.packing import packing_boxes
from mqjax.rows import Rows, mappings, orders
from mqjax.screen import NEAR, Screen
from mqjax.sweep import METRICS, Job, Sweeper
from mqjax.terms import LARGEST_COUNT
from mqjax.types import BitWidths, Layer, all_widths

ROWS_AT_ONCE = 2**13
"""Mappings, each with a packing, that are priced together: enough to amortize the calls, in little memory."""

SAMPLED = 64
"""One of so many mappings is priced before the screen begins."""


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


class Share(NamedTuple):
    """Part `index` of `count` equal parts of a space."""

    index: int = 0
    count: int = 1


WHOLE = Share()


def solve(space: Mapspace, bits: Sequence[BitWidths], *, screened: bool = True) -> Solution:
    """Cover the whole of `space` for all `bits` and all metrics.

    screened: rule out mappings by lower bounds; the solution is the same without, several times slower.
    """
    return decide(space, bits, screened=screened).solution()


def decide(space: Mapspace, bits: Sequence[BitWidths], *, screened: bool = True, share: Share = WHOLE) -> Decision:
    """Cover a share of `space` for all `bits` and all metrics."""
    check_counts(space.layer, LARGEST_COUNT)
    decision = Decision(space, bits)
    if space.may_forward:
        _exhaust(decision, share)
    else:
        _sweep(decision, screened, share)
    return decision


def _sweep(decision: Decision, screened: bool, share: Share) -> None:
    """Sweep approximately, decide exactly."""
    sweep = _Sweep(decision, screened)
    _compile(sweep.sweeper)
    # Minima do not depend on where a chunk was swept, so neither does the optimum.
    devices = jax.local_devices()
    jobs = itertools.islice(sweep.sweeper.jobs(), share.index, None, share.count)
    with concurrent.futures.ThreadPoolExecutor(max(len(devices), os.cpu_count() or 1)) as pool:
        list(pool.map(sweep.try_out, sweep.sample(), itertools.cycle(devices)))
        list(pool.map(sweep.screen, jobs, itertools.cycle(devices)))
        list(pool.map(sweep.price, sweep.pending(), itertools.cycle(devices)))
    sweep.decide()


_compiled: set[tuple[Any, ...]] = set()
_compiling = threading.Lock()


def _compile(sweeper: Sweeper) -> None:
    """Compile all programs of a sweep, so that layers which are swept side by side do not compile the same one twice."""
    key = sweeper.plan, tuple(table.shape for box in sweeper.boxes for table in box.per_tensor)
    with _compiling:
        if key in _compiled:
            return
        rows = sweeper.sample(1).take(slice(1))
        unlimited = [np.full((*shape, len(METRICS)), np.inf) for shape in (box.shape for box in sweeper.boxes)]
        limits = tuple(Screen(box).limits(np.full((len(box.triples), len(METRICS)), np.inf)) for box in sweeper.boxes)
        device = jax.local_devices()[0]
        programs = (
            lambda: sweeper.screen(Job(0, 0, 0), limits, device),
            lambda: sweeper.least(rows, device),
            lambda: sweeper.candidates(rows, unlimited),
            lambda: _exact(sweeper.space, mappings(sweeper.space, rows), np.array([0]), sweeper.boxes[0].operands[:1]),
        )
        for program in programs:
            program()
        _compiled.add(key)


class _Sweep:
    """The state of a sweep, which several threads share."""

    def __init__(self, decision: Decision, screened: bool) -> None:
        self.sweeper = Sweeper(decision.space, decision.boxes)
        self._decision, self._screened = decision, screened
        self._screens = [Screen(box) for box in decision.boxes]
        self._best = [np.full((len(box.triples), len(METRICS)), np.inf) for box in decision.boxes]
        self._pending: list[Rows] = []
        self._priced: list[tuple[Rows, list[np.ndarray]]] = []
        self._lock = threading.Lock()

    def _batches(self, rows: Rows) -> list[Rows]:
        size = self.sweeper.chosen_size
        return [rows.take(slice(start, start + size)) for start in range(0, len(rows), size)]

    def sample(self) -> list[Rows]:
        """Mappings that give the first limits."""
        least = 2 * self.sweeper.chosen_size
        return self._batches(self.sweeper.sample(max(least, self.sweeper.space.distinct // SAMPLED)))

    def try_out(self, rows: Rows, device: Any = None) -> list[np.ndarray]:
        """Price some mappings for every triple, and lower the limits; the least costs per box, [U of the box, 3]."""
        found = self.sweeper.least(rows, device)
        least = [of_box[box.places] for of_box, box in zip(found, self.sweeper.boxes, strict=True)]
        with self._lock:
            for best, new in zip(self._best, least, strict=True):
                np.minimum(best, new, out=best)
        return least

    def price(self, rows: Rows, device: Any = None) -> None:
        """Price mappings that may be optimal."""
        self._priced.append((rows, self.try_out(rows, device)))

    def screen(self, job: Job, device: Any = None) -> None:
        """Look at the mappings of a job, and price those that may be optimal as soon as they fill a chunk."""
        with self._lock:
            best = [x.copy() if self._screened else np.full_like(x, np.inf) for x in self._best]
        limits = tuple(screen.limits(x) for screen, x in zip(self._screens, best, strict=True))
        found, valid, covered = self.sweeper.screen(job, limits, device)
        full: list[Rows] = []
        with self._lock:
            fit = [counts[box.places] for counts, box in zip(valid, self.sweeper.boxes, strict=True)]
            self._decision.count(fit, covered)
            self._pending.append(found)
            if sum(map(len, self._pending)) >= self.sweeper.chosen_size:
                *full, rest = self._batches(Rows.join(self._pending))
                self._pending = [rest]
        for rows in full:
            self.price(rows, device)

    def pending(self) -> list[Rows]:
        """Mappings that are to be priced yet."""
        return self._batches(Rows.join(self._pending)) if self._pending else []

    def decide(self) -> None:
        """Price exactly what comes within rounding of the least cost of a triple."""
        near = [best * [NEAR[metric] for metric in METRICS] for best in self._best]
        limits = []
        for box, limit in zip(self.sweeper.boxes, near, strict=True):
            limits.append(np.full((*box.shape, len(METRICS)), -np.inf))
            limits[-1][box.places] = limit
        parts, flags = [], []
        for rows, least in self._priced:
            if not any(((x <= y) & np.isfinite(x)).any() for x, y in zip(least, near, strict=True)):
                continue
            found = self.sweeper.candidates(rows, limits)
            within = np.concatenate([x[box.places] for x, box in zip(found, self.sweeper.boxes, strict=True)])
            chosen = np.flatnonzero(within.any(axis=0))
            parts.append(rows.take(chosen))
            flags.append(within[:, chosen])
        if not parts:
            return
        rows = Rows.join(parts)
        _, first = np.unique(np.column_stack(rows), axis=0, return_index=True)
        self._decision.consider(rows.take(first), np.concatenate(flags, axis=1)[:, first])


def _exhaust(decision: Decision, share: Share, batch: int = 2048) -> None:
    """Price every mapping with the exact evaluator: slower, but also where neighbours may forward data."""
    space = decision.space
    starts = ((block, start) for block in orders(space) for start in range(0, block.size, batch))
    for block, start in itertools.islice(starts, share.index, None, share.count):
        rows = block.at(np.arange(start, min(start + batch, block.size)))
        weights = block.weights(space, rows)
        decision.covered += float(weights.sum())
        decision.consider(rows, weights=weights)


class Decision:
    """The best mappings so far by exact cost; ties go by (metric, cycles, energy, mapping order).

    Axis U: the distinct packing triples of all boxes in turn. valid: float64 [U] pruned mappings that fit; covered: how
    many pruned mappings were counted.
    """

    def __init__(self, space: Mapspace, bits: Sequence[BitWidths]) -> None:
        self.space, self.bits = space, tuple(bits)
        self.boxes = packing_boxes(space.arch, bits)
        self._operands = np.concatenate([box.operands for box in self.boxes])  # [U, L, T]
        self._triple = np.empty(len(bits), np.int64)
        first = 0
        for box in self.boxes:
            self._triple[box.bits] = first + box.inverse
            first += len(box.triples)
        self.valid, self.covered = np.zeros(first), 0.0
        shape = (len(METRICS), first)
        self._value, self._energy = np.full(shape, np.inf), np.full(shape, np.inf)
        self._cycles = np.zeros(shape, np.int64)
        self._rows = np.zeros((*shape, 1 + len(space.groups)), np.int32)

    def count(self, valid: list[np.ndarray], covered: float) -> None:
        """Add to the mappings that fit, per box float64 [U of the box], and to those that were counted."""
        self.valid += np.concatenate(valid)
        self.covered += covered

    def consider(self, rows: Rows, within: np.ndarray | None = None, *, weights: np.ndarray | None = None) -> None:
        """Let mappings compete at the triples that `within`, bool [U, N], marks; default all. `weights` are added to
        the valid counts."""
        within = np.ones((len(self.valid), len(rows)), bool) if within is None else within
        triple, row = np.nonzero(within)
        fits, energy, cycles = _exact(self.space, mappings(self.space, rows), row, self._operands[triple])
        if weights is not None:
            self.valid += np.bincount(triple[fits], weights[row[fits]], len(self.valid))
        triple, energy, cycles = triple[fits], energy[fits], cycles[fits]
        self._compete(triple, energy, cycles, np.column_stack(rows)[row[fits]])

    def _compete(self, triple: np.ndarray, energy: np.ndarray, cycles: np.ndarray, rows: np.ndarray) -> None:
        """Let mappings `rows`, each at a triple, compete with the best so far; all arrays [pairs, ...]."""
        for m, value in enumerate((energy, energy * cycles, cycles.astype(np.float64))):
            old = np.flatnonzero(np.isfinite(self._value[m]))
            u, value, energies, duration, numbers = (
                np.concatenate(parts)
                for parts in (
                    (old, triple),
                    (self._value[m, old], value),
                    (self._energy[m, old], energy),
                    (self._cycles[m, old], cycles),
                    (self._rows[m, old], rows),
                )
            )
            ranked = np.lexsort((*numbers.T[::-1], energies, duration, value, u))
            u, first = np.unique(u[ranked], return_index=True)
            best = ranked[first]
            self._value[m, u], self._energy[m, u] = value[best], energies[best]
            self._cycles[m, u], self._rows[m, u] = duration[best], numbers[best]

    def arrays(self) -> tuple[np.ndarray, ...]:
        """All that is known, in arrays whose shapes depend on the space and the widths alone."""
        return self._energy, self._cycles, self._rows, self.valid, np.array([self.covered])

    def merge(self, energy: np.ndarray, cycles: np.ndarray, rows: np.ndarray, valid: np.ndarray, covered: np.ndarray):
        """Add what another decision knows of other parts of the space: its `arrays`."""
        for m in range(len(METRICS)):
            found = np.flatnonzero(np.isfinite(energy[m]))
            self._compete(found, energy[m, found], cycles[m, found], rows[m, found])
        self.valid += valid
        self.covered += float(covered[0])

    def solution(self) -> Solution:
        """The optimum for each of `bits`."""
        index = np.full(self._value.shape, -1)
        found = np.isfinite(self._value)
        unique, place = np.unique(self._rows[found], axis=0, return_inverse=True)
        index[found] = place.reshape(-1)
        arrays = mappings(self.space, Rows(unique[:, 0], unique[:, 1:]))
        # The order of spatial loops matters to forwarding and is not enumerated.
        space = self.space
        free = any(len(set(space.free_dims(t)) & set(space.movable(t))) > 1 for t in space.free_splits)
        return Solution(
            space=space,
            bits=self.bits,
            energy_pj=self._energy[:, self._triple],
            cycles=self._cycles[:, self._triple],
            index=index[:, self._triple],
            mappings=[decode(space.arch, arrays, i) for i in range(len(unique))],
            valid=np.rint(self.valid[self._triple]).astype(np.int64),
            covered=round(self.covered) == space.fanout_valid and not (space.may_forward and free),
        )


def _exact(
    space: Mapspace, nests: Mappings, row: np.ndarray, operands: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Validity, energy and cycles [pairs] of the loop nests at `row` with `operands` per word [pairs, L, T]."""
    fits, energy = np.zeros(len(row), bool), np.full(len(row), np.inf)
    cycles = np.zeros(len(row), np.int64)
    for part in analyse_mappings(space.arch, [space.layer] * len(nests), nests, chunk=64):
        place = np.full(len(nests), -1)
        place[part.rows] = np.arange(len(part.rows))
        pairs = np.flatnonzero(place[row] >= 0)
        for start in range(0, len(pairs), ROWS_AT_ONCE):
            some = pairs[start : start + ROWS_AT_ONCE]
            validity, priced = part.take(place[row[some]]).cost(space.arch, operands[some])
            fits[some], energy[some], cycles[some] = validity.valid, priced.energy_pj, priced.cycles
    return fits, energy, cycles
