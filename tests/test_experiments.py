"""Scripts under experiments/ run, and say what they should.

Guards: README.md, "What is exact, and what is a model"; docs/SEARCH.md, "The search"; docs/experiments.md, "The paper's experiments".
"""

from __future__ import annotations

import gzip
import importlib
import json
import shutil
import sys

import numpy as np
import paper
import pytest

import common
from conftest import GOLDEN, golden
from mqjax.data import load_dataset


def quick(script: str, monkeypatch, *options: str) -> None:
    monkeypatch.setattr(sys, "argv", [script, "--quick", *options])
    importlib.import_module(script).main()


@pytest.mark.parametrize("script", ["array_rates", "padding_savings"])
def test_spaces_are_covered(script, capsys, monkeypatch):
    quick(script, monkeypatch)
    found = json.loads(capsys.readouterr().out)
    rows = found["swept"] if script == "array_rates" else found
    assert rows and all(row["covered"] for row in rows)
    if script == "padding_savings":
        assert all(row["saved"] >= 0 for row in rows) and any(row["saved"] > 0.01 for row in rows)


def test_proofs_cover_what_they_list(monkeypatch, tmp_path):
    quick("proofs", monkeypatch, "--out", str(tmp_path / "proofs.csv"))
    rows = common.read(tmp_path)["proofs"]
    assert [row["covered"] for row in rows] == [True] * 4 and all(row["energy_pj"] > 0 for row in rows)


def test_published_logs_of_alexnet_have_as_many_lines(capsys, monkeypatch):
    quick("alexnet_counts", monkeypatch)
    rows = json.loads(capsys.readouterr().out)
    assert len(rows) == 3 and all(row["log_lines"] == row["in_published_log"] for row in rows)


def test_every_stage_of_a_sweep_takes_time(capsys, monkeypatch):
    quick("profile_sweep", monkeypatch)
    found = json.loads(capsys.readouterr().out)["eyeriss"]
    assert len(found) == 9 and all(value > 0 for value in found.values())


def test_data_pipeline_counts_views(capsys, monkeypatch, tmp_path):
    quick("data_pipeline", monkeypatch, "--out", str(tmp_path / "found.json"))
    assert json.loads((tmp_path / "found.json").read_text())["views_224_per_s"] > 0


def test_ranking_trains_and_correlates(tiny, capsys, monkeypatch, tmp_path):
    quick("ranking", monkeypatch, "--network", tiny, "--out", str(tmp_path / "found.json"))
    found = json.loads((tmp_path / "found.json").read_text())
    assert set(found["spearman"]) == {"ptq", "finetune:0"} and all(0 <= r["trained"] <= 1 for r in found["assignments"])
    assert len({row["genome"] for row in found["assignments"]}) == 3 and set(found["uniform"]["ptq"]) == set("2345678")
    correlation = importlib.import_module("ranking").correlation
    rows = [{"ptq": x, "finetune:0": -x, "same": 0.5, "trained": x**3} for x in (0.1, 0.4, 0.2, 0.9)]
    assert [correlation(rows, name) for name in ("ptq", "finetune:0", "same")] == [1, -1, None]


def test_search_quality_compares_all_methods(capsys, monkeypatch):
    quick("search_quality", monkeypatch)
    (pair,) = json.loads(capsys.readouterr().out).values()
    assert set(pair) == {"surrogate", "paper", "paper_400", "pymoo", "random"}
    assert all(0 < value < 1 for method in pair.values() for value in method["hypervolumes"])


def test_quantized_training_leaves_curves_and_accuracies(monkeypatch, tmp_path):
    quick("train_quantized", monkeypatch, "--runs", str(tmp_path / "runs"), "--out", str(tmp_path))
    (run,) = json.loads((tmp_path / "accuracies.json").read_text())["runs"].values()
    assert run["test_accuracy"] > 0.5 and (tmp_path / "quantized.png").stat().st_size > 1000


def test_reference_records_are_compared(monkeypatch, tmp_path, capsys):
    for name in ("public", "stress", "authors"):
        shutil.copy(GOLDEN / f"{name}.jsonl.gz", tmp_path)
    monkeypatch.setattr(sys, "argv", ["check_reference", "--quick", str(tmp_path)])
    assert importlib.import_module("check_reference").main() == 0
    lines = capsys.readouterr().out.splitlines()
    assert "in 3 files" in lines[0] and any(line.startswith("levels.reads ") for line in lines)
    with gzip.open(tmp_path / "wrong.jsonl.gz", "wt") as file:
        record = next(record for record in golden("public") if record["valid"])
        record["stats"]["totals"]["cycles"] += 1
        file.write(json.dumps(record))
    assert importlib.import_module("check_reference").main() == 1


def test_the_tests_sample_is_taken_from_reference_data(monkeypatch, tmp_path):
    for name, folder in (("public", "eval/public"), ("stress", "eval/stress"), ("authors", "authors")):
        (tmp_path / folder).mkdir(parents=True)
        shutil.copy(GOLDEN / f"{name}.jsonl.gz", tmp_path / folder)
    for name, folder in (("sizes", "mapspace"), ("enum", "mapspace"), ("valid_counts", "mapspace"), ("best", "best")):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in golden(name)))
    (tmp_path / "out").mkdir()
    quick("make_golden", monkeypatch, str(tmp_path), str(tmp_path / "out"))
    for name in ("public", "stress", "authors", "sizes", "enum", "valid_counts", "best"):
        with gzip.open(tmp_path / "out" / f"{name}.jsonl.gz", "rt") as lines:
            found = [json.loads(line) for line in lines]
        assert 0 < len(found) <= 40 and all(row in golden(name) for row in found)


