"""Scripts under experiments/ run, and say what they should.

Guards: README.md, "What is exact, and what is a model"; docs/SEARCH.md, "The search".
"""

from __future__ import annotations

import importlib
import json
import sys

import pytest


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


def test_heuristic_constraints_never_help(capsys, monkeypatch):
    quick("constraint_cost", monkeypatch)
    rows = json.loads(capsys.readouterr().out)["layers"]
    assert rows and all(row[f"{metric}_cost_of_constraints"] >= 0 for row in rows for metric in ("energy", "edp"))


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


def test_ranking_trains_and_correlates(capsys, monkeypatch, tmp_path):
    quick("ranking", monkeypatch, "--out", str(tmp_path / "found.json"))
    found = json.loads((tmp_path / "found.json").read_text())
    assert set(found["spearman"]) == {"ptq", "finetune:0"} and all(0 <= r["trained"] <= 1 for r in found["assignments"])


def test_search_quality_compares_all_methods(capsys, monkeypatch):
    quick("search_quality", monkeypatch)
    (pair,) = json.loads(capsys.readouterr().out).values()
    assert set(pair) == {"surrogate", "paper", "paper_400", "pymoo", "random"}
    assert all(0 < value < 1 for method in pair.values() for value in method["hypervolumes"])


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
