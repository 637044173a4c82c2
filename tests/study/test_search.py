"""Search on a tiny problem: same seed, same front; a search that was killed resumes to it.

Guards: docs/SEARCH.md, "The search".
"""

from __future__ import annotations

import numpy as np
import pytest

from mqjax.errors import InputError
from mqjax.io.files import AppendedTable
from mqjax.io.records import evaluate_records
from mqjax.network.cost import layer_widths, network_cost
from mqjax.network.wiring import Wiring
from mqjax.study.bitsearch import search
from mqjax.study.pareto import pareto_front
from mqjax.types import BitWidths
from searching import LAYERS, Formula, run


def fronts_equal(a, b) -> bool:
    return np.array_equal(a.genomes[a.front], b.genomes[b.front]) and np.array_equal(
        a.objectives[a.front], b.objectives[b.front]
    )


# --- network cost ----------------------------------------------------------------------------------------------------


def test_network_cost_is_the_sum_of_layer_optima(table):
    genomes = np.random.default_rng(0).integers(2, 9, (50, len(LAYERS), 2))
    # Each metric alone, so that each is that of its own optimal mappings.
    names = ("energy", "edp_sum", "delay", "memory")
    found = np.concatenate([network_cost(table, genomes, [name]) for name in names], axis=1)
    for genome, costs in zip(genomes, found, strict=True):
        sums = np.zeros(4)
        for number, bits in enumerate(layer_widths(genome, Wiring.chain(LAYERS))):
            at = tuple(width - 2 for width in (bits.inputs, bits.weights, bits.outputs))
            u = table.index[number]
            sums += [
                *(table.best[m][u][at] for m in ("energy", "edp", "delay")),
                LAYERS[number].elements("Weights") * bits.weights,
            ]
        assert np.array_equal(costs, sums)


def test_output_width_is_the_next_input_width():
    widths = layer_widths(np.array([[2, 3], [4, 5], [6, 7]]), Wiring.chain(LAYERS[:3]))
    assert widths == [BitWidths(2, 3, 4), BitWidths(4, 5, 6), BitWidths(6, 7, 8)]


def test_network_cost_does_not_depend_on_the_batch(table):
    genomes = np.random.default_rng(1).integers(2, 9, (40_000, len(LAYERS), 2))
    together = network_cost(table, genomes)
    alone = np.concatenate([network_cost(table, genomes[i : i + 1]) for i in range(0, 40_000, 4001)])
    assert np.array_equal(together[::4001], alone)


@pytest.mark.parametrize(
    ("genomes", "objectives", "word"),
    [
        (np.full((1, 2, 2), 8), ["energy"], "shape"),
        (np.full((1, 5, 2), 9), ["energy"], "2..8"),
        (np.full((1, 5, 2), 8), ["speed"], "speed"),
    ],
)
def test_network_cost_refuses_bad_input(table, genomes, objectives, word):
    with pytest.raises(InputError, match=word):
        network_cost(table, genomes, objectives)


def test_table_remembers_the_optimal_mappings(table, archs):
    bits = BitWidths(4, 3, 8)
    for number, layer in enumerate(LAYERS):
        record = {
            "dims": layer.dims,
            "shape": layer.shape,
            "bitwidths": {"Inputs": 4, "Weights": 3, "Outputs": 8},
            "mapping": table.mapping("energy", number, bits),
        }
        energy = evaluate_records(archs["eyeriss"], [record])[0]["stats"]["totals"]["energy_pJ"]
        assert energy == table.best["energy"][table.index[number]][2, 1, 6]
    assert len(table.unique) == 4 and list(table.index) == [0, 1, 2, 2, 3] and table.covered


# --- search ----------------------------------------------------------------------------------------------------------


def test_front_is_the_front_of_everything_and_covers_the_uniform_assignments(table):
    result = run(table)
    objectives = result.objectives
    assert len(result.genomes) == 16 * 7
    expected = {tuple(values) for values in objectives[pareto_front(objectives)]}
    assert {tuple(values) for values in objectives[result.front]} == expected
    for position in result.uniform().values():
        assert (objectives[result.front] <= objectives[position]).all(axis=1).any()
    assert np.array_equal(objectives[:, 0], 1 - Formula()(result.genomes))
    assert np.array_equal(objectives[:, 1:], network_cost(table, result.genomes))


