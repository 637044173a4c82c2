"""Which assignments may turn out as accurate as the best uniform one?

Near that end errors differ by a few images, which no loss foretells. What does: assignments that differ in a gene or two err on
much the same images. So the chance of an assignment follows from the errors of its relatives, by kriging.
"""

from __future__ import annotations

import math

import numpy as np

from mqjax.types import WIDTHS

_NEIGHBOURS = 24
"""Judged assignments by which the trend of errors at a loss, and their spread, are estimated."""

_ALIKE, _RANGE = 0.8, 2.0
"""Errors' deviations from their trend are correlated by _ALIKE * exp(-genes that differ / _RANGE); measured on 2,000
images, 650 assignments of both MobileNets: 0.46 to 0.67, 0.28, 0.25 and 0.1 at one, two, three and five genes."""

_less_than = np.vectorize(lambda z: 0.5 * math.erfc(-z / math.sqrt(2)), otypes=[np.float64])
"""The standard normal distribution function."""


def chances(
    error: float,
    candidates: np.ndarray,
    expected: np.ndarray,
    genomes: np.ndarray,
    losses: np.ndarray,
    errors: np.ndarray,
    noise: float,
) -> np.ndarray:
    """Probability float64 [C] that each candidate's error is at most `error`.

    candidates: int [C, G], of expected losses float64 [C]. genomes: int [N, G], judged, with expected losses and found
    errors float64 [N]. noise: errors that differ by less are hardly told apart; above zero.
    """
    logs = np.log(errors + noise)
    trend, spread = _trend(losses, logs, losses)
    alike = _alike(genomes, genomes)
    np.fill_diagonal(alike, 1)
    cross = _alike(candidates, genomes)
    weights = np.linalg.solve(alike, cross.T).T
    deviation = weights @ ((logs - trend) / spread)
    left = np.sqrt(np.maximum(1 - (weights * cross).sum(axis=1), 1e-3))
    trend, spread = _trend(losses, logs, expected)
    return _less_than((math.log(error + noise) - trend - spread * deviation) / (spread * left))


def _trend(losses: np.ndarray, logs: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What logarithms of errors are at the `wanted` losses float64 [M], and how they spread, float64 [M] each: straight lines
    through the logarithms [N] of errors and of losses [N], each through some neighbours."""
    losses, wanted = (np.log(np.maximum(values, 1e-300)) for values in (losses, wanted))
    order = np.argsort(losses, kind="stable")
    near = min(_NEIGHBOURS, len(order))
    x, y = (np.lib.stride_tricks.sliding_window_view(values[order], near) for values in (losses, logs))
    centres, means = x.mean(axis=1), y.mean(axis=1)
    x, y = x - centres[:, None], y - means[:, None]
    slopes = np.maximum((x * y).sum(axis=1) / np.maximum((x**2).sum(axis=1), 1e-300), 0)
    spreads = np.sqrt(((y - slopes[:, None] * x) ** 2).sum(axis=1) / max(near - 2, 1))
    line = np.rint(np.interp(wanted, centres, np.arange(len(centres)))).astype(np.int64)
    return means[line] + slopes[line] * (wanted - centres[line]), np.maximum(spreads[line], 1e-9)


def _alike(some: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Correlation float64 [A, B] of the deviations of genomes int [A, G] and [B, G]."""
    differ = np.stack([(some != row).sum(axis=1) for row in others], axis=1)
    return _ALIKE * np.exp(-differ / _RANGE)


def relatives(genomes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All genomes int32 [K, G] that are one bit wider or narrower in one gene of genomes int [N, G], and whose they are, int64
    [K]."""
    changes = np.concatenate([np.eye(genomes.shape[1], dtype=np.int32) * step for step in (-1, 1)])
    near = (genomes.astype(np.int32)[:, None] + changes).reshape(-1, genomes.shape[1])
    valid = np.all((near >= WIDTHS[0]) & (near <= WIDTHS[-1]), axis=1)
    return near[valid], np.repeat(np.arange(len(genomes)), len(changes))[valid]
