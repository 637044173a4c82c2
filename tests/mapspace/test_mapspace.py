"""Mapspaces: sizes and counts of the reference, and optima against brute force by the oracle.

Guards: docs/MODEL.md, "11. Map space and search", "11.3 Permutation and split subspaces, pruning".
"""

from __future__ import annotations

import collections
import dataclasses

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import oracle
from conftest import golden
from mqjax.cost.exact.evaluator import evaluate
from mqjax.errors import InputError
from mqjax.hw import load_arch
from mqjax.io.records import evaluate_records
from mqjax.mapper import sweep
from mqjax.mapper.best import best_mappings
from mqjax.mapper.optimum import solve
from mqjax.mapspace.mapping import encode
from mqjax.mapspace.space import Mapspace
from mqjax.types import BitWidths, Layer, all_widths


def layer_of(record) -> Layer:
    return Layer.from_dims(record["dims"], shape=record["shape"])


def bits_of(record) -> BitWidths:
    widths = record["bitwidths"] or {}
    return BitWidths(widths.get("Inputs"), widths.get("Weights"), widths.get("Outputs"))


def record_of(layer: Layer, mapping, bits: BitWidths = BitWidths()) -> dict:
    widths = {"Inputs": bits.inputs, "Weights": bits.weights, "Outputs": bits.outputs}
    return {"dims": layer.dims, "shape": layer.shape, "bitwidths": widths, "mapping": mapping}


def test_nominal_sizes(archs):
    for record in golden("sizes"):
        space = Mapspace(archs[record["arch"]], layer_of(record))
        assert {name: str(size) for name, size in space.sizes.items()} == record["sizes"]


@pytest.mark.parametrize("name", ["enum", "valid_counts"])
def test_counts_and_optima_of_whole_spaces(name, archs):
    for record in golden(name):
        layer, bits = layer_of(record), bits_of(record)
        space = Mapspace(archs[record["arch"]], layer)
        solution = solve(space, [bits])
        counts = {
            "pruned_total": space.pruned_size,
            "valid": int(solution.valid[0]),
            "invalid_fanout": space.pruned_size - space.fanout_valid,
            "invalid_capacity": space.fanout_valid - int(solution.valid[0]),
        }
        assert counts == {key: record[key] for key in counts}
        assert solution.covered
        for metric in ("energy", "edp"):
            wanted = record.get(f"best_{metric}")
            if wanted:
                found = solution.optimum(metric, 0)
                value = {"energy": found.energy_pj, "edp": found.edp}[metric]
                key = {"energy": "energy_pJ", "edp": "edp_pJ_cycles"}[metric]
                assert value == wanted[key]
                if metric == "energy":  # among equals the reference keeps the first, we the fastest
                    assert found.cycles <= wanted["cycles"]


def test_never_worse_than_the_mappings_that_others_found():
    """The reference tool's searches and the authors' published mappings, each on its accelerator and dialect."""
    from check_reference import arch_of, evaluate_any

    wanted = collections.defaultdict(lambda: (np.inf, np.inf))
    records = golden("best") + golden("authors")
    for record, result in zip(records, evaluate_any(records), strict=True):
        arch = arch_of(record["arch"], record.get("variant"))
        assert result["valid"]
        totals, key = result["stats"]["totals"], (arch, layer_of(record), bits_of(record))
        energy, edp = wanted[key]
        wanted[key] = min(energy, totals["energy_pJ"]), min(edp, totals["edp_pJ_cycles"])
    asked = collections.defaultdict(list)
    for arch, layer, bits in wanted:
        asked[arch, layer].append(bits)
    for (arch, layer), triples in asked.items():
        found = best_mappings(arch, layer, triples, metrics=("energy", "edp"))
        for bits, best in zip(triples, found, strict=True):
            energy, edp = wanted[arch, layer, bits]
            assert best["energy"].energy_pj <= energy and best["edp"].edp <= edp and best["energy"].covered


SMALL = {
    "dense": Layer(C=8, M=4, R=3, S=3, P=2, Q=2),
    "depthwise": Layer(C=12, R=3, S=3, P=3, Q=2, shape="depthwise"),
    "strided": Layer(C=4, M=8, R=3, S=3, P=2, Q=4, Wstride=2, Hstride=2),
    "dilated": Layer(C=4, M=4, R=3, S=3, P=4, Q=2, Wdilation=2, Hdilation=3),
    "batch": Layer(C=4, M=4, P=2, Q=2, N=2),
    "connected": Layer(C=48, M=12),
    "loose factors": Layer(C=3, M=2, R=3, S=3, P=3, Q=3),
    "kernel orders": Layer(C=8, M=4, R=3, S=2, P=1, Q=2),
}
WIDTHS_TRIED = (BitWidths(), BitWidths(8, 8, 8), BitWidths(3, 2, 5))


