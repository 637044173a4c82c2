"""`mqjax map`: the proven-optimal mapping and cost of each layer."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mqjax.commands._layers import (
    add_arch_arguments,
    add_bits_argument,
    add_layer_arguments,
    add_metric_argument,
    add_space_arguments,
    chosen_layers,
    figure_file,
    padding,
)

if TYPE_CHECKING:
    from mqjax.arch import Arch
    from mqjax.mapper.optima import Solution
    from mqjax.types import BitWidths, Layer


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_arch_arguments(parser)
    add_layer_arguments(parser)
    add_space_arguments(parser)
    add_bits_argument(parser, also="'all', 'file' (those of an ONNX file's quantizers), ")
    add_metric_argument(parser)
    parser.add_argument("--pareto", action="store_true", help="all mappings that none beats in both energy and delay")
    parser.add_argument("--figure", type=figure_file("png"), help="with --pareto: energy against delay as PNG")
    parser.add_argument("--json", action="store_true", help="print a list with one object per layer and triple")
    parser.add_argument("--out", type=Path, help="folder for the mappings as Timeloop map YAML")


def run(args: argparse.Namespace) -> int:
    from mqjax.errors import InputError
    from mqjax.hw import load_arch
    from mqjax.io.timeloop import write_mapping
    from mqjax.mapper.best import solve_layer
    from mqjax.mapspace.padding import describe_padding
    from mqjax.progress import Part
    from mqjax.show.progress import bar

    pad = padding(args)
    arch = load_arch(args.arch, dialect=args.dialect)
    layers = chosen_layers(args)
    asked = asked_widths(args, layers)
    for layer, triples in zip(layers, asked, strict=True):
        for bits in triples:
            arch.check_widths(bits, layer)
    if args.pareto:
        from mqjax.commands import _pareto

        return _pareto.run(args, arch, layers, asked)
    if args.figure is not None:
        raise InputError("--figure draws what --pareto finds; give both")
    started = time.perf_counter()
    solutions: dict[Layer, Solution] = {}
    papers: dict[Layer, Solution | None] = {}
    with bar("mapping", len(set(layers)), "layers") as progress:
        for layer in dict.fromkeys(layers):
            alike = (bits for other, wanted in zip(layers, asked, strict=True) if other == layer for bits in wanted)
            triples = list(dict.fromkeys(alike))
            solutions[layer] = solve_layer(
                arch,
                layer,
                triples,
                constraints=args.constraints,
                pad=pad,
                seconds=args.seconds,
                progress=Part(progress, layer.name),
            )
            if args.constraints != "paper":
                papers[layer] = _paper(arch, layer, triples, pad, args.seconds)
            progress.advance()
    rows: list[dict[str, Any]] = []
    for number, (layer, triples) in enumerate(zip(layers, asked, strict=True), start=1):
        for bits in triples:
            i = list(solutions[layer].bits).index(bits)
            row = _optimum_row(solutions[layer], layer, args.metric, i, must_fit=args.bits != "all")
            if layer in papers:
                row |= _against_paper(row, papers[layer], args.metric, i)
            rows.append(row)
            if args.out is not None and row["mapping"] is not None:
                name = f"{number:02d}_{layer.name}_{str(bits).replace('/', '-')}.yaml"
                note = describe_padding(layer, row["mapped_as"])
                write_mapping(args.out / name, row["mapping"], note=f"{layer.name}: {note}" if note else "")
    for layer, solution in solutions.items():
        _say_what_fits_not(layer, solution)
    seconds = time.perf_counter() - started
    if args.json:
        json.dump(rows, sys.stdout)
        print()
    else:
        _print(rows, args.metric)
    total = sum(solution.nominal_size for solution in solutions.values())
    searched = sum(not solution.covered for solution in solutions.values())
    proven = f"{searched} layers only searched, NOT proven" if searched else "all covered, so the optima are proven"
    print(
        f"different layers: {len(solutions)}; nominal mappings: {total:.3e}, {proven}; {seconds:.1f} s", file=sys.stderr
    )
    return 0


def asked_widths(args: argparse.Namespace, layers: list[Layer]) -> list[list[BitWidths]]:
    """The width triples that --bits asks for, of every layer."""
    from mqjax.errors import InputError
    from mqjax.mapper.best import width_triples
    from mqjax.models import load_network
    from mqjax.types import BitWidths

    if args.bits != "file":
        return [width_triples(args.bits)] * len(layers)
    found = None if args.network is None else load_network(args.network).imported
    if found is None or all(bits == BitWidths() for bits in found.widths):
        raise InputError("--bits file needs --network FILE.onnx with quantizers (QuantizeLinear, or QONNX's Quant)")
    return [[bits] for bits in found.widths]


def _optimum_row(solution: Solution, layer: Layer, metric: str, i: int, *, must_fit: bool) -> dict[str, Any]:
    from mqjax.mapspace.padding import mapped_as

    row: dict[str, Any] = {
        "layer": layer.name,
        "bits": str(solution.bits[i]),
        "energy_pj": None,
        "cycles": None,
        "edp": None,
        "nominal_size": solution.nominal_size,
        "pruned_size": solution.pruned_size,
        "evaluated": solution.evaluated,
        "valid_mappings": None if solution.valid is None else int(solution.valid[i]),
        "covered": solution.covered,
        "mapped_as": {},
        "mapping": None,
    }
    if must_fit or solution.index[0, i] >= 0:
        optimum = solution.optimum(metric, i)
        row |= {name: getattr(optimum, name) for name in ("energy_pj", "cycles", "edp", "mapping")}
        row["mapped_as"] = mapped_as(layer, optimum.mapped)
    return row


def _say_what_fits_not(layer: Layer, solution: Solution) -> None:
    """Of the widths at which no mapping fits, the reason for the first. Raises `InputError` with it if these are all."""
    from mqjax.mapper.optima import nothing_fits

    missing = [i for i, index in enumerate(solution.index[0]) if index < 0]
    if missing:
        reason = nothing_fits(layer, solution.space, solution.bits[missing[0]], covered=solution.covered)
        if len(missing) == len(solution.bits):
            raise reason
        print(f"mqjax map: {reason} (nor at {len(missing) - 1} other width triples)", file=sys.stderr)


def _paper(arch: Arch, layer: Layer, triples: list[BitWidths], pad: int | None, seconds: float) -> Solution | None:
    """What the paper's constraints allow; `None` where the layer does not meet them."""
    from mqjax.errors import InputError
    from mqjax.mapper.best import solve_layer

    try:
        return solve_layer(arch, layer, triples, pad=pad, seconds=seconds)
    except InputError:
        return None


