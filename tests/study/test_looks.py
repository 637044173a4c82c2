"""Chances of assignments to be as accurate as another, by the errors of their relatives.

Guards: docs/SEARCH.md, "The search".
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqjax.study.looks import chances, relatives


@pytest.fixture
def judged():
    """Genomes, their losses, and errors that fall with the loss and then vary around 0.08."""
    random = np.random.default_rng(0)
    genomes = random.integers(2, 9, (200, 20))
    losses = np.exp(random.uniform(-6, 1, 200))
    errors = 0.08 * np.exp(random.normal(0, 0.02, 200)) + 0.1 * losses
    return genomes, losses, errors


def test_chances_are_shares_of_what_comes_to_pass(judged):
    """Of assignments without relatives, as many are accurate as was said, and the more lossy the fewer."""
    random = np.random.default_rng(1)
    losses = np.exp(random.uniform(-6, -2, 4000))
    errors = 0.08 * np.exp(random.normal(0, 0.02, 4000)) + 0.1 * losses
    fresh = random.integers(2, 9, (4000, 20))
    said = chances(0.08, fresh, losses, *judged, noise=0.002)
    assert ((said >= 0) & (said <= 1)).all()
    for few in (said < 0.1, (said > 0.1) & (said < 0.4), said > 0.4):
        assert few.sum() > 100 and abs(said[few].mean() - (errors[few] <= 0.08).mean()) < 0.1


def test_relatives_of_a_lucky_assignment_have_better_chances(judged):
    genomes, losses, errors = judged
    usual = int(np.argmin(losses))
    close, whose = relatives(genomes[[usual]])
    assert not whose.any() and ((close != genomes[usual]).sum(axis=1) == 1).all()

    def mean_chance(error: float) -> float:
        seen = np.where(np.arange(200) == usual, error, errors)
        return float(
            chances(0.077, close, np.full(len(close), losses[usual]), genomes, losses, seen, noise=0.002).mean()
        )

    assert mean_chance(0.076) > 2 * mean_chance(0.081) and mean_chance(0.081) > mean_chance(0.09)


@given(st.lists(st.lists(st.integers(2, 8), min_size=4, max_size=4), max_size=5))
def test_relatives_are_all_steps_of_one_bit_in_one_gene(rows):
    genomes = np.array(rows, np.int32).reshape(len(rows), 4)
    close, whose = relatives(genomes)
    expected = {
        (n, *row[:gene], row[gene] + step, *row[gene + 1 :])
        for n, row in enumerate(rows)
        for gene in range(4)
        for step in (-1, 1)
        if 2 <= row[gene] + step <= 8
    }
    assert {(int(n), *row) for n, row in zip(whose, close.tolist(), strict=True)} == expected
    assert len(close) == len(expected)
