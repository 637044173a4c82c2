"""What is known of a layer's best mappings: at one width triple by one metric, at many by all, and how it was found."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from mqjax.errors import InputError, unknown
from mqjax.mapper.reasons import why_nothing_fits
from mqjax.mapspace.mapping import mapped_layer
from mqjax.mapspace.space import Mapspace
from mqjax.types import METRICS, BitWidths, Layer


@dataclasses.dataclass(frozen=True)
class Optimum:
    """The best mapping of a layer at one width triple by one metric, with exact costs, and what was looked at.

    mapped: the layer with the bounds that the mapping has; they exceed those of `layer` where it was padded.
    nominal_size counts as Timeloop does; pruned_size drops permutations of loops of bound 1; evaluated says how many
    mappings were looked at. covered: every mapping of the space was priced, ruled out by a bound, or is equivalent to one
    that was, so the optimum is proven; valid_mappings then counts those of the pruned space that fit.
    """

    layer: Layer
    mapped: Layer
    bits: BitWidths
    metric: str
    energy_pj: float
    cycles: int
    mapping: list[dict[str, Any]]
    nominal_size: int
    pruned_size: int
    evaluated: int
    valid_mappings: int | None
    covered: bool

    @property
    def edp(self) -> float:
        """Energy-delay product, pJ * cycles."""
        return self.energy_pj * self.cycles


@dataclasses.dataclass(frozen=True, kw_only=True)
class Optima:
    """Best mappings of one layer at the B width triples `bits`, by each of `METRICS`; axes [3, B].

    energy_pj (pJ) and cycles are those of the best mapping, index is its place in `mappings`, -1 where nothing fits, and
    valid how many mappings of the pruned space fit, `None` where they were not counted. nominal_size, pruned_size, evaluated
    and covered: see `Optimum`. seconds: time that a space too large to cover was searched for, if one was.
    """

    bits: tuple[BitWidths, ...]
    energy_pj: np.ndarray  # float64 [3, B]
    cycles: np.ndarray  # int64 [3, B]
    index: np.ndarray  # int64 [3, B]
    valid: np.ndarray | None  # int64 [B]
    mappings: list[list[dict[str, Any]]]
    nominal_size: int
    pruned_size: int
    evaluated: int
    covered: bool
    seconds: float | None = None

    @property
    def sizes(self) -> dict[str, int]:
        """The sizes of the space, and how many mappings were looked at, by the names that files have for them."""
        return {"nominal": self.nominal_size, "pruned": self.pruned_size, "evaluated": self.evaluated}

    def value(self, metric: str, *, by: str | None = None) -> np.ndarray:
        """The optimum itself or, on the mapping that is optimal `by` another metric, what `metric` is there, float64
        [B]: pJ, pJ * cycles or cycles; inf where nothing fits."""
        m = metric_number(by or metric)
        energy, cycles = (np.where(self.index[m] < 0, np.inf, x[m]) for x in (self.energy_pj, self.cycles))
        return (energy, energy * cycles, cycles)[metric_number(metric)]

    def values(self) -> np.ndarray:
        """The optima themselves by each of `METRICS`, float64 [3, B], inf where nothing fits."""
        return np.stack([self.value(metric) for metric in METRICS])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Solution(Optima):
    """Best mappings of `layer`, and where they were looked for: of several spaces, as a layer may be padded in several ways,
    `space` is the first, and numbers are those of all together."""

    layer: Layer
    space: Mapspace

    def optimum(self, metric: str, i: int) -> Optimum:
        """The optimum by `metric` of triple i. Raises `InputError` where nothing fits."""
        m = metric_number(metric)
        if self.index[m, i] < 0:
            raise nothing_fits(self.layer, self.space, self.bits[i], covered=self.covered)
        mapping = self.mappings[self.index[m, i]]
        return Optimum(
            layer=self.layer,
            mapped=mapped_layer(self.layer, mapping),
            bits=self.bits[i],
            metric=metric,
            energy_pj=float(self.energy_pj[m, i]),
            cycles=int(self.cycles[m, i]),
            mapping=mapping,
            nominal_size=self.nominal_size,
            pruned_size=self.pruned_size,
            evaluated=self.evaluated,
            valid_mappings=None if self.valid is None else int(self.valid[i]),
            covered=self.covered,
        )


def metric_number(name: str) -> int:
    """The place of a metric in `METRICS`. Raises `InputError` for unknown ones."""
    if name not in METRICS:
        raise InputError(unknown("metric", name, METRICS))
    return METRICS.index(name)


def nothing_fits(layer: Layer, space: Mapspace, bits: BitWidths, *, covered: bool) -> InputError:
    """What is to be said where no mapping of `layer`, mapped in `space`, was found that fits; covered: there is none."""
    missing = "no mapping fits" if covered else "no mapping was found that fits"
    return InputError(
        f"layer {layer.name!r}: {missing} {space.arch.name!r} at bit-widths {bits} "
        f"under the constraints {space.constraints!r}: {why_nothing_fits(space, bits)}"
    )


def best_of(layer: Layer, solutions: Sequence[Solution]) -> Solution:
    """The best of several solutions, at each triple by each metric; of equals, by cycles, energy, and the first."""
    first = solutions[0]
    keys = [np.stack(arrays) for arrays in zip(*((s.energy_pj, s.cycles, s.values()) for s in solutions), strict=True)]
    number = np.broadcast_to(np.arange(len(solutions))[:, None, None], keys[0].shape)
    best = np.lexsort((number, *keys), axis=0)[:1]  # [1, 3, triples]

    def chosen(arrays: list[np.ndarray]) -> np.ndarray:
        return np.take_along_axis(np.stack(arrays), best, axis=0)[0]

    places = np.cumsum([0, *(len(s.mappings) for s in solutions)])
    index = [np.where(s.index < 0, -1, s.index + place) for s, place in zip(solutions, places, strict=False)]
    counts = [s.valid for s in solutions if s.valid is not None]
    valid = np.sum(counts, axis=0) if len(counts) == len(solutions) else None
    whole = chosen(index)
    used, inverse = np.unique(whole[whole >= 0], return_inverse=True)
    whole[whole >= 0] = inverse
    mappings = [mapping for s in solutions for mapping in s.mappings]
    return Solution(
        layer=layer,
        space=first.space,
        bits=first.bits,
        energy_pj=chosen([s.energy_pj for s in solutions]),
        cycles=chosen([s.cycles for s in solutions]),
        index=whole,
        mappings=[mappings[i] for i in used],
        nominal_size=sum(s.nominal_size for s in solutions),
        pruned_size=sum(s.pruned_size for s in solutions),
        valid=valid,
        evaluated=sum(s.evaluated for s in solutions),
        covered=all(s.covered for s in solutions),
    )
