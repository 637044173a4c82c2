"""What constraints cost: those of the paper, which are heuristics, and those of the hardware.

    python experiments/constraint_cost.py [--quick] [--out experiments/results/constraint_cost]

Three measurements. Every layer of both MobileNets (224x224, 1,000 classes) on both accelerators at 8/8/8, 4/4/4 and unpacked,
by energy and by EDP: its optimum under the paper's constraints beside the one that the hardware alone allows. What each
constraint of the hardware costs MobileNetV1's pointwise and fully connected layers at 8/8/8 by energy, lifted alone and all
together. And fronts of summed loss (each tensor's own, measured as `mqjax search` does on the shipped MobileNetV1 at 32x32)
against cost, under either set of constraints. A layer that is not proven within --seconds counts with the best mapping
found, so that the constraints may cost more; the tables say which. Expected: half an hour on 2 cores; all is proven. Without
the heuristics 0.3 to 6.3 % of energy are saved, and nearly the same widths are found; Simba's PEAccuBuffer fan-out costs 22 %.
--quick: three layers of a small network on Eyeriss at two width triples, and no fronts; one minute.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

import constraint_fronts
from common import (
    ARCHS,
    NETWORKS,
    TITLE,
    Row,
    Tables,
    label_panels,
    markdown,
    only,
    pair_name,
    pairs_of,
    panels_of,
    percent,
    run,
    source,
    span,
    values,
    where,
)
from mqjax import load_arch
from mqjax.mapper.best import solve_layer
from mqjax.network.lifting import ALL, AS_BUILT, lift_constraints
from mqjax.show.figures import BLUE, DARK, GREY, ORANGE
from mqjax.types import BitWidths, Layer

BITS = {"8/8/8": BitWidths(8, 8, 8), "4/4/4": BitWidths(4, 4, 4), "native": BitWidths()}
METRICS = {"energy": "energy", "edp": "EDP"}


def measure(args: argparse.Namespace) -> Tables:
    archs = ("eyeriss",) if args.quick else tuple(ARCHS)
    bits = {name: BITS[name] for name in (("8/8/8", "native") if args.quick else BITS)}
    layers: list[Row] = []
    for network in ("mobilenetv1",) if args.quick else NETWORKS:
        every = source(network, args.quick).layers()
        if args.quick:
            every = _without_windows(every)[:3]
        for arch in archs:
            for layer in dict.fromkeys(every):
                keys = {"network": network, "arch": arch, "layer": layer.name, "times": every.count(layer)}
                layers += [{**keys, **row} for row in _layer(arch, layer, bits, args.seconds)]
            print(network, arch, file=sys.stderr, flush=True)
    every = _without_windows(source("mobilenetv1", args.quick).layers())
    lifted = [row for arch in archs for row in _lifted(arch, every[:2] if args.quick else every, args.seconds)]
    found = {"layers": layers, "totals": _totals(layers), "lifted": lifted}
    return found if args.quick else found | constraint_fronts.measured(archs, args.seconds)


def _without_windows(layers: Sequence[Layer]) -> list[Layer]:
    """Pointwise and fully connected layers. Lifting lets a fan-out spread both dimensions of a sliding pair of the others,
    and such spaces are not proven."""
    return [layer for layer in layers if layer.R == layer.S == 1]


def _layer(arch: str, layer: Layer, bits: dict[str, BitWidths], seconds: float) -> list[Row]:
    """A layer's optima under both sets of constraints."""
    built = load_arch(arch)
    found = {
        space: [
            solve_layer(built, bounds, [*bits.values()], constraints=space, seconds=seconds)
            for bounds in constraint_fronts.bounds_of(arch, layer, space)
        ]
        for space in constraint_fronts.SPACES
    }
    rows = []
    for metric in METRICS:
        costs = {space: np.min([one.value(metric) for one in some], axis=0) for space, some in found.items()}
        for place, name in enumerate(bits):
            of_both = {f"{space}_cost": float(costs[space][place]) for space in constraint_fronts.SPACES}
            proven = {f"{space}_proven": all(one.covered for one in some) for space, some in found.items()}
            rows.append({"bits": name, "metric": metric, **of_both, **proven})
    return rows


