"""Speed: whole spaces against the reference tool's recorded rates, and how cost grows with the work.

    python experiments/speed.py [--reference FILE] [--repeats 3] [--quick] [--out experiments/results/speed]

FILE holds timed runs of the reference tool's mapper (.jsonl: arch, layer of MobileNetV1 with depthwise layers dense, kind,
threads, wall_s, considered_per_s). Beside each layer stands the time for its whole space: optima of all three metrics, proven, for
one width triple and for all 343 and unpacked operands. Every time is the least of --repeats, programs compiled before, nothing
cached. Then time against the number of layers, of width triples, the size of the space, the levels of the accelerator and
the population of NSGA-II. Runs of the tool are of another machine, so ratios to them hold for their order of magnitude only.
Expected: twelve minutes on 2 idle cores. A whole space at all widths takes less time than the tool's search of one.
--quick: one layer, one accelerator, one repeat.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from matplotlib.figure import Figure

from common import ARCHS, NETWORKS, TITLE, Row, Tables, markdown, run, source, values, where
from mqjax import BitWidths, InputError, Layer, Mapspace, cost_table, load_arch, network_layers
from mqjax.benchmark import generation, timed
from mqjax.mapper.optimum import solve
from mqjax.show.figures import BLUE, LEVEL_COLORS, ORANGE
from mqjax.types import all_widths

EVERY = [*all_widths(), BitWidths()]
COLORS = {"eyeriss": BLUE, "simba": ORANGE}
TRIPLES = (1, 7, 49, 343)
POPULATIONS = (256, 1024, 4096, 16_384)
LEVELLED = ("eyeriss", "simba", "tpu", "shidiannao", "nvdla_small", "nvdla_large")
"""Accelerators with different numbers of levels."""
TYPICAL = "mobilenetv1_pw5"


def measure(args: argparse.Namespace) -> Tables:
    load = os.getloadavg()[0]
    archs = ("eyeriss",) if args.quick else tuple(ARCHS)
    layers = network_layers("mobilenetv1")
    if args.quick:
        layers = source("mobilenetv1", True).layers()[:2]
        typical = layers[-1]
    else:
        typical = next(layer for layer in layers if layer.name == TYPICAL)

    def least(function: Callable[[], Any]) -> float:
        return min(timed(function)[0] for _ in range(1 if args.quick else args.repeats))

    def seconds(arch: str, layer: Layer, bits: list[BitWidths]) -> Row:
        space = Mapspace(load_arch(arch), layer)
        found = solve(space, bits)  # compiles
        size = {"pruned_size": space.pruned_size, "distinct": space.distinct, "proven": found.covered}
        return {**size, "seconds": least(lambda: solve(Mapspace(load_arch(arch), layer), bits))}

    tables: Tables = {"spaces": [], "layers": [], "triples": [], "levels": [], "population": []}
    if args.reference:
        tables["reference"] = [
            {
                **row,
                **{
                    f"{name}_{key}": value
                    for name, bits in (("one", EVERY[-1:]), ("all", EVERY))
                    for key, value in seconds(row["arch"], layer, bits).items()
                },
            }
            for row, layer in _recorded(args.reference)
            if row["arch"] in archs
        ]
        print("reference", file=sys.stderr, flush=True)
    for arch in archs:
        for network in ("mobilenetv1",) if args.quick else NETWORKS:
            for layer in dict.fromkeys(layers if network == "mobilenetv1" else network_layers(network)):
                tables["spaces"].append({"arch": arch, "layer": layer.name, **seconds(arch, layer, EVERY)})
        unique = list(dict.fromkeys(layers))
        for count in sorted({max(1, round(len(unique) * part)) for part in (0.25, 0.5, 0.75, 1)}):
            some = unique[:count]
            tables["layers"].append(
                {"arch": arch, "layers": count, "seconds": least(lambda a=arch, s=some: cost_table(load_arch(a), s))}
            )
        for count in TRIPLES:
            few = EVERY[:: len(EVERY) // count][:count]
            tables["triples"].append({"arch": arch, "triples": count, **seconds(arch, typical, few)})
        print(arch, file=sys.stderr, flush=True)
    for arch in archs if args.quick else LEVELLED:
        levels = len(load_arch(arch).levels)
        tables["levels"].append({"arch": arch, "levels": levels, **seconds(arch, typical, EVERY)})
        print(arch, file=sys.stderr, flush=True)
    for population in POPULATIONS[:1] if args.quick else POPULATIONS:
        tables["population"].append({"population": population, "seconds": generation(2, population)["seconds"]})
    machine = {"device": jax.devices()[0].device_kind, "cores": os.cpu_count(), "load_before": load}
    tables["machine"] = [{**machine, "load_after": os.getloadavg()[0]}]
    return tables


def _recorded(path: Path) -> list[tuple[Row, Layer]]:
    """What the tool did on each layer with two threads: its rate, medians, and its search with the paper's settings."""
    try:
        runs = [json.loads(line) for line in path.read_text().splitlines()]
        names = list(dict.fromkeys((r["arch"], r["layer"]) for r in runs))
        dense = network_layers("mobilenetv1", depthwise="dense")
        found = []
        for arch, name in names:
            of_layer = [r for r in runs if (r["arch"], r["layer"], r["threads"]) == (arch, name, 2)]
            rates = [r["considered_per_s"] for r in of_layer if r["kind"] == "rate"]
            (search,) = [r for r in of_layer if r["kind"] == "paper"]
            row = {
                "arch": arch,
                "layer": name,
                "tool_considered_per_s": float(np.median(rates)),
                "tool_search_s": search["wall_s"],
                "tool_search_considered": search["considered"],
            }
            found.append((row, dense[int(name.rpartition("layer")[2]) - 1]))
        return found
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} does not hold timed runs of the reference tool: {error!r:.100}") from None


