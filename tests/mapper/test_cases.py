"""Small accelerators on which a wrong answer is easy to give, with the right ones (tests/golden/cases): each for a kind.

The right values come from an independent evaluator and plain enumeration of the spaces.

Guards: docs/MODEL.md, "11. Map space and search", "13. Oddities and quirks".
"""

from __future__ import annotations

import json
import resource
from pathlib import Path

import numpy as np
import pytest
from recorder import Recorder

from mqjax.cli import main
from mqjax.commands._layers import parse_layer
from mqjax.cost.exact.evaluator import evaluate
from mqjax.errors import InputError
from mqjax.hw import load_arch
from mqjax.io.records import evaluate_records, read_records
from mqjax.mapper.best import best_mappings
from mqjax.mapper.localsearch import search_mappings
from mqjax.mapper.optimum import solve
from mqjax.mapper.table import cost_table, entry_of
from mqjax.mapspace.space import Mapspace
from mqjax.types import BitWidths, Layer

CASES = Path(__file__).parent.parent / "golden" / "cases"
SPACES = [json.loads(line) for line in (CASES / "spaces.jsonl").read_text().splitlines()]


def arch_of(name: str):
    return load_arch(CASES / f"{name}.yaml")


def records_of(name: str) -> list[dict]:
    return [record for _, record in read_records(CASES / f"{name}.jsonl")]


@pytest.mark.parametrize("case", SPACES, ids=lambda case: f"{Path(case['arch']).stem}-{case['bits']}")
def test_whole_spaces(case):
    """MODEL.md sections 6, 7.2 and 11.3: sizes, counts, and optima by all metrics."""
    arch, layer = load_arch(CASES / case["arch"]), parse_layer(case["layer"], case["shape"])
    solution = solve(Mapspace(arch, layer, constraints=case["constraints"]), [BitWidths.parse(case["bits"])])
    found = {metric: solution.optimum(metric, 0) for metric in ("energy", "edp", "delay")}
    assert all(optimum.covered for optimum in found.values())
    for name in ("nominal_size", "pruned_size", "valid_mappings"):
        assert getattr(found["energy"], name) == case[name]
    assert found["energy"].energy_pj == pytest.approx(case["energy_pj"], rel=1e-12)
    assert found["edp"].edp == pytest.approx(case["edp"], rel=1e-12)
    assert found["delay"].cycles == case["cycles"]


def test_the_innermost_spatial_loops_obey_permutation_and_split():
    """MODEL.md section 11.3: tiling level 0 is canonical only where it is temporal."""
    arch = arch_of("innermost-fanout-permutation")
    best = best_mappings(arch, Layer(C=2, M=4), "native", metrics=("delay",))[0]["delay"]
    (given,) = evaluate_records(arch, records_of("innermost-fanout-permutation"))
    totals = given["stats"]["totals"]
    assert (best.cycles, best.energy_pj, best.covered) == (1, 1848.0, True)
    assert (totals["cycles"], totals["energy_pJ"]) == (1, 1848.0)


def test_fills_are_sums_of_rounded_quotients():
    """MODEL.md section 7.2."""
    (found,) = evaluate_records(arch_of("truncated-fills"), records_of("truncated-fills"))
    assert found["stats"]["totals"]["energy_pJ"] == 1830.0
    assert found["stats"]["levels"]["L0"]["tensors"]["Inputs"]["fills"] == 6


def test_arrays_are_covered_whatever_their_size():
    """A level's fan-out of 256 and of 16,384 children."""
    for name, layer in (
        ("array16x16", Layer(C=16, M=16, R=3, S=3, P=14, Q=14)),
        ("array128x128", Layer(C=8, M=8, P=2)),
    ):
        assert solve(Mapspace(arch_of(name), layer), [BitWidths()]).optimum("energy", 0).covered


def test_many_mappings_on_a_large_array_fit_in_little_memory():
    """The memory of evaluation must not grow with the square of a fan-out: 16,384 squared is 268 million."""
    arch, record = arch_of("array128x128"), records_of("array128x128")[0]
    layer = Layer(C=256, M=256, P=16)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    cost = evaluate(arch, layer, BitWidths(), [record["mapping"]] * 1000)
    assert cost.valid.all() and len(np.unique(cost.energy_pj)) == 1
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**20  # KiB


def test_a_space_too_large_to_cover_is_searched_for_a_given_time():
    layer = Layer(C=3, M=32, R=3, S=3, P=112, Q=112, Wstride=2, Hstride=2)
    space, said = Mapspace(arch_of("six-levels"), layer), Recorder()
    assert space.too_large
    found = solve(space, [BitWidths()], seconds=0.01, progress=said).optimum("energy", 0)
    assert not found.covered and found.valid_mappings is None and 0 < found.evaluated < found.nominal_size
    assert any("too large to cover" in note for note in said.notes)


def test_a_search_without_time_still_looks_at_its_starts():
    space = Mapspace(arch_of("six-levels"), Layer(C=3, M=32, P=16))
    assert np.isfinite(search_mappings(space, [BitWidths()], deadline=0.0).costs()).all()


@pytest.mark.parametrize("name", ["zero-energy", "exponent"])
def test_zero_energies_and_exponents_are_numbers(name):
    best = best_mappings(arch_of(name), Layer(M=4), "native")[0]["energy"]
    assert best.covered and best.energy_pj > 0


def test_a_network_that_costs_nothing_has_an_optimum(tmp_path):
    text = (CASES / "zero-energy.yaml").read_text()
    for number in ("1.0", "0.144", "128"):
        text = text.replace(f": {number}", ": 0")
    (tmp_path / "free.yaml").write_text(text)
    best = best_mappings(
        load_arch(tmp_path / "free.yaml"), Layer(M=8, C=3), "native", metrics=("energy", "edp", "delay")
    )
    for optimum in best[0].values():
        assert (optimum.energy_pj, optimum.edp) == (0.0, 0.0) and optimum.cycles == 6 and optimum.covered


def test_widths_above_a_word_fit_neither_table_nor_map(tmp_path):
    text = (CASES / "zero-energy.yaml").read_text().replace("word_bits: 16", "word_bits: 4", 1)
    (tmp_path / "narrow.yaml").write_text(text)
    arch, layer = load_arch(tmp_path / "narrow.yaml"), Layer(M=4)
    table = cost_table(arch, [layer]).tables[0]
    for weights in range(2, 9):
        bits = BitWidths(8, weights, 8)
        assert (table.index[0, entry_of(bits)] >= 0) == (weights <= 4)
        if weights > 4:
            with pytest.raises(InputError, match="4-bit words of reg"):
                best_mappings(arch, layer, bits)


def test_a_reason_is_given_where_nothing_fits(capsys):
    assert main(["map", "--arch", "eyeriss", "--layer", "C=3,M=96,R=13,S=13,P=55,Q=55"]) == 2
    said = capsys.readouterr().err
    assert "DummyBuffer" in said and "12" in said and "13" in said