def _totals(layers: list[Row]) -> list[Row]:
    """Sums over all layers of a network, and the layer whose share falls most."""
    totals = []
    for network, arch in pairs_of(layers):
        for bits in values(layers, "bits"):
            for metric in METRICS:
                keys = {"network": network, "arch": arch, "bits": bits, "metric": metric}
                rows = where(layers, **keys)
                paper, hardware = (
                    sum(row["times"] * row[f"{space}_cost"] for row in rows) for space in constraint_fronts.SPACES
                )
                gains = [1 - row["arch_cost"] / row["paper_cost"] for row in rows]
                most = int(np.argmax(gains))
                costs = {"paper_cost": paper, "arch_cost": hardware, "saved": 1 - hardware / paper}
                open_ = sum(row["times"] for row in rows if not (row["paper_proven"] and row["arch_proven"]))
                of_layers = {"most_saved": gains[most], "most_in": rows[most]["layer"], "unproven_layers": open_}
                totals.append({**keys, **costs, **of_layers})
    return totals


def _lifted(arch: str, layers: list[Layer], seconds: float) -> list[Row]:
    """What lifting each constraint of the hardware, and all, saves in the sum over the layers, and in single ones."""
    rows = []
    liftings = lift_constraints(load_arch(arch), layers, BITS["8/8/8"], seconds=seconds)
    built = liftings[0].cost("energy")
    for one in liftings:
        cost = one.cost("energy")
        gains = 1 - cost / built
        shares = {"saved": float(1 - cost.sum() / built.sum()), "least_saved": float(gains.min())}
        shares |= {"most_saved": float(gains.max()), "most_in": layers[int(gains.argmax())].name}
        proven = {"unproven_layers": int((~one.proven).sum())}
        keys = {"arch": arch, "lifted": one.lifted, "layers": len(layers)}
        rows.append({**keys, "energy_pj": float(cost.sum()), **shares, **proven})
    print("lifted", arch, file=sys.stderr, flush=True)
    return rows


def draw(tables: Tables) -> dict[str, Figure]:
    figures = {"layers": _draw_layers(tables["layers"]), "lifted": _draw_lifted(tables["lifted"])}
    return figures | ({"fronts": constraint_fronts.drawn(tables["points"])} if "points" in tables else {})


def _draw_layers(rows: list[Row]) -> Figure:
    pairs = pairs_of(rows)
    figure, panels = panels_of(pairs, (10, 2.7))
    for axes, (network, arch) in zip(panels, pairs, strict=True):
        for metric, color, marker, size in (("energy", BLUE, "o", 7.5), ("edp", ORANGE, "s", 3.5)):
            of_metric = where(rows, network=network, arch=arch, bits="8/8/8", metric=metric)
            saved = [100 * (1 - row["arch_cost"] / row["paper_cost"]) for row in of_metric]
            axes.plot(range(len(saved)), saved, marker, color=color, markersize=size, label=METRICS[metric])
        axes.set_title(pair_name(network, arch), **TITLE)
        axes.set(xlim=(-1, len(of_metric)), ylim=(-0.5, None))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(color="#eceff3", axis="y")
    label_panels(panels, "different layers, from the first to the last", "saved at 8 bits (%)")
    panels[0].legend(frameon=False, fontsize=8.5)
    return figure


def _draw_lifted(rows: list[Row]) -> Figure:
    archs = values(rows, "arch")
    heights = [len(where(rows, arch=arch)) - 1 for arch in archs]
    figure = Figure(figsize=(10, 0.5 + 0.36 * sum(heights) + 0.7 * len(archs)), layout="constrained")
    panels = figure.subplots(len(archs), 1, squeeze=False, sharex=True, height_ratios=heights)[:, 0]
    top = max(row["saved"] for row in rows)
    for axes, arch in zip(panels, archs, strict=True):
        lifted = [row for row in where(rows, arch=arch) if row["lifted"] != AS_BUILT]
        for place, row in enumerate(lifted):
            color = DARK if row["lifted"] == ALL else BLUE
            open_ = row["unproven_layers"]
            axes.barh(place, 100 * row["saved"], 0.62, color=GREY if open_ else color)
            note = percent(row["saved"]) + (
                f", at least ({open_} of {row['layers']} layers not proven)" if open_ else ""
            )
            axes.annotate(
                note, (100 * row["saved"], place), (4, 0), textcoords="offset points", va="center", fontsize=8.5
            )
        axes.set_yticks(range(len(lifted)), [row["lifted"] for row in lifted], fontsize=8.5)
        axes.invert_yaxis()
        axes.set_xlim(0, max(1.0, 130 * top))
        axes.set_title(f"{ARCHS[arch]}: {lifted[0]['layers']} layers without windows at 8 bits", **TITLE)
    panels[-1].set_xlabel("energy saved by lifting the constraint (%)")
    return figure


