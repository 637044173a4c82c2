"""`mqjax constraints`: what each of an accelerator's own constraints costs a network."""

from __future__ import annotations

import argparse
import json
import sys
import time
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
    from mqjax.network.lifting import Lifting
    from mqjax.types import Layer


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_arch_arguments(parser)
    add_layer_arguments(parser, constraints=False)
    add_space_arguments(parser)
    add_bits_argument(parser)
    add_metric_argument(parser)
    parser.add_argument("--figure", type=figure_file("png"), help="what is saved by lifting each, as PNG")
    parser.add_argument("--json", action="store_true", help="print a list with one object per lifted constraint")


def run(args: argparse.Namespace) -> int:
    from mqjax.errors import InputError
    from mqjax.hw import load_arch
    from mqjax.io.files import write_atomically
    from mqjax.network.lifting import lift_constraints, without
    from mqjax.show.liftings import draw_liftings
    from mqjax.show.progress import bar
    from mqjax.types import BitWidths

    arch, layers, bits = load_arch(args.arch, dialect=args.dialect), chosen_layers(args), BitWidths.parse(args.bits)
    if not arch.arch_constraints:
        raise InputError(f"{arch.name!r} has no constraints of its own (arch_constraints), so there is none to lift")
    started = time.perf_counter()
    with bar("mapping", len(set(layers)) * len(without(arch)), "layers") as progress:
        found = lift_constraints(
            arch, layers, bits, metric=args.metric, pad=padding(args), seconds=args.seconds, progress=progress
        )
    if args.json:
        json.dump([_lifting_json(one, found[0], layers, args.metric) for one in found], sys.stdout)
        print()
    else:
        _print(found, layers, args.metric)
    if args.figure is not None:
        title = f"{args.network or layers[0].name} on {arch.name} at {bits}: what the hardware's constraints cost"
        write_atomically(args.figure, draw_liftings(found, args.metric, title))
        print(f"figure: {args.figure}", file=sys.stderr)
    open_ = sum(int((~one.proven).sum()) for one in found)
    proven = f"{open_} optima only searched, NOT proven" if open_ else "all optima proven"
    print(f"{proven}; {time.perf_counter() - started:.1f} s", file=sys.stderr)
    return 0


def _lifting_json(one: Lifting, built: Lifting, layers: list[Layer], metric: str) -> dict[str, Any]:
    return {
        "lifted": one.lifted,
        "energy_pj": float(one.energy_pj.sum()),
        "cycles": int(one.cycles.sum()),
        "saved": float(1 - one.cost(metric).sum() / built.cost(metric).sum()),
        "proven": bool(one.proven.all()),
        "layers": [
            {"layer": layer.name, "energy_pj": float(energy), "cycles": int(cycles), "proven": bool(proven)}
            for layer, energy, cycles, proven in zip(layers, one.energy_pj, one.cycles, one.proven, strict=True)
        ],
    }


def _print(found: list[Lifting], layers: list[Layer], metric: str) -> None:
    from mqjax.show.progress import print_table

    built = found[0].cost(metric)
    lines = []
    for one in found:
        cost = one.cost(metric)
        most = int((1 - cost / built).argmax())
        gain = 1 - cost[most] / built[most]
        lines.append(
            (
                one.lifted,
                f"{one.energy_pj.sum():.6g}",
                f"{one.cycles.sum():,}",
                f"{1 - cost.sum() / built.sum():.2%}",
                f"{layers[most].name} {gain:.1%}" if gain > 0 else "",
                f"{one.proven.sum()} of {len(layers)}",
            )
        )
    headings = ("lifted", "energy (pJ)", "cycles", f"{metric} saved", "most in", "layers proven")
    print_table(f"what constraints of the hardware cost, mapped by {metric}", headings, lines)
