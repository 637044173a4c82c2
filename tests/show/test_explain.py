"""Explanations add up to the reference records exactly; mapping files come back to the same numbers.

Guards: docs/MODEL.md, "6. Data movement between levels", "8. Energy".
"""

from __future__ import annotations

import json
import xml.etree.ElementTree

import numpy as np
import pytest

import mqjax
import oracle
from conftest import golden
from mqjax.cli import main
from mqjax.hw import load_arch
from mqjax.io.records import parse
from mqjax.io.timeloop import write_mapping
from mqjax.mapper.best import solve_layer
from mqjax.mapper.nextbest import runner_up
from mqjax.mapspace.padding import with_bounds_of
from mqjax.show.draw import draw_explanation, nest_text
from mqjax.show.explain import explain
from mqjax.types import TENSORS, BitWidths, Layer

LAYER = Layer(C=8, M=16, R=3, S=3, P=6, Q=6)
TEXT = "C=8,M=16,R=3,S=3,P=6,Q=6"
RECORDS = [record for name in ("public", "stress") for record in golden(name)]
SIZES = ["--width-multiplier", "0.25", "--resolution", "32", "--classes", "10", "--channels", "1"]


def explained(record):
    layer, bits = parse(record)
    return explain(load_arch(record["arch"]), layer, bits, record["mapping"])