def draw(tables: Tables) -> dict[str, Figure]:
    figures = {"growth": _draw_growth(tables)}
    if "reference" in tables:
        figures["reference"] = _draw_reference(tables["reference"])
    return figures


def _draw_growth(tables: Tables) -> Figure:
    figure = Figure(figsize=(10.5, 6.4), layout="constrained")
    spaces, layers, triples, levels, population, _ = panels = figure.subplots(2, 3).ravel()
    panels[-1].set_visible(False)
    for arch, color in COLORS.items():
        rows = where(tables["spaces"], arch=arch)
        if not rows:
            continue
        spaces.scatter(
            [r["distinct"] for r in rows], [r["seconds"] for r in rows], s=14, color=color, label=ARCHS[arch]
        )
        for axes, name, key in ((layers, "layers", "layers"), (triples, "triples", "triples")):
            of_arch = where(tables[name], arch=arch)
            axes.plot(
                [r[key] for r in of_arch], [r["seconds"] for r in of_arch], "o-", ms=4, color=color, label=ARCHS[arch]
            )
    spaces.set(xscale="log", yscale="log", xlabel="distinct mappings", title="One layer, 343 widths and unpacked")
    layers.set(xlabel="different layers", title="Table of a network", xlim=(0, None))
    triples.set(
        xscale="log", xlabel="width triples", title="One layer, more widths", xticks=TRIPLES, xticklabels=TRIPLES
    )
    triples.minorticks_off()
    for row, color in zip(tables["levels"], (BLUE, ORANGE, *LEVEL_COLORS[5:], LEVEL_COLORS[0]), strict=False):
        levels.scatter(row["levels"], 1e6 * row["seconds"] / row["distinct"], s=30, color=color, label=row["arch"])
    levels.set(
        xlabel="levels of the accelerator",
        ylabel="\N{MICRO SIGN}s per distinct mapping",
        title="The same layer on several accelerators",
    )
    levels.set_xticks(sorted(set(values(tables["levels"], "levels"))))
    rows = tables["population"]
    population.plot([r["population"] for r in rows], [r["seconds"] for r in rows], "o-", ms=4, color=BLUE)
    population.set(
        xscale="log",
        xlabel="population",
        title="A generation of NSGA-II",
        xticks=values(rows, "population"),
        xticklabels=values(rows, "population"),
    )
    population.minorticks_off()
    for axes in panels[:-1]:
        axes.title.set(fontsize=10.5)
        axes.grid(color="#eceff3")
        if axes is not levels:
            axes.set_ylabel("seconds")
        if axes is not spaces:
            axes.set_ylim(0, None)
        if axes is not population:
            axes.legend(frameon=False, fontsize=8)
    return figure


