"""A first population with true errors, for NSGA-II to go on from.

In rounds: assignments near the front of (expected loss, cost) are judged; by the errors found so far the expected losses are
corrected, and the next round goes along the new front. Candidates are what a rehearsal has measured
(`mqjax.study.rehearsal`) or, without one, the exact front of the surrogate's sums. Part of a round looks for something cheap
that is as accurate as the best uniform assignment (`mqjax.study.looks`).
"""

from __future__ import annotations

import numpy as np

from mqjax.network.wiring import Wiring
from mqjax.study.fitting import losses_alone, losses_by_gene
from mqjax.study.looks import chances, relatives
from mqjax.study.pareto import far_apart, non_dominated_ranks
from mqjax.study.rehearsal import Rehearsed, Values, logarithms, new_places, pointless
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
    if rehearsed is None:
        losses = surrogate.loss(genomes)
    else:
        surrogate, losses = rehearsed.surrogate, rehearsed.losses[: len(WIDTHS)]
    factors = np.zeros(surrogate.wiring.genes)
    for number in range(ROUNDS):
        if rehearsed is None:
            candidates = surrogate_front(scaled(surrogate, factors), most=most).genomes.astype(np.int32)
            alone = surrogate.loss(candidates)
        else:
            candidates, alone = rehearsed.genomes, rehearsed.losses
        front = len(candidates)
        if number:
            close, losses_close = _close(surrogate, candidates, hardware, genomes, losses, found)
            candidates, alone = np.concatenate([candidates, close]), np.concatenate([alone, losses_close])
        known, expected = (
            of * np.exp(_gene_shares(surrogate, some) @ factors)
            for some, of in ((genomes, losses), (candidates, alone))
        )
        cheaper_found = bool((found[len(WIDTHS) :] <= _best_uniform(found)).any())
        looks = 0 if number == 0 else count // 2 if cheaper_found else 3 * count // 4
        asked = _asked(candidates, expected, hardware, genomes, known, found, count, front=front, looks=looks)
        if len(asked):
            genomes, losses = np.concatenate([genomes, candidates[asked]]), np.concatenate([losses, alone[asked]])
            found = np.concatenate([found, errors(candidates[asked])])
        factors = corrections(surrogate, genomes, losses, found)
    return genomes, found


def _best_uniform(found: np.ndarray) -> float:
    """The least error of the uniform assignments, which come first in errors float64 [N]."""
    return float(found[: len(WIDTHS)].min())


def _close(
    surrogate: Surrogate,
    candidates: np.ndarray,
    hardware: Values,
    genomes: np.ndarray,
    losses: np.ndarray,
    found: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Relatives int32 [K, G] of cheap judged genomes that are about as accurate as the best uniform assignment, none of
    them known or a candidate, and their losses float64 [K]: as much above a relative's as the surrogate says."""
    best = _best_uniform(found)
    near = (found <= best * (1 + _NOISE)) & ~pointless(hardware(genomes), hardware(genomes[found <= best]))
    close, whose = relatives(genomes[near])
    new = new_places(close, np.concatenate([genomes, candidates]))
    close, whose = close[new], whose[new]
    sums, least = surrogate.loss(genomes[near]), 1e-6 * float(surrogate.loss(surrogate.wiring.uniform).max())
    return close, losses[near][whose] * (surrogate.loss(close) + least) / (sums[whose] + least)


def _asked(
    candidates: np.ndarray,
    expected: np.ndarray,
    hardware: Values,
    genomes: np.ndarray,
    known: np.ndarray,
    found: np.ndarray,
    count: int,
    *,
    front: int,
    looks: int,
) -> np.ndarray:
    """Positions int64 of at most `count` of the candidates to judge next. `looks` of them are those of which a saving is most to
    be expected: less cost, times the chance to be as accurate as the best uniform assignment. The others lie along the front
    of the first `front` candidates.

    expected: losses float64 [C] of the candidates; known, found: losses and errors float64 [N] of the judged genomes.
    """
    best = _best_uniform(found)
    # Whoever accepts half of the error that 2 bits everywhere cause needs no search.
    limit = known[found >= (found[0] + best) / 2].min(initial=np.inf)
    costs, accurate = hardware(candidates), hardware(genomes[found <= best])
    useful = (expected <= max(float(limit), float(expected.min()))) & ~pointless(costs, accurate)
    points = np.column_stack([logarithms(expected), costs])
    new = np.isin(_keys(candidates), _keys(genomes), invert=True)
    taken = np.flatnonzero(~new)
    chosen = np.zeros(0, np.int64)
    if looks and len(among := np.flatnonzero(useful & new)):
        noise = max(_NOISE * best, 1e-6)
        saving = (1 - costs[among, None] / np.maximum(accurate, 1e-300)).max(axis=2).min(axis=1)
        worth = saving * chances(best, candidates[among], expected[among], genomes, known, found, noise)
        hopeful = among[np.argsort(-worth, kind="stable")[: 2 * looks]]
        chosen = far_apart(points, np.sort(hopeful), looks)
        new[chosen] = False
    new[front:] = False
    rest = _nearest(points, np.flatnonzero(useful), new, count - len(chosen))
    more = far_apart(points, rest, count - len(chosen), np.concatenate([taken, chosen]) if looks else None)
    return np.sort(np.concatenate([chosen, more]))


def _nearest(points: np.ndarray, among: np.ndarray, new: np.ndarray, count: int) -> np.ndarray:
    """Of the positions `among` those that are new, on the first fronts that have `count` of them."""
    ranks = non_dominated_ranks(points[among])
    among, ranks = among[new[among]], ranks[new[among]]
    enough = np.sort(ranks)[min(count, len(ranks)) - 1] if len(ranks) and count else -1
    return among[ranks <= enough]


def _keys(genomes: np.ndarray) -> np.ndarray:
    """Genomes int [N, G] as one value each, to be compared."""
    return np.ascontiguousarray(genomes, dtype=np.int8).view(f"V{genomes.shape[1]}").ravel()


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
