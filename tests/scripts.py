"""Scripts under experiments/, run as tests run them."""

from __future__ import annotations

import importlib
import sys


def quick(script: str, monkeypatch, *options: str) -> None:
    """Run a script with --quick and other options."""
    monkeypatch.setattr(sys, "argv", [script, "--quick", *options])
    importlib.import_module(script).main()
