"""A first population along the front of the surrogate, with true accuracies, for NSGA-II to go on from.

Two rounds: assignments along the front of the summed sensitivities are judged; from these errors every gene's losses are
corrected by a factor; assignments along the front of the corrected losses are judged too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from mqjax.network.wiring import Wiring
from mqjax.study.surrogate import Surrogate, surrogate_front
from mqjax.types import WIDTHS

_RIDGE = 0.3
"""How strongly corrections are drawn to 1: weight of a correction of one against the squared relative misfit."""

Judge = Callable[[np.ndarray], np.ndarray]
"""Error float64 [N] (1 - accuracy) of flat genomes int [N, G]."""


def first_population(
    surrogate: Surrogate, judge: Judge, *, rounds: Sequence[int] = (48, 56), most: int = 20_000
) -> tuple[np.ndarray, np.ndarray]:
    """Genomes int32 [N, G], the uniform assignments first, and their errors float64 [N].

    rounds: assignments to judge along the front, for each round; between rounds the losses are fitted to what was found.
    Nothing is random: equal losses, costs and errors give equal genomes.
    """
    uniform = np.repeat(np.array(WIDTHS, np.int32)[:, None], surrogate.wiring.genes, axis=1)
    genomes, errors = uniform, judge(uniform)
    current = surrogate
    for count in rounds:
        front = surrogate_front(current, most=most)
        lowest = float(current.loss(uniform[:1])[0])  # beyond what 2 bits everywhere lose there is nothing to gain
        sensible = front.loss <= max(lowest, float(front.loss.min()))
        chosen = _spread(front.loss[sensible], front.costs[sensible, 0], count)
        asked = _unknown(front.genomes[sensible][chosen].astype(np.int32), genomes)
        if len(asked):
            genomes, errors = np.concatenate([genomes, asked]), np.concatenate([errors, judge(asked)])
        current = refitted(surrogate, genomes, errors)
    return genomes, errors


def _unknown(genomes: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Genomes that are not known yet, each once, in order."""
    seen = {row.tobytes() for row in known.astype(np.int8)}
    rows = [
        n for n, row in enumerate(genomes.astype(np.int8)) if not (row.tobytes() in seen or seen.add(row.tobytes()))
    ]
    return genomes[rows]


def _spread(loss: np.ndarray, cost: np.ndarray, count: int) -> np.ndarray:
    """Positions of at most `count` members of a front, evenly spread over cost and over the logarithm of the loss."""
    if len(loss) <= count:
        return np.arange(len(loss))
    order = np.argsort(cost, kind="stable")
    logs = np.log(loss - loss.min() + 1e-3 * max(float(np.ptp(loss)), 1e-300))

    def scaled(values: np.ndarray) -> np.ndarray:
        return values / max(float(np.ptp(values)), 1e-300)

    steps = np.abs(np.diff(scaled(cost)[order])) + np.abs(np.diff(scaled(logs)[order]))
    along = np.concatenate([[0.0], np.cumsum(steps)])
    return order[np.unique(np.searchsorted(along, np.linspace(0.0, along[-1], count)))]


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
