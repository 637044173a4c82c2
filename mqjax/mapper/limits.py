"""The bound screen: limits that rule out most mappings by a few lower bounds instead of pricing them for every triple.

Write r_t for the fraction of a word that an operand of tensor t takes, so that a mapping's energy at a width triple is at
least e(r) = MACs + sum over tensors and levels of accesses * energy * r_t: no ceilings, and linear in each r_t. The
triples lie in the box between each tensor's least and largest r, so e at a triple is a mean of e at the box's corners, with
weights (`shares`) that do not depend on the mapping. Choose a limit for every corner such that at every triple the mean
of the limits is at least the best cost known there. A mapping at or above all limits is then nowhere better than what is
known: eight tests do for 125 triples. The same holds for EDP and delay with the least cycles at any triple of the box.
"""

from __future__ import annotations

import numpy as np

from mqjax.cost.packing import Packed, PackingBox
from mqjax.mapper.programs import Limits, Modes
from mqjax.types import METRICS

NEAR = {"energy": 1 + 1e-12, "edp": 1 + 1e-12, "delay": 1 + 2**-49}
"""Approximate costs within these factors of the least may be the least."""


MODES_MOST = 8
"""Classes of a box at most; more would take longer than pricing."""


class Limiter:
    """The width triples of a box, screened together, for a layer of `macs` operations. Axis U: its distinct triples."""

    def __init__(self, box: PackingBox, macs: int) -> None:
        self._box = box
        weights, inputs, outputs = (table[[0, -1]] if len(table) > 1 else table for table in box.per_tensor)
        self._corners = Packed((weights, inputs, outputs))
        per_tensor = [
            _shares(table)[box.triples[:, t], : len(corners)]
            for t, (table, corners) in enumerate(zip(box.per_tensor, self._corners.tensors, strict=True))
        ]
        shares = np.einsum("uw,ui,uo->uwio", *per_tensor)
        self._shares = shares.reshape(len(box.triples), -1)  # [U, corners]
        self._modes, self._mode = _mac_classes(box) if box.macs_vary else (None, np.zeros(len(box.triples), np.int64))
        self._excess = np.zeros(len(box.triples))  # [U] what the MACs take above their class, pJ
        if self._modes is not None:
            self._excess = macs * (box.widths.mac_pj - self._modes.energy_pj[self._mode])

    def limits(self, best: np.ndarray) -> Limits:
        """What the compiled screen needs, for the best costs known at each triple, float64 [U, 3], inf where none."""
        known = np.asarray(np.isfinite(best).all(axis=1))
        if self._modes is None:
            limits = self._limits(best, known)
        else:
            # Widened before the difference is taken, which may cancel most of it.
            near = np.column_stack([best[:, 0] * NEAR["energy"] - self._excess, best[:, 1:]])
            modes = range(len(self._modes.energy_pj))
            limits = np.stack([self._limits(near, np.logical_and(known, self._mode == mode)) for mode in modes])
        wanted = np.zeros(self._box.shape)
        wanted[tuple(place[~known] for place in self._box.places)] = 1.0
        return Limits(self._box.packed, self._corners, limits, wanted, self._modes)

    def _limits(self, best: np.ndarray, known: np.ndarray) -> np.ndarray:
        """Limits [corners, 3] whose means are at least the costs `best` [U, 3] at the triples that are `known`, bool [U]."""
        limits = np.full((self._shares.shape[1], len(METRICS)), -np.inf)
        if known.any():
            # Corners start from the triple nearest to them.
            limits = best[known][self._shares[known].argmax(axis=0)]
            missing = (best[known] - self._shares[known] @ limits).max(axis=0)
            limits = (limits + np.maximum(missing, 0)) * [NEAR[metric] for metric in METRICS]
        return limits


def _mac_classes(box: PackingBox) -> tuple[Modes, np.ndarray]:
    """The classes of a box, from the fastest, and that of each triple, int64 [U]."""
    widths = box.widths
    costs = np.column_stack([widths.cycles / widths.operations, widths.mac_pj])
    distinct, first, which = np.unique(costs, axis=0, return_index=True, return_inverse=True)
    parts = np.array_split(np.arange(len(distinct)), min(MODES_MOST, len(distinct)))
    of_distinct = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    fastest = first[[part[0] for part in parts]]  # they ascend in the cycles of an operation
    energy = np.array([distinct[part, 1].min() for part in parts])
    cycles, operations = (values[fastest].astype(np.float64) for values in (widths.cycles, widths.operations))
    return Modes(energy, cycles, operations), of_distinct[which.reshape(-1)]


def _shares(table: np.ndarray) -> np.ndarray:
    """For each row of a table [K, L] of operands per word, from few to many, how much the first and the last row count
    in a mean that bounds 1 / operands from below, [K, 2]."""
    fractions = 1 / table
    least, most = fractions[-1], fractions[0]
    differ = most > least
    if not differ.any():
        return np.tile([1.0, 0.0], (len(table), 1))
    first = ((fractions - least)[:, differ] / (most - least)[differ]).min(axis=1)
    return np.stack([first, 1 - first], axis=1)
