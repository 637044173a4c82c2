"""A first population along the front of the surrogate, with true errors, for NSGA-II to go on from.

In rounds: assignments along the front of the summed losses are judged; from the errors found so far every gene's losses are
corrected by a factor, and the next round goes along the front of the corrected losses.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from mqjax.network.wiring import Wiring
from mqjax.study.pareto import pareto_front
from mqjax.study.surrogate import Surrogate, surrogate_front
from mqjax.types import WIDTHS

ROUNDS = (48, 56)
"""Assignments that are judged in each round."""

_RIDGE = 0.3
"""How strongly corrections are drawn to 1: weight of a correction of one against the squared relative misfit."""

Values = Callable[[np.ndarray], np.ndarray]
"""Numbers of flat genomes int [N, G]."""


def first_population(
    surrogate: Surrogate, errors: Values, hardware: Values, *, rounds: Sequence[int] = ROUNDS, most: int = 20_000
) -> tuple[np.ndarray, np.ndarray]:
    """Genomes int32 [N, G], the uniform assignments first, and their errors float64 [N].

    errors: error float64 [N] (1 - accuracy); hardware: the other objectives of the search, float64 [N, K]. rounds:
    assignments to judge along the front, for each round. most: see `surrogate_front`.
    Nothing is random: equal losses, costs and errors give equal genomes.
    """
    genomes = surrogate.wiring.uniform
    found = errors(genomes)
    # Whoever accepts half of the error that 2 bits everywhere cause needs no search.
    hopeless = (found[0] + found[-1]) / 2
    current = surrogate
    for count in rounds:
        front = surrogate_front(current, most=most)
        lost = current.loss(genomes)[found >= hopeless]
        sensible = front.loss <= max(lost.min(initial=np.inf), float(front.loss.min()))
        candidates, loss = front.genomes[sensible].astype(np.int32), front.loss[sensible]
        asked = _not_known(candidates[_spread(loss, hardware(candidates), count)], genomes)
        if len(asked):
            genomes, found = np.concatenate([genomes, asked]), np.concatenate([found, errors(asked)])
        current = refitted(surrogate, genomes, found)
    return genomes, found


def _not_known(genomes: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Genomes that are not known yet, each once, in order."""
    seen = {row.tobytes() for row in known.astype(np.int8)}
    rows = [
        n for n, row in enumerate(genomes.astype(np.int8)) if not (row.tobytes() in seen or seen.add(row.tobytes()))
    ]
    return genomes[rows]


def _spread(loss: np.ndarray, costs: np.ndarray, count: int) -> np.ndarray:
    """Positions of at most `count` of those that no other beats in loss [N] and costs [N, K], spread over both: the best in
    each, then always the one that is farthest from all chosen ones. Losses are spread evenly in their logarithm."""
    kept = np.flatnonzero(pareto_front(np.column_stack([loss, costs])))
    loss, costs = loss[kept], costs[kept]
    logs = np.log(loss - loss.min() + 1e-3 * max(float(np.ptp(loss)), 1e-300))
    points = np.column_stack([logs, costs])
    points = (points - points.min(axis=0)) / np.maximum(np.ptp(points, axis=0), 1e-300)
    chosen = list(dict.fromkeys(points.argmin(axis=0).tolist()))[:count]
    distance = np.abs(points[:, None] - points[chosen]).sum(axis=2).min(axis=1)
    while len(chosen) < count and distance.max() > 0:
        chosen.append(int(distance.argmax()))
        distance = np.minimum(distance, np.abs(points - points[chosen[-1]]).sum(axis=1))
    return np.sort(kept[chosen])


def refitted(surrogate: Surrogate, genomes: np.ndarray, errors: np.ndarray) -> Surrogate:
    """The surrogate with every gene's losses multiplied by a factor, so that their sums fit the errors of `genomes`.

    Errors beyond the least one are first taken for a power of the loss (they saturate where losses do not), so that both
    have one scale; then the factors come from a regression of relative errors, drawn to 1 by a ridge.
    """
    parts = _losses_by_gene(surrogate, genomes)
    summed = parts.sum(axis=1)
    excess = errors - errors.min()
    useful = (summed > 0) & (excess > 0)
    if useful.sum() < 3:
        return surrogate
    logs = np.log(summed[useful])
    slope, offset = np.polyfit(logs, np.log(excess[useful]), 1)
    if not slope > 0:
        return surrogate
    wanted = np.exp((np.log(excess[useful]) - offset) / slope)
    # Small losses matter as much as large ones; those too small to be seen in an error are left out.
    rows = parts[useful] / wanted[:, None]
    factors = 1 + np.linalg.solve(rows.T @ rows + _RIDGE * np.eye(rows.shape[1]), rows.T @ (1 - rows.sum(axis=1)))
    factors = np.clip(factors, 0.2, 5.0)[:, None]
    wiring: Wiring = surrogate.wiring
    return Surrogate(
        wiring,
        surrogate.kernels * factors[wiring.kernel_genes],
        surrogate.tensors * factors[wiring.tensor_genes],
        surrogate.costs,
    )


def _losses_by_gene(surrogate: Surrogate, genomes: np.ndarray) -> np.ndarray:
    """Loss float64 [N, G] of every gene, beyond that at its best width."""
    digits, wiring = np.asarray(genomes, np.int64) - WIDTHS[0], surrogate.wiring
    result = np.zeros(digits.shape)
    for losses, genes in ((surrogate.kernels, wiring.kernel_genes), (surrogate.tensors, wiring.tensor_genes)):
        for row, gene in zip(losses, genes, strict=True):
            result[:, gene] = row[digits[:, gene]] - row.min()
    return result