def describe(tables: Tables) -> str:
    layers, totals, lifted = tables["layers"], tables["totals"], tables["lifted"]
    body = []
    for pair in pairs_of(totals):
        for bits in values(totals, "bits"):
            rows = {metric: only(totals, network=pair[0], arch=pair[1], bits=bits, metric=metric) for metric in METRICS}
            most = [f"{percent(row['most_saved'])} ({_short(row['most_in'])})" for row in rows.values()]
            saved = [percent(row["saved"], 2) for row in rows.values()]
            energies = [f"{rows['energy'][f'{space}_cost'] / 1e9:.4f}" for space in constraint_fronts.SPACES]
            body.append([f"{pair_name(*pair)}, {bits}", *energies, saved[0], most[0], saved[1], most[1]])
    header = ["", "paper's (mJ)", "hardware's (mJ)", "energy saved", "most in a layer", "EDP saved", "most in a layer"]
    return f"""## Without the heuristics

The paper's mapspace has two kinds of constraints. Some say what the hardware can do; the others are heuristics that keep the space small enough to
sample. Proofs do not need those: dropped, a layer has up to 10^33 mappings, and its optimum is proven all the same. {_proven(layers)}

{markdown(header, body)}

(Sums over all layers; EDP is the sum of the layers' products.)

![What every different layer saves without the heuristics](layers.png)

At 8 bits dropping the heuristics saves {_range(totals, "energy")} of a network's energy, and {_range(totals, "edp")} of its EDP.

### What the hardware's own constraints cost

The same question can be asked of the hardware: what would a mapping need on an accelerator without one of its constraints, at the same energies per
access? Only layers without windows (pointwise and fully connected ones) of MobileNetV1 at 8 bits are asked here, by energy: where a fan-out may spread
both dimensions of a sliding window, optima are not proven.

![What each constraint of the hardware costs](lifted.png)

{_lifted_text(lifted)}
{constraint_fronts.described(tables["chosen"]) if "chosen" in tables else ""}"""


def _short(name: str) -> str:
    return name.split("_", 1)[-1]


def _range(totals: list[Row], metric: str) -> str:
    found = [f"{span(r['saved'] for r in where(totals, arch=a, bits='8/8/8', metric=metric))} on {ARCHS[a]}"
             for a in values(totals, "arch")]  # fmt: skip
    return " and ".join(found)


def _proven(layers: list[Row]) -> str:
    """Which optima are not proven."""
    every = [(row["network"], row["arch"], row["layer"], space) for row in layers for space in constraint_fronts.SPACES]
    open_ = {
        (row["network"], row["arch"], row["layer"], space)
        for row in layers
        for space in constraint_fronts.SPACES
        if not row[f"{space}_proven"]
    }
    if not open_:
        return f"All {len(set(every))} cases (a layer, on an accelerator, under one set) are proven."
    names = ", ".join(f"{_short(layer)} of {pair_name(network, arch)}" for network, arch, layer, _ in sorted(open_))
    return (
        f"Of {len(set(every))} cases (a layer, on an accelerator, under one set) all but {len(open_)} are proven; for {names} the best "
        "mapping found counts, so that the heuristics may cost more there."
    )


def _lifted_text(lifted: list[Row]) -> str:
    body = []
    for row in lifted:
        if row["lifted"] != AS_BUILT:
            of_layers = f"{100 * row['least_saved']:.1f} to {percent(row['most_saved'])}"
            proven = f"{row['layers'] - row['unproven_layers']} of {row['layers']}"
            body.append([f"{ARCHS[row['arch']]}: {row['lifted']}", percent(row["saved"], 2), of_layers, proven])
    return markdown(["lifted", "energy saved", "in single layers", "layers proven"], body) + "\n"


def main() -> None:
    run(
        sys.modules[__name__],
        lambda parser: parser.add_argument(
            "--seconds", type=float, default=300.0, help="time for each layer that is not proven sooner"
        ),
    )


if __name__ == "__main__":
    main()