def _draw_reference(rows: list[Row]) -> Figure:
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    axes = figure.add_subplot()
    at = np.arange(len(rows))
    search = [row["tool_search_s"] for row in rows]
    sweep = [row["one_pruned_size"] / row["tool_considered_per_s"] for row in rows]
    bars = (
        (search, LEVEL_COLORS[0], "the tool: a search at one width triple"),
        (sweep, "#d5dae2", "the tool: the whole space at one triple, at its rate"),
        ([row["one_seconds"] for row in rows], LEVEL_COLORS[1], "mqjax: the whole space at one triple"),
        ([row["all_seconds"] for row in rows], BLUE, "mqjax: the whole space at all 344 triples"),
    )
    for number, (heights, color, label) in enumerate(bars):
        axes.bar(at + 0.2 * (number - 1.5), heights, 0.19, color=color, label=label)
    axes.set(yscale="log", ylabel="seconds (log scale)")
    axes.set_xticks(at, [f"{ARCHS[row['arch']]}\n{row['layer'].partition('_')[2]}" for row in rows])
    axes.set_title("One layer: the tool's sampled search, and whole spaces, proven", **TITLE)
    axes.grid(color="#eceff3", axis="y")
    figure.legend(ncols=2, loc="outside upper center", frameon=False, fontsize=8.5)
    return figure


def describe(tables: Tables) -> str:
    spaces, triples, layers = tables["spaces"], tables["triples"], tables["layers"]
    growth = []
    for arch in values(spaces, "arch"):
        of_arch = where(spaces, arch=arch)
        rate = sum(row["pruned_size"] for row in of_arch) * len(EVERY) / sum(row["seconds"] for row in of_arch)
        one, every = (where(triples, arch=arch, triples=count)[0]["seconds"] for count in (TRIPLES[0], TRIPLES[-1]))
        most = where(layers, arch=arch)[-1]
        growth.append(
            [
                ARCHS[arch],
                f"{rate / 1e6:,.0f} M",
                f"{most['seconds']:.2f} s for {most['layers']} layers",
                f"{every / one:.1f}",
                f"{max(row['seconds'] for row in of_arch):.2f} s for {max(row['distinct'] for row in of_arch):,}",
            ]
        )
    header = [
        "",
        "pairs of mapping and triple a second",
        "table of MobileNetV1",
        "343 triples over one",
        "largest space, distinct mappings",
    ]
    people = tables["population"]
    first, last = people[0], people[-1]
    (machine,) = tables["machine"]
    return f"""## Speed

{_against_tool(tables)}How cost grows with the work, programs compiled before, nothing cached:

{markdown(header, growth)}

![Time against size of the space, layers, width triples, levels and population](growth.png)

All widths together cost a few times one, not 343 times: a mapping is analysed once, a bound for all widths rules out nearly all, and only the rest
is priced for each. A generation of NSGA-II takes {first["seconds"]:.3f} s at a population of {first["population"]:,} and {last["seconds"]:.3f} s at {last["population"]:,}.
The machine has {machine["cores"]} cores; its load average was {machine["load_before"]:.1f} before and {machine["load_after"]:.1f} after, so that {_shared(machine)}.
How the time is spent, and on what machine figures for `mqjax bench` were taken: [performance](PERFORMANCE.md).
"""


def _shared(machine: Row) -> str:
    if max(machine["load_before"], machine["load_after"]) > 1.5 * machine["cores"]:
        return "other work slowed all of these times, and ratios between them are more to be trusted than seconds"
    return "little else ran beside it"


def _against_tool(tables: Tables) -> str:
    rows = tables.get("reference")
    if not rows:
        return ""
    body = [
        [
            f"{ARCHS[row['arch']]}, {row['layer'].partition('_')[2]}",
            f"{row['tool_search_s']:.1f} s, {row['tool_search_considered']:,}",
            f"{row['one_pruned_size']:,}",
            f"{row['one_pruned_size'] / row['tool_considered_per_s']:,.0f} s",
            f"{row['one_seconds']:.2f} s",
            f"{row['all_seconds']:.2f} s",
            f"{row['one_pruned_size'] * len(EVERY) / row['all_seconds'] / row['tool_considered_per_s']:,.0f}",
        ]
        for row in rows
    ]
    header = [
        "",
        "tool: search, mappings",
        "whole space",
        "at the tool's rate",
        "mqjax, one triple",
        "mqjax, 344 triples",
        "times the tool's rate",
    ]
    return f"""Three layers of MobileNetV1 (depthwise as dense, for comparison), two cores each; the tool's runs were recorded on another machine:

{markdown(header, body)}

![Seconds for a layer: the reference tool's search and mqjax's whole spaces](reference.png)

The tool's search looks at a sample for one width triple. The last column compares rates, counted in pairs of mapping and triple; mqjax counts
a mapping as looked at when it was priced, ruled out by a lower bound, or is equivalent to one that was.

"""


def main() -> None:
    def options(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--reference", type=Path, metavar="FILE", help="timed runs of the reference tool")
        parser.add_argument("--repeats", type=int, default=3)

    run(sys.modules[__name__], options, arguments="--reference FILE")


if __name__ == "__main__":
    main()
