"""Energy against delay of whole networks, exactly, and the true least EDP that summing the layers' optima misses.

    python experiments/energy_delay.py [--quick] [--out experiments/results/energy_delay]

Both MobileNets (224x224, 1,000 classes) on both accelerators at 8/8/8 and 4/4/4 under the paper's constraints: the Pareto set of
energy and cycles of every layer over its whole space, and from these the front of the sums over all layers. The network's EDP is its
total energy times its total delay; the least is a member of that front. Choosing every layer's mapping by its own EDP gives
another sum, which is never below. Expected: two minutes on 2 cores. --quick: one small network on Eyeriss at one width triple.
"""

from __future__ import annotations

import argparse
import sys

import numpy as np
from matplotlib.figure import Figure

from common import (
    ARCHS,
    NETWORKS,
    TITLE,
    Row,
    Tables,
    label_panels,
    markdown,
    pair_name,
    pairs_of,
    panels_of,
    percent,
    run,
    source,
    span,
    where,
)
from mqjax import load_arch
from mqjax.mapper.tradeoff import Tradeoff, tradeoff
from mqjax.network.tradeoff import least_edp_of_layers, network_tradeoff
from mqjax.show.figures import BLUE, ORANGE, spread
from mqjax.types import BitWidths

BITS = {"8/8/8": BitWidths(8, 8, 8), "4/4/4": BitWidths(4, 4, 4)}
COLORS = dict(zip(BITS, (BLUE, ORANGE), strict=True))
MOST_POINTS = 300


def measure(args: argparse.Namespace) -> Tables:
    layers: list[Row] = []
    networks: list[Row] = []
    points: list[Row] = []
    for network in ("mobilenetv1",) if args.quick else NETWORKS:
        every = source(network, args.quick).layers()
        for arch in ("eyeriss",) if args.quick else ARCHS:
            for bits in ("8/8/8",) if args.quick else BITS:
                keys = {"network": network, "arch": arch, "bits": bits}
                found = {layer: tradeoff(load_arch(arch), layer, BITS[bits]) for layer in dict.fromkeys(every)}
                for layer, part in found.items():
                    layers.append({**keys, "layer": layer.name, "times": every.count(layer), **_layer(part)})
                row, of_front = _network([found[layer] for layer in every])
                networks.append({**keys, **row})
                points += [{**keys, **point} for point in of_front]
            print(network, arch, file=sys.stderr, flush=True)
    return {"layers": layers, "networks": networks, "points": points}


def _layer(part: Tradeoff) -> Row:
    """Size and ends of a layer's Pareto set."""
    return {
        "members": len(part.cycles),
        "fastest_cycles": int(part.cycles[0]),
        "fastest_energy_pj": float(part.energy_pj[0]),
        "frugal_cycles": int(part.cycles[-1]),
        "frugal_energy_pj": float(part.energy_pj[-1]),
    }


def _network(sets: list[Tradeoff]) -> tuple[Row, list[Row]]:
    """Size, ends and least EDP of a network's front, and points of it, some where there are many."""
    front = network_tradeoff(sets)
    row: Row = {"layers": len(sets), "points": len(front.cycles)}
    for name, place in (("fastest", 0), ("least_edp", int(front.edp.argmin())), ("frugal", -1)):
        row |= {f"{name}_energy_pj": float(front.energy_pj[place]), f"{name}_cycles": int(front.cycles[place])}
    energy, cycles = least_edp_of_layers(sets)
    row |= {"alone_energy_pj": energy, "alone_cycles": cycles}
    least = float(front.edp.min())
    row |= {"least_edp": least, "edp_bound": front.edp_bound, "alone_edp": energy * cycles}
    row |= {"missed": energy * cycles / least - 1, "slack_pj": front.slack_pj}
    kept = spread(list(range(len(front.cycles))), MOST_POINTS)
    return row, [{"energy_pj": float(front.energy_pj[i]), "cycles": int(front.cycles[i])} for i in kept]


