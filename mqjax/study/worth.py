"""What the surrogate was worth to a search."""

from __future__ import annotations

from typing import Any

import numpy as np
from jax.scipy.stats import rankdata

from mqjax.study.bitsearch import SearchResult
from mqjax.study.surrogate import Surrogate, surrogate_front


def worth(surrogate: Surrogate, result: SearchResult) -> dict[str, Any]:
    """For front.json. rank_correlation: Spearman's, of summed losses with errors over all evaluated assignments, if these differ. gap: by how
    much the cost of the found front's members exceeds, in the median, the least cost with which the surrogate's exact
    front has no higher summed loss (of several costs, the last); slack: by how much that front's losses may be too high. losses: of every
    kernel and stored tensor at widths 2 to 8.
    """
    genomes = result.genomes.reshape(len(result.genomes), -1)
    loss = surrogate.loss(genomes)
    errors = result.objectives[:, result.names.index("error")]
    correlation = float(np.corrcoef(rankdata(loss), rankdata(errors))[0, 1]) if np.ptp(errors) > 0 else None
    front = surrogate_front(surrogate)
    gaps = []
    for at in result.front:
        possible = front.costs[front.loss <= loss[at] + float(front.slack[0])]
        cost = float(surrogate.cost(genomes[at][None])[0, -1])
        if len(possible):
            gaps.append(cost / possible[:, -1].min() - 1)
    return {
        "rank_correlation": correlation,
        "gap": float(np.median(gaps)) if gaps else None,
        "slack": float(front.slack[0]),
        "first_population": int((result.generation == 0).sum()),
        "losses": {
            "kernels": dict(zip(surrogate.wiring.layers, surrogate.kernels.tolist(), strict=True)),
            "tensors": dict(zip(surrogate.wiring.tensors, surrogate.tensors.tolist(), strict=True)),
        },
    }
