"""A search on five small layers, by an accuracy that is a formula; `table` of conftest.py has their costs."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mqjax.hw import load_arch
from mqjax.mapper.table import CostTable
from mqjax.show.report import write_report
from mqjax.study.bitsearch import SearchResult, search
from mqjax.study.runs import claim, describe, write_run
from mqjax.types import Layer

SMALL = ["--population", "8", "--generations", "2", "--images", "64", "--test-images", "100", "--seed", "3"]
"""Options of `mqjax search` for a small search."""

LAYERS = (
    Layer(C=1, M=8, R=3, S=3, P=8, Q=8, name="net_conv1"),
    Layer(C=8, R=3, S=3, P=8, Q=8, shape="depthwise", name="net_dw1"),
    Layer(C=8, M=16, P=8, Q=8, name="net_pw1"),
    Layer(C=8, M=16, P=8, Q=8, name="net_pw2"),
    Layer(C=16, M=12, name="net_fc"),
)


class Formula:
    """A made-up accuracy that falls with every bit taken away."""

    cache_key = "formula"

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self, genomes: np.ndarray) -> np.ndarray:
        self.asked += len(genomes)
        weights = np.linspace(1.0, 2.0, genomes[0].size).reshape(genomes.shape[1:])
        return 0.9 - 0.05 * (weights * 2.0 ** (2.0 - genomes)).sum(axis=(1, 2))


def run(table: CostTable, **options) -> SearchResult:
    return search(table, Formula(), population=16, generations=6, seed=5, **options)


def finished_run(folder: Path, table: CostTable, **options) -> SearchResult:
    """Search, and leave a run folder with its report."""
    claim(folder, {"network": "net", "dataset": "none", "seed": 5})
    result = run(table, folder=folder / "population", **options)
    about = {"test": {"split": "test", "images": 1, "float": 0.9}}
    document = describe(load_arch("eyeriss"), table, result, test_accuracy=Formula(), about=about)
    write_run(folder, document, result)
    write_report(folder)
    return result
