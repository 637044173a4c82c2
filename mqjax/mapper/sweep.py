"""Sweeping a mapspace with the compiled programs of `mqjax.mapper.programs`: blocks of mappings, their tables, and rows found.

Energies may be off by an ulp there, so a sweep only selects candidates, whose costs the exact evaluator then computes.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from mqjax.cost.fast.plan import make_plan, numbers
from mqjax.cost.packing import PackingBox
from mqjax.kept import Kept
from mqjax.mapper import programs
from mqjax.mapper.programs import Limits, Tables
from mqjax.mapspace.joint import Group
from mqjax.mapspace.rows import Block, Numbering, Rows, blocks_of, pruned_weights
from mqjax.mapspace.space import Mapspace


class Sizes(NamedTuple):
    """How many mappings the programs take; fixed, so that all layers share one compiled program."""

    chunk: int  # mappings of a block at once, for several width triples
    single: int  # the same for one triple
    chosen: int  # mappings at once that are given one by one
    block_rows: int  # rows of a group's table on the device at a time; at least as many as a chunk has mappings
    chunks: int  # chunks of a block in one call


SIZES_BY_PLATFORM = {"cpu": Sizes(2**12, 2**13, 2**11, 2**15, 16), "gpu": Sizes(2**20, 2**20, 2**16, 2**20, 4)}
"""By platform. A CPU's cache holds what a chunk needs; a GPU wants work for all its threads. Those of GPUs are bounded by memory
(a test holds it) and were not measured: none was at hand."""

BLOCK_ORDERS_MOST = 2**7
"""Loop orders that get blocks of their own; where there are more, every mapping brings its order along."""


_screen = Kept(programs.screen, ("plan", "size", "most", "some_open"), programs.FAST)
_minima = Kept(programs.minima, ("plan", "size", "most"), programs.FAST)
_candidates = Kept(programs.candidates, ("plan", "size"), programs.FAST)


class Job(NamedTuple):
    """Chunks first, first + 1, ... of block number `block`; or the mappings `rows`, each with its loop order."""

    block: int
    first: int
    chunks: int
    rows: Rows | None = None


class Found(NamedTuple):
    """What the screen says of a job: the mappings that no limit rules out, apart from them those that are doubtful
    (`terms.doubtful`), per box how many pruned mappings fit each triple, float64 [KS, KW], and how many there are."""

    kept: Rows
    doubtful: Rows
    valid: tuple[np.ndarray, ...]
    covered: float


class Sweeper:
    """Runs the compiled programs over one mapspace."""

    def __init__(self, space: Mapspace, boxes: Sequence[PackingBox], sizes: Sizes | None = None) -> None:
        """sizes: default, those that suit the platform."""
        self.space = space
        self.boxes = tuple(boxes)
        self._packed = tuple(box.packed for box in self.boxes)
        self.plan = make_plan(space)
        self.numbers = numbers(space.arch, space.layer)
        self.sizes = sizes or SIZES_BY_PLATFORM.get(jax.default_backend(), SIZES_BY_PLATFORM["gpu"])
        self.chosen_size = self.sizes.chosen
        self.size = self.sizes.chunk if max(len(box.triples) for box in boxes) > 1 else self.sizes.single
        self.numbering = Numbering(space)
        # Chosen mappings have one table of all columns, which is read in order.
        self._flat = dataclasses.replace(self.plan, columns=(tuple(itertools.chain(*self.plan.columns)),))
        self._order_picks = [self._picks_of_orders(t) for t in self.plan.free_levels]
        # A block's tables serve several jobs in a row, on each device.
        self._tables = functools.lru_cache(maxsize=2 * len(jax.local_devices()) + 2)(self._block_tables)
        most = self.sizes.block_rows
        self._blocks = [
            Block(whole.number, whole.order, rows)
            for whole in (blocks_of(space) if math.prod(self.numbering.shape) <= BLOCK_ORDERS_MOST else ())
            for rows in itertools.product(
                *([rows[i : i + most] for i in range(0, len(rows), most)] for rows in whole.rows)
            )
        ]

    @property
    def has_blocks(self) -> bool:
        """Whether loop orders have blocks of their own, or every mapping brings its order along."""
        return bool(self._blocks)

    def jobs(self) -> Iterator[Job]:
        """The whole space in pieces."""
        if not self._blocks:
            total = len(self.numbering)
            for start in range(0, total, self.chosen_size):
                numbers = np.arange(start, min(start + self.chosen_size, total))
                yield Job(0, 0, 1, self.numbering.at(numbers))
        for number, block in enumerate(self._blocks):
            chunks = -(-block.size // self.size)
            for first in range(0, chunks, self.sizes.chunks):
                yield Job(number, first, min(self.sizes.chunks, chunks - first))

    def _block_tables(self, number: int, device: Any) -> Tables:
        """What programs read of a block, on a device."""
        block = self._blocks[number]
        columns, weights = [], []
        for group, slots, rows in zip(self.space.groups, self.plan.columns, block.rows, strict=True):
            capacity = self.sizes.block_rows if slots else 1
            table = np.empty((len(slots), capacity))
            table[:, len(rows) :] = 1
            self._write_bounds(table, group, slots, rows)
            weight = np.zeros(capacity)
            weight[: len(rows)] = group.weight[rows] if block.counted else 0.0
            columns.append(table)
            weights.append(weight)
        rows = tuple(np.float64(len(rows)) for rows in block.rows)
        tables = Tables(self.numbers, tuple(columns), tuple(weights), rows, self._picks(block.order))
        return jax.device_put(tables, device)

    @staticmethod
    def _write_bounds(table: np.ndarray, group: Group, slots: tuple[tuple[int, int], ...], rows: np.ndarray) -> None:
        """Write the bounds of a group's rows at the given slots, one column of `table` [slots, >= rows] each."""
        places = [pick[rows] for pick in group.picks]
        for column, (d, t) in zip(table, slots, strict=True):
            i = group.dims.index(d)
            column[: len(rows)] = group.tables[i][:, t][places[i]]

    def _picks(self, order: dict[int, tuple[int, ...]]) -> tuple[np.ndarray, ...]:
        """Per free level, which of its free dimensions stands at each position; unit dimensions come last."""
        return tuple(self._picks_of_level(t, order.get(t, ())) for t in self.plan.free_levels)

    def _picks_of_level(self, t: int, moving: tuple[int, ...]) -> np.ndarray:
        free = self.plan.tiling[t][3]
        sequence = [*moving, *(d for d in free if d not in moving)]
        return np.array([free.index(d) for d in sequence], np.int32)

    def _picks_of_orders(self, t: int) -> tuple[int, np.ndarray]:
        """The group to which a free level belongs, and its picks int32 [positions, orders of the group]."""
        first = self.plan.tiling[t][3][0]
        number, group = next((i, g) for i, g in enumerate(self.space.groups) if first in g.dims)
        picks = [self._picks_of_level(t, order.get(t, ())) for order, _ in group.orders]
        return number, np.stack(picks, axis=1)

    def chosen_tables(self, rows: Rows) -> Tables:
        """What programs read of at most `chosen_size` mappings: one table."""
        columns = np.ones((len(self._flat.columns[0]), self.chosen_size))
        first = 0
        for group, slots, picks in zip(self.space.groups, self.plan.columns, rows.of_groups.T, strict=True):
            self._write_bounds(columns[first : first + len(slots)], group, slots, picks)
            first += len(slots)
        order = np.zeros(self.chosen_size, np.int32)
        order[: len(rows)] = rows.order
        weight = np.zeros(self.chosen_size)
        weight[: len(rows)] = pruned_weights(self.space, rows)
        digits = self.numbering.digits(order)
        picks = tuple(picks[:, digits[group]] for group, picks in self._order_picks)
        return Tables(self.numbers, (columns,), (weight,), (np.float64(len(rows)),), picks)

    def minima(self, job: Job, device: Any = None) -> tuple[np.ndarray, ...]:
        """Least costs of the chunks of a job, per box float64 [chunks, KS, KW, 3].

        device: the JAX device that computes; default JAX's own.
        """
        with jax.enable_x64(True), jax.default_device(device):
            best = _minima(
                self.plan,
                self._tables(job.block, device),
                self._packed,
                np.int64(job.first),
                np.int64(job.chunks),
                self.size,
                self.sizes.chunks,
            )
        return tuple(np.asarray(of_box)[: job.chunks] for of_box in best)

    def screen(self, job: Job, limits: tuple[Limits, ...], device: Any = None) -> Found:
        """Which mappings of a job the limits of no box rule out."""
        some_open = any(bool(of_box.open.any()) for of_box in limits)
        with jax.enable_x64(True), jax.default_device(device):
            if job.rows is None:
                chunks = np.int64(job.first), np.int64(job.chunks)
                arguments = (self._tables(job.block, device), limits, *chunks, self.size, self.sizes.chunks)
                found, valid, covered = _screen(self.plan, *arguments, some_open)
            else:
                arguments = (self.chosen_tables(job.rows), limits, np.int64(0), np.int64(1), self.chosen_size, 1)
                found, valid, covered = _screen(self._flat, *arguments, some_open)
        kept, doubtful = (self.rows(job, np.flatnonzero(np.asarray(found) == kind)) for kind in (1, 2))
        return Found(kept, doubtful, tuple(np.asarray(x) for x in valid), float(covered))

    def rows(self, job: Job, numbers: np.ndarray) -> Rows:
        """The mappings of a job with these numbers, counted from its first."""
        if job.rows is not None:
            return job.rows.take(numbers)
        return self._blocks[job.block].at(job.first * self.size + numbers)

    def least(self, rows: Rows, device: Any = None) -> tuple[np.ndarray, ...]:
        """Least costs of at most `chosen_size` mappings, per box float64 [KS, KW, 3]."""
        with jax.enable_x64(True), jax.default_device(device):
            tables, zero, one = self.chosen_tables(rows), np.int64(0), np.int64(1)
            best = _minima(self._flat, tables, self._packed, zero, one, self.chosen_size, 1)
        return tuple(np.asarray(of_box)[0] for of_box in best)

    def candidates(self, rows: Rows, limits: Sequence[np.ndarray]) -> tuple[np.ndarray, ...]:
        """Which of at most `chosen_size` mappings come within `limits`, per box [KS, KW, 3]: bool [KS, KW, N]."""
        with jax.enable_x64(True):
            tables = self.chosen_tables(rows)
            found = _candidates(self._flat, tables, self._packed, tuple(limits), self.chosen_size)
        return tuple(np.asarray(of_box)[..., : len(rows)] for of_box in found)

    def sample(self, count: int) -> Rows:
        """About `count` mappings at equal distances in the space."""
        total = len(self.numbering)
        step = max(1, total // count)
        return self.numbering.at(np.arange(step // 2, total, step))

    def operations(self, job: Job) -> float:
        """Floating-point operations per mapping that XLA counts in the cost terms and their combination."""
        with jax.enable_x64(True):
            arguments = (self._tables(job.block, None), self._packed, np.int64(0), self.size)
            counted: Any = programs.priced.lower(self.plan, *arguments).compile().cost_analysis()
        triples = sum(math.prod(box.shape) for box in self.boxes)
        # Per triple: an addition, a maximum, two multiplications, an addition, and three minima.
        return float(counted["flops"]) / self.size + 8 * triples

    def costs(self, job: Job, chunk: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """For each triple of each box in turn: numbers in the job of the mappings of a chunk that fit (see `rows`), and
        their energies, approximate, and cycles."""
        with jax.enable_x64(True):
            if job.rows is None:
                number, tables = np.int64(job.first + chunk), self._tables(job.block, None)
                found = programs.priced(self.plan, tables, self._packed, number, self.size)
            else:
                tables = self.chosen_tables(job.rows)
                found = programs.priced(self._flat, tables, self._packed, np.int64(0), self.chosen_size)
        for box, of_box in zip(self.boxes, found, strict=True):
            of_pairs = [None if x is None else np.asarray(x) for x in of_box.of_pairs]
            for s, w in zip(*box.places, strict=True):
                of_pair = of_box.pair(tuple(None if x is None else x[s] for x in of_pairs))
                with jax.enable_x64(True):
                    energy, cycles = map(np.asarray, of_pair.triple(w))
                fits = np.flatnonzero(np.isfinite(cycles))
                yield chunk * self.size + fits, energy[fits], cycles[fits]
