"""Proven-optimal mappings: sweep the whole distinct space, then decide among near-ties with the exact evaluator.

A sample of the space gives first costs for every width triple. Lower bounds (`mqjax.mapper.limits`) then rule out most mappings;
the others are priced for every triple, which lowers the limits for what follows. Those that come within rounding of the
least cost are priced exactly, as are all those that are not ruled out and in which neighbours may forward data. Ties are
broken by (metric, cycles, energy, mapping order), so the answer depends neither on what was ruled out when, nor on chunk
size or device.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import itertools
import math
import os
import threading
import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from mqjax.cost.exact.evaluator import check_counts
from mqjax.cost.fast.terms import LARGEST_SWEPT, LEAST_PJ
from mqjax.cost.packing import packing_boxes, slowest_pace
from mqjax.errors import InputError
from mqjax.mapper.decision import Decision, exact_costs
from mqjax.mapper.levels.proof import prove
from mqjax.mapper.limits import NEAR, Limiter
from mqjax.mapper.localsearch import search_mappings
from mqjax.mapper.optima import Solution
from mqjax.mapper.sweep import Job, Sweeper
from mqjax.mapspace.mapping import Mappings, encode
from mqjax.mapspace.rows import Rows, mappings, spatial_variants
from mqjax.mapspace.space import Mapspace
from mqjax.progress import SILENT, Progress
from mqjax.types import METRICS, SECONDS, BitWidths

ONE_SAMPLED_OF = 64
"""One of so many mappings is priced before the screen begins."""


SWEPT_MOST = 2**18
"""Mappings of the pruned space, times packings, that are swept without the paper's constraints; where there are more, the optima
are proven level by level, which is quicker but leaves the valid mappings uncounted."""

EXACTLY_AT_ONCE = 256
"""Mappings outside the fast path that are priced together."""


@dataclasses.dataclass(frozen=True)
class Share:
    """Part `index` of `count` equal parts of a space."""

    index: int = 0
    count: int = 1


WHOLE = Share()


def is_swept(space: Mapspace, packings: int = 1) -> bool:
    """Whether all mappings of a space are looked at for so many packings; optima of others are proven level by level, or
    searched."""
    # To say whether a space is too large takes up to seconds, its pruned size none.
    return (space.constraints == "paper" or space.pruned_size * packings <= SWEPT_MOST) and not space.too_large


def solve(
    space: Mapspace,
    bits: Sequence[BitWidths],
    *,
    screened: bool = True,
    seconds: float = SECONDS,
    progress: Progress = SILENT,
) -> Solution:
    """Cover the whole of `space` for all `bits` and all metrics. Where it is too large, or takes longer than `seconds`, the
    solution is the best that was found, and not proven.

    screened: rule out mappings by lower bounds; the solution is the same without, several times slower.
    progress: told now and then what is being done.
    """
    return decide(space, bits, screened=screened, seconds=seconds, progress=progress).solution()


def decide(
    space: Mapspace,
    bits: Sequence[BitWidths],
    *,
    screened: bool = True,
    share: Share = WHOLE,
    seconds: float = SECONDS,
    progress: Progress = SILENT,
) -> Decision:
    """Cover a share of `space` for all `bits` and all metrics. The whole is proven level by level where that is quicker, and
    searched where it is too large for either."""
    check_counts(space.layer, LARGEST_SWEPT / slowest_pace(space.arch))
    packings = sum(len(box.triples) for box in packing_boxes(space.arch, bits))
    if not is_swept(space, packings):
        deadline = time.monotonic() + seconds
        decision = prove(space, bits, deadline=deadline, progress=progress)
        if not decision.proven and space.too_large:
            decision.join(search_mappings(space, bits, _starts(space, bits), deadline=deadline, progress=progress))
        if decision.proven or space.too_large:
            return decision

    def nests(codes: np.ndarray) -> Mappings:
        return mappings(space, Rows.of_codes(codes))

    decision = Decision(space, bits, 2 + len(space.groups), nests)
    if space.distinct:
        _sweep(decision, screened, share, seconds, progress)
    return decision


def _starts(space: Mapspace, bits: Sequence[BitWidths]) -> list[Mappings]:
    """Where a search begins: the optima under the paper's constraints, if these can be met."""
    try:
        paper = Mapspace(space.arch, space.layer)
        if space.constraints == "paper" or paper.too_large:
            return []
        best = solve(paper, bits).mappings
    except InputError:
        return []
    return [encode(space.arch, [space.layer] * len(best), best)] if best else []


