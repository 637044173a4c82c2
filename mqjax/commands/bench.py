"""`mqjax bench`: throughput on this machine, as text and as JSON."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from pathlib import Path
from typing import Any

NAMES = ("evaluator", "general", "table", "pricing", "nsga2", "accuracy")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--parts", default=",".join(NAMES), help="what to measure, comma-separated")
    parser.add_argument("--out", type=Path, help="write the JSON here too")


def run(args: argparse.Namespace) -> int:
    from mqjax.benchmark import PARTS, peak_memory_bytes
    from mqjax.errors import InputError, unknown
    from mqjax.io.files import write_atomically
    from mqjax.show.progress import bar
    from mqjax.study.runs import environment

    parts = args.parts.split(",")
    for part in parts:
        if part not in PARTS:
            raise InputError(unknown("part", part, PARTS))
    result: dict[str, Any] = {"command": shlex.join(["mqjax", *sys.argv[1:]]), **environment()}
    with bar("measuring", len(parts), "parts") as progress:
        for part in parts:
            result[part] = PARTS[part]()
            result.setdefault("peak_memory_bytes_so_far", {})[part] = peak_memory_bytes()
            progress.advance()
    text = json.dumps(result, indent=1)
    if args.out is not None:
        write_atomically(args.out, text + "\n")
    for line in _lines(result):
        print(line)
    return 0


def _lines(value: Any, name: str = "") -> list[str]:
    """Nested results as lines "part.quantity: value"."""
    if isinstance(value, dict):
        return [line for key, inner in value.items() for line in _lines(inner, f"{name}.{key}" if name else key)]
    if isinstance(value, list):
        return [line for number, inner in enumerate(value) for line in _lines(inner, f"{name}[{number}]")]
    return [f"{name}: {value:,.4g}" if isinstance(value, float) else f"{name}: {value}"]