def test_sums_are_those_of_reference_records():
    valid = [record for record in RECORDS if record["valid"]]
    step = max(1, len(valid) // 24)
    for record in valid[::step]:
        found, stats = explained(record), record["stats"]
        assert found.valid and not found.problems
        # The evaluator's order of addition: MACs, then the levels from the innermost, each over its tensors.
        total = found.mac_pj
        for level in found.levels:
            assert level.energy_pj == np.cumsum([use.energy_pj for use in level.tensors])[-1]
            total += level.energy_pj
            wanted = stats["levels"][level.name]
            assert level.cycles == wanted["cycles"]
            for use in level.tensors:
                tensor = wanted["tensors"][use.tensor]
                assert use.kept == tensor["keep"]
                if use.kept:
                    assert (use.reads, use.fills, use.updates) == tuple(
                        tensor[k] for k in ("reads", "fills", "updates")
                    )
                    assert (use.tile_elements, use.tile_words) == (tensor["tile_size"], tensor["utilized_capacity"])
        arch, (layer, bits) = load_arch(record["arch"]), parse(record)
        cost = mqjax.evaluate(arch, layer, bits, [record["mapping"]])
        assert total == found.energy_pj == cost.energy_pj[0]
        assert found.cycles == cost.cycles[0] == stats["totals"]["cycles"]
        assert (found.bound == "compute") == (found.cycles == found.compute_cycles)


def test_problems_are_those_of_reference_records():
    invalid = [record for record in RECORDS if not record["valid"]]
    assert invalid
    for record in invalid[:: max(1, len(invalid) // 16)]:
        found = explained(record)
        assert not found.valid and found.energy_pj == float("inf") and found.cycles == 0 and found.bound is None
        # The reference stops at its first failing stage; a problem of each level that it names is among ours.
        for failing in record["fail"]["levels"]:
            (level,) = (level for level in found.levels if level.name == failing["level"])
            assert level.problems
            if "capacity" in failing["reason"]:
                assert level.utilization > 1 and str(level.words) in failing["reason"]


def test_cycles_bound_by_a_level():
    arch = load_arch("eyeriss")
    slow = [record for record in golden("stress") if record["valid"] and record["arch"] == "eyeriss"]
    throttled = [r for r in slow if r["stats"]["totals"]["cycles"] > r["stats"]["mac"]["cycles"]]
    assert throttled
    for x in map(explained, throttled[:12]):
        assert x.cycles > x.compute_cycles
        name, side = x.bound.split()
        level = x.levels[arch.level_names.index(name)]
        rate, limit = {"reads": (level.read_rate, level.read_limit), "writes": (level.write_rate, level.write_limit)}[
            side
        ]
        assert rate > limit and level.cycles == x.cycles == pytest.approx(x.compute_cycles * rate / limit, abs=1)


@pytest.mark.parametrize("metric", ["energy", "edp", "delay"])
def test_runner_up_is_that_of_plain_enumeration(metric):
    arch, layer = load_arch("eyeriss"), Layer(C=4, M=6, R=3, S=3, P=2, Q=2)
    found = runner_up(arch, layer, BitWidths(4, 4, 4), metric=metric)
    record = {"dims": layer.dims, "shape": "cnn", "bitwidths": dict.fromkeys(TENSORS, 4)}
    costs = [oracle.evaluate(arch, record | {"mapping": m}) for m in oracle.pruned_mappings(arch, layer, "paper")]
    values = {
        {"energy": x["energy_pJ"], "edp": x["energy_pJ"] * x["cycles"], "delay": float(x["cycles"])}[metric]
        for x in costs
        if x["valid"]
    }
    best, second = sorted(values)[:2]
    assert (found.best, found.value) == (best, second) and found.loss == second / best - 1
    assert explain(arch, layer, BitWidths(4, 4, 4), found.mapping).metric(metric) == second


def test_nest_is_drawn_from_the_outermost_loop():
    arch = load_arch("eyeriss")
    best = mqjax.best_mappings(arch, LAYER, "native")[0]["energy"]
    found = mqjax.explain(arch, LAYER, BitWidths(), best.mapping)
    lines = nest_text(found).splitlines()
    assert lines[0] == "DRAM: keeps Weights, Inputs, Outputs" and lines[-1].strip() == "mac"
    loops = [line.split() for line in lines if line.strip().split()[0] in ("for", "parallel")]
    product = np.prod([int(words[3].split("..")[1]) + 1 for words in loops])
    assert product == LAYER.macs
    assert draw_explanation(found, "png").startswith(b"\x89PNG")
    drawn = draw_explanation(found, "svg")
    xml.etree.ElementTree.fromstring(drawn)
    assert drawn == draw_explanation(found, "svg") and b"shared_glb" in drawn


@pytest.mark.parametrize("arch", ["eyeriss", "simba"])
def test_mapping_files_of_a_network_come_back_to_the_same_numbers(arch, tmp_path, capsys):
    """Every layer of a network, at mixed widths; Simba pads some of them."""
    accelerator, bits = load_arch(arch), BitWidths(8, 4, 5)
    layers = mqjax.network_layers("mobilenetv1", width_multiplier=0.25, resolution=32, classes=10, channels=1)
    solutions = {layer: solve_layer(accelerator, layer, [bits]).optimum("edp", 0) for layer in set(layers)}
    padded = 0
    for number, layer in enumerate(layers, start=1):
        best, path = solutions[layer], tmp_path / f"{number}.yaml"
        write_mapping(path, best.mapping, note="a layer")
        options = ["--arch", arch, "--mapping", str(path), "--network", "mobilenetv1", *SIZES, "--number", str(number)]
        assert main(["evaluate", *options, "--bits", "8/4/5"]) == 0
        totals = json.loads(capsys.readouterr().out)["stats"]["totals"]
        assert main(["explain", *options, "--bits", "8/4/5", "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert (totals["energy_pJ"], totals["cycles"]) == (best.energy_pj, best.cycles)
        assert (found["energy_pj"], found["cycles"], found["valid"]) == (best.energy_pj, best.cycles, True)
        assert with_bounds_of(layer, best.mapping) == best.mapped
        padded += best.mapped != layer
    assert (padded > 0) == (arch == "simba")


def test_explain_prints_both_mappings_and_draws(tmp_path, capsys):
    arch, options = load_arch("eyeriss"), ["explain", "--arch", "eyeriss", "--layer", TEXT]
    best = mqjax.best_mappings(arch, LAYER, "native")[0]["energy"]
    second = runner_up(arch, LAYER, BitWidths())
    for name, mapping in (("best", best.mapping), ("second", second.mapping)):
        write_mapping(tmp_path / f"{name}.yaml", mapping)
    figures = ["--svg", str(tmp_path / "a.svg"), "--png", str(tmp_path / "a.png")]
    against = ["--against", str(tmp_path / "second.yaml")]
    assert main([*options, *figures, *against]) == 0
    printed = capsys.readouterr().out
    assert f"{second.loss:+.2%}" in printed and f"{best.cycles:,} cycles" in printed and "what differs" in printed
    assert (tmp_path / "a.png").stat().st_size > 1000
    drawn = (tmp_path / "a.svg").read_bytes()
    assert drawn.count(b"<!-- DRAM") == 2 and b"first mapping -->" in drawn and b"<!-- second mapping -->" in drawn
    assert main([*options, "--mapping", str(tmp_path / "best.yaml"), *against, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert main([*options, "--mapping", str(tmp_path / "second.yaml"), *against]) == 0
    assert "no tile, count or cost differs" in capsys.readouterr().out
    assert document["against"]["energy_pj"] == second.value > document["energy_pj"] == best.energy_pj


def test_a_mapping_that_does_not_fit_says_where_and_by_how_much(tmp_path, capsys):
    arch = load_arch("eyeriss")
    mapping = [
        {
            "level": name,
            "temporal": [],
            "spatial": [],
            "keep": [t for t, k in zip(TENSORS, level.keep, strict=True) if k],
        }
        for name, level in zip(arch.level_names, arch.levels, strict=True)
    ]
    mapping[0]["temporal"] = [["M", 32]]  # psum_spad holds 24 words
    mapping[4]["spatial"] = [["Q", 16, "X"]]  # 14 columns
    write_mapping(tmp_path / "bad.yaml", mapping)
    options = ["--arch", "eyeriss", "--layer", "M=32,Q=16", "--mapping", str(tmp_path / "bad.yaml")]
    assert main(["explain", *options]) == 0
    printed = capsys.readouterr().out
    assert "psum_spad: the tiles take 32 words, 8 more than the capacity of 24" in printed
    assert "shared_glb: the spatial loops on X make 16 children, 2 more than the 14 of the hardware" in printed
    assert main(["explain", *options, "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["problems"]) == 2


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["evaluate", "--arch", "eyeriss", "--mapping", "x.yaml"], "needs --layer"),
        (["evaluate", "--arch", "eyeriss", "--records", "x.jsonl"], "needs --out"),
        (["evaluate", "--arch", "eyeriss", "--records", "x.jsonl", "--bits", "8/8/8"], "--bits goes with --mapping"),
        (["explain", "--arch", "eyeriss", "--layer", TEXT, "--bits", "all"], "one width triple"),
        (["explain", "--arch", "eyeriss", "--layer", TEXT, "--number", "2"], "--number must be from 1 to 1"),
        (["explain", "--arch", "eyeriss", "--layer", TEXT, "--mapping", "nowhere.yaml"], "nowhere.yaml"),
    ],
)  # fmt: skip
def test_options_that_do_not_go_together(options, words, capsys):
    assert main(options) == 2
    message = capsys.readouterr().err
    assert words in message and message.count("\n") == 1
