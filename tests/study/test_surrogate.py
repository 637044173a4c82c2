"""Exact fronts of summed losses and costs, against plain enumeration of all assignments.

Guards: docs/SEARCH.md, "The search".
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqjax.errors import InputError
from mqjax.network.cost import network_cost
from mqjax.network.dominance import prune
from mqjax.network.wiring import Wiring
from mqjax.study.pareto import pareto_front
from mqjax.study.surrogate import Surrogate, surrogate_front
from mqjax.types import WIDTHS, Layer


def chain(layers: int) -> Wiring:
    return Wiring.chain([Layer(C=2, M=2, name=f"layer{n}") for n in range(layers)])


def wired(reads: list[str], writes: list[str], adds: list[str | None]) -> Wiring:
    """The wiring of layers that read, write and add tensors of these names; "out" is the network's output."""
    first: dict[str, int] = {}
    for layer, names in enumerate(zip(reads, adds, strict=True)):
        for name in names:
            if name is not None:
                first.setdefault(name, layer)
    number = {name: n for n, name in enumerate(first)} | {"out": len(first)}
    return Wiring(
        layers=tuple(f"layer{n}" for n in range(len(reads))),
        tensors=tuple(first),
        reads=tuple(number[name] for name in reads),
        writes=tuple(number[name] for name in writes),
        first=tuple(first.values()),
        live=((0,) * (len(first) + 1),) * len(reads),
    )


@st.composite
def wirings(draw) -> Wiring:
    """Chains of up to three blocks: a layer, or two layers with a residual sum, whose other side may be projected."""
    reads, writes, adds = [], [], []
    x = "image"
    for block in range(draw(st.integers(1, 3))):
        kind = draw(st.sampled_from(["plain", "residual", "projected", "projected first"]))
        y, inner, side = f"y{block}", f"inner{block}", f"side{block}"
        projection = (x, side, None)
        layers = [(x, inner, None), (inner, y, {"residual": x}.get(kind, side))]
        if kind == "plain":
            layers = [(x, y, None)]
        elif kind == "projected":
            layers.insert(1, projection)
        elif kind == "projected first":
            layers.insert(0, projection)
        for read, write, add in layers:
            reads.append(read)
            writes.append(write)
            adds.append(add)
        x = y
    writes[-1] = "out"
    return wired(reads, writes, adds)


def random_surrogate(wiring: Wiring, seed: int, objectives: int, kept: int) -> tuple[Surrogate, np.ndarray]:
    """Whole numbers, so that sums are exact, where only some widths fit; and all assignments of these widths."""
    generator = np.random.default_rng(seed)
    count = len(WIDTHS)
    allowed = [np.sort(generator.permutation(count)[:kept]) for _ in range(wiring.genes)]
    kernels = generator.integers(-3, 40, (len(wiring.layers), count)).astype(float)
    tensors = generator.integers(-3, 40, (len(wiring.tensors), count)).astype(float)
    costs = generator.integers(0, 30, (objectives, len(wiring.layers), count, count, count)).astype(float)
    costs += 5.0 * np.add.outer(np.add.outer(np.arange(count), np.arange(count)), np.arange(count))
    for layer in range(len(wiring.layers)):
        fits = [allowed[gene] for gene in wiring.tensor_genes] + [np.arange(count)]
        axes = fits[wiring.reads[layer]], allowed[wiring.kernel_genes[layer]], fits[wiring.writes[layer]]
        outside = np.ones((count,) * 3, bool)
        outside[np.ix_(*axes)] = False
        costs[:, layer, outside] = np.inf
    everything = np.zeros((0, wiring.genes), np.int8)
    if kept**wiring.genes < 10**6:
        everything = np.array(list(itertools.product(*allowed)), np.int8) + WIDTHS[0]
    return Surrogate(wiring, kernels, tensors, costs), everything


def values(surrogate: Surrogate, genomes: np.ndarray) -> np.ndarray:
    return np.column_stack([surrogate.loss(genomes), surrogate.cost(genomes)])


@given(wirings(), st.integers(0, 2**32), st.integers(1, 2))
def test_front_is_that_of_all_assignments(wiring, seed, objectives):
    surrogate, everything = random_surrogate(wiring, seed, objectives, 3 if wiring.genes <= 7 else 2)
    all_values = values(surrogate, everything)
    found = surrogate_front(surrogate, most=10**9)
    mine = values(surrogate, found.genomes)
    np.testing.assert_array_equal(mine, np.column_stack([found.loss, found.costs]))
    wanted = np.unique(all_values[pareto_front(all_values)], axis=0)
    np.testing.assert_array_equal(np.unique(mine, axis=0), wanted)
    np.testing.assert_array_equal(found.slack, 0)