def _sweep(decision: Decision, screened: bool, share: Share, seconds: float, progress: Progress) -> None:
    """Sweep approximately, decide exactly."""
    sweeper = Sweeper(decision.space, decision.boxes)
    _compile(sweeper)
    # Minima do not depend on where a chunk was swept, so neither does the optimum.
    devices = _devices()
    sweep = _Sweep(sweeper, decision, screened, seconds, len(devices), progress)
    jobs = itertools.islice(sweep.sweeper.jobs(), share.index, None, share.count)
    with concurrent.futures.ThreadPoolExecutor(max(len(devices), os.cpu_count() or 1)) as pool:
        list(pool.map(sweep.try_out, sweep.sample(), itertools.cycle(devices)))
        list(pool.map(sweep.screen, jobs, itertools.cycle(devices)))
        list(pool.map(sweep.price, sweep.pending(), itertools.cycle(devices)))
    sweep.decide()


def _devices() -> list[Any]:
    """The device that the caller has chosen by `jax.default_device`, or all of this process."""
    chosen: Any = jax.config.jax_default_device  # pyright: ignore[reportAttributeAccessIssue]
    if chosen is None:
        return jax.local_devices()
    return [jax.local_devices(backend=chosen)[0] if isinstance(chosen, str) else chosen]


_known_programs: set[tuple[Any, ...]] = set()
_compiling = threading.Lock()


def _compile(sweeper: Sweeper) -> None:
    """Compile all programs of a sweep, so that layers which are swept side by side do not compile the same one twice."""
    key = sweeper.plan, sweeper.has_blocks, tuple(table.shape for box in sweeper.boxes for table in box.per_tensor)
    with _compiling:
        if key in _known_programs:
            return
        rows = sweeper.sample(1).take(slice(1))
        unlimited = [np.full((*shape, len(METRICS)), np.inf) for shape in (box.shape for box in sweeper.boxes)]
        limits = tuple(
            Limiter(box, sweeper.space.layer.macs).limits(np.ones((len(box.triples), len(METRICS))))
            for box in sweeper.boxes
        )
        device = _devices()[0]
        nothing = Job(0, 0, 0, None if sweeper.has_blocks else rows)
        programs = (
            lambda: sweeper.screen(nothing, limits, device),
            lambda: sweeper.least(rows, device),
            lambda: sweeper.candidates(rows, unlimited),
            lambda: exact_costs(
                sweeper.space, mappings(sweeper.space, rows), np.array([0]), sweeper.boxes[0].widths.take(slice(1))
            ),
        )
        for program in programs:
            program()
        _known_programs.add(key)


