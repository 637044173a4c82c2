"""Fronts of summed loss against cost under the paper's constraints and under the hardware's alone, for `constraint_cost`."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from common import ARCHS, TITLE, Row, Tables, markdown, panels_of, percent, values, where
from mqjax import CostTable, cost_table, load_arch, network_cost
from mqjax.accuracy.judge import default_accuracy
from mqjax.accuracy.sensitivity import sensitivities
from mqjax.io.files import cache_folder
from mqjax.mapspace.padding import padded_or_itself
from mqjax.show.figures import BLUE, GREY, spread
from mqjax.study.surrogate import Surrogate, summed_costs, surrogate_front
from mqjax.types import Layer

SPACES = ("paper", "arch")
LIMITS = (6, 5, 4)
"""Assignments of least cost whose summed loss is at most that of these uniform widths."""
MOST_POINTS = 100


def measured(archs: Sequence[str], seconds: float) -> Tables:
    """Fronts of summed loss against cost under both sets of constraints, and what members of either cost under the other."""
    points: list[Row] = []
    chosen: list[Row] = []
    judge = default_accuracy("mobilenetv1")
    wiring = judge.architecture.wiring()
    losses = sensitivities(judge, cache=cache_folder())
    for arch in archs:
        found = {space: _table(arch, judge.layers, space, seconds) for space in SPACES}
        tables = {space: table for space, (table, _) in found.items()}
        open_ = found["arch"][1]
        for metric in ("energy", "edp_sum"):
            keys = {"arch": arch, "metric": metric}
            eight = network_cost(tables["paper"], wiring.uniform[-1:], [metric], wiring=wiring)[0, 0]
            fronts = {}
            for space, table in tables.items():
                costs = summed_costs(table, ("error", metric))
                surrogate = Surrogate(wiring, losses.kernels, losses.tensors, costs)
                front = fronts[space] = surrogate_front(surrogate)
                for i in spread(list(range(len(front.loss))), MOST_POINTS):
                    saved = float(1 - front.costs[i, 0] / eight)
                    points.append({**keys, "constraints": space, "loss": float(front.loss[i]), "saved": saved})
            for width in LIMITS:
                limit = surrogate.loss(wiring.uniform[width - 2 : width - 1])[0]
                places = {space: np.flatnonzero(front.loss <= limit)[0] for space, front in fronts.items()}
                genomes = np.stack([fronts[space].genomes[places[space]].astype(int) for space in SPACES])
                paper, hardware = (
                    network_cost(tables[space], genomes, [metric], wiring=wiring)[:, 0] for space in SPACES
                )
                chosen.append(
                    {
                        **keys,
                        "loss_of_uniform": width,
                        "saved_paper": float(1 - paper[0] / eight),
                        "saved_paper_remapped": float(1 - hardware[0] / eight),
                        "saved_arch": float(1 - hardware[1] / eight),
                        "genes_that_differ": int((genomes[0] != genomes[1]).sum()),
                        "genes": wiring.genes,
                        "loss_slack": max(float(f.loss[places[s]] - f.bounds[places[s], 0]) for s, f in fronts.items()),
                        "unproven_layers": open_,
                    }
                )
        print("fronts", arch, file=sys.stderr, flush=True)
    return {"points": points, "chosen": chosen}


def drawn(rows: list[Row]) -> Figure:
    archs, metrics = values(rows, "arch"), values(rows, "metric")
    figure, panels = panels_of([(arch, metric) for arch in archs for metric in metrics], (10, 3))
    for axes, (arch, metric) in zip(panels, [(a, m) for a in archs for m in metrics], strict=True):
        for space, color, width, label in (
            ("paper", GREY, 5, "the paper's constraints"),
            ("arch", BLUE, 1.4, "the hardware's alone"),
        ):
            front = where(rows, arch=arch, metric=metric, constraints=space)
            x, y = np.array([[100 * p["saved"], p["loss"]] for p in front if p["loss"] > 0]).T
            axes.plot(x, y, color=color, linewidth=width, label=label)
        name = {"energy": "energy", "edp_sum": "EDP"}[metric]
        axes.set_title(f"MobileNetV1-0.25 on {ARCHS[arch]}: {name}", **TITLE)
        axes.set(yscale="log", ylim=(1e-3, None), xlabel=f"{name} saved against 8 bits under the paper's (%)")
        axes.grid(color="#eceff3")
    for axes in panels[::2]:
        axes.set_ylabel("summed loss (nats per image)")
    panels[0].legend(frameon=False, fontsize=8.5)
    return figure


def described(chosen: list[Row]) -> str:
    body = [
        [
            f"{ARCHS[row['arch']]}, {'EDP' if row['metric'] == 'edp_sum' else 'energy'}, {row['loss_of_uniform']} bits",
            *(percent(row[key], 2) for key in ("saved_paper", "saved_paper_remapped", "saved_arch")),
            f"{row['genes_that_differ']} of {row['genes']}",
        ]
        for row in chosen
    ]
    header = [
        "at most the loss of",
        "found and mapped under the paper's",
        "mapped anew",
        "found under the hardware's",
        "widths that differ",
    ]
    most = max(row["saved_arch"] - row["saved_paper_remapped"] for row in chosen)
    gain = max(row["saved_arch"] - row["saved_paper"] for row in chosen)
    open_ = {row["arch"]: row["unproven_layers"] for row in chosen if row["unproven_layers"]}
    proven = "All costs are proven optima." if not open_ else "Not all costs are proven optima: " + ", ".join(
        f"on {ARCHS[arch]} those of {count} layers under the hardware's constraints are upper bounds" for arch, count in open_.items()
    ) + "."  # fmt: skip
    return f"""
