"""Layers with larger bounds: dimensions that fixed factors do not divide are padded, as hardware does.

A padded layer costs what its padded bounds cost: multiplications by zeros included. Other bounds may be padded, too, to
see whether a bound with more divisors maps better: a prime number of channels has no tiling but itself.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np

from mqjax.arch import Arch
from mqjax.decision import Solution, best_of
from mqjax.errors import InputError
from mqjax.mapspace import Mapspace
from mqjax.optimum import SECONDS, Say, quiet, solve
from mqjax.types import DIMS, BitWidths, Layer

TRIED_MOST = 256
"""Combinations of padded bounds that are all tried; where there are more, see `solve_layer`."""


def padded(arch: Arch, layer: Layer, *, constraints: str = "paper") -> Layer:
    """`layer` with every bound that the fixed factors of `constraints` do not divide raised to the next that they do.

    Raises `InputError` where no bound would do.
    """
    return dataclasses.replace(layer, **{d: _bounds(arch, layer, constraints, d, 0)[0] for d in DIMS})


def mapped_as(layer: Layer, mapped: Layer) -> dict[str, int]:
    """The bounds by dimension in which `mapped` exceeds `layer`."""
    return {d: getattr(mapped, d) for d in DIMS if getattr(mapped, d) != getattr(layer, d)}


def describe_padding(layer: Layer, bounds: dict[str, int]) -> str:
    """Words for `mapped_as`: "M=10 mapped as 12"; empty where nothing is padded."""
    return ", ".join(f"{d}={getattr(layer, d)} mapped as {bound}" for d, bound in bounds.items())


def solve_layer(
    arch: Arch,
    layer: Layer,
    bits: Sequence[BitWidths],
    *,
    constraints: str = "paper",
    pad: int | None = 0,
    screened: bool = True,
    seconds: float = SECONDS,
    say: Say = quiet,
) -> Solution:
    """Best mappings of `layer` for all `bits` and all metrics (see `mqjax.optimum.solve`), on padded bounds where needed.

    pad: 0 pads the dimensions that the fixed factors do not divide, and only these; K > 0 also tries up to K larger
    bounds of every dimension whose bound exceeds 1, and keeps the best; None pads nothing: `InputError` where needed.
    Of more than `TRIED_MOST` combinations of bounds those of one dimension at a time are tried, then all combinations
    of the ones that were best for some triple and metric. seconds: for each padded layer.
    """

    def solved(candidate: Layer) -> Solution:
        if pad:
            say(describe_padding(layer, mapped_as(layer, candidate)) or "unpadded")
        space = Mapspace(arch, candidate, constraints=constraints)
        return solve(space, bits, screened=screened, seconds=seconds, say=say)

    if pad is None:
        return best_of(layer, [solved(layer)])
    choices = [_bounds(arch, layer, constraints, d, pad) for d in DIMS]
    if math.prod(map(len, choices)) <= TRIED_MOST:
        return best_of(layer, [solved(candidate) for candidate in _combined(layer, choices)])
    return best_of(layer, _one_by_one(layer, choices, solved))


def _bounds(arch: Arch, layer: Layer, constraints: str, dim: str, pad: int) -> list[int]:
    """Bounds of a dimension that can be factorised: its own or the next larger one, and the others up to `pad` more."""
    bound = getattr(layer, dim)
    space = Mapspace(arch, layer, constraints=constraints)
    # Fixed factors may also multiply to more than the bound; then they are the next bound that they divide.
    factors = math.prod(level.factors.get(dim) or 1 for level in space.tiling)
    larger = range(bound, max(bound + (pad if bound > 1 else 0), -(-bound // factors) * factors) + 1)
    possible = [n for n in larger if space.divides(DIMS.index(dim), n)]
    if not possible:
        space.tables  # noqa: B018 - raises the error that says which factors cannot be met
        raise InputError(f"layer {layer.name!r} on {arch.name!r}: no bound of {dim} meets the fixed factors")
    return [n for n in possible if n == possible[0] or n <= bound + pad]


def _combined(layer: Layer, choices: Sequence[Sequence[int]]) -> list[Layer]:
    return [
        dataclasses.replace(layer, **dict(zip(DIMS, bounds, strict=True))) for bounds in itertools.product(*choices)
    ]


def _one_by_one(layer: Layer, choices: list[list[int]], solved: Callable[[Layer], Solution]) -> list[Solution]:
    """Solutions of the bounds of one dimension at a time, and of combinations of those that were best."""
    base = [bounds[:1] for bounds in choices]
    found: dict[Layer, Solution] = {}

    def try_all(some: Sequence[Sequence[int]]) -> list[Solution]:
        candidates = _combined(layer, some)
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
