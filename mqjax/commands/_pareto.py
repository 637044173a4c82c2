"""`mqjax map --pareto`: energy against delay, of every layer and of the network."""

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import TYPE_CHECKING, Any

from mqjax.commands._layers import padding
from mqjax.errors import InputError

if TYPE_CHECKING:
    from mqjax.arch import Arch
    from mqjax.mapper.tradeoff import Tradeoff
    from mqjax.network.tradeoff import NetworkTradeoff
    from mqjax.types import BitWidths, Layer


def run(args: argparse.Namespace, arch: Arch, layers: list[Layer], asked: list[list[BitWidths]]) -> int:
    """Print, and draw where --figure says so, the Pareto sets of layers and the front of their sums."""
    from mqjax.io.files import write_atomically
    from mqjax.mapper.tradeoff import tradeoff
    from mqjax.network.tradeoff import network_tradeoff
    from mqjax.progress import Part
    from mqjax.show.progress import bar
    from mqjax.show.tradeoffs import draw_tradeoff

    if any(len(triples) > 1 for triples in asked):
        raise InputError("--pareto is for one width triple, such as --bits 8/8/8; not for --bits all")
    started, pad = time.perf_counter(), padding(args)
    keys = [(layer, triples[0]) for layer, triples in zip(layers, asked, strict=True)]
    found: dict[tuple[Layer, BitWidths], Tradeoff] = {}
    with bar("comparing", len(set(keys)), "layers") as progress:
        for layer, bits in dict.fromkeys(keys):
            found[layer, bits] = tradeoff(
                arch, layer, bits, constraints=args.constraints, pad=pad, progress=Part(progress, layer.name)
            )
            progress.advance()
    sets = [found[key] for key in keys]
    network = network_tradeoff(sets)
    if args.json:
        json.dump(_tradeoff_json(sets, network), sys.stdout)
        print()
    else:
        _print(sets, network)
    if args.figure is not None:
        title = f"{args.network or layers[0].name} on {arch.name} at {keys[0][1]}"
        write_atomically(args.figure, draw_tradeoff(network, sets, title))
        print(f"figure: {args.figure}", file=sys.stderr)
    print(f"whole spaces covered; {time.perf_counter() - started:.1f} s", file=sys.stderr)
    return 0


def _tradeoff_json(sets: list[Tradeoff], network: NetworkTradeoff) -> dict[str, Any]:
    from mqjax.network.tradeoff import least_edp_of_layers

    energy, cycles = least_edp_of_layers(sets)
    best = int(network.edp.argmin())
    return {
        "layers": [
            {
                "layer": part.layer.name,
                "bits": str(part.bits),
                "points": [
                    {"energy_pj": float(energy), "cycles": int(cycles), "mapping": mapping}
                    for energy, cycles, mapping in zip(part.energy_pj, part.cycles, part.mappings, strict=True)
                ],
            }
            for part in sets
        ],
        "network": {
            "energy_pj": network.energy_pj.tolist(),
            "cycles": network.cycles.tolist(),
            "slack_pj": network.slack_pj,
            "least_edp": float(network.edp[best]),
            "edp_bound": network.edp_bound,
            "edp_of_layer_optima": energy * cycles,
            "choices_of_least_edp": network.choices[best].tolist(),
        },
    }


def _print(sets: list[Tradeoff], network: NetworkTradeoff) -> None:
    from mqjax.network.tradeoff import least_edp_of_layers
    from mqjax.show.progress import print_table

    lines = []
    for part in dict.fromkeys(map(id, sets)):
        of_layer = next(x for x in sets if id(x) == part)
        edp = of_layer.energy_pj * of_layer.cycles
        ends = [0, int(edp.argmin()), -1]
        costs = [f"{of_layer.energy_pj[i]:.6g}" for i in ends] + [f"{of_layer.cycles[i]:,}" for i in ends]
        times = str(sum(id(x) == part for x in sets))
        lines.append((of_layer.layer.name, times, str(of_layer.bits), str(len(edp)), *costs))
    headings = ("layer", "times", "bits I/W/O", "members", "energy (pJ) of the fastest", "of least EDP", "least")
    headings += ("cycles of the fastest", "of least EDP", "of least energy")
    print_table("mappings that no other beats in energy and delay", headings, lines)
    best = int(network.edp.argmin())
    rows = [
        (name, f"{network.energy_pj[i]:.6g}", f"{network.cycles[i]:,}", f"{network.edp[i]:.6g}")
        for name, i in (("fastest", 0), ("least EDP", best), ("least energy", -1))
    ]
    print_table(
        f"{len(network.cycles):,} ways through all layers that no other beats",
        ("mappings", "energy (pJ)", "cycles", "EDP (pJ*cycles)"),
        rows,
    )
    energy, cycles = least_edp_of_layers(sets)
    least, alone = network.edp[best], energy * cycles
    exact = "" if network.slack_pj == 0 else f" (no choice is below {network.edp_bound:.6g})"
    print(f"least EDP {least:.6g}{exact}: {1 - least / alone:.3%} below the layers' own EDP optima, {alone:.6g}")
