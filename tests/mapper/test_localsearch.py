"""Spaces in which nothing is proven: what the search finds is exact, no worse than the paper's space, and called unproven.

Guards: README.md, "What is exact, and what is a model".
"""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqjax.cli import main
from mqjax.cost.exact.evaluator import evaluate
from mqjax.hw import load_arch
from mqjax.mapper.best import best_mappings
from mqjax.mapper.localsearch import Codec, search_mappings
from mqjax.mapper.optimum import solve
from mqjax.mapspace import joint
from mqjax.mapspace.mapping import decode, encode
from mqjax.mapspace.space import Mapspace
from mqjax.types import BitWidths, Layer

BITS = [BitWidths(8, 8, 8), BitWidths(4, 2, 8), BitWidths()]


@given(data=st.data())
def test_codes_stand_for_mappings_of_the_space(data):
    """Mappings drawn from a space, as codes and back, cost the same; so do all that changes make of them."""
    arch = load_arch(data.draw(st.sampled_from(["eyeriss", "simba"])))
    layer = Layer(**{d: data.draw(st.integers(1, 9)) for d in "CMPQ"}, R=data.draw(st.integers(1, 3)))
    space = Mapspace(arch, layer, constraints=data.draw(st.sampled_from(["arch", "none"])))
    index = data.draw(st.integers(0, space.size - 1))
    drawn = space.arrays([index])
    codec = Codec(space)
    codes = codec.encode(drawn)
    expected, found = (evaluate(arch, layer, BitWidths(4, 4, 4), nests) for nests in (drawn, codec.nests(codes)))
    # The order and split of loops of bound 1 are free, so a mapping may come back with a split that fits better.
    if expected.valid[0]:
        assert found.valid[0] and found.energy_pj[0] == expected.energy_pj[0] and found.cycles[0] == expected.cycles[0]
    children = codec.children(codes, np.random.default_rng(index % 2**32))
    for row in range(min(20, len(children))):
        nests = codec.nests(children[row : row + 1])
        again = encode(arch, [layer], [decode(arch, layer, nests, 0)])  # checks that the factors multiply to the bounds
        for t, level in enumerate(space.tiling):
            kind = again.spatial_dim if level.spatial else again.temporal_dim
            assert sorted(kind[0, level.level]) == list(range(7)), t


@pytest.mark.parametrize(("name", "dims"), [("eyeriss", dict(C=32, M=16, P=14, Q=14)), ("simba", dict(C=64, M=8))])
def test_the_search_comes_near_the_optimum(archs, name, dims):
    """Where the space can be covered, the search finds costs no lower than the optimum's, and not far above."""
    layer = Layer(**dims)
    space, bits = Mapspace(archs[name], layer, constraints="arch"), BITS[:1]
    optimum, found = solve(space, bits), search_mappings(space, bits).solution()
    assert optimum.covered and not found.covered and found.valid is None
    for m in range(3):
        best, near = ((s.energy_pj[0], s.energy_pj[1] * s.cycles[1], s.cycles[2])[m] for s in (optimum, found))
        assert (near >= best).all() and (near <= 1.1 * best).all()


@pytest.fixture
def unprovable(monkeypatch):
    """Every layer has more spreads than the proof follows."""
    monkeypatch.setattr("mqjax.mapper.levels.spreads.SPREADS_MOST", 0)


def test_spaces_that_cannot_be_proven_are_searched(archs, monkeypatch, unprovable):
    """No worse than the paper's optimum, the same again, priced exactly, not proven."""
    monkeypatch.setattr("mqjax.mapper.localsearch.ROUNDS_MOST", 20)
    arch, layer = archs["simba"], Layer(C=32, M=16, P=14, Q=14, name="pointwise")
    space = Mapspace(arch, layer, constraints="arch")
    assert space.too_large
    found, again, paper = solve(space, BITS), solve(space, BITS), solve(Mapspace(arch, layer), BITS)
    np.testing.assert_array_equal(found.energy_pj, again.energy_pj)
    assert found.mappings == again.mappings
    assert (found.energy_pj[0] <= paper.energy_pj[0]).all() and (found.cycles[2] <= paper.cycles[2]).all()
    assert (found.energy_pj[1] * found.cycles[1] <= paper.energy_pj[1] * paper.cycles[1]).all()
    for i, bits in enumerate(BITS):
        best = found.optimum("edp", i)
        assert not best.covered and best.valid_mappings is None and best.evaluated > 1000
        cost = evaluate(arch, layer, bits, [best.mapping])
        assert cost.valid[0] and cost.energy_pj[0] == best.energy_pj and cost.cycles[0] == best.cycles


def test_a_search_begins_without_the_paper_too(archs, monkeypatch, unprovable):
    """M = 6 is no multiple of the factor 4 that the paper's constraints fix, but the hardware can do without."""
    monkeypatch.setattr(joint, "DISTINCT_MOST", 1000)
    monkeypatch.setattr("mqjax.mapper.localsearch.ROUNDS_MOST", 10)
    found = best_mappings(archs["simba"], Layer(C=8, M=6, P=4), BITS, constraints="arch")
    assert all(best["energy"].energy_pj > 0 and not best["energy"].covered for best in found)


def test_map_tells_what_the_heuristics_cost(capsys, monkeypatch, unprovable):
    monkeypatch.setattr("mqjax.mapper.localsearch.ROUNDS_MOST", 5)
    options = ["map", "--arch", "simba", "--bits", "8/8/8", "--constraints", "arch", "--json", "--layer"]
    for layer, covered in (("C=16,M=4", True), ("C=32,M=16,P=14,Q=14", False)):
        assert main([*options, layer]) == 0
        output = capsys.readouterr()
        (row,) = json.loads(output.out)
        assert row["covered"] is covered and (row["valid_mappings"] is not None) == covered
        assert row["energy_pj"] <= row["paper_energy_pj"] and row["paper_edp"] > 0
        assert ("NOT proven" in output.err) != covered
    assert main(["mapspace", "--arch", "simba", "--constraints", "arch", "--layer", "C=32,M=16,P=14,Q=14"]) == 2
    assert "too many to cover" in capsys.readouterr().err
