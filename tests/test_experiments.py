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