class _Sweep:
    """The state of a sweep, which several threads share."""

    def __init__(
        self, sweeper: Sweeper, decision: Decision, screened: bool, seconds: float, devices: int, progress: Progress
    ) -> None:
        self.sweeper = sweeper
        self._decision, self._screened, self._seconds, self._progress = decision, screened, seconds, progress
        # The clock starts when every device has compiled its programs, which says nothing of the space.
        self._compiling, self._deadline = devices, math.inf
        self._limiters = [Limiter(box, decision.space.layer.macs) for box in decision.boxes]
        self._best = [np.full((len(box.triples), len(METRICS)), np.inf) for box in decision.boxes]
        self._pending: list[Rows] = []
        self._doubtful: list[Rows] = []
        self._priced: list[tuple[Rows, list[np.ndarray]]] = []
        self._looked_at = 0
        self._lock, self._deciding = threading.Lock(), threading.Lock()

    def _batches(self, rows: Rows) -> list[Rows]:
        size = self.sweeper.chosen_size
        return [rows.take(slice(start, start + size)) for start in range(0, len(rows), size)]

    def sample(self) -> list[Rows]:
        """Mappings that give the first limits."""
        least = 2 * self.sweeper.chosen_size
        return self._batches(self.sweeper.sample(max(least, self.sweeper.space.distinct // ONE_SAMPLED_OF)))

    def try_out(self, rows: Rows, device: Any = None) -> list[np.ndarray]:
        """Price some mappings for every triple, and lower the limits; the least costs per box, [U of the box, 3]."""
        found = self.sweeper.least(rows, device)
        least = [of_box[box.places] for of_box, box in zip(found, self.sweeper.boxes, strict=True)]
        self._lower(least)
        return least

    def _lower(self, least: list[np.ndarray]) -> None:
        """Lower the limits to these costs, per box [U of the box, 3]."""
        with self._lock:
            for best, new in zip(self._best, least, strict=True):
                np.minimum(best, new, out=best)

    def price(self, rows: Rows, device: Any = None) -> None:
        """Price mappings that may be optimal."""
        self._priced.append((rows, self.try_out(rows, device)))

    def price_exactly(self, rows: Rows) -> None:
        """Let mappings compete that the fast path does not price, with all orders of their spatial loops."""
        variants = spatial_variants(self.sweeper.space, rows)
        for some in self._batches(variants):
            if time.monotonic() > self._deadline:
                return self._give_up()
            with self._deciding:
                energy, cycles = self._decision.consider(some.codes)  # each [U, N]
            with np.errstate(invalid="ignore"):
                costs = energy, np.maximum(energy, LEAST_PJ) * cycles, cycles + energy * self.sweeper.numbers.tie
            least = np.stack([cost.min(axis=1, initial=np.inf) for cost in costs], axis=1)
            ends = np.cumsum([len(box.triples) for box in self.sweeper.boxes])
            self._lower(np.split(least, ends[:-1]))

    def _start_clock(self) -> None:
        self._deadline = min(self._deadline, time.monotonic() + self._seconds)

    def _give_up(self) -> None:
        """There is no time left to look at everything."""
        self._decision.searched = self._looked_at
        self._decision.covered = math.nan  # so that processes which merge this decision know, too

    def screen(self, job: Job, device: Any = None) -> None:
        """Look at the mappings of a job, and price those that may be optimal as soon as they fill a chunk."""
        if time.monotonic() > self._deadline:
            return self._give_up()
        with self._lock:
            best = [x.copy() if self._screened else np.full_like(x, np.inf) for x in self._best]
        limits = tuple(limiter.limits(x) for limiter, x in zip(self._limiters, best, strict=True))
        found = self.sweeper.screen(job, limits, device)
        full: list[Rows] = []
        doubtful: list[Rows] = []
        with self._lock:
            fit = [counts[box.places] for counts, box in zip(found.valid, self.sweeper.boxes, strict=True)]
            self._decision.count(fit, found.covered)
            self._pending.append(found.kept)
            if len(found.doubtful):
                self._doubtful.append(found.doubtful)
            self._looked_at += self.sweeper.size * job.chunks if job.rows is None else len(job.rows)
            self._compiling -= 1
            if self._compiling == 0:
                self._start_clock()
            if sum(map(len, self._pending)) >= self.sweeper.chosen_size:
                *full, rest = self._batches(Rows.join(self._pending))
                self._pending = [rest]
            if sum(map(len, self._doubtful)) >= EXACTLY_AT_ONCE:
                doubtful, self._doubtful = self._doubtful, []
        space = self.sweeper.space
        self._progress.say(f"{min(self._looked_at, space.distinct):,} of {space.distinct:,} mappings looked at")
        for rows in full:
            self.price(rows, device)
        if doubtful:
            self.price_exactly(Rows.join(doubtful))

    def pending(self) -> list[Rows]:
        """Mappings that are to be priced yet."""
        return self._batches(Rows.join(self._pending)) if self._pending else []

    def decide(self) -> None:
        """Price exactly what is outside the fast path, and what comes within rounding of the least cost of a triple."""
        self._start_clock()
        if self._doubtful:
            self.price_exactly(Rows.join(self._doubtful))
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
        _, first = np.unique(rows.codes, axis=0, return_index=True)
        self._decision.consider(rows.take(first).codes, np.concatenate(flags, axis=1)[:, first])