### What the heuristics do to the search

Widths are chosen by cost, so a search under other constraints may choose others. These are fronts of summed loss against cost of the MobileNetV1-0.25 that
ships with the package (32x32), whose losses are measured, under either set (exact but for {max(row["loss_slack"] for row in chosen):.1g} nats of loss). {proven}

![Fronts of summed loss under both sets of constraints](fronts.png)

{markdown(header, body)}

(Saved against 8 bits everywhere under the paper's constraints. Where the paper's fixed factors pad a layer, it may be padded so under the hardware's, too.) Searching under the hardware's own constraints saves up to {100 * gain:.2f} points more. Of
this the choice of widths makes up {100 * most:.2f} points at most: an assignment found under the heuristics, mapped anew without them, is nearly as good.
"""


def bounds_of(arch: str, layer: Layer, space: str) -> list[Layer]:
    """The layer, and where the paper's fixed factors make it larger also as large: the hardware may run it so, too."""
    padded = padded_or_itself(load_arch(arch), layer, constraints="paper", pad=0)
    return [layer] if space == "paper" or padded == layer else [layer, padded]


def _table(arch: str, layers: Sequence[Layer], space: str, seconds: float) -> tuple[CostTable, int]:
    """Least costs of the layers for all widths on any of their `bounds_of`, and how many of them are not proven."""
    every = [bounds_of(arch, layer, space) for layer in layers]
    itself, padded = (
        cost_table(load_arch(arch), bounds, constraints=space, seconds=seconds, cache=cache_folder())
        for bounds in ([some[0] for some in every], [some[-1] for some in every])
    )
    # By layer of the network: layers that are alike may be so only once they are padded.
    best = {m: np.minimum(itself.best[m][itself.index], padded.best[m][padded.index]) for m in itself.best}
    pairs = zip(itself.index, padded.index, strict=True)
    open_ = sum(not (itself.tables[i].covered and padded.tables[k].covered) for i, k in pairs)
    layers_in_order = {"unique": itself.layers, "index": np.arange(len(layers)), "tables": ()}
    return dataclasses.replace(itself, best=best, **layers_in_order), open_
