"""Costs of assignments: one mapping per layer for all objectives, widths by the tensors that layers read and write.

Guards: docs/SEARCH.md, "The search".
"""

from __future__ import annotations

import numpy as np
import pytest

from mqjax.errors import InputError
from mqjax.io.records import evaluate_records
from mqjax.mapper.table import cost_table
from mqjax.network.cost import layer_widths, network_cost
from mqjax.network.wiring import Wiring
from mqjax.objectives import METRICS, mapping_metric
from mqjax.types import BitWidths, Layer

LAYERS = (
    Layer(C=4, M=8, P=8, Q=8, name="in"),
    Layer(C=8, M=8, P=8, Q=8, name="left"),
    Layer(C=8, M=8, R=3, S=3, P=6, Q=6, name="right"),
)
# `left` and `right` both read what `in` wrote, and both write the network's output.
FORK = Wiring(
    layers=("in", "left", "right"),
    tensors=("image", "in_output"),
    reads=(0, 1, 1),
    writes=(1, 2, 2),
    first=(0, 1),
    live=((256, 512, 0), (0, 512, 512), (0, 512, 800)),
)


@pytest.fixture(scope="module")
def table():
    from mqjax.hw import load_arch

    return cost_table(load_arch("eyeriss"), LAYERS)


@pytest.mark.parametrize("metric", METRICS)
def test_all_objectives_are_those_of_one_set_of_mappings(table, archs, metric):
    genome = np.array([4, 3, 5, 8, 2])
    widths = [BitWidths(4, 3, 5), BitWidths(5, 8, 8), BitWidths(5, 2, 8)]
    assert layer_widths(genome, FORK) == widths
    records = [
        {
            "dims": layer.dims,
            "shape": layer.shape,
            "bitwidths": {"Inputs": bits.inputs, "Weights": bits.weights, "Outputs": bits.outputs},
            "mapping": table.mapping(metric, number, bits),
        }
        for number, (layer, bits) in enumerate(zip(LAYERS, widths, strict=True))
    ]
    totals = [record["stats"]["totals"] for record in evaluate_records(archs["eyeriss"], records)]
    energy, delay = sum(t["energy_pJ"] for t in totals), sum(t["cycles"] for t in totals)
    memory = 32 * 3 + 64 * 8 + 576 * 2
    expected = {
        "energy": energy,
        "delay": delay,
        "edp": energy * delay,
        "edp_sum": sum(t["energy_pJ"] * t["cycles"] for t in totals),
        "memory": memory,
        "weight_memory": memory,
        "activation_memory": max(256 * 4 + 512 * 5, 512 * 5 + 512 * 8, 512 * 5 + 800 * 8),
        "area": archs["eyeriss"].area_um2,
    }
    found = network_cost(table, genome[None], list(expected), wiring=FORK, map_by=metric)[0]
    assert dict(zip(expected, found, strict=True)) == expected


def test_flat_genomes_of_a_chain_cost_what_pairs_cost(table):
    genomes = np.random.default_rng(0).integers(2, 9, (40, 3, 2))
    names = ["energy", "delay", "activation_memory"]
    flat = network_cost(table, genomes.reshape(40, 6), names, wiring=Wiring.chain(LAYERS))
    assert np.array_equal(flat, network_cost(table, genomes, names))
    assert layer_widths(genomes[0].ravel(), Wiring.chain(LAYERS)) == layer_widths(genomes[0], Wiring.chain(LAYERS))


@pytest.mark.parametrize(
    ("names", "metric"),
    [
        (("error", "delay", "energy"), "delay"),
        (("edp", "energy"), "edp"),
        (("memory", "edp_sum"), "edp"),
        (("error", "memory"), "energy"),
    ],
)
def test_mappings_serve_the_first_objective_that_depends_on_them(names, metric):
    assert mapping_metric(names) == metric


def test_unknown_metric_and_pairs_of_a_fork_are_refused(table):
    with pytest.raises(InputError, match="not by 'area'"):
        network_cost(table, np.full((1, 5), 8), wiring=FORK, map_by="area")
    with pytest.raises(InputError, match=r"\[N, 5\], not"):
        network_cost(table, np.full((1, 3, 2), 8), wiring=FORK)
