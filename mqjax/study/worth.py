"""What the surrogate was worth to a search."""

from __future__ import annotations

from typing import Any

import numpy as np
from jax.scipy.stats import rankdata

from mqjax.study.bitsearch import SearchResult
from mqjax.study.rehearsal import Rehearsed
from mqjax.study.surrogate import Surrogate, surrogate_front


def worth(surrogate: Surrogate, result: SearchResult, rehearsed: Rehearsed | None = None) -> dict[str, Any]:
    """For front.json. rank_correlation: Spearman's, of summed losses with errors over all evaluated assignments, if these differ.
    rehearsed: how many assignments the rehearsal measured (0 without one), and fitted_correlation the same of the sums of the losses
    fitted to these. gap: by how much the cost of the found front's members exceeds, in the median, the least cost with which
    the exact front of the fitted (else the measured) losses has no higher sum (of several costs, the last); slack: by how much that
    front's losses may be too high. losses: of every kernel and stored tensor alone at widths 2 to 8.
    """
    genomes = result.genomes.reshape(len(result.genomes), -1)
    errors = result.objectives[:, result.names.index("error")]

    def correlation(of: Surrogate) -> float | None:
        loss = of.loss(genomes)
        if not np.ptp(errors) or not np.ptp(loss):
            return None
        return float(np.corrcoef(rankdata(loss), rankdata(errors))[0, 1])

    best = surrogate if rehearsed is None else rehearsed.surrogate
    front, loss = surrogate_front(best), best.loss(genomes)
    gaps = []
    for at in result.front:
        possible = front.costs[front.loss <= loss[at] + float(front.slack[0])]
        cost = float(best.cost(genomes[at][None])[0, -1])
        if len(possible):
            gaps.append(cost / possible[:, -1].min() - 1)
    return {
        "rank_correlation": correlation(surrogate),
        "fitted_correlation": None if rehearsed is None else correlation(best),
        "rehearsed": 0 if rehearsed is None else len(rehearsed.genomes),
        "gap": float(np.median(gaps)) if gaps else None,
        "slack": float(front.slack[0]),
        "first_population": int((result.generation == 0).sum()),
        "losses": {
            "kernels": dict(zip(surrogate.wiring.layers, surrogate.kernels.tolist(), strict=True)),
            "tensors": dict(zip(surrogate.wiring.tensors, surrogate.tensors.tolist(), strict=True)),
        },
    }