def test_same_seed_same_front(table):
    assert fronts_equal(run(table), run(table))
    other = search(table, Formula(), population=16, generations=6, seed=6)
    assert not np.array_equal(other.genomes, run(table).genomes)


@pytest.mark.parametrize("objectives", [("energy", "memory"), ("error", "energy", "memory"), ("delay", "error")])
def test_any_objectives(table, objectives):
    result = run(table, objectives=objectives)
    assert result.objectives.shape[1] == len(objectives)
    assert result.names == objectives


def test_hardware_front_comes_close_to_the_exact_one(table):
    """Energy and memory are sums over a chain, so all 7^10 genomes can be compared through dynamic programming."""
    from mqjax.study.pareto import hypervolume

    energy = [table.best["energy"][u] for u in table.index]
    # States: input width of the next layer -> set of (energy, memory) that nothing dominates.
    fronts = {i: np.zeros((1, 2)) for i in range(7)}
    for number in range(len(LAYERS)):
        nexts = range(7) if number < len(LAYERS) - 1 else (6,)
        elements, grown = LAYERS[number].elements("Weights"), {}
        for o in nexts:
            sums = [
                fronts[i] + [energy[number][i, w, o], elements * (w + 2)]
                for i in range(7)
                for w in range(7)
                if i in fronts
            ]
            points = np.unique(np.concatenate(sums), axis=0)
            grown[o] = points[pareto_front(points)]
        fronts = grown
    exact = fronts[6]
    result = search(table, population=64, generations=40, seed=0, objectives=("energy", "memory"))
    found = result.objectives[result.front]
    reference = result.objectives.max(axis=0) * 1.01
    assert hypervolume(found, reference) <= hypervolume(exact, reference) * (1 + 1e-12)
    assert hypervolume(found, reference) >= 0.99 * hypervolume(exact, reference)


def test_known_accuracies_are_not_computed_again(table, tmp_path):
    first, second = Formula(), Formula()
    options = {"population": 16, "generations": 3, "seed": 1, "cache": tmp_path}
    a, b = search(table, first, **options), search(table, second, **options)
    assert fronts_equal(a, b) and first.asked > 0 and second.asked == 0


def test_cache_file_survives_a_torn_line(tmp_path):
    path = tmp_path / "cache.csv"
    known = AppendedTable(path)
    known.add("88", 0.875)
    known.add("44", 0.5)
    path.write_text(path.read_text()[:-4])  # a kill in the middle of a write
    again = AppendedTable(path)
    assert again.get("88") == 0.875 and again.get("44") is None
    again.add("44", 0.25)
    assert AppendedTable(path).get("44") == 0.25


def test_interrupted_search_resumes_to_the_identical_front(table, tmp_path):
    class Interrupted(Formula):
        def __call__(self, genomes):
            if self.asked > 55:
                raise KeyboardInterrupt
            return super().__call__(genomes)

    with pytest.raises(KeyboardInterrupt):
        search(table, Interrupted(), population=16, generations=6, seed=5, folder=tmp_path)
    resumed = run(table, folder=tmp_path)
    whole = run(table)
    assert fronts_equal(resumed, whole) and np.array_equal(resumed.genomes, whole.genomes)


def test_torn_checkpoint_falls_back_to_the_one_before(table, tmp_path):
    whole = run(table, folder=tmp_path)
    last = max(tmp_path.glob("[0-9]*"), key=lambda path: int(path.name))
    for path in last.rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[:3])
    assert fronts_equal(run(table, folder=tmp_path), whole)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"objectives": ("error", "beauty")}, "beauty"),
        ({"objectives": ("error",)}, "two"),
        ({"population": 7}, "population"),
        ({"population": 6}, "population"),
        ({"generations": -1}, "generations"),
    ],
)
def test_bad_options_are_named(table, options, word):
    with pytest.raises(InputError, match=word):
        search(table, Formula(), **options)


def test_error_needs_an_accuracy(table):
    with pytest.raises(InputError, match="accuracy"):
        search(table)
