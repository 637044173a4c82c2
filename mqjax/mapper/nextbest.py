"""What the next-best mapping of a layer loses: the two least costs of a whole space, and how many mappings share the least.

The sweep's programs price every mapping of the distinct space; those that come within rounding of the second cost known so
far are priced exactly, as are all those that may beat it and in which neighbours may forward data. Spaces too large for that
are searched around the best mapping: what is found there bounds the loss from above, and says that it is not proven.
"""

from __future__ import annotations

import dataclasses
import math
import time
from typing import Any

import numpy as np

from mqjax.arch import Arch
from mqjax.cost.exact.evaluator import check_counts
from mqjax.cost.fast.terms import LARGEST_SWEPT
from mqjax.cost.packing import Widths, packing_boxes, slowest_pace, stacked_widths
from mqjax.mapper.decision import exact_costs
from mqjax.mapper.limits import NEAR, Limiter
from mqjax.mapper.localsearch import CHILDREN, POOL, Codec
from mqjax.mapper.optimum import is_swept
from mqjax.mapper.programs import Limits
from mqjax.mapper.sweep import Job, Sweeper
from mqjax.mapspace.mapping import Mappings, decode, encode
from mqjax.mapspace.padding import padded_or_itself
from mqjax.mapspace.rows import Rows, mappings, spatial_variants
from mqjax.mapspace.space import Mapspace
from mqjax.progress import SILENT, Progress
from mqjax.types import METRICS, SECONDS, BitWidths, Layer

PRICED_AT_A_TIME = 2**10
"""Mappings of a chunk, the cheapest first, after which the limit is looked at again."""

NOTHING = 1e-150
"""Costs below it are 0, whatever the sweep puts in place of 0 for the sake of its formulas."""


PATIENCE = 10
"""A search around the best mapping ends after so many generations that found nothing nearer to its cost."""


@dataclasses.dataclass(frozen=True)
class RunnerUp:
    """The next-best cost in a space: `ties` distinct mappings cost what the best costs, then comes `value`.

    metric: "energy" (pJ), "edp" (pJ * cycles) or "delay" (cycles). loss: value / best - 1. mapping: one that costs `value`.
    These three are `None` where all mappings that fit cost the same. covered: the whole space was compared; otherwise a better
    one may exist between the best and `value`, and `ties` is `None`.
    """

    metric: str
    best: float
    value: float | None
    loss: float | None
    ties: int | None
    mapping: list[dict[str, Any]] | None
    covered: bool = True


def runner_up(
    arch: Arch,
    layer: Layer,
    bits: BitWidths,
    *,
    metric: str = "energy",
    constraints: str = "paper",
    seconds: float = SECONDS,
    progress: Progress = SILENT,
) -> RunnerUp | None:
    """The next-best cost of `layer` by `metric`, exact, over its whole space, on bounds padded where `constraints` need it.
    `None` where nothing fits, where the space is too large to be swept (see `runner_up_near`), and where that takes longer than
    `seconds`. Raises `InputError` where the layer cannot be mapped."""
    space = Mapspace(arch, padded_or_itself(arch, layer, constraints=constraints), constraints=constraints)
    if not is_swept(space) or not space.distinct:
        return None
    check_counts(space.layer, LARGEST_SWEPT / slowest_pace(arch))
    sweep = _TwoBest(space, bits, metric)
    deadline = math.inf
    for job in sweep.sweeper.jobs():
        for chunk in range(job.chunks):
            if time.monotonic() > deadline:
                return None
            sweep.look_at(job, chunk)
            # The clock starts when the programs are compiled.
            deadline = min(deadline, time.monotonic() + seconds)
        sweep.look_at_doubtful(job)
        progress.say("mappings compared")
    return sweep.found()


def runner_up_near(
    arch: Arch,
    layer: Layer,
    bits: BitWidths,
    best: list[dict[str, Any]],
    *,
    metric: str = "energy",
    constraints: str = "paper",
    seconds: float = SECONDS,
    progress: Progress = SILENT,
) -> RunnerUp:
    """The next-best cost that a local search around `best` finds, a mapping of `layer` that fits: not proven to be the next.
    It takes `seconds` at most. For the rest see `runner_up`."""
    space = Mapspace(arch, layer, constraints=constraints)
    codec, generator, deadline = Codec(space), np.random.default_rng(0), time.monotonic() + seconds
    widths = stacked_widths(arch, [bits])

    def price(codes: np.ndarray) -> np.ndarray:
        """Costs float64 [N]; infinite where a mapping does not fit."""
        return np.where(codec.in_use(codes), _exact(space, codec.nests(codes), widths, metric), np.inf)

    pool = codec.encode(encode(arch, [layer], [best]))
    costs = price(pool)
    least, idle = float(costs[0]), 0
    while idle < PATIENCE and time.monotonic() < deadline:
        before = costs[costs > least].min(initial=np.inf)
        children = codec.children(pool, generator)
        pool, first = np.unique(np.concatenate([pool, children]), axis=0, return_index=True)
        costs = np.concatenate([costs, price(children)])[first]
        # What costs as little as the best, and what comes next: both have next-best neighbours.
        order = np.lexsort((generator.random(len(costs)), costs))
        alike = int((costs <= least).sum())
        kept = np.concatenate([order[: min(alike, POOL)], order[alike : alike + POOL]])
        pool, costs = pool[kept], costs[kept]
        idle = 0 if costs[costs > least].min(initial=np.inf) < before else idle + 1
        progress.say(f"too many mappings to compare: {CHILDREN} more around the best")
    further = costs > least
    place = int(np.argmin(np.where(further, costs, np.inf)))
    value = float(costs[place])
    if not further.any() or math.isinf(value):
        return RunnerUp(metric, least, None, None, None, None, covered=False)
    record = decode(arch, layer, codec.nests(pool[place][None]), 0)
    return RunnerUp(metric, least, value, value / least - 1 if least else math.inf, None, record, covered=False)


