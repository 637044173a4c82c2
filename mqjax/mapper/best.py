"""Best mappings of a layer: its space covered or searched, on padded bounds where the constraints need them or where a
bound with more divisors maps better (a prime number of channels has no tiling but itself)."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np

from mqjax.arch import Arch
from mqjax.errors import InputError, unknown
from mqjax.mapper.optima import Optimum, Solution, best_of
from mqjax.mapper.optimum import solve
from mqjax.mapspace.padding import bounds_to_try, describe_padding, mapped_as, padded
from mqjax.mapspace.space import Mapspace
from mqjax.progress import SILENT, Progress
from mqjax.types import METRICS, SECONDS, BitWidths, Layer, all_widths

TRIED_MOST = 256
"""Combinations of padded bounds that are all tried; where there are more, see `solve_layer`."""


def best_mappings(
    arch: Arch,
    layer: Layer,
    bits: Sequence[BitWidths] | BitWidths | str = "all",
    *,
    metrics: Sequence[str] = ("energy",),
    constraints: str = "paper",
    pad: int | None = 0,
    seconds: float = SECONDS,
) -> list[dict[str, Optimum]]:
    """For each width triple, and each metric out of "energy", "edp", "delay", the best mapping of `layer`: proven to be the
    optimum unless its `covered` says otherwise.

    bits: one or several `BitWidths`, "native" (unpacked), or "all" (the 343 triples of 2..8, in the order of `all_widths`).
    pad, seconds: see `solve_layer`. A padded layer's optimum says so: `mapped` differs from `layer`.
    Raises `InputError` for unknown metrics, widths that do not fit a word, and where no mapping fits.
    """
    for metric in metrics:
        if metric not in METRICS:
            raise InputError(unknown("metric", metric, METRICS))
    triples = width_triples(bits)
    for triple in triples:
        arch.check_widths(triple, layer)
    solution = solve_layer(arch, layer, triples, constraints=constraints, pad=pad, seconds=seconds)
    return [{metric: solution.optimum(metric, i) for metric in metrics} for i in range(len(triples))]


def width_triples(bits: Sequence[BitWidths] | BitWidths | str) -> list[BitWidths]:
    """The triples that `bits` means: see `best_mappings`."""
    if isinstance(bits, BitWidths):
        return [bits]
    if isinstance(bits, str):
        return all_widths() if bits == "all" else [BitWidths.parse(bits)]
    return list(bits)


def solve_layer(
    arch: Arch,
    layer: Layer,
    bits: Sequence[BitWidths],
    *,
    constraints: str = "paper",
    pad: int | None = 0,
    screened: bool = True,
    seconds: float = SECONDS,
    progress: Progress = SILENT,
) -> Solution:
    """Best mappings of `layer` for all `bits` and all metrics (see `mqjax.mapper.optimum.solve`), on padded bounds where needed.

    pad: 0 pads the dimensions that the fixed factors do not divide, and only these; K > 0 also tries up to K larger
    bounds of every dimension whose bound exceeds 1, and keeps the best; None pads nothing: `InputError` where needed. Under
    fewer constraints than the paper's the bounds that those need are tried, too, so that fewer constraints never cost more.
    Of more than `TRIED_MOST` combinations of bounds those of one dimension at a time are tried, then all combinations
    of the ones that were best for some triple and metric. seconds: for each padded layer. progress: told what is being done.
    """

    def solved(candidate: Layer) -> Solution:
        if pad:
            progress.say(describe_padding(layer, mapped_as(layer, candidate)) or "unpadded")
        space = Mapspace(arch, candidate, constraints=constraints)
        return solve(space, bits, screened=screened, seconds=seconds, progress=progress)

    if pad is None:
        return best_of(layer, [solved(layer)])
    choices = [bounds_to_try(arch, layer, constraints, d, pad) for d in layer.loops]
    if math.prod(map(len, choices)) <= TRIED_MOST:
        candidates = _larger_layers(layer, choices)
        return best_of(layer, list(map(solved, dict.fromkeys([*candidates, *paper_bounds(arch, layer, constraints)]))))
    solutions = _one_by_one(layer, choices, solved)
    tried = {solution.layer for solution in solutions}
    others = [candidate for candidate in paper_bounds(arch, layer, constraints) if candidate not in tried]
    return best_of(layer, [*solutions, *map(solved, others)])


def paper_bounds(arch: Arch, layer: Layer, constraints: str) -> list[Layer]:
    """The layer on the bounds that the paper's constraints need, where these are others than those that `constraints` need."""
    if constraints == "paper":
        return []
    try:
        larger = padded(arch, layer)
    except InputError:
        return []
    return [] if larger == padded(arch, layer, constraints=constraints) else [larger]


def _larger_layers(layer: Layer, choices: Sequence[Sequence[int]]) -> list[Layer]:
    return [
        dataclasses.replace(layer, **dict(zip(layer.loops, bounds, strict=True)))
        for bounds in itertools.product(*choices)
    ]


def _one_by_one(layer: Layer, choices: list[list[int]], solved: Callable[[Layer], Solution]) -> list[Solution]:
    """Solutions of the bounds of one dimension at a time, and of combinations of those that were best."""
    base = [bounds[:1] for bounds in choices]
    found: dict[Layer, Solution] = {}

    def try_all(some: Sequence[Sequence[int]]) -> list[Solution]:
        candidates = _larger_layers(layer, some)
        for candidate in candidates:
            if candidate not in found:
                found[candidate] = solved(candidate)
        return [found[candidate] for candidate in candidates]

    winners = []
    for d, bounds in enumerate(choices):
        solutions = try_all([*base[:d], bounds, *base[d + 1 :]])
        values = np.stack([solution.values() for solution in solutions])  # [bounds, 3, triples]
        places, wins = np.unique(values.argmin(axis=0), return_counts=True)
        winners.append([bounds[place] for place in places[np.argsort(-wins, kind="stable")]])
    while math.prod(map(len, winners)) > TRIED_MOST:
        max(winners, key=len).pop()
    try_all(winners)
    return list(found.values())
