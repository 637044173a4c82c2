"""A search on a loss that costs little, before any accuracy is judged.

Rounds: the loss of assignments along the front of a surrogate is measured, the surrogate is fitted to all that was measured, and
the next round goes along its new front. Then NSGA-II goes on from there, on the measured loss itself.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from mqjax.io.files import write_atomically
from mqjax.study.fitting import fitted
from mqjax.study.nsga2 import NSGA2
from mqjax.study.pareto import far_apart, pareto_front
from mqjax.study.surrogate import Surrogate, surrogate_front
from mqjax.types import WIDTHS

_ROUNDS = 4

HOPELESS = 0.3
"""Assignments that lose more than this share of what the worst uniform assignment loses are not looked for."""

_NEAR = 0.1
"""Losses are spread in their logarithm, but for differences below this share of the least loss."""

Values = Callable[[np.ndarray], np.ndarray]
"""Numbers of flat genomes int [N, G]."""


class Rehearsed(NamedTuple):
    """Genomes int32 [N, G] that fit, each once, the uniform assignments first, their losses float64 [N], and the surrogate
    fitted to these."""

    genomes: np.ndarray
    losses: np.ndarray
    surrogate: Surrogate


def rehearse(
    surrogate: Surrogate,
    loss: Values,
    hardware: Values,
    *,
    seed: int = 0,
    population: int = 64,
    generations: int = 16,
    most: int = 5_000,
) -> Rehearsed:
    """Search for assignments of little loss and cost.

    loss: float64 [N]; hardware: the objectives to weigh it against, float64 [N, K]. population, generations: of
    NSGA-II; each round before it measures half as much again as a generation. most: see `surrogate_front`. Equal
    arguments give equal results.
    """
    genomes = surrogate.wiring.uniform
    losses = loss(genomes)
    best = float(losses.min())
    hopeless = max(HOPELESS * float(losses.max()), best)
    current, expected = surrogate, surrogate.loss
    for _ in range(_ROUNDS):
        front = surrogate_front(current, most=most).genomes.astype(np.int32)
        guessed, costs = expected(front), hardware(front)
        useful = (guessed <= max(hopeless, float(guessed.min()))) & ~pointless(costs, hardware(genomes)[losses <= best])
        if not useful.any():
            break
        front, guessed, costs = front[useful], guessed[useful], costs[useful]
        points = np.column_stack([logarithms(guessed), costs])
        asked = new_genomes(front[far_apart(points, np.flatnonzero(pareto_front(points)), _round(population))], genomes)
        if len(asked):
            genomes, losses = np.concatenate([genomes, asked]), np.concatenate([losses, loss(asked)])
        near = losses <= hopeless
        if np.ptp(losses[near]) > 0:
            fit = fitted(surrogate, genomes[near], losses[near])
            current, expected = fit.surrogate, fit.expected
    genomes, losses = _refined(genomes, losses, loss, hardware, hopeless, seed, population, generations)
    fits = np.all(np.isfinite(hardware(genomes)), axis=1)
    fits[: len(WIDTHS)] = True
    return Rehearsed(genomes[fits], losses[fits], current)


def measurements(population: int, generations: int) -> int:
    """How many losses `rehearse` measures at most."""
    return len(WIDTHS) + _ROUNDS * _round(population) + population * generations


def _round(population: int) -> int:
    return 3 * population // 2


def _refined(
    genomes: np.ndarray,
    losses: np.ndarray,
    loss: Values,
    hardware: Values,
    hopeless: float,
    seed: int,
    population: int,
    generations: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Genomes and losses with those that NSGA-II adds, starting from the given ones."""
    algorithm = NSGA2(population, np.zeros(genomes.shape[1], np.int32), low=WIDTHS[0], high=WIDTHS[-1])
    params, key = algorithm.default_params, jax.random.key(seed)

    def fitness(children: np.ndarray, lost: np.ndarray) -> np.ndarray:
        values = np.column_stack([lost, hardware(children)])
        values[lost > hopeless] = np.inf
        return values

    state = algorithm.init(key, genomes, fitness(genomes, losses), params)
    for generation in range(generations):
        children, state = algorithm.ask(jax.random.fold_in(key, generation), state, params)
        found = loss(children)
        state, _ = algorithm.tell(key, children, fitness(children, found), state, params)
        new = new_genomes(children, genomes)
        known = {row.tobytes(): value for row, value in zip(children, found, strict=True)}
        genomes = np.concatenate([genomes, new])
        losses = np.concatenate([losses, [known[row.tobytes()] for row in new]])
    return genomes, losses


def write_rehearsal(path: Path, found: Rehearsed) -> None:
    """Write genomes, as digits, and losses as CSV."""
    rows = (
        f"{''.join(map(str, row))},{loss!r}\n" for row, loss in zip(found.genomes, found.losses.tolist(), strict=True)
    )
    write_atomically(path, "genome,loss\n" + "".join(rows))


def pointless(costs: np.ndarray, good: np.ndarray) -> np.ndarray:
    """Which of the costs float64 [N, K] are nowhere below those of something that is good enough, float64 [M, K]."""
    return np.any(np.all(good[None] <= costs[:, None], axis=2), axis=1)


def logarithms(losses: np.ndarray) -> np.ndarray:
    """Logarithms of losses float64 [N], bent where they hardly differ from the least."""
    least = float(losses.min())
    return np.log(losses - least + max(_NEAR * abs(least), 1e-3 * float(np.ptp(losses)), 1e-300))


def new_genomes(genomes: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Genomes that are not known yet, each once, in order."""
    return genomes[new_places(genomes, known)]


def new_places(genomes: np.ndarray, known: np.ndarray) -> list[int]:
    """Where these genomes stand first."""
    seen = {row.tobytes() for row in known.astype(np.int8)}
    return [
        n for n, row in enumerate(genomes.astype(np.int8)) if not (row.tobytes() in seen or seen.add(row.tobytes()))
    ]