def _exact(space: Mapspace, nests: Mappings, widths: Widths, metric: str) -> np.ndarray:
    """Exact costs float64 [N] of loop nests at the only widths of `widths`; infinite where one does not fit."""
    every = np.arange(len(nests))
    fits, energy, cycles = exact_costs(space, nests, every, widths.take(np.zeros_like(every)))
    costs = {"energy": energy, "edp": energy * cycles, "delay": cycles.astype(np.float64)}[metric]
    return np.where(fits, costs, np.inf)


class _TwoBest:
    """The two least costs so far, each with the code of the first mapping that has it, and the mappings that share the least."""

    def __init__(self, space: Mapspace, bits: BitWidths, metric: str) -> None:
        boxes = packing_boxes(space.arch, [bits])
        self.sweeper = Sweeper(space, boxes)
        self._space, self._metric, self._widths = space, metric, stacked_widths(space.arch, [bits])
        self._limiter = Limiter(boxes[0], space.layer.macs) if space.may_forward else None
        self._costs, self._codes = [math.inf, math.inf], [np.empty(0, np.int32)] * 2
        self._ties = 0

    def look_at(self, job: Job, chunk: int) -> None:
        """Let the mappings of a chunk compete, but for the doubtful ones."""
        ((numbers, energy, cycles),) = self.sweeper.costs(job, chunk)
        if self._metric == "delay":
            # Cycles are exact.
            self._add(cycles, lambda at: self.sweeper.rows(job, numbers[at]).codes)
            return
        costs = energy if self._metric == "energy" else energy * cycles
        order = np.argsort(costs, kind="stable")
        for start in range(0, len(order), PRICED_AT_A_TIME):
            some = order[start : start + PRICED_AT_A_TIME]
            some = some[costs[some] <= self._costs[1] * NEAR[self._metric] + NOTHING]
            if not len(some):
                return
            self._price(self.sweeper.rows(job, numbers[some]))

    def look_at_doubtful(self, job: Job) -> None:
        """Let those mappings of a job compete whose neighbours may forward data, with all orders of their spatial loops."""
        if self._limiter is None:
            return
        found = self.sweeper.screen(job, (self._limits(self._limiter),)).doubtful
        for start in range(0, len(found), PRICED_AT_A_TIME):
            some = found.take(slice(start, start + PRICED_AT_A_TIME))
            self._price(spatial_variants(self._space, some))

    def _limits(self, limiter: Limiter) -> Limits:
        """What rules out mappings that cost more than the second so far: 0 for what is not minimised."""
        second = self._costs[1] + NOTHING
        if self._metric == "delay":
            second += 1  # the sweep adds the energy as a fraction of a cycle
        return limiter.limits(np.array([[second if metric == self._metric else 0.0 for metric in METRICS]]))

    def _price(self, rows: Rows) -> None:
        """Let mappings compete by their exact costs."""
        costs = _exact(self._space, mappings(self._space, rows), self._widths, self._metric)
        kept = np.flatnonzero(np.isfinite(costs))
        self._add(costs[kept], lambda at: rows.take(kept[at]).codes)

    def _add(self, costs: np.ndarray, codes: Any) -> None:
        """Exact costs float64 [N] of further mappings; codes: of places among them int64 [M], int32 [M, code]."""
        # No more than two of them can be among the two least.
        for cost in np.unique(costs)[:2]:
            alike = np.flatnonzero(costs == cost)
            if cost == self._costs[0]:
                self._ties += len(alike)
                continue
            place = int(np.searchsorted(self._costs, cost))
            if place < 2 and cost < self._costs[place]:
                self._costs.insert(place, float(cost))
                self._codes.insert(place, codes(alike[:1])[0])
                del self._costs[2:], self._codes[2:]
                if place == 0:
                    self._ties = len(alike)

    def found(self) -> RunnerUp | None:
        """What was found; `None` where nothing fits."""
        best, value = self._costs
        if math.isinf(best):
            return None
        if math.isinf(value):
            return RunnerUp(self._metric, best, None, None, self._ties, None)
        nests = mappings(self._space, Rows.of_codes(self._codes[1][None]))
        record = decode(self._space.arch, self._space.layer, nests, 0)
        return RunnerUp(self._metric, best, value, value / best - 1 if best else math.inf, self._ties, record)