def test_the_embedded_images_are_a_balanced_sample(monkeypatch, tmp_path):
    generator = np.random.default_rng(0)
    for part, count in (("train", 10 * 503), ("t10k", 30)):
        images, labels = generator.integers(0, 256, (count, 28, 28), np.uint8), (np.arange(count) % 10).astype(np.uint8)
        (tmp_path / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(bytes(16) + images.tobytes(), 1))
        (tmp_path / f"{part}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(bytes(8) + labels.tobytes(), 1))
    quick("prepare_fashion_mnist", monkeypatch, str(tmp_path), str(tmp_path / "prepared"))
    dataset = load_dataset("fashion_mnist", data_dir=tmp_path / "prepared")
    splits = {name: dataset.load(name) for name in ("train", "validation", "test")}
    assert [len(splits[name]) for name in splits] == [20, 20, 20]
    assert all((np.bincount(split.labels) == 2).all() for split in splits.values())
    assert not {x.tobytes() for x in splits["train"].images} & {x.tobytes() for x in splits["validation"].images}


def test_onnx_files_come_from_torchs_own_exporter(monkeypatch, tmp_path):
    pytest.importorskip("torch", reason="PyTorch makes these files; the tests read those that are committed")
    quick("make_torch_onnx", monkeypatch, str(tmp_path))
    assert len(list(tmp_path.glob("*.onnx"))) == len(list(tmp_path.glob("*.npz"))) == 1


def test_random_cases_agree(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["fuzz", "--quick", "--seed", "11"])
    assert importlib.import_module("fuzz").main() == 0
    assert capsys.readouterr().out == "1 of 1 cases agree\n"


def test_a_judge_of_ones_own(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["custom_judge", "--quick"])
    importlib.import_module("custom_judge").main()
    rows = json.loads(capsys.readouterr().out)
    errors = [row["objectives"][0] for row in rows]
    energies = [row["objectives"][1] for row in rows]
    assert errors == sorted(errors) and energies == sorted(energies, reverse=True)
    assert all(0 <= row["test_accuracy"] <= 1 for row in rows)


def test_judge_of_the_command(tmp_path, capsys):
    from mqjax.cli import main

    options = ["--population", "8", "--generations", "0", "--out", str(tmp_path / "run")]
    assert main(["search", "--judge", "custom_judge:make", *options]) == 0
    front = json.loads((tmp_path / "run" / "front.json").read_text())
    assert front["layers"] == ["hidden", "classes"] and (tmp_path / "run" / "report.html").exists()


@pytest.mark.parametrize("judge", ["custom_judge", "no_such_module:make", "custom_judge:nothing", "json:JSONDecoder"])
def test_what_is_no_judge_is_refused(tmp_path, capsys, judge):
    from mqjax.cli import main

    assert main(["search", "--judge", judge, "--out", str(tmp_path / "run")]) == 2
    assert "--judge" in capsys.readouterr().err and not (tmp_path / "run").exists()


def test_large_populations_come_close_to_the_exact_front(capsys, monkeypatch):
    quick("large_population", monkeypatch)
    (pair,) = json.loads(capsys.readouterr().out).values()
    early, late = pair["nsga2"]
    assert pair["exact_front"] > 100 and (early["generations"], late["generations"]) == (10, 20)
    assert 0 <= late["median_gap"] < 0.5 and late["median_gap"] <= late["largest_gap"]


def test_headline_trains_members_and_8_bits_alike(capsys, monkeypatch, tmp_path):
    quick("headline", monkeypatch, "--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "found.json"))
    (front,) = json.loads(capsys.readouterr().out).values()
    assert 0 < front["saved_against_8_bits"] < 1 and front["test_accuracy"] > 0.3
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["training_images"] == 256 and f"{front['genome']}/0" in found["trainings"]["mobilenetv1"]


def test_what_waits_for_a_gpu_runs_without_one(capsys, monkeypatch, tmp_path):
    quick("gpu", monkeypatch, "--out", str(tmp_path / "found.json"))
    found = json.loads((tmp_path / "found.json").read_text())
    assert all(table["equal_to_cpu"] and table["covered"] for table in found["tables"].values())
    assert found["accuracy"]["mobilenetv1"]["of_32_equal_to_cpu"] == {"1": 32}
    assert "training, images/s" in capsys.readouterr().out


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


def test_without_published_runs_one_sentence_says_so(monkeypatch, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        quick("published", monkeypatch, str(tmp_path), "--out", str(tmp_path / "out"))
    assert stopped.value.code == 2 and "no records with a variant" in capsys.readouterr().err


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


def test_guides_of_the_search_are_compared_after_training(tiny, capsys, monkeypatch, tmp_path):
    options = ["--network", tiny, "--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "found.json")]
    quick("guides", monkeypatch, *options)
    found = json.loads(capsys.readouterr().out)
    assert set(found) == {"ptq", "finetune:0"}
    for guide in found.values():
        (front,) = guide["fronts"]
        assert guide["seconds_each"] > 0 and front["assignments"] >= max(7, guide["population"])
        assert 0 < front["hypervolume"] < 1 and 0 < len(front["trained"]) <= 2
    assert json.loads((tmp_path / "found.json").read_text())["guides"] == found


def test_search_by_the_metric_is_set_against_search_by_size(monkeypatch, tmp_path):
    tables = paper_tables("searches", monkeypatch, tmp_path)
    assert [(row["guide"], row["seed"]) for row in tables["runs"]] == [("metric", 0), ("size", 0)]
    assert all(0 < row["hypervolume"] < 1 for row in tables["runs"])
    eight = common.only(tables["uniform"], width=8)
    for guide in ("metric", "size"):
        front = common.where(tables["fronts"], guide=guide)
        costs = [row["cost"] for row in front]
        assert costs == sorted(costs, reverse=True) and min(costs) < eight["cost"]


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
