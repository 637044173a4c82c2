"""`mqjax explain`: the loop nest of a mapping drawn, and what its energy and its cycles come from."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mqjax.commands._layers import (
    add_arch_arguments,
    add_bits_argument,
    add_figure_arguments,
    add_layer_arguments,
    add_metric_argument,
    add_number_argument,
    add_space_arguments,
    chosen_layer,
    padding,
    read_mapping_of,
    single_widths,
    write_figures,
)

if TYPE_CHECKING:
    from mqjax.arch import Arch
    from mqjax.show.explain import Explanation
    from mqjax.types import BitWidths, Layer


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_arch_arguments(parser)
    add_layer_arguments(parser)
    add_number_argument(parser)
    add_space_arguments(parser)
    add_bits_argument(parser)
    add_metric_argument(parser)
    parser.add_argument("--mapping", type=Path, help="explain this mapping, a Timeloop map YAML, not the best one")
    parser.add_argument(
        "--against",
        type=Path,
        help="a second mapping: its differences are listed, and figures show it beside the first",
    )
    add_figure_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    from mqjax.hw import load_arch
    from mqjax.mapper.nextbest import runner_up, runner_up_near
    from mqjax.show.draw import draw_explanation
    from mqjax.show.explain import explain
    from mqjax.show.progress import bar

    pad = padding(args)
    arch = load_arch(args.arch, dialect=args.dialect)
    layer, bits = chosen_layer(args), single_widths(args.bits)
    arch.check_widths(bits, layer)
    second = None
    if args.mapping is not None:
        found = _explained(arch, layer, bits, args.mapping)
    else:
        from mqjax.mapper.best import solve_layer

        solution = solve_layer(arch, layer, [bits], constraints=args.constraints, pad=pad, seconds=args.seconds)
        best = solution.optimum(args.metric, 0)
        found = explain(arch, best.mapped, bits, best.mapping)
        options = {"metric": args.metric, "constraints": args.constraints, "seconds": args.seconds}
        with bar("comparing", 1, "layers") as progress:
            second = runner_up(arch, best.mapped, bits, progress=progress, **options)
            second = second or runner_up_near(arch, best.mapped, bits, best.mapping, progress=progress, **options)
        if pad:
            print("mqjax explain: the next-best mapping is one of the same bounds as the best", file=sys.stderr)
        if not best.covered:
            print("mqjax explain: the space was only searched, so the mapping is NOT proven best", file=sys.stderr)
    other = None if args.against is None else _explained(arch, layer, bits, args.against)
    write_figures(args, lambda form: draw_explanation(found, form, other))
    if args.json:
        document = {**_as_json(found), "runner_up": None if second is None else dataclasses.asdict(second)}
        json.dump(document | ({} if other is None else {"against": _as_json(other)}), sys.stdout, allow_nan=False)
        print()
    else:
        _print(layer, found, second, other)
    return 0


def _explained(arch: Arch, layer: Layer, bits: BitWidths, path: Path) -> Explanation:
    from mqjax.show.explain import explain

    mapped, mapping = read_mapping_of(arch, layer, path)
    return explain(arch, mapped, bits, mapping)


def _as_json(found: Explanation) -> dict[str, Any]:
    document = dataclasses.asdict(found) | {"bits": str(found.bits), "problems": list(found.problems)}
    return document | {"energy_pj": found.energy_pj if found.valid else None}


def _print(layer: Layer, found: Explanation, second: Any, other: Explanation | None) -> None:
    from mqjax.mapspace.padding import describe_padding, mapped_as
    from mqjax.show import draw
    from mqjax.show.progress import print_table

    larger = describe_padding(layer, mapped_as(layer, found.layer))
    print(f"{layer.name} on {found.arch} at bit-widths {found.bits}{f' ({larger})' if larger else ''}\n")
    print(draw.nest_text(found) + "\n")
    print(draw.verdict_text(found))
    if second is not None:
        print(draw.runner_up_text(second))
    print()
    rates = "words of tiles per instance; rates in words per cycle and instance"
    print_table(rates, draw.LEVEL_HEADINGS, draw.level_rows(found))
    print_table("accesses in packed words per instance", draw.TENSOR_HEADINGS, draw.tensor_rows(found))
    if other is not None:
        print(f"\nthe second mapping:\n\n{draw.nest_text(other)}\n\n{draw.verdict_text(other)}\n")
        if rows := draw.difference_rows(found, other):
            print_table("what differs", draw.DIFFERENCE_HEADINGS, rows)
        else:
            print("no tile, count or cost differs")
