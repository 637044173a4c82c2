"""The bound screen: its limits are sound, and what it rules out never matters.

Guards: README.md, "What is exact, and what is a model".
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqjax.benchmark import numpy_costs
from mqjax.cost.packing import packing_boxes
from mqjax.hw import load_arch
from mqjax.mapper import limits as bounds
from mqjax.mapper.optimum import solve
from mqjax.mapper.sweep import Sweeper
from mqjax.mapspace.rows import Rows
from mqjax.mapspace.space import Mapspace
from mqjax.types import BitWidths, Layer, all_widths

NAMES = ("eyeriss", "simba", "eyeriss_8bit_changed")
BITS = [*all_widths(), BitWidths()]


def table_of(words: list[int], widths: list[int]) -> np.ndarray:
    """Operands per word [K, L] of these widths in words of these sizes, from few to many."""
    return np.unique([[max(1, word // width) for word in words] for width in widths], axis=0).astype(np.float64)


@given(
    words=st.lists(st.sampled_from([8, 16, 32, 64]), min_size=1, max_size=4),
    widths=st.lists(st.integers(2, 16), min_size=1, max_size=7, unique=True),
    counts=st.lists(st.floats(0, 1e9), min_size=4, max_size=4),
)
def test_means_of_corners_bound_every_packing(words, widths, counts):
    """sum_l count_l / operands_l is at least the mean of its values at the first and last row, whatever the counts."""
    table = table_of(words, widths)
    shares = bounds._shares(table)
    values = (np.array(counts[: len(words)]) / table).sum(axis=1)
    assert (shares >= 0).all() and np.allclose(shares.sum(axis=1), 1)
    assert (values >= shares @ values[[0, -1]] * (1 - 1e-12)).all()


@given(name=st.sampled_from(NAMES), seed=st.integers(0, 2**32 - 1), missing=st.floats(0, 1))
def test_limits_leave_no_gap(name, seed, missing):
    """At every triple, the mean of the corners' limits is at least the best cost known there; where none is known, all
    that fits is wanted."""
    generator = np.random.default_rng(seed)
    for box in packing_boxes(load_arch(name), BITS):
        best = np.exp(generator.normal(20, 3, (len(box.triples), 3)))
        unknown = generator.random(len(best)) < missing
        best[unknown] = np.inf
        of_box = bounds.Limiter(box, macs=1000)
        limits = of_box.limits(best)
        assert (of_box._shares[~unknown] @ limits.limits >= best[~unknown]).all()
        assert limits.open.sum() == unknown.sum()
        assert limits.open[box.places].astype(bool).tolist() == unknown.tolist()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "layer",
    [
        Layer(C=48, M=96, P=14, Q=14, name="pointwise"),
        Layer(C=16, M=32, R=3, S=3, P=14, Q=7, name="conv"),
        Layer(C=48, M=1, R=3, S=3, P=14, Q=14, Wstride=2, Hstride=2, shape="depthwise", name="depthwise"),
    ],
    ids=lambda layer: layer.name,
)
def test_the_screen_changes_nothing(name, layer):
    """All optima, their mappings and the valid counts are those of a sweep that prices every mapping for all triples."""
    space = Mapspace(load_arch(name), layer)
    with_it, without = solve(space, BITS), solve(space, BITS, screened=False)
    for field in ("energy_pj", "cycles", "index", "valid"):
        np.testing.assert_array_equal(getattr(with_it, field), getattr(without, field))
    assert with_it.mappings == without.mappings and with_it.covered and without.covered


def test_the_screen_rules_out_most(archs):
    """With the optima as limits, under a twentieth of the mappings remain, the optimal ones among them."""
    space = Mapspace(archs["simba"], Layer(C=48, M=96, P=14, Q=14))
    sweeper = Sweeper(space, packing_boxes(space.arch, BITS))
    whole = [sweeper.minima(job) for job in sweeper.jobs()]
    best = [np.concatenate(of_box).min(axis=0) for of_box in zip(*whole, strict=True)]
    limiters = [bounds.Limiter(box, space.layer.macs) for box in sweeper.boxes]
    found = zip(limiters, sweeper.boxes, best, strict=True)
    limits = tuple(of_box.limits(least[box.places]) for of_box, box, least in found)
    kept = Rows.join([sweeper.screen(job, limits)[0] for job in sweeper.jobs()])
    assert 0 < len(kept) < space.distinct / 20
    for start in range(0, len(kept), sweeper.chosen_size):
        found = sweeper.least(kept.take(slice(start, start + sweeper.chosen_size)))
        best = [np.where(np.isclose(f, b, rtol=1e-12), np.inf, b) for f, b in zip(found, best, strict=True)]
    assert all(np.isinf(least).all() for least in best)


@pytest.mark.parametrize("name", NAMES)
def test_compiled_terms_equal_numpy_ones(name):
    """The compiled cost terms against the same formulas run by NumPy: cycles equal, energies to an ulp or two."""
    space = Mapspace(load_arch(name), Layer(C=32, M=64, R=3, S=3, P=14, Q=14))
    sweeper = Sweeper(space, packing_boxes(space.arch, all_widths()))
    rows = sweeper.sample(1000)
    rows = rows.take(slice(0, 1000))
    with np.errstate(all="ignore"):
        costs = numpy_costs(sweeper, rows)
    cycles = np.maximum(costs.weights_cycles[None], costs.shared_cycles[:, None])[..., :1000]
    if costs.coupled_cycles is not None:
        cycles = np.maximum(cycles, costs.coupled_cycles[..., :1000])
    fits = np.isfinite(cycles)
    energy = np.where(fits, (costs.weights_pj[None] + costs.shared_pj[:, None])[..., :1000], np.inf)
    least = sweeper.least(rows)[0]
    np.testing.assert_allclose(least[..., 0], energy.min(axis=2), rtol=1e-15)
    np.testing.assert_array_equal(np.floor(least[..., 2]), cycles.min(axis=2))