def _against_paper(row: dict[str, Any], paper: Solution | None, metric: str, i: int) -> dict[str, Any]:
    """Costs of the optimum under the paper's constraints, `None` where there is none."""
    best = None if paper is None or paper.index[0, i] < 0 else paper.optimum(metric, i)
    return {f"paper_{name}": None if best is None else getattr(best, name) for name in ("energy_pj", "cycles", "edp")}


def _print(rows: list[dict[str, Any]], metric: str) -> None:
    from mqjax.show.progress import print_table

    lines = []
    for row in rows:
        fits = row["mapping"] is not None
        costs = (f"{row['energy_pj']:.6g}", f"{row['cycles']:,}") if fits else ("none fits", "")
        valid = "not counted" if row["valid_mappings"] is None else f"{row['valid_mappings']:,}"
        sizes = (f"{row['nominal_size']:.2e}", f"{row['pruned_size']:,}", f"{row['evaluated']:,}", valid)
        larger = "".join(f", {dim} mapped as {bound}" for dim, bound in row["mapped_as"].items())
        lines.append((row["layer"] + larger, row["bits"], *costs, *sizes, "yes" if row["covered"] else "NO"))
        if "paper_energy_pj" in row:
            lines[-1] += tuple(_against(row[name], row[f"paper_{name}"]) for name in ("energy_pj", "edp"))
    headings = ("layer", "bits I/W/O", "energy (pJ)", "cycles", "nominal", "pruned", "evaluated", "valid", "proven")
    if rows and "paper_energy_pj" in rows[0]:
        headings += ("energy against the paper's space", "EDP against it")
    print_table(f"best mappings by {metric}", headings, lines)


def _against(cost: float | None, paper: float | None) -> str:
    return "" if cost is None or paper is None else f"{cost / paper - 1:+.2%}"