@pytest.mark.parametrize("arch_name", ["eyeriss", "simba", "eyeriss_8bit_changed", "simba_8bit_same"])
@pytest.mark.parametrize("case", SMALL)
def test_optimum_equals_brute_force(arch_name, case):
    arch, layer = load_arch(arch_name), SMALL[case]
    mappings = list(oracle.pruned_mappings(arch, layer, "paper"))
    space = Mapspace(arch, layer)
    assert space.pruned_size == len(mappings)
    # The general evaluator, itself tested against the oracle, prices them all.
    arrays = encode(arch, [layer] * len(mappings), mappings)
    found = best_mappings(arch, layer, WIDTHS_TRIED, metrics=("energy", "edp", "delay"))
    for bits, best in zip(WIDTHS_TRIED, found, strict=True):
        cost = evaluate(arch, layer, bits, arrays)
        assert best["energy"].covered and best["energy"].valid_mappings == cost.valid.sum()
        assert best["energy"].energy_pj == cost.energy_pj[cost.valid].min()
        assert best["edp"].edp == cost.edp[cost.valid].min()
        assert best["delay"].cycles == cost.cycles[cost.valid].min()
        # Of equally fast mappings the one of least energy is chosen.
        fastest = cost.valid & (cost.cycles == best["delay"].cycles)
        assert best["delay"].energy_pj == cost.energy_pj[fastest].min()
        for optimum in best.values():
            again = oracle.evaluate(arch, record_of(layer, optimum.mapping, bits))
            assert (again["energy_pJ"], again["cycles"]) == (optimum.energy_pj, optimum.cycles)


def test_neighbour_forwarding_is_not_overlooked():
    """1-D convolutions: children may hand data on, which the fast path leaves out and the fallback must count."""
    arch = load_arch("eyeriss")
    layer = Layer(C=2, M=2, S=3, Q=12)
    assert Mapspace(arch, layer).may_forward
    costs = []
    for mapping in oracle.pruned_mappings(arch, layer, "paper"):
        found = oracle.evaluate(arch, record_of(layer, mapping))
        costs.append(found["energy_pJ"] if found["valid"] else np.inf)
    best = best_mappings(arch, layer, "native")[0]["energy"]
    assert best.energy_pj == min(costs) and best.valid_mappings == np.isfinite(costs).sum()


def test_all_widths_at_once_equal_one_at_a_time(archs):
    layer = Layer(C=16, M=32, R=3, S=3, P=8, Q=8)
    triples = all_widths()
    together = best_mappings(archs["simba"], layer, "all", metrics=("energy", "edp", "delay"))
    for i in (0, 57, 171, 300, 342):
        alone = best_mappings(archs["simba"], layer, triples[i], metrics=("energy", "edp", "delay"))[0]
        assert together[i] == alone


def test_narrower_is_never_worse(archs):
    """Monotone in every width: what fits and moves at 8 bits does so at fewer, in no more words."""
    grids = solve(Mapspace(archs["eyeriss"], Layer(C=16, M=24, R=3, S=3, P=6, Q=6)), all_widths())
    for m in range(3):
        value = [grids.energy_pj[0], grids.energy_pj[1] * grids.cycles[1], grids.cycles[2]][m].reshape(7, 7, 7)
        for axis in range(3):
            assert (np.diff(value, axis=axis) >= 0).all()
    valid = grids.valid.reshape(7, 7, 7)
    assert all((np.diff(valid, axis=axis) <= 0).all() for axis in range(3))


def test_one_compilation_serves_layers_widths_and_energies(archs):
    arch = archs["eyeriss"]
    solve(Mapspace(arch, Layer(C=8, M=8, P=4, Q=4)), all_widths())
    solve(Mapspace(arch, Layer(C=8, M=8, P=4, Q=4)), [BitWidths()])
    compiled = (sweep._screen, sweep._minima, sweep._candidates)
    before = [len(program) for program in compiled]
    assert min(before) > 0
    dearer = dataclasses.replace(arch.levels[0], read_pj=9.0, capacity_words=48)
    for changed in (arch, dataclasses.replace(arch, levels=(dearer, *arch.levels[1:]))):
        for layer in (Layer(C=24, M=6, R=3, S=3, P=10, Q=5), Layer(C=36, R=3, S=3, P=7, Q=7, shape="depthwise")):
            solve(Mapspace(changed, layer), all_widths())
            solve(Mapspace(changed, layer), [BitWidths(4, 2, 8)])
    assert [len(program) for program in compiled] == before


