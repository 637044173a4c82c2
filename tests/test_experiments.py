"""Scripts under experiments/ run, and say what they should."""

from __future__ import annotations

import importlib
import json
import sys

import pytest


@pytest.mark.parametrize("script", ["array_rates", "padding_savings"])
def test_quick_runs(script, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", [script, "--quick"])
    importlib.import_module(script).main()
    found = json.loads(capsys.readouterr().out)
    rows = found["swept"] if script == "array_rates" else found
    assert rows and all(row["covered"] for row in rows)
    if script == "padding_savings":
        assert all(row["saved"] >= 0 for row in rows) and any(row["saved"] > 0.01 for row in rows)


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
