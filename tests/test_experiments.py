"""Scripts under experiments/ run, and say what they should.

Guards: README.md, "What is exact, and what is a model"; docs/SEARCH.md, "The search".
"""

from __future__ import annotations

import gzip
import importlib
import json
import shutil
import sys

import numpy as np
import pytest
from scripts import quick

import common
from conftest import GOLDEN, golden
from mqjax.data import load_dataset


@pytest.mark.parametrize("script", ["array_rates", "padding_savings"])
def test_spaces_are_covered(script, capsys, monkeypatch):
    quick(script, monkeypatch)
    found = json.loads(capsys.readouterr().out)
    rows = found["swept"] if script == "array_rates" else found
    assert rows and all(row["covered"] for row in rows)
    if script == "padding_savings":
        assert all(row["saved"] >= 0 for row in rows) and any(row["saved"] > 0.01 for row in rows)


def test_proofs_cover_what_they_list(capsys, monkeypatch, tmp_path):
    quick("proofs", monkeypatch, "--out", str(tmp_path / "proofs.csv"))
    rows = common.read(tmp_path)["proofs"]
    assert [row["covered"] for row in rows] == [True] * 4 and all(row["energy_pj"] > 0 for row in rows)
    *_, eyeriss, simba = capsys.readouterr().out.splitlines()
    assert eyeriss.startswith("| eyeriss | arch | 8/8/8 | mobilenetv1 2 | 2 of 2 |") and simba.startswith(
        "| simba | arch |"
    )


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
    assert 0 <= front["saved_against_8_bits"] < 1 and front["test_accuracy"] > 0.3
    saved = [member["saved_against_8_bits"] for member in front["trained"]]
    assert 1 > saved[0] > saved[1] > 0 and front["saved_against_8_bits"] in (*saved, 0)
    # Where fewer bits move and no loop is slower, the least EDP falls as well.
    assert 0 < front["trained"][0]["edp_saved"] < 1 and front["trained"][0]["delay_saved"] >= 0
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["training_images"] == 256 and f"{front['genome']}/0" in found["trainings"]["mobilenetv1, 1 epochs"]
    assert front["command"].startswith("python experiments/headline.py --networks mobilenetv1 --archs eyeriss")


# Mean accuracies of members, and of 8 bits, with one seed and with more.
@pytest.mark.parametrize(
    ("accuracies", "place", "trained"),
    [
        ([[0.8], [0.86], [0.92], [0.91]], 2, [1, 1, 3]),
        # Accuracy may only rise with cost: what is above one that is above 8 bits is as good as these.
        ([[0.8], [0.95], [0.85], [0.9]], 1, [1, 3, 1]),
        # One that was lucky gives way.
        ([[0.8], [0.95, 0.8], [0.92], [0.9]], 2, [1, 2, 3]),
        ([[0.8], [0.85], [0.86], [0.9]], None, [1, 1, 1]),
        # What falls short by no more than chance is trained again, if it is cheaper.
        ([[0.8], [0.8992, 0.9, 0.901], [0.9005], [0.9]], 1, [1, 3, 1]),
        ([[0.8], [0.8992, 0.8985], [0.9005], [0.9]], 2, [1, 2, 3]),
    ],
)
def test_headline_takes_the_cheapest_member_whose_smoothed_accuracy_is_that_of_8_bits(accuracies, place, trained):
    class Trainings:
        def means(self, genome, seeds):
            return np.array([accuracies[genome[0]][:seeds][-1]] * 2)

    members = np.arange(3)[:, None]
    cheapest = importlib.import_module("headline").cheapest
    assert cheapest(Trainings(), members, np.array([3]), 3) == (place, trained)


def test_headline_takes_no_member_that_loses_on_test_images():
    class Trainings:
        def means(self, genome, seeds):
            return np.array([0.92, [0.915, 0.9195, 0.92][genome[0]]])

    cheapest = importlib.import_module("headline").cheapest
    assert cheapest(Trainings(), np.arange(2)[:, None], np.array([2]), 3) == (1, [1, 3])


@pytest.mark.parametrize(
    ("chosen", "place", "expected"),
    [
        ([0, 3, 6], 1, 2),  # of 1 and 2, which cost 20 and 25, the nearer to (10 + 40) / 2
        ([0, 3, 6], 2, 5),
        ([0, 3, 6], 0, None),  # none is cheaper
        ([0, 5, 6], None, None),  # none between the last and 8 bits
        ([0, 3], None, 5),  # 8 bits cost 100
    ],
)
def test_headline_tries_the_member_halfway_to_the_next_cheaper(chosen, place, expected):
    costs = np.array([10, 20, 25, 40, 50, 75, 90, 100.0])
    assert importlib.import_module("headline").halfway(costs, chosen, place) == expected


def test_what_waits_for_a_gpu_runs_without_one(capsys, monkeypatch, tmp_path):
    quick("gpu", monkeypatch, "--out", str(tmp_path / "found.json"))
    found = json.loads((tmp_path / "found.json").read_text())
    assert all(table["equal_to_cpu"] and table["covered"] for table in found["tables"].values())
    assert found["accuracy"]["mobilenetv1"]["of_32_equal_to_cpu"] == {"1": 32}
    assert "training, images/s" in capsys.readouterr().out


def test_without_published_runs_one_sentence_says_so(monkeypatch, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        quick("published", monkeypatch, str(tmp_path), "--out", str(tmp_path / "out"))
    assert stopped.value.code == 2 and "no records with a variant" in capsys.readouterr().err


def test_guides_of_the_search_are_compared_after_training(tiny, capsys, monkeypatch, tmp_path):
    options = ["--network", tiny, "--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "found.json")]
    quick("guides", monkeypatch, *options)
    found = json.loads(capsys.readouterr().out)
    assert set(found) == {"ptq", "finetune:0"}
    for guide in found.values():
        (front,) = guide["fronts"]
        assert guide["seconds_each"] > 0 and front["assignments"] >= max(7, guide["population"])
        assert 0 <= front["hypervolume"] < 1 and 0 < len(front["trained"]) <= 2
    assert json.loads((tmp_path / "found.json").read_text())["guides"] == found
