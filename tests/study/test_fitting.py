"""Surrogates fitted to losses of whole assignments.

Guards: docs/SEARCH.md, "The search".
"""

from __future__ import annotations

import numpy as np
import pytest

from mqjax.network.wiring import Wiring
from mqjax.study.fitting import fitted, losses_by_gene
from mqjax.study.surrogate import Surrogate
from mqjax.types import WIDTHS, Layer

LEAST = 0.002


@pytest.fixture(scope="module")
def surrogate():
    """Losses of six genes that fall with the width; the first gene seems to lose nothing at all."""
    wiring = Wiring.chain([Layer(C=2, M=2, name=name) for name in "abc"])
    losses = np.tile(0.01 * 4.0 ** (8 - np.array(WIDTHS)) - 0.01, (3, 1))
    kernels = losses * np.array([[0.0], [1.0], [2.0]])
    return Surrogate(wiring, kernels, losses, np.ones((1, 3, 7, 7, 7)))


def true_losses(surrogate: Surrogate, genomes: np.ndarray) -> np.ndarray:
    """Losses together: other than alone for each gene and width, and more than their sum."""
    alone = losses_by_gene(surrogate) + 0.003
    scales = np.exp(np.random.default_rng(7).normal(0, 0.7, alone.shape))
    parts = (alone * scales)[np.arange(len(alone)), genomes - WIDTHS[0]]
    return LEAST + parts.sum(axis=1) ** 1.5


def test_fit_expects_what_is_measured(surrogate):
    draw = np.random.default_rng(0)
    genomes, fresh = draw.integers(2, 9, (300, 6)), draw.integers(2, 9, (300, 6))
    fit = fitted(surrogate, genomes, true_losses(surrogate, genomes))
    wanted = np.log(true_losses(surrogate, fresh))

    def misfit(expected: np.ndarray) -> float:
        return float(np.std(np.log(expected) - wanted))

    assert misfit(fit.expected(fresh)) < 0.1 < 0.3 < misfit(surrogate.loss(fresh) + LEAST)
    assert 1.2 < fit.slope < 1.8
    order = np.argsort(fit.surrogate.loss(fresh))
    assert (np.diff(fit.expected(fresh)[order]) >= 0).all()


def test_few_and_equal_measurements_leave_finite_losses(surrogate):
    genomes = surrogate.wiring.uniform
    for losses in (true_losses(surrogate, genomes), np.r_[np.zeros(6), 0.1]):
        fit = fitted(surrogate, genomes, losses)
        assert np.isfinite(fit.expected(genomes)).all() and (losses_by_gene(fit.surrogate) >= 0).all()
