"""A first population with true errors, for NSGA-II to go on from.

In rounds: assignments near the front of (expected loss, cost) are judged; by the errors found so far the expected losses are
corrected, and the next round goes along the new front. Candidates are what a rehearsal has measured
(`mqjax.study.rehearsal`) or, without one, the exact front of the surrogate's sums.
"""

from __future__ import annotations

import numpy as np

from mqjax.network.wiring import Wiring
from mqjax.study.fitting import losses_alone, losses_by_gene
from mqjax.study.pareto import far_apart, non_dominated_ranks
from mqjax.study.rehearsal import Rehearsed, Values, logarithms, pointless
from mqjax.study.surrogate import Surrogate, surrogate_front
from mqjax.types import WIDTHS

ROUNDS = 3

_RIDGES = (1.0, 3.0, 10.0, 30.0, 100.0, 1e6)
"""Weights of a correction's squared logarithm against the squared misfit of an error's; the last is as good as no correction."""

_NOISE = 0.03
"""Differences of errors below this share of the least error are not told apart."""


def first_population(
    surrogate: Surrogate,
    errors: Values,
    hardware: Values,
    *,
    rehearsed: Rehearsed | None = None,
    count: int = 64,
    most: int = 20_000,
) -> tuple[np.ndarray, np.ndarray]:
    """Genomes int32 [N, G], the uniform assignments first, and their errors float64 [N].

    errors: error float64 [N] (1 - accuracy); hardware: the other objectives of the search, float64 [N, K]. count:
    assignments to judge in each of the `ROUNDS`. most: see `surrogate_front`.
    Nothing is random: equal losses, costs and errors give equal genomes.
    """
    genomes = surrogate.wiring.uniform
    found = errors(genomes)
    surrogate = surrogate if rehearsed is None else rehearsed.surrogate
    loss = surrogate.loss if rehearsed is None else _measured(rehearsed)
    factors = np.zeros(surrogate.wiring.genes)
    for number in range(ROUNDS):
        if rehearsed is None:
            candidates = surrogate_front(scaled(surrogate, factors), most=most).genomes.astype(np.int32)
        else:
            candidates = rehearsed.genomes
        known, expected = (
            loss(some) * np.exp(_gene_shares(surrogate, some) @ factors) for some in (genomes, candidates)
        )
        asked = _asked(candidates, expected, hardware, genomes, known, found, count, accurate=number > 0)
        if len(asked):
            genomes, found = np.concatenate([genomes, asked]), np.concatenate([found, errors(asked)])
        factors = corrections(surrogate, genomes, loss(genomes), found)
    return genomes, found


def _asked(
    candidates: np.ndarray,
    expected: np.ndarray,
    hardware: Values,
    genomes: np.ndarray,
    known: np.ndarray,
    found: np.ndarray,
    count: int,
    *,
    accurate: bool,
) -> np.ndarray:
    """At most `count` of the candidates to judge next. accurate: half of them among those that may be as accurate as the best
    uniform assignment: there errors differ by less than what images happen to show, and more than one look is needed.

    expected: losses float64 [C] of the candidates; known, found: losses and errors float64 [N] of the judged genomes.
    """
    best = float(found[: len(WIDTHS)].min())
    # Whoever accepts half of the error that 2 bits everywhere cause needs no search.
    limit = known[found >= (found[0] + best) / 2].min(initial=np.inf)
    costs = hardware(candidates)
    useful = (expected <= max(float(limit), float(expected.min()))) & ~pointless(
        costs, hardware(genomes)[found <= best]
    )
    points = np.column_stack([logarithms(expected), costs])
    new = np.isin(_keys(candidates), _keys(genomes), invert=True)
    taken = np.flatnonzero(~new)
    chosen = np.zeros(0, np.int64)
    if accurate:
        zone = useful & (expected <= known[found <= best * (1 + _NOISE)].max())
        chosen = far_apart(points, _nearest(points, np.flatnonzero(zone), new, count // 2), count // 2)
        new[chosen] = False
    rest = _nearest(points, np.flatnonzero(useful), new, count - len(chosen))
    more = far_apart(points, rest, count - len(chosen), np.concatenate([taken, chosen]) if accurate else None)
    return candidates[np.sort(np.concatenate([chosen, more]))]


def _nearest(points: np.ndarray, among: np.ndarray, new: np.ndarray, count: int) -> np.ndarray:
    """Of the positions `among` those that are new, on the first fronts that have `count` of them."""
    ranks = non_dominated_ranks(points[among])
    among, ranks = among[new[among]], ranks[new[among]]
    enough = np.sort(ranks)[min(count, len(ranks)) - 1] if len(ranks) and count else -1
    return among[ranks <= enough]


def _keys(genomes: np.ndarray) -> np.ndarray:
    """Genomes int [N, G] as one value each, to be compared."""
    return np.ascontiguousarray(genomes, dtype=np.int8).view(f"V{genomes.shape[1]}").ravel()


def _measured(rehearsed: Rehearsed) -> Values:
    """Losses float64 [N] of genomes that were all rehearsed."""
    known = dict(zip(_keys(rehearsed.genomes).tolist(), rehearsed.losses.tolist(), strict=True))
    return lambda genomes: np.array([known[key] for key in _keys(genomes).tolist()])


def _gene_shares(surrogate: Surrogate, genomes: np.ndarray) -> np.ndarray:
    """Share float64 [N, G] that every gene has in the summed loss of genomes int [N, G]."""
    parts = losses_alone(losses_by_gene(surrogate), genomes)
    return parts / np.maximum(parts.sum(axis=1, keepdims=True), 1e-300)


def scaled(surrogate: Surrogate, factors: np.ndarray) -> Surrogate:
    """The surrogate with every gene's losses multiplied by the exponential of its factor, float64 [G]."""
    wiring: Wiring = surrogate.wiring
    times = np.exp(factors)[:, None]
    return Surrogate(
        wiring,
        surrogate.kernels * times[wiring.kernel_genes],
        surrogate.tensors * times[wiring.tensor_genes],
        surrogate.costs,
    )


def corrections(surrogate: Surrogate, genomes: np.ndarray, losses: np.ndarray, errors: np.ndarray) -> np.ndarray:
    """Logarithms float64 [G] of the factors by which every gene's part of the expected losses is to be multiplied, so that these
    follow the errors.

    Errors beyond the least one are taken for a power of the loss (they saturate where losses do not). What remains is put
    down to genes by their shares, in a ridge regression; how much of it is worth believing is what predicts each
    error best from all others (leave-one-out).
    """
    least = float(errors.min())
    noise = max(_NOISE * least, 1e-6)
    useful = (errors - least > noise) & (losses > 0)
    if useful.sum() < 3 or np.ptp(losses[useful]) == 0:
        return np.zeros(surrogate.wiring.genes)
    logs, target = np.log(losses[useful]), np.log(errors[useful] - least)
    slope, offset = np.polyfit(logs, target, 1)
    if not slope > 0:
        return np.zeros(surrogate.wiring.genes)
    rest = (target - offset) / slope - logs
    rows = _gene_shares(surrogate, genomes)[useful]
    results = []
    for ridge in _RIDGES:
        solve = np.linalg.solve(rows.T @ rows + ridge * np.eye(rows.shape[1]), rows.T)
        hat = rows @ solve
        left_out = (rest - hat @ rest) / (1 - np.diag(hat))
        results.append((float(left_out @ left_out), solve @ rest))
    return min(results, key=lambda result: result[0])[1]
