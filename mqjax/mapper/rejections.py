"""Which levels reject how many mappings of a layer, by how much, and the least change that admits one.

Whether a mapping fits depends on its factorisation and on what lies on X and Y, not on the orders of its temporal loops,
so factorisations are looked at, each with the number of mappings of the pruned space that it stands for. Where there are
too many, a sample is, beside the least that every mapping takes, which follows from the dimensions one by one.

Axes: N factorisations, T tiling levels, D dimensions, S storage levels.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from mqjax.cost.exact.nest import problem
from mqjax.cost.packing import packing_table, words
from mqjax.mapspace.fitting import arrangements, count_choices
from mqjax.mapspace.joint import unique_rows
from mqjax.mapspace.rows import Rows, factors_of
from mqjax.mapspace.space import Mapspace
from mqjax.types import TENSORS, BitWidths

EXACT_MOST = 2**22
"""Factorisations that are all looked at; of more, some are sampled."""

SAMPLE = 2**16
"""Factorisations in a sample."""

_AT_ONCE = 2**14
"""Factorisations that are looked at together, in some 10 MB."""

_LEANNESS = (1, 4, 16)
"""Powers of the uniform numbers that draw the sample: the larger, the smaller the tiles of the inner levels."""


class Need(NamedTuple):
    """What a level would have to have: instances below it along "X" or "Y", or "words"; or how many of these instances must be
    in use ("use"), where `available` are at most."""

    level: str
    what: str
    least: int
    available: int

    @property
    def exceeds(self) -> bool:
        return self.least > self.available


@dataclasses.dataclass(frozen=True)
class Rejection:
    """A level that rejects mappings, `rejected` out of `of`.

    needs: the least that mappings take there, along X and Y or in words; `forced` says which dimensions every mapping lays
    on the array there, and how many instances each takes.
    """

    level: str
    needs: tuple[Need, ...]
    forced: dict[str, int]
    rejected: int
    of: int


@dataclasses.dataclass(frozen=True)
class Reasons:
    """Why nothing fits.

    size, fitting: mappings of the pruned space, and those that fit the fan-outs; where `sampled`, factorisations that were
    drawn. rejections: by the fan-outs where nothing fits these, else, of the fitting, by capacities. change: what levels
    must have at least to admit one mapping, of as few levels as possible and as little as possible relative to what they
    have; empty if some mapping fits after all.
    """

    size: int
    fitting: int
    sampled: bool
    rejections: tuple[Rejection, ...]
    change: tuple[Need, ...]


def find_reasons(space: Mapspace, bits: BitWidths) -> Reasons:
    """Why no mapping of `space` fits at these widths, none of which exceeds a word."""
    source = _source(space)
    count = _Count(space, bits, source.sampled)
    for factors in source.chunks:
        count.add(factors)
    size = space.pruned_size if source.fitting_only else count.size
    return Reasons(size, count.fitting, source.sampled, tuple(count.rejections()), count.change())


# --- Which factorisations are looked at ------------------------------------------------------------------------------


class _Source(NamedTuple):
    """Factorisations in chunks of int64 [N, T, D]; fitting_only: those that fit the fan-outs with some split."""

    chunks: Iterator[np.ndarray]
    sampled: bool = False
    fitting_only: bool = False


def _source(space: Mapspace) -> _Source:
    shape = [len(table) for table in space.tables]
    if math.prod(shape) <= EXACT_MOST:
        return _Source(_at(space, np.unravel_index(some, shape)) for some in _numbers(math.prod(shape)))
    if not space.too_large and space.fanout_valid:
        shape = [len(group.weight) for group in space.groups]
        if math.prod(shape) <= EXACT_MOST:
            chunks = (_rows_at(space, np.unravel_index(some, shape)) for some in _numbers(math.prod(shape)))
            return _Source(chunks, fitting_only=True)
    return _Source(_sample(space), sampled=True)


def _numbers(size: int) -> Iterator[np.ndarray]:
    return (np.arange(start, min(start + _AT_ONCE, size)) for start in range(0, size, _AT_ONCE))


def _at(space: Mapspace, picks: Sequence[np.ndarray]) -> np.ndarray:
    return np.stack([table[pick] for table, pick in zip(space.tables, picks, strict=True)], axis=2)


def _rows_at(space: Mapspace, picks: Sequence[np.ndarray]) -> np.ndarray:
    zeros = np.zeros(len(picks[0]), np.int32)
    return factors_of(space, Rows(zeros, np.stack(picks, axis=1).astype(np.int32), zeros))


def _sample(space: Mapspace) -> Iterator[np.ndarray]:
    generator = np.random.default_rng(0)
    # Uniform draws of a large space hardly ever have small tiles in all inner levels at once.
    lean = [np.argsort(np.log(np.cumprod(table, axis=1)).sum(axis=1), kind="stable") for table in space.tables]
    for start in range(0, SAMPLE, _AT_ONCE):
        power = np.resize(_LEANNESS, min(_AT_ONCE, SAMPLE - start))
        yield _at(space, [rank[(len(rank) * generator.random(len(power)) ** power).astype(np.int64)] for rank in lean])


# --- What each of them needs -----------------------------------------------------------------------------------------


class _Shape(NamedTuple):
    """How the loops of a spatial level can be laid out: choices of order and split, those that fit; of the layouts that
    enlarge the array least and leave it least empty, by what factors and the instances along X and Y; how many instances are
    in use, and how many must be."""

    choices: int
    fitting: int
    growth: float
    least: tuple[int, int]
    missing: float
    used: int
    must: int


class _Count:
    """Counts of the factorisations looked at so far, and the one that needs the least change."""

    def __init__(self, space: Mapspace, bits: BitWidths, sampled: bool) -> None:
        self._space, self._sampled = space, sampled
        levels = space.arch.levels
        self._spatial = [t for t, level in enumerate(space.tiling) if level.spatial]
        self._limited = [s for s, level in enumerate(levels) if level.capacity_words is not None]
        self._capacity = np.array([levels[s].capacity_words for s in self._limited], np.int64)
        self._keep = np.array([levels[s].keep for s in self._limited], bool).reshape(-1, len(TENSORS))
        self._operands = packing_table(space.arch, bits)[self._limited]
        # The temporal loops of a storage level are its last tiling level.
        self._last = [max(t for t, level in enumerate(space.tiling) if level.level == s) for s in self._limited]
        self._coefficients = problem(space.layer).coefficients
        self._shape = functools.cache(self._shape_of)
        self._seen: dict[tuple[int, ...], int] = {}
        self._least = np.full(len(self._limited), np.iinfo(np.int64).max)
        self._used = dict.fromkeys(self._spatial, 0)
        self._best: tuple[int, float] = (len(space.tiling) + len(levels) + 1, math.inf)
        self._factors = np.ones((0, len(space.tiling), len(space.dims)), np.int64)

    def add(self, factors: np.ndarray) -> None:
        """Count some factorisations, int64 [N, T, D]."""
        needed = self._needed(factors)
        over = needed > self._capacity
        fails, growth = over.sum(axis=1), np.maximum(1, needed / np.maximum(1, self._capacity)).prod(axis=1)
        columns, fits = [], np.ones(len(factors), bool)
        for t in self._spatial:
            patterns, _, place = unique_rows(factors[:, t])
            shapes = [self._shape(t, tuple(row)) for row in patterns.tolist()]
            columns.append(np.array([shape[:2] for shape in shapes], np.int64)[place])
            grown = np.array([shape.growth for shape in shapes])[place]
            missing = np.array([shape.missing for shape in shapes])[place]
            self._used[t] = max(self._used[t], *(shape.used for shape in shapes if shape.growth == 1), 0)
            fits &= columns[-1][:, 1] > 0
            fails, growth = fails + (grown > 1) + (missing > 1), growth * grown * missing
        moving = [(factors[:, t, self._space.free_dims(t)] > 1).sum(axis=1) for t in self._temporal]
        keys = np.column_stack([*columns, *moving, over]).astype(np.int64)
        for row, count in zip(*(x.tolist() for x in unique_rows(keys)[:2]), strict=True):
            self._seen[tuple(row)] = self._seen.get(tuple(row), 0) + count
        self._least = np.minimum(self._least, needed[fits].min(axis=0, initial=np.iinfo(np.int64).max))
        first = np.lexsort((growth, fails))[0]
        if (fails[first], growth[first]) < self._best:
            self._best, self._factors = (int(fails[first]), float(growth[first])), factors[first : first + 1]

    @property
    def _temporal(self) -> list[int]:
        return [t for t, level in enumerate(self._space.tiling) if not level.spatial]

    def _needed(self, factors: np.ndarray) -> np.ndarray:
        """Words of the kept tiles at the limited levels, int64 [N, S]."""
        return self._words(np.cumprod(factors, axis=1)[:, self._last])

    def _words(self, extents: np.ndarray) -> np.ndarray:
        """The same of extents, int64 [N, S, D]."""
        lengths = 1 + (extents - 1)[:, :, None] @ self._coefficients.reshape(-1, extents.shape[-1]).T
        tiles = lengths.reshape(*extents.shape[:2], *self._coefficients.shape[:2]).prod(axis=3)  # [N, S, tensors]
        return np.where(self._keep, words(tiles, self._operands), 0).sum(axis=2)

    def _shape_of(self, t: int, factors: tuple[int, ...]) -> _Shape:
        bounds = dict(enumerate(factors))
        fan = self._space.fan(t)
        width, height = fan.size
        found = list(arrangements(fan, bounds))
        needs = [(x, y) for _, x, y in found]
        if 1 in fan.size and not self._space.tiling[t].permutation:
            # With a second axis the order would be free.
            free = arrangements(fan._replace(prefix=(), free=tuple(self._space.dims)), bounds)
            needs += [(max(x, 1 + (width == 1)), max(y, 1 + (height == 1))) for _, x, y in free]
        used = math.prod(factors)
        layouts = []
        for x, y in needs:
            grown = max(x, width), max(y, height)
            growth, must = math.prod(grown) / (width * height), fan._replace(size=grown).least
            missing = max(1, must / used)
            layouts.append(((growth > 1) + (missing > 1), growth * missing, growth, (x, y), missing, must))
        _, _, growth, least, missing, must = min(layouts)
        choices = sum(ways for ways, _, _ in found)
        return _Shape(choices, count_choices(fan, bounds), growth, least, missing, used, must)

    @functools.cached_property
    def _totals(self) -> tuple[int, int, list[int], list[int]]:
        """Mappings, those that fit the fan-outs, those that each fan-out rejects, and of the fitting each capacity."""
        size, fitting = 0, 0
        by_fanout, by_capacity = [0] * len(self._spatial), [0] * len(self._limited)
        for key, count in self._seen.items():
            ends = 2 * len(self._spatial), len(key) - len(self._limited)
            choices, fit, over = key[: ends[0] : 2], key[1 : ends[0] : 2], key[ends[1] :]
            if self._sampled:  # by factorisation
                choices, fit = [1] * len(choices), [min(1, n) for n in fit]
            else:
                count *= math.prod(map(math.factorial, key[ends[0] : ends[1]]))
            whole, fits = count * math.prod(choices), count * math.prod(fit)
            size, fitting = size + whole, fitting + fits
            for i, (n, good) in enumerate(zip(choices, fit, strict=True)):
                by_fanout[i] += whole // n * (n - good)
            for i, bad in enumerate(over):
                by_capacity[i] += fits * bad
        return size, fitting, by_fanout, by_capacity

    @property
    def size(self) -> int:
        return self._totals[0]

    @property
    def fitting(self) -> int:
        return self._totals[1]

    def rejections(self) -> Iterator[Rejection]:
        """By the levels that reject any, inner to outer."""
        size, fitting, by_fanout, by_capacity = self._totals
        # Dimensions are independent, so that every tiling level and every tile is least for some factorisation.
        lean = np.stack([np.min(table, axis=0) for table in self._space.tables], axis=1)  # [T, D]
        if not fitting:
            for t, rejected in zip(self._spatial, by_fanout, strict=True):
                tables = enumerate(self._space.tables)
                forced = {
                    self._space.layer.loops[d]: int(lean[t, d]) for d, x in tables if x[:, t].min() == x[:, t].max() > 1
                }
                if rejected:
                    use = Need(self._name(t), "use", self._space.fan(t).least, self._most_used(t))
                    needs = (*self._mesh_needs(t, lean[t]), *([use] if use.least > 1 else []))
                    yield Rejection(self._name(t), needs, forced, rejected, size)
            return
        least = self._least
        if self._sampled:
            extents = [np.cumprod(table, axis=1).min(axis=0) for table in self._space.tables]
            least = self._words(np.stack(extents, axis=1)[None, self._last])[0]
        for i, rejected in enumerate(by_capacity):
            if rejected:
                yield Rejection(self._level(i), (self._words_need(i, least),), {}, rejected, fitting)

    def change(self) -> tuple[Need, ...]:
        """What the factorisation that needs the least change needs beyond what there is."""
        needs = [need for t in self._spatial for need in self._mesh_needs(t, self._factors[0, t])]
        shapes = ((t, self._shape(t, tuple(self._factors[0, t].tolist()))) for t in self._spatial)
        needs += [Need(self._name(t), "use", shape.must, shape.used) for t, shape in shapes]
        needed = self._needed(self._factors)[0]
        needs += [self._words_need(i, needed) for i in range(len(self._limited))]
        return tuple(need for need in needs if need.exceeds)

    def _name(self, t: int) -> str:
        return self._space.arch.levels[self._space.tiling[t].level].name

    def _level(self, i: int) -> str:
        return self._space.arch.levels[self._limited[i]].name

    def _mesh_needs(self, t: int, bounds: np.ndarray) -> tuple[Need, ...]:
        least, size = self._shape(t, tuple(bounds.tolist())).least, self._space.fan(t).size
        return tuple(Need(self._name(t), *of_axis) for of_axis in zip("XY", least, size, strict=True))

    def _most_used(self, t: int) -> int:
        """How many instances below level t mappings use at most: a sample gives no limit, but the dimensions one by one do."""
        if not self._sampled:
            return self._used[t]
        return math.prod(int(table[:, t].max()) for table in self._space.tables)

    def _words_need(self, i: int, needed: np.ndarray) -> Need:
        return Need(self._level(i), "words", int(needed[i]), int(self._capacity[i]))
