"""`mqjax mapspace`: how large mapspaces are, what fits at which widths, and what it costs."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from mqjax.commands._layers import (
    add_arch_arguments,
    add_bits_argument,
    add_layer_arguments,
    chosen_layers,
    figure_file,
)
from mqjax.types import UNPACKED

UNIFORM = f"{UNPACKED},8/8/8,5/5/5,4/4/4,3/3/3,2/2/2"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_arch_arguments(parser)
    add_layer_arguments(parser)
    add_bits_argument(parser, also="several of them with commas between, 'all' for the 343 of 2..8, ", default=UNIFORM)
    parser.add_argument("--out", type=figure_file("png"), help="write the figure (.png) of the distributions here")
    parser.add_argument("--json", action="store_true", help="print the numbers as a JSON list")


def run(args: argparse.Namespace) -> int:
    from mqjax.errors import InputError
    from mqjax.hw import load_arch
    from mqjax.io.files import write_atomically
    from mqjax.mapper.best import width_triples
    from mqjax.mapper.distribution import distributions
    from mqjax.mapper.optimum import solve
    from mqjax.mapspace.padding import describe_padding, mapped_as, padded
    from mqjax.mapspace.space import Mapspace
    from mqjax.show.figures import draw_mapspace
    from mqjax.show.progress import bar

    arch = load_arch(args.arch, dialect=args.dialect)
    triples = [bits for part in args.bits.split(",") for bits in width_triples(part)]
    layers = list(dict.fromkeys(chosen_layers(args)))
    for bits in triples:
        arch.check_widths(bits, layers[0])
    rows: list[dict[str, Any]] = []
    drawn = []
    with bar("mapspaces", len(layers), "layers") as progress:
        for layer in layers:
            mapped = padded(arch, layer, constraints=args.constraints)
            if mapped != layer:
                print(f"{layer.name}: {describe_padding(layer, mapped_as(layer, mapped))}", file=sys.stderr)
            space = Mapspace(arch, mapped, constraints=args.constraints)
            if space.too_large:
                raise InputError(
                    f"layer {layer.name!r}: the {space.size:.1e} mappings under the constraints {args.constraints!r} are too "
                    "many to cover; mqjax map searches such spaces"
                )
            solution, spread = solve(space, triples), distributions(space, triples)
            rows += [_space_row(solution, spread[i], i) for i in range(len(triples))]
            drawn.append((layer.name, [(str(b), d) for b, d in zip(triples, spread, strict=True)]))
            progress.advance()
    if args.json:
        import json

        json.dump(rows, sys.stdout)
        print()
    else:
        _print(rows)
    if args.out is not None:
        write_atomically(args.out, draw_mapspace(drawn, arch.name))
        print(f"figure: {args.out}", file=sys.stderr)
    return 0


def _space_row(solution: Any, spread: dict[str, Any], i: int) -> dict[str, Any]:
    space = solution.space
    valid, fits = int(solution.valid[i]), bool(solution.valid[i])
    row = {
        "layer": space.layer.name,
        "bits": str(solution.bits[i]),
        "nominal_size": space.size,
        "pruned_size": space.pruned_size,
        "distinct": space.distinct,
        "invalid_fanout": space.pruned_size - space.fanout_valid,
        "invalid_capacity": space.fanout_valid - valid,
        "valid_mappings": valid,
        "covered": solution.covered,
    }
    for metric, distribution in spread.items():
        best = solution.optimum(metric, i) if fits else None
        row[f"{metric}_best"] = None if best is None else {"energy": best.energy_pj, "edp": best.edp}[metric]
        row[f"{metric}_median"] = distribution.quantile(0.5) if fits else None
    return row


def _print(rows: list[dict[str, Any]]) -> None:
    from mqjax.show.progress import print_table

    headings = ("layer", "bits I/W/O", "nominal", "pruned", "valid", "valid %")
    headings += ("best energy (pJ)", "median", "best EDP (pJ*cycles)", "median")
    lines = []
    for row in rows:
        values = [row[f"{metric}_{what}"] for metric in ("energy", "edp") for what in ("best", "median")]
        lines.append(
            (
                row["layer"],
                row["bits"],
                f"{row['nominal_size']:.2e}",
                f"{row['pruned_size']:,}",
                f"{row['valid_mappings']:,}",
                f"{row['valid_mappings'] / row['pruned_size']:.2%}",
                *("none fits" if value is None else f"{value:.4g}" for value in values),
            )
        )
    print_table("mapspaces: sizes, and costs of the best and of the median distinct mapping that fits", headings, lines)
