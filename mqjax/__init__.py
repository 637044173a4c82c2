"""mqjax: exact mapping and mixed-precision quantization search for CNN accelerators.

Every name below can be used without the others. They are imported when first used, so that light ones (`Layer`,
`load_arch`) do not wait for JAX.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from mqjax.errors import InputError
from mqjax.types import BitWidths, Layer

if TYPE_CHECKING:
    from mqjax.cost.exact.evaluator import Cost, evaluate
    from mqjax.hw import load_arch
    from mqjax.mapper.best import best_mappings
    from mqjax.mapper.table import CostTable, cost_table
    from mqjax.mapspace.space import Mapspace
    from mqjax.models import load_network, network_layers
    from mqjax.network.cost import network_cost
    from mqjax.objectives import Objective
    from mqjax.show.explain import explain
    from mqjax.study.bitsearch import search
    from mqjax.study.config import StudyConfig
    from mqjax.study.judges import Judge
    from mqjax.study.nsga2 import NSGA2
    from mqjax.study.pareto import hypervolume, pareto_front
    from mqjax.study.study import Run, run_study

_HOMES = {
    "Cost": "mqjax.cost.exact.evaluator",
    "CostTable": "mqjax.mapper.table",
    "Judge": "mqjax.study.judges",
    "Mapspace": "mqjax.mapspace.space",
    "NSGA2": "mqjax.study.nsga2",
    "Objective": "mqjax.objectives",
    "Run": "mqjax.study.study",
    "StudyConfig": "mqjax.study.config",
    "best_mappings": "mqjax.mapper.best",
    "cost_table": "mqjax.mapper.table",
    "evaluate": "mqjax.cost.exact.evaluator",
    "explain": "mqjax.show.explain",
    "hypervolume": "mqjax.study.pareto",
    "load_arch": "mqjax.hw",
    "load_network": "mqjax.models",
    "network_cost": "mqjax.network.cost",
    "network_layers": "mqjax.models",
    "pareto_front": "mqjax.study.pareto",
    "run_study": "mqjax.study.study",
    "search": "mqjax.study.bitsearch",
}

__all__ = [
    "BitWidths",
    "Cost",
    "CostTable",
    "InputError",
    "Judge",
    "Layer",
    "Mapspace",
    "NSGA2",
    "Objective",
    "Run",
    "StudyConfig",
    "best_mappings",
    "cost_table",
    "evaluate",
    "explain",
    "hypervolume",
    "load_arch",
    "load_network",
    "network_cost",
    "network_layers",
    "pareto_front",
    "run_study",
    "search",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'mqjax' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
