"""The experiments of the page run, and the page is what their tables say.

Guards: docs/experiments.md, "The paper's experiments".
"""

from __future__ import annotations

import json
import shutil

import headline_bound
import numpy as np
import paper
import pytest
from scripts import quick

import common
from conftest import GOLDEN


def paper_tables(script: str, monkeypatch, folder, *options: str) -> common.Tables:
    """What an experiment of docs/experiments.md leaves, its figures and text looked at."""
    quick(script, monkeypatch, "--out", str(folder), *options)
    assert (folder / "text.md").read_text().startswith("## ")
    figures = list(folder.glob("*.png"))
    assert figures and all(path.stat().st_size > 5000 for path in figures)
    assert all(f"({path.name})" in (folder / "text.md").read_text() for path in figures)
    return common.read(folder)


def test_narrow_widths_open_mappings(monkeypatch, tmp_path):
    tables = paper_tables("mappings", monkeypatch, tmp_path)
    assert (
        all(row["runs"] == row["lines_published"] < row["valid"] for row in tables["logs"]) and len(tables["logs"]) == 3
    )
    assert tables["alexnet"][0]["valid"] < common.only(tables["alexnet"], bits=4)["valid"]
    for rows in (tables["alexnet"], tables["networks"]):
        valid = {row["bits"]: row["valid"] for row in common.where(rows, layer=rows[0]["layer"])}
        assert valid[16] <= valid[8] == valid[6] <= valid[4] <= valid[2] <= rows[0]["pruned_size"]
        assert all(row["least_energy_pj"] <= row["unpacked_mapping_pj"] for row in rows)


def test_depthwise_layers_as_dense_ones_cost_more(monkeypatch, tmp_path):
    tables = paper_tables("depthwise", monkeypatch, tmp_path)
    for dense in common.where(tables["totals"], count="dense"):
        right = common.only(tables["totals"], count="right", setting=dense["setting"])
        assert dense["energy_pj"] > 2 * right["energy_pj"] and dense["proven"] and right["proven"]
        assert 0 < right["depthwise_pj"] < dense["depthwise_pj"] < dense["energy_pj"]
    assert 0 < tables["orders"][0]["pairs_inverted"] < 0.5


def test_widths_that_pack_alike_cost_the_same(monkeypatch, tmp_path):
    tables = paper_tables("bits", monkeypatch, tmp_path)
    energies = {(r["words"], r["stored"], r["kernel"]): r["energy_pj"] for r in tables["widths"]}
    assert len({energies["16bit", a, b] for a in (6, 7, 8) for b in (6, 7, 8)}) == 1
    assert energies["16bit", 5, 5] < energies["16bit", 6, 6]
    assert energies["8bit_same", 5, 5] == energies["8bit_same", 8, 8] > energies["8bit_same", 4, 4]
    parts = common.where(tables["levels"], words="16bit", setting="4/4")
    assert np.isclose(sum(part["energy_pj"] for part in parts), energies["16bit", 4, 4], rtol=1e-6)


def test_published_runs_are_met_and_bettered(monkeypatch, tmp_path):
    shutil.copy(GOLDEN / "authors.jsonl.gz", tmp_path)
    tables = paper_tables("published", monkeypatch, tmp_path / "out", str(tmp_path))
    for row in tables["runs"]:
        assert row["met_exactly"] == row["layers"] and row["proven"]
        assert row["best_edp_sum_pj_cycles"] <= row["published_edp_sum_pj_cycles"]
        assert row["least_energy_pj"] <= row["best_edp_energy_pj"]


def test_assignments_save_at_full_size_too(monkeypatch, tmp_path):
    found = {
        "fronts": {
            "mobilenetv1 on eyeriss by edp": {"genome": "8" * 56, "test_accuracy": 0.9, "test_accuracy_of_8_bits": 0.9}
        }
    }
    (tmp_path / "found.json").write_text(json.dumps(found))
    tables = paper_tables("real_size", monkeypatch, tmp_path / "out", "--found", str(tmp_path / "found.json"))
    for row in tables["chosen"]:
        assert row["chosen_full_saved_full"] > row["chosen_small_saved_full"] - 0.01  # fronts are thinned
        assert row["chosen_full_saved_full"] >= row["uniform_saved_full"] >= 0
    assert tables["found"][0]["saved_full"] == 0


def test_bit_serial_multipliers_save_more(monkeypatch, tmp_path):
    tables = paper_tables("macs", monkeypatch, tmp_path)
    alike, serial = (
        {(r["stored"], r["kernel"]): r for r in common.where(tables["uniform"], arch=arch)}
        for arch in ("eyeriss", "eyeriss_bit_serial")
    )
    assert (
        len({row["mac_pj"] for row in alike.values()}) == 1
        and alike[8, 8]["delay_cycles"] == alike[8, 4]["delay_cycles"]
    )
    assert np.isclose(serial[8, 4]["mac_pj"], serial[8, 8]["mac_pj"] / 2, rtol=1e-6)
    assert serial[4, 4]["energy_pj"] / serial[8, 8]["energy_pj"] < alike[4, 4]["energy_pj"] / alike[8, 8]["energy_pj"]
    assert all(row["above_best"] == 0 for row in tables["chosen"] if row["chosen_for"] == row["priced_on"])