def draw(tables: Tables) -> dict[str, Figure]:
    pairs = pairs_of(tables["networks"])
    figure, panels = panels_of(pairs, (10, 3.1))
    for axes, (network, arch) in zip(panels, pairs, strict=True):
        for row in where(tables["networks"], network=network, arch=arch):
            color = COLORS[row["bits"]]
            front = where(tables["points"], network=network, arch=arch, bits=row["bits"])
            x, y = _above(row, *np.array([[point["cycles"], point["energy_pj"]] for point in front]).T)
            marker = "." if row["points"] < 20 else None
            axes.step(x, y, where="post", color=color, marker=marker, label=f"front at {row['bits']} bits")
            for name, style in (("least_edp", {"marker": "o"}), ("alone", {"marker": "s", "markerfacecolor": "none"})):
                label = {"least_edp": "least EDP of the network", "alone": "least EDP of every layer"}[name]
                at = _above(row, row[f"{name}_cycles"], row[f"{name}_energy_pj"])
                size = 5 if name == "least_edp" else 9
                axes.plot(*at, color=color, ls="", markersize=size, markeredgewidth=1.5, label=label, **style)
        axes.set_title(pair_name(network, arch), **TITLE)
        axes.set_xscale("symlog", linthresh=1)
        axes.xaxis.set_major_formatter("{x:g}")
        axes.set(xlim=(-0.2, None), ylim=(0, None))
        axes.grid(color="#eceff3")
    label_panels(panels, "cycles above the fewest (%)", "energy above the least (%)")
    panels[0].legend(frameon=False, fontsize=8)
    return {"fronts": figure}


def _above(row: Row, cycles, energy):
    """By how much, in percent, cycles and energy exceed the least of the network's front."""
    return 100 * (cycles / row["fastest_cycles"] - 1), 100 * (energy / row["frugal_energy_pj"] - 1)


def describe(tables: Tables) -> str:
    networks = tables["networks"]
    body = []
    for row in networks:
        ends = row["fastest_energy_pj"] / row["frugal_energy_pj"] - 1, row["frugal_cycles"] / row["fastest_cycles"] - 1
        least = [f"{row['least_edp']:.5g}", f"{row['alone_edp']:.5g}", percent(row["missed"], 3)]
        name = f"{pair_name(row['network'], row['arch'])}, {row['bits']}"
        body.append([name, f"{row['points']:,}", *(percent(end, 2) for end in ends), *least])
    header = [
        "",
        "points",
        "energy of the fastest",
        "cycles of the most frugal",
        "least EDP",
        "by each layer's EDP",
        "missed",
    ]
    worst = max(networks, key=lambda row: row["missed"])
    several = sum(row["members"] > 1 for row in tables["layers"])
    return f"""## Energy against delay

Layers run one after the other, so a network's energy and its cycles are sums, and its EDP is the product of both sums. The mapping that is best for
one layer's EDP need not be best for that product. Each layer's Pareto set over its whole space gives the exact front of the sums.

![Fronts of total energy against total cycles](fronts.png)

{markdown(header, body)}

(Energy above the least and cycles above the fewest, at the two ends of the front; EDP in pJ × cycles. {_exact(networks)})

Of {len(tables["layers"])} Pareto sets of layers {several} have more than one member; in the others one mapping needs both the least energy and the
fewest cycles. {_verdict(networks, worst)}
"""


def _verdict(networks: list[Row], worst: Row) -> str:
    gained = span((row["fastest_energy_pj"] / row["frugal_energy_pj"] - 1 for row in networks), 2)
    lost = span((row["frugal_cycles"] / row["fastest_cycles"] - 1 for row in networks), 0)
    trade = (
        f"The fastest mappings need {gained} more energy than the most frugal; the most frugal take {lost} more cycles."
    )
    if worst["missed"] > 0:
        where_most = f"{pair_name(worst['network'], worst['arch'])} at {worst['bits']}"
        return (
            f"{trade} Choosing every layer's\nmapping by its own EDP misses the network's least EDP by {percent(worst['missed'], 3)} at most "
            f"({where_most})."
        )
    fastest = all(row["least_edp_cycles"] == row["fastest_cycles"] for row in networks)
    why = ": it is that of the fastest mappings, from\nwhich nothing is to be gained" if fastest else ""
    return (
        f"{trade}\nChoosing every layer's mapping by its own EDP meets the network's least EDP exactly, in all {len(networks)} cases{why}. "
        "In general it does not have to."
    )


def _exact(networks: list[Row]) -> str:
    thinned = [row for row in networks if row["slack_pj"] > 0]
    if not thinned:
        return "All fronts are exact."
    gap = max(row["least_edp"] / row["edp_bound"] - 1 for row in thinned)
    return (
        f"{len(thinned)} fronts had to be thinned on the way; no choice of mappings is more than {percent(gap, 5)} "
        "below the least EDP given."
    )


def main() -> None:
    run(sys.modules[__name__])


if __name__ == "__main__":
    main()
