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
    from mqjax.bitsearch import search
    from mqjax.evaluator import Cost, evaluate
    from mqjax.hw import load_arch
    from mqjax.mapper import best_mappings
    from mqjax.mapspace import Mapspace
    from mqjax.models import network_layers
    from mqjax.network import network_cost
    from mqjax.nsga2 import NSGA2
    from mqjax.pareto import hypervolume, pareto_front
    from mqjax.table import CostTable, cost_table

_HOMES = {
    "Cost": "mqjax.evaluator",
    "CostTable": "mqjax.table",
    "Mapspace": "mqjax.mapspace",
    "NSGA2": "mqjax.nsga2",
    "best_mappings": "mqjax.mapper",
    "cost_table": "mqjax.table",
    "evaluate": "mqjax.evaluator",
    "hypervolume": "mqjax.pareto",
    "load_arch": "mqjax.hw",
    "network_cost": "mqjax.network",
    "network_layers": "mqjax.models",
    "pareto_front": "mqjax.pareto",
    "search": "mqjax.bitsearch",
}

__all__ = [
    "BitWidths",
    "Cost",
    "CostTable",
    "InputError",
    "Layer",
    "Mapspace",
    "NSGA2",
    "best_mappings",
    "cost_table",
    "evaluate",
    "hypervolume",
    "load_arch",
    "network_cost",
    "network_layers",
    "pareto_front",
    "search",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'mqjax' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