@given(wirings(), st.integers(0, 2**32), st.integers(1, 2))
def test_thinned_front_loses_no_more_than_it_says(wiring, seed, objectives):
    surrogate, everything = random_surrogate(wiring, seed, objectives, 3 if wiring.genes <= 7 else 2)
    all_values = values(surrogate, everything)
    found = surrogate_front(surrogate, most=20)
    mine = values(surrogate, found.genomes)
    # For every assignment there is a member whose last cost is no higher, and whose bounds are no higher either.
    promised = np.column_stack([found.bounds, mine[:, -1]])
    assert (promised[None] <= all_values[:, None]).all(axis=2).any(axis=1).all()
    # And a member that is worse by the slack at most.
    worse = np.append(found.slack, 0.0)
    assert (mine[None] <= all_values[:, None] + worse).all(axis=2).any(axis=1).all()


def test_thinning_happens_and_costs_something():
    surrogate, _ = random_surrogate(chain(12), 1, 1, 7)
    exact, thinned = surrogate_front(surrogate, most=10**9), surrogate_front(surrogate, most=200)
    assert len(thinned.loss) < len(exact.loss) and exact.slack[0] == 0 < thinned.slack[0]
    # The exact front's loss at each member's cost lies between the member's bound and its loss.
    at = np.searchsorted(exact.costs[:, 0], thinned.costs[:, 0], side="right") - 1
    assert (np.minimum.accumulate(thinned.bounds[:, 0]) <= exact.loss[at]).all()
    assert (exact.loss[at] <= thinned.loss).all() and (exact.loss[at] < thinned.loss).any()


def test_costs_are_those_of_the_network(toy_table):
    surrogate = Surrogate(
        Wiring.chain(toy_table.layers),
        np.zeros((len(toy_table.layers), 7)),
        np.zeros((len(toy_table.layers), 7)),
        toy_table.best["energy"][toy_table.index][None],
    )
    genomes = np.random.default_rng(0).integers(2, 9, (50, surrogate.wiring.genes))
    wanted = network_cost(toy_table, genomes.reshape(50, -1, 2))
    np.testing.assert_array_equal(surrogate.cost(genomes), wanted)


@pytest.fixture
def toy_table(archs):
    from mqjax.mapper.table import cost_table

    return cost_table(archs["eyeriss"], [Layer(C=4, M=8, P=4, Q=4, name="a"), Layer(C=8, M=4, P=4, Q=4, name="b")])


@given(st.integers(0, 2**32), st.integers(2, 3), st.integers(1, 60))
def test_pruned_candidates_stand_for_all(seed, columns, most):
    generator = np.random.default_rng(seed)
    points = generator.integers(0, generator.integers(2, 40), (200, columns)).astype(float)
    bounds = points[:, :-1] - generator.integers(0, 3, (200, columns - 1))
    kept, after = prune(points, bounds, most, np.ones(columns - 1))
    assert (np.diff(points[kept, -1]) >= 0).all()
    promised = np.column_stack([after, points[kept, -1]])
    assert (promised[None] <= np.column_stack([bounds, points[:, -1]])[:, None]).all(axis=2).any(axis=1).all()
    if columns == 2:
        assert len(kept) <= most
    exact, same = prune(points, points[:, :-1], 10**9, np.ones(columns - 1))
    np.testing.assert_array_equal(same, points[exact, :-1])
    assert {*map(tuple, points[exact])} == {*map(tuple, points[pareto_front(points)])}


def test_a_tensor_that_no_layer_touches_takes_its_best_width():
    wiring = wired(["image", "inner"], ["inner", "out"], [None, "mask"])
    surrogate, _ = random_surrogate(wiring, 3, 1, 7)
    found = surrogate_front(surrogate)
    gene = wiring.tensor_genes[wiring.tensors.index("mask")]
    best = surrogate.tensors[wiring.tensors.index("mask")].argmin() + WIDTHS[0]
    assert (found.genomes[:, gene] == best).all()


def test_bad_input_is_refused():
    surrogate, _ = random_surrogate(chain(2), 0, 1, 7)
    with pytest.raises(InputError, match="kernels"):
        Surrogate(surrogate.wiring, surrogate.kernels[:1], surrogate.tensors, surrogate.costs)
    with pytest.raises(InputError, match="shape"):
        Surrogate(surrogate.wiring, surrogate.kernels, surrogate.tensors, surrogate.costs[0])
    nothing = surrogate.costs.copy()
    nothing[:, 1] = np.inf
    with pytest.raises(InputError, match="layer1"):
        surrogate_front(Surrogate(surrogate.wiring, surrogate.kernels, surrogate.tensors, nothing))
