"""`mqjax map`: the proven-optimal mapping and cost of each layer."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from mqjax.commands._layers import add_arch_arguments, add_layer_arguments, chosen_layers


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_arch_arguments(parser)
    add_layer_arguments(parser)
    parser.add_argument(
        "--bits", default="native", help="widths I/W/O of Inputs, Weights and Outputs, 'native', or 'all'"
    )
    parser.add_argument("--metric", choices=("energy", "edp", "delay"), default="energy", help="what is minimised")
    parser.add_argument("--json", action="store_true", help="print a list with one object per layer and triple")
    parser.add_argument("--out", type=Path, help="folder for the mappings as Timeloop map YAML")


def run(args: argparse.Namespace) -> int:
    from mqjax.hw import load_arch
    from mqjax.io.timeloop import write_mapping
    from mqjax.mapspace import Mapspace
    from mqjax.optimum import Solution, solve, width_triples
    from mqjax.progress import bar
    from mqjax.types import Layer

    arch = load_arch(args.arch, dialect=args.dialect)
    layers = chosen_layers(args)
    triples = width_triples(args.bits)
    for bits in triples:
        arch.check_widths(bits, layers[0])
    started = time.perf_counter()
    solutions: dict[Layer, Solution] = {}
    with bar("mapping", len(set(layers)), "layers") as progress:
        for layer in dict.fromkeys(layers):
            solutions[layer] = solve(Mapspace(arch, layer, constraints=args.constraints), triples)
            progress.advance()
    rows: list[dict[str, Any]] = []
    for number, layer in enumerate(layers, start=1):
        for i, bits in enumerate(triples):
            row = _row(solutions[layer], layer, args.metric, i, must_fit=args.bits != "all")
            rows.append(row)
            if args.out is not None and row["mapping"] is not None:
                name = f"{number:02d}_{layer.name}_{str(bits).replace('/', '-')}.yaml"
                write_mapping(args.out / name, row["mapping"])
    seconds = time.perf_counter() - started
    if args.json:
        json.dump(rows, sys.stdout)
        print()
    else:
        _print(rows, args.metric)
    total = sum(solution.space.size for solution in solutions.values())
    proven = "all covered, so the optima are proven" if all(r["covered"] for r in rows) else "NOT all covered"
    print(
        f"different layers: {len(solutions)}; nominal mappings: {total:.3e}, {proven}; {seconds:.1f} s", file=sys.stderr
    )
    return 0


def _row(solution: Any, layer: Any, metric: str, i: int, *, must_fit: bool) -> dict[str, Any]:
    space = solution.space
    row: dict[str, Any] = {
        "layer": layer.name,
        "bits": str(solution.bits[i]),
        "energy_pj": None,
        "cycles": None,
        "edp": None,
        "nominal_size": space.size,
        "pruned_size": space.pruned_size,
        "distinct": space.distinct,
        "valid_mappings": int(solution.valid[i]),
        "covered": solution.covered,
        "mapping": None,
    }
    if must_fit or solution.valid[i]:
        optimum = solution.optimum(metric, i)
        row |= {name: getattr(optimum, name) for name in ("energy_pj", "cycles", "edp", "mapping")}
    return row


def _print(rows: list[dict[str, Any]], metric: str) -> None:
    from mqjax.progress import print_table

    lines = []
    for row in rows:
        fits = row["mapping"] is not None
        costs = (f"{row['energy_pj']:.6g}", f"{row['cycles']:,}") if fits else ("none fits", "")
        sizes = (f"{row['nominal_size']:.2e}", *(f"{row[k]:,}" for k in ("pruned_size", "distinct", "valid_mappings")))
        lines.append((row["layer"], row["bits"], *costs, *sizes))
    headings = ("layer", "bits I/W/O", "energy (pJ)", "cycles", "nominal", "pruned", "distinct", "valid")
    print_table(f"best mappings by {metric}", headings, lines)
