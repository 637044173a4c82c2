"""Judges of accuracy: what the main job asks of one, and how a user's own is found."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from mqjax.errors import InputError
from mqjax.io.code import load_object, reason
from mqjax.types import Layer


class Judge(Protocol):
    """Accuracy of assignments, genomes int [N, L, 2]: input and weight width of each of `layers`.

    For a network that is no chain of its layers, an attribute `wiring` (`mqjax.network.wiring.Wiring`) says which layer reads
    and writes which tensor; where layers do not have one input gene each, genomes are then int [N, T + L] in its order.
    A method `sensitivities()` may give the loss of every kernel, [L, 7], and of every stored tensor, [T, 7], at widths 2 to 8;
    the search then begins along the exact front of their sums (`mqjax.study.surrogate`). With it, a method `divergence(genomes)`
    may give a loss float64 [N] of whole assignments that is cheaper than their accuracy, on which the search is rehearsed
    (`mqjax.study.rehearsal`).
    """

    layers: Sequence[Layer]
    """The network as the mapper sees it."""

    cache_key: Any
    """A text; equal keys mean equal accuracies."""

    def __call__(self, genomes: np.ndarray) -> np.ndarray:
        """Accuracy float64 [N] in 0..1 by which the search goes."""
        ...

    def test(self, genomes: np.ndarray) -> np.ndarray:
        """Accuracy float64 [N] on data that the search never sees."""
        ...


def load_judge(name: str) -> Judge:
    """The judge that "module:function" returns; modules are also looked for in the current directory."""
    make = load_object(name, "--judge")
    if not callable(make):
        raise InputError(f"--judge {name} must be a function that returns a judge, not {type(make).__name__}")
    try:
        judge: Any = make()
    except InputError:
        raise
    except Exception as error:  # the user's code may raise anything
        raise InputError(f"--judge {name} cannot be called without arguments: {reason(error)}") from error
    for part in ("layers", "cache_key", "test", "__call__"):
        if not hasattr(judge, part):
            raise InputError(f"--judge {name}: what it returns is no judge: it has no {part!r}")
    return judge
