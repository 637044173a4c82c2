"""Valid documents with one thing wrong, and what a reader must make of them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from mqjax.errors import InputError

ODD: list[Any] = [
    None, True, False, 0, -1, 1.5, 2**53, 2**63, -(2**64), 10**400, float("nan"), float("inf"), 1e308, "", "8", "C", "x" * 500,
    "\udcff", "a\nb", [], [[]], {}, {"a": 1}, [None], [-1, 0], ["C", 2], "Weights", "native", "../../etc/passwd",
]  # fmt: skip
"""Values that hardly anything is meant to be."""


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths of keys and indices to everything in a document."""
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        yield (*path, key)
        yield from places(child, (*path, key))


def mutated(document: Any, count: int, seed: int) -> Iterator[tuple[str, Any]]:
    """So many copies of a document, each with one thing wrong, and what was done: an odd value, a key that is missing, one
    that is too many, one entry twice."""
    generator = np.random.default_rng(seed)
    known = list(places(document))
    for number in range(count):
        changed = copy.deepcopy(document)
        place = known[generator.integers(len(known))]
        parent = changed
        for key in place[:-1]:
            parent = parent[key]
        kind = ("odd", "odd", "odd", "missing", "extra", "twice", "swapped")[generator.integers(7)]
        odd = ODD[generator.integers(len(ODD))]
        if kind == "odd":
            parent[place[-1]] = odd
        elif kind == "missing":
            del parent[place[-1]]
        elif kind == "extra":
            parent.insert(0, odd) if isinstance(parent, list) else parent.update({f"{place[-1]}s": odd})
        elif kind == "twice":
            parent.append(parent[0]) if isinstance(parent, list) else parent.update(
                {place[-1]: [parent[place[-1]]] * 2}
            )
        else:
            other = known[generator.integers(len(known))]
            value = document
            for key in other:
                value = value[key]
            parent[place[-1]] = copy.deepcopy(value)
        yield f"{number}: {kind} at {place} ({odd!r:.40})", changed


def refused(read: Callable[[], Any], *names: str) -> bool:
    """Whether `read` refuses with a sentence that contains these names; it may raise nothing else."""
    try:
        read()
    except InputError as error:
        message = str(error)
        assert message.isprintable() and len(message) < 700, message
        assert all(name in message for name in names), message
        return True
    return False