@given(data=st.data())
def test_any_mapping_of_a_space_agrees_with_the_oracle(data):
    """Random layers, constraint sets, widths and mappings: the evaluator and plain Python agree to the last bit."""
    arch = load_arch(data.draw(st.sampled_from(["eyeriss", "simba", "simba_8bit_changed"])))
    small = st.sampled_from([1, 2, 3, 4, 6])
    dims = {d: data.draw(small, label=d) for d in "CMRSNPQ"}
    dims |= {key: data.draw(st.integers(1, 3)) for key in ("Wstride", "Hstride", "Wdilation", "Hdilation")}
    shape = data.draw(st.sampled_from(["cnn", "depthwise"]))
    layer = Layer.from_dims(dims | ({"M": 1} if shape == "depthwise" else {}), shape=shape)
    space = Mapspace(arch, layer, constraints=data.draw(st.sampled_from(["arch", "none"])))
    indices = data.draw(st.lists(st.integers(0, space.size - 1), min_size=4, max_size=4))
    width = st.integers(2, 8)
    bits = BitWidths(data.draw(width), data.draw(width), data.draw(width))
    records = [record_of(layer, space.mapping(index), bits) for index in indices]
    for record, result in zip(records, evaluate_records(arch, records), strict=True):
        wanted = oracle.evaluate(arch, record)
        assert result["valid"] == wanted["valid"]
        if wanted["valid"]:
            totals = result["stats"]["totals"]
            assert (totals["energy_pJ"], totals["cycles"]) == (wanted["energy_pJ"], wanted["cycles"])


def test_nominal_index_covers_the_space_once():
    arch, layer = load_arch("eyeriss"), Layer(C=4, M=4, Q=2)
    space = Mapspace(arch, layer)

    def loops(mapping):
        return repr([[loop for kind in ("temporal", "spatial") for loop in s[kind] if loop[1] > 1] for s in mapping])

    seen = {loops(space.mapping(index)) for index in range(space.size)}
    assert len(seen) == space.size
    assert {loops(mapping) for mapping in oracle.pruned_mappings(arch, layer, "paper")} == seen


def test_samples_repeat_with_their_key(archs):
    space = Mapspace(archs["simba"], Layer(C=16, M=16, P=8, Q=8, R=3, S=3))
    first, again, other = (space.sample(jax.random.key(seed), 50) for seed in (1, 1, 2))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first.temporal_bound, other.temporal_bound)
    for d, bound in enumerate(space.layer.bounds):
        product = np.ones(50, np.int64)
        for dim, loop in ((first.temporal_dim, first.temporal_bound), (first.spatial_dim, first.spatial_bound)):
            product *= np.where(dim == d, loop, 1).prod(axis=(1, 2))
        assert (product == bound).all()


@pytest.mark.parametrize("constraints", ["paper", "arch"])
def test_space_where_nothing_fits_is_empty(archs, constraints):
    space = Mapspace(archs["eyeriss"], Layer(C=4, M=4, S=500, P=4), constraints=constraints)
    assert space.fanout_valid == space.distinct == 0 < space.pruned_size


def test_what_cannot_be_mapped_is_said(archs):
    with pytest.raises(InputError, match="'M'|M multiply"):
        print(Mapspace(archs["simba"], Layer(C=4, M=10)).size)
    with pytest.raises(InputError, match="speed"):
        best_mappings(archs["eyeriss"], Layer(C=4), metrics=("speed",))
    with pytest.raises(InputError, match="17"):
        best_mappings(archs["eyeriss"], Layer(C=4), BitWidths(17, 8, 8))
    with pytest.raises(InputError, match="no mapping fits"):
        best_mappings(archs["eyeriss"], Layer(R=500, name="tall"), "native")
    with pytest.raises(InputError, match="'wide': no mapping fits"):  # not even the array of processing elements
        best_mappings(archs["eyeriss"], Layer(S=500, name="wide"), "native")
    with pytest.raises(InputError, match="index"):
        Mapspace(archs["eyeriss"], Layer(C=4)).mapping(-1)