def test_constraints_never_help(monkeypatch, tmp_path):
    tables = paper_tables("constraint_cost", monkeypatch, tmp_path)
    assert all(row["paper_proven"] and row["arch_proven"] for row in tables["layers"])
    assert all(row["arch_cost"] <= row["paper_cost"] for row in tables["layers"])
    for total in tables["totals"]:
        keys = {key: total[key] for key in ("network", "arch", "bits", "metric")}
        paper = sum(row["times"] * row["paper_cost"] for row in common.where(tables["layers"], **keys))
        assert np.isclose(paper, total["paper_cost"], rtol=1e-5) and total["unproven_layers"] == 0
    built, *alone, every = tables["lifted"]
    assert built["saved"] == 0 < every["saved"] and every["unproven_layers"] == 0
    assert all(0 <= row["least_saved"] and row["saved"] <= every["saved"] for row in alone)


def test_layers_own_edp_never_beats_the_networks_front(monkeypatch, tmp_path):
    tables = paper_tables("energy_delay", monkeypatch, tmp_path)
    (row,) = tables["networks"]
    assert row["edp_bound"] <= row["least_edp"] <= row["alone_edp"] and row["points"] > 10
    layers = tables["layers"]
    assert row["fastest_cycles"] == sum(layer["times"] * layer["fastest_cycles"] for layer in layers)
    frugal = sum(layer["times"] * layer["frugal_energy_pj"] for layer in layers)
    assert np.isclose(frugal, row["frugal_energy_pj"], rtol=1e-5)


def test_speed_is_measured_beside_recorded_runs(monkeypatch, tmp_path, capsys):
    recorded = {
        "arch": "eyeriss",
        "layer": "mobilenetv1_layer1",
        "threads": 2,
        "considered": 50,
        "considered_per_s": 100.0,
    }
    lines = [json.dumps({**recorded, "kind": kind, "wall_s": 0.5}) for kind in ("rate", "paper")]
    (tmp_path / "runs.jsonl").write_text("\n".join(lines))
    tables = paper_tables("speed", monkeypatch, tmp_path / "out", "--reference", str(tmp_path / "runs.jsonl"))
    for name in ("spaces", "triples", "levels"):
        assert all(
            row["seconds"] > 0 and row["proven"] and row["distinct"] <= row["pruned_size"] for row in tables[name]
        )
    (row,) = tables["reference"]
    assert row["tool_considered_per_s"] == 100 and row["all_proven"] and row["all_pruned_size"] == 5040
    (tmp_path / "runs.jsonl").write_text("[]")
    with pytest.raises(SystemExit):
        quick("speed", monkeypatch, "--reference", str(tmp_path / "runs.jsonl"), "--out", str(tmp_path / "out"))
    assert "runs.jsonl does not hold timed runs" in capsys.readouterr().err


def test_the_page_is_what_its_tables_say(monkeypatch, tmp_path):
    """docs/experiments.md, made again from the committed tables."""
    written = {}
    monkeypatch.setattr(common, "write_atomically", lambda path, content: written.update({path: content}))
    found = paper.page(common.FOLDER, paper.PAGE.parent)
    assert found == paper.PAGE.read_text()
    assert {path.parent.name for path in common.FOLDER.glob("*/*.csv")} == set(paper.SECTIONS)
    for path, content in written.items():
        assert path.exists()
        if path.suffix == ".md":
            assert path.read_text() == content


def test_search_by_the_metric_is_set_against_search_by_size(monkeypatch, tmp_path):
    tables = paper_tables("searches", monkeypatch, tmp_path)
    assert [(row["guide"], row["seed"]) for row in tables["runs"]] == [("metric", 0), ("size", 0)]
    assert all(0 < row["hypervolume"] < 1 for row in tables["runs"])
    eight = common.only(tables["uniform"], width=8)
    for guide in ("metric", "size"):
        front = common.where(tables["fronts"], guide=guide)
        costs = [row["cost"] for row in front]
        assert costs == sorted(costs, reverse=True) and min(costs) < eight["cost"]


def test_what_bounds_the_headline_are_divergences_that_training_does_not_win_back(monkeypatch, tmp_path):
    tables = paper_tables("headline_bound", monkeypatch, tmp_path)
    (eight,) = (row for row in tables["trained"] if row["saved"] == 0)
    assert eight["times"] == 1 and eight["lost_test"] == eight["lost_validation"] == 0 < eight["divergence"]
    saved = [row["saved"] for row in tables["fronts"]]
    assert saved == sorted(saved, reverse=True) and len(saved) > 1
    front = [{"saved": 0.5, "times": 9.0}, {"saved": 0.3, "times": 3.0}, {"saved": 0.1, "times": 1.5}]
    trained = [
        {"times": 4.0, "lost_test": 0.0005},
        {"times": 6.0, "lost_test": 0.004},
        {"times": 1.0, "lost_test": 0.0},
    ]
    most = headline_bound.kept_most(trained)
    assert (most, headline_bound.reached(front, most), headline_bound.at_saving(front, 0.4)) == (4.0, 0.3, 9.0)


def test_methods_of_search_are_compared_from_what_was_kept(monkeypatch, tmp_path):
    tables = paper_tables("search_methods", monkeypatch, tmp_path)
    for network, arch in common.pairs_of(tables["methods"]):
        volumes = {
            method: [
                row["hypervolume"] for row in common.where(tables["methods"], network=network, arch=arch, method=method)
            ]
            for method in ("surrogate", "paper")
        }
        assert min(volumes["surrogate"]) > max(volumes["paper"])
    assert -1 <= tables["worth"][0]["rank_correlation"] <= 1 and tables["worth"][0]["rehearsed"] > 50
    assert all(row["median_gap"] is None or row["median_gap"] >= -1e-9 for row in tables["populations"])
