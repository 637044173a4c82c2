"""The terms of the cost of some mappings, by the fast path and by the exact evaluator, under the same names."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import numpy as np

from mqjax.cost.exact.evaluator import analyse_mappings
from mqjax.cost.fast.terms import cost_terms
from mqjax.mapper.programs import chunk_counts
from mqjax.mapper.sweep import Sweeper
from mqjax.mapspace.rows import Rows
from mqjax.types import TENSORS
from trial import Trial


@partial(jax.jit, static_argnames=("plan", "size"))
def _terms(plan: Any, tables: Any, boxes: Any, size: int):
    counts, _, _ = chunk_counts(plan, tables, np.float64(0), size)
    return counts, tuple(cost_terms(plan, tables.numbers, counts, box, size) for box in boxes)


def fast_terms(sweeper: Sweeper, rows: Rows) -> tuple[dict[str, np.ndarray], list[tuple[np.ndarray, np.ndarray]]]:
    """The fast path's terms of some mappings, float64 [N] by name, and their energies and cycles in each box (of one
    triple)."""
    packed = tuple(box.packed for box in sweeper.boxes)
    parts = []
    for start in range(0, len(rows), sweeper.chosen_size):
        some = rows.take(slice(start, start + sweeper.chosen_size))
        with jax.enable_x64(True):
            counts, costs = _terms(sweeper._flat, sweeper.chosen_tables(some), packed, sweeper.chosen_size)

        def whole(values: Any, size: int = len(some)) -> np.ndarray:
            return np.broadcast_to(np.asarray(values), (sweeper.chosen_size,))[:size]

        found = {"steps": whole(counts.steps)}
        found["doubtful"] = whole(0.0 if counts.doubtful is None else counts.doubtful)
        found |= {f"instances of level {s}": whole(inside) for s, inside in enumerate(counts.inside)}
        for tensor, of_tensor in zip(TENSORS, counts.traffic, strict=True):
            for s, entry in of_tensor.items():
                for kind, value in zip(("tile", "reads", "fills", "updates"), entry, strict=True):
                    found[f"{tensor} {kind} of level {s}"] = whole(0.0 if value is None else value)
        for k, cost in enumerate(costs):
            of_pair = cost.pair(tuple(None if x is None else x[0] for x in cost.of_pairs))
            found[f"energy {k}"], found[f"cycles {k}"] = map(whole, of_pair.triple(0))
        parts.append(found)
    joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    costs_of = [(joined.pop(f"energy {k}"), joined.pop(f"cycles {k}")) for k in range(len(packed))]
    return joined, costs_of


def exact_terms(trial: Trial, nests: Any) -> dict[str, np.ndarray]:
    """What the exact evaluator says of the terms of `fast_terms`."""
    size, depth = len(nests), len(trial.arch.levels)
    found: dict[str, np.ndarray] = {}
    for part in analyse_mappings(trial.arch, [trial.layer] * size, nests):
        terms = {"steps": part.analysis.steps}
        for s in range(depth):
            terms[f"instances of level {s}"] = np.prod(part.analysis.instances_xy[:, s + 1], axis=-1)
            for t, tensor in enumerate(TENSORS):
                terms[f"{tensor} tile of level {s}"] = part.analysis.tile[:, s, t]
                for kind in ("reads", "fills", "updates"):
                    terms[f"{tensor} {kind} of level {s}"] = getattr(part.traffic, kind)[:, s, t]
        for name, values in terms.items():
            found.setdefault(name, np.full(size, np.nan))[part.rows] = values
    return found
