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

from mqjax.cost.packing import PackingBox
from mqjax.mapper.sweep import Limits
from mqjax.types import METRICS

NEAR = {"energy": 1 + 1e-12, "edp": 1 + 1e-12, "delay": 1 + 2**-49}
"""Approximate costs within these factors of the least may be the least."""


class Screen:
    """The width triples of a box, screened together. Axis U: its distinct triples."""

    def __init__(self, box: PackingBox) -> None:
        self._box = box
        weights, inputs, outputs = (table[[0, -1]] if len(table) > 1 else table for table in box.per_tensor)
        self._corners = weights, inputs, outputs
        per_tensor = [
            _shares(table)[box.triples[:, t], : len(corners)]
            for t, (table, corners) in enumerate(zip(box.per_tensor, self._corners, strict=True))
        ]
        shares = np.einsum("uw,ui,uo->uwio", *per_tensor)
        self._shares = shares.reshape(len(box.triples), -1)  # [U, corners]

    def limits(self, best: np.ndarray) -> Limits:
        """What the compiled screen needs, for the best costs known at each triple, float64 [U, 3], inf where none."""
        known = np.isfinite(best).all(axis=1)
        limits = np.full((self._shares.shape[1], len(METRICS)), -np.inf)
        if known.any():
            # Corners start from the triple nearest to them.
            limits = best[known][self._shares[known].argmax(axis=0)]
            missing = (best[known] - self._shares[known] @ limits).max(axis=0)
            limits = (limits + np.maximum(missing, 0)) * [NEAR[metric] for metric in METRICS]
        wanted = np.zeros(self._box.shape)
        wanted[tuple(place[~known] for place in self._box.places)] = 1.0
        return Limits(self._box.per_tensor, self._corners, limits, wanted)


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
