"""Pareto sets of energy and delay: of layers against plain enumeration, of networks against all choices.

Guards: docs/MODEL.md, "11.6 Termination and best"; README.md, "What is exact, and what is a model".
"""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest

from mqjax.cli import main
from mqjax.cost.exact.evaluator import analyse_mappings, evaluate
from mqjax.cost.packing import stacked_widths, widths_of
from mqjax.errors import InputError
from mqjax.mapper import sweep
from mqjax.mapper.best import best_mappings
from mqjax.mapper.decision import exact_costs
from mqjax.mapper.distribution import distributions
from mqjax.mapper.tradeoff import Tradeoff, tradeoff
from mqjax.mapspace.padding import padded_or_itself
from mqjax.mapspace.rows import Numbering, mappings
from mqjax.mapspace.space import Mapspace
from mqjax.network.tradeoff import network_tradeoff
from mqjax.study.pareto import pareto_front
from mqjax.types import METRICS, BitWidths, Layer

LAYERS = [
    Layer(C=4, M=8, P=4, name="pointwise"),
    Layer(C=4, M=4, R=3, S=3, P=4, Wstride=2, Hstride=2, name="strided"),
    Layer(C=8, R=3, S=3, P=2, shape="depthwise", name="depthwise"),
]
BITS = [BitWidths(), BitWidths(4, 3, 8)]


def everything(arch, layer: Layer, bits: BitWidths, constraints: str) -> np.ndarray:
    """Energy and cycles, float64 [N, 2], of every mapping of the nominal space that fits."""
    space = Mapspace(arch, padded_or_itself(arch, layer, constraints=constraints, pad=0), constraints=constraints)
    assert space.size < 300_000
    found = []
    for part in analyse_mappings(arch, [space.layer] * space.size, space.arrays(list(range(space.size)))):
        validity, priced = part.cost(arch, widths_of(arch, bits))
        found.append(np.column_stack([priced.energy_pj, priced.cycles])[validity.valid])
    return np.concatenate(found)


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: layer.name)
@pytest.mark.parametrize("name", ["eyeriss", "simba"])
def test_sets_equal_plain_enumeration(name, layer, archs):
    for bits in BITS:
        found = tradeoff(archs[name], layer, bits)
        costs = everything(archs[name], layer, bits, "paper")
        wanted = np.unique(costs[pareto_front(costs)], axis=0)[::-1]
        assert np.array_equal(np.column_stack([found.energy_pj, found.cycles]), wanted)
        again = evaluate(archs[name], layer, bits, list(found.mappings))
        assert again.valid.all() and np.array_equal(again.energy_pj, found.energy_pj)
        assert np.array_equal(again.cycles, found.cycles)
        best = best_mappings(archs[name], layer, bits, metrics=METRICS)[0]
        assert best["energy"].energy_pj == found.energy_pj.min() and best["delay"].cycles == found.cycles.min()
        assert best["edp"].edp == (found.energy_pj * found.cycles).min()


def test_loop_orders_too_many_for_blocks_are_compared(archs, monkeypatch):
    """Every mapping then brings its loop order along."""
    layer = Layer(C=2, M=2, P=2, name="free")
    space = Mapspace(archs["simba"], layer, constraints="none")
    (in_blocks,) = distributions(space, [BitWidths()])
    found = tradeoff(archs["simba"], layer, BitWidths(), constraints="none")
    every = Numbering(space).at(np.arange(space.distinct))
    nests, widths = mappings(space, every), stacked_widths(space.arch, [BitWidths()] * len(every))
    fits, energy, cycles = exact_costs(space, nests, np.arange(len(every)), widths)
    costs = np.column_stack([energy, cycles])[fits]
    assert np.array_equal(found.energy_pj, np.unique(costs[pareto_front(costs)], axis=0)[::-1, 0])
    monkeypatch.setattr(sweep, "BLOCK_ORDERS_MOST", 1)
    again = tradeoff(archs["simba"], layer, BitWidths(), constraints="none")
    assert np.array_equal(again.energy_pj, found.energy_pj) and again.mappings == found.mappings
    (brought,) = distributions(space, [BitWidths()])
    assert np.array_equal(brought["energy"].counts, in_blocks["energy"].counts)


def test_what_cannot_be_compared_is_said(archs):
    with pytest.raises(InputError, match="'vast'.*too large to cover"):
        tradeoff(archs["simba"], Layer(C=512, M=512, P=28, Q=28, name="vast"), BitWidths(), constraints="none")
    with pytest.raises(InputError, match="'tall'.*fits"):
        tradeoff(archs["eyeriss"], Layer(R=500, name="tall"), BitWidths())


def made_up(generator: np.random.Generator, count: int) -> Tradeoff:
    energy, cycles = np.sort(generator.uniform(1, 9, count))[::-1], np.sort(generator.permutation(90)[:count]) + 1
    return Tradeoff(Layer(name="made up"), BitWidths(), energy, cycles, ([],) * count)


@pytest.mark.parametrize("most", [2**18, 12])
def test_networks_equal_all_choices(most):
    generator = np.random.default_rng(0)
    layers = [made_up(generator, count) for count in (5, 3, 6, 4)]
    choices = np.array(list(itertools.product(*(range(len(layer.cycles)) for layer in layers))))
    costs = np.zeros((len(choices), 2))
    for layer, chosen in zip(layers, choices.T, strict=True):
        costs += np.column_stack([layer.energy_pj, layer.cycles])[chosen]
    wanted = np.unique(costs[pareto_front(costs)], axis=0)[::-1]
    found = network_tradeoff(layers, most=most)
    for energy, cycles, chosen in zip(found.energy_pj, found.cycles, found.choices, strict=True):
        total = sum(np.array([layer.energy_pj[c], layer.cycles[c]]) for layer, c in zip(layers, chosen, strict=True))
        assert tuple(total) == (energy, cycles)
    if most > len(choices):
        assert np.array_equal(np.column_stack([found.energy_pj, found.cycles]), wanted) and found.slack_pj == 0
        assert found.edp_bound == found.edp.min() == wanted.prod(axis=1).min()
    else:
        # Thinned: every point of the exact front has one nearby that is as fast and needs little more energy.
        assert 0 < found.slack_pj < 9 and found.edp_bound <= wanted.prod(axis=1).min() <= found.edp.min()
        for energy, cycles in wanted:
            assert found.energy_pj[found.cycles <= cycles].min() <= energy + found.slack_pj


def test_map_prints_and_draws_the_trade_off(tmp_path, capsys):
    options = ["map", "--arch", "eyeriss", "--network", str(tmp_path / "net.csv"), "--bits", "8/4/8", "--pareto"]
    (tmp_path / "net.csv").write_text("name,C,M,R,S,P,Q\none,1,4,3,3,4,1\ntwo,4,8,1,1,4,1\n")
    assert main([*options, "--json", "--figure", str(tmp_path / "figure.png")]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["layer"] for row in found["layers"]] == ["one", "two"] and all(row["points"] for row in found["layers"])
    network = found["network"]
    assert network["least_edp"] == network["edp_bound"] <= network["edp_of_layer_optima"] and network["slack_pj"] == 0
    assert network["energy_pj"][0] == sum(row["points"][0]["energy_pj"] for row in found["layers"])
    assert (tmp_path / "figure.png").read_bytes()[:4] == b"\x89PNG"
    assert main(options) == 0
    assert "least EDP" in capsys.readouterr().out
    assert main([*options[:-2], "all", "--pareto"]) == 2 and "one width triple" in capsys.readouterr().err
    assert main([*options[:-1], "--figure", "f.png"]) == 2 and "--pareto" in capsys.readouterr().err
