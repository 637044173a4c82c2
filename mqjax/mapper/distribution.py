"""How energy and EDP are distributed over a mapspace, for each width triple."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from mqjax.cost.packing import packing_boxes
from mqjax.errors import InputError
from mqjax.mapper.sweep import Sweeper
from mqjax.mapspace.space import Mapspace
from mqjax.progress import SILENT, Progress
from mqjax.types import BitWidths

PER_DECADE = 50
"""Bins of a histogram per factor of ten."""

DISTRIBUTED = ("energy", "edp")


@dataclasses.dataclass(frozen=True)
class Distribution:
    """Histogram of the distinct mappings that fit, by energy (pJ) or EDP (pJ * cycles).

    edges: float64 [B + 1], logarithmic; counts: int64 [B].
    """

    edges: np.ndarray
    counts: np.ndarray

    @property
    def dearest(self) -> float:
        """The upper edge of the dearest mapping's bin; 0 if nothing fits."""
        used = np.flatnonzero(self.counts)
        return float(self.edges[used[-1] + 1]) if len(used) else 0.0

    def quantile(self, share: float) -> float:
        """The value (to a bin's width) below which this share of the mappings lies; NaN if there are none."""
        total = self.counts.sum()
        if not total:
            return float("nan")
        bin_ = int(np.searchsorted(np.cumsum(self.counts), share * total))
        return float(np.sqrt(self.edges[bin_] * self.edges[bin_ + 1]))


def distributions(
    space: Mapspace, bits: Sequence[BitWidths], *, progress: Progress = SILENT
) -> list[dict[str, Distribution]]:
    """For each width triple the distribution of "energy" and "edp" over the distinct mappings of `space` that fit.

    Every mapping that differs in cost counts once, however many equivalent ones it stands for. Raises `InputError` for
    spaces where neighbours may forward data. progress: advanced after each part of the space.
    """
    if space.may_forward:
        raise InputError(f"layer {space.layer.name!r}: no distribution where neighbours may forward data")
    boxes = packing_boxes(space.arch, bits)
    sweeper = Sweeper(space, boxes)
    triples = sum(len(box.triples) for box in boxes)
    tables = np.zeros((triples, len(DISTRIBUTED), 45 * PER_DECADE), np.int64)
    for job in sweeper.jobs():
        for chunk in range(job.chunks):
            for u, (_, energy, cycles) in enumerate(sweeper.costs(job, chunk)):
                for m, values in enumerate((energy, energy * cycles)):
                    bins = np.clip(np.log10(values) * PER_DECADE, 0, tables.shape[2] - 1).astype(np.int64)
                    tables[u, m] += np.bincount(bins, minlength=tables.shape[2])
        progress.advance()
    edges = 10.0 ** (np.arange(tables.shape[2] + 1) / PER_DECADE)
    found: list[dict[str, Distribution]] = [{}] * len(bits)
    first = 0
    for box in boxes:
        for position, u in zip(box.bits, box.inverse, strict=True):
            histograms = tables[first + u]
            found[position] = {name: Distribution(edges, histograms[m]) for m, name in enumerate(DISTRIBUTED)}
        first += len(box.triples)
    return found
