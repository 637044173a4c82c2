"""Multipliers that profit from narrow operands: how the best assignment and the saving change.

    python experiments/macs.py [--quick] [--out experiments/results/macs]

Eyeriss's memories under three kinds of multipliers: `eyeriss` (any width costs the same, as the paper assumes),
`eyeriss_bit_serial` (energy and time in proportion to the weight's bits) and `eyeriss_subword` (modes of 4, 8 and 16 bits).
Assignments are those of the exact front of summed loss (each tensor's own, measured as `mqjax search` does on the shipped
networks) against energy, and against EDP summed over layers. The networks are those at 224x224 with 1,000 classes, whose
energies multipliers do share in. Chosen for one accelerator, an assignment is also priced on the others.
Expected: five minutes on 2 cores. At 4 bits everywhere energy falls by 32 to 36 % where multipliers do not profit and by 51 to
56 % where they do; bit-serial ones also halve the cycles. --quick: one network on two accelerators, at small size.
"""

from __future__ import annotations

import argparse
import sys

import numpy as np
from bits import by_level, uniform_widths
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from common import NETWORKS, TITLE, Row, Tables, change, markdown, only, percent, run, source, span, values, where
from mqjax import CostTable, cost_table, load_arch, network_cost
from mqjax.accuracy.judge import default_accuracy
from mqjax.accuracy.sensitivity import sensitivities
from mqjax.io.files import cache_folder
from mqjax.network.wiring import Wiring
from mqjax.show.figures import BLUE, GREY, ORANGE, spread
from mqjax.study.surrogate import Surrogate, summed_costs, surrogate_front

MACS = {
    "eyeriss": "any width alike",
    "eyeriss_bit_serial": "bit-serial weights",
    "eyeriss_subword": "sub-words of 4, 8, 16",
}
COLORS = dict(zip(MACS, (GREY, BLUE, ORANGE), strict=True))
LIMITS = (6, 5, 4)
"""Assignments of least cost whose summed loss is at most that of these uniform widths."""
METRICS = ("energy", "edp_sum", "delay")
MOST_POINTS = 100


def measure(args: argparse.Namespace) -> Tables:
    uniform: list[Row] = []
    chosen: list[Row] = []
    points: list[Row] = []
    archs = list(MACS)[:2] if args.quick else list(MACS)
    for network in ("mobilenetv1",) if args.quick else NETWORKS:
        judge = default_accuracy(network)
        wiring = judge.architecture.wiring()
        losses = sensitivities(judge, cache=cache_folder())
        layers = judge.layers if args.quick else source(network, args.quick).layers()
        tables = {name: cost_table(load_arch(name), layers, cache=cache_folder()) for name in archs}
        for name, table in tables.items():
            uniform += [{"network": network, "arch": name, **row} for row in _uniform(name, table, wiring)]
        for metric in METRICS[:1] if args.quick else METRICS[:2]:
            genomes: dict[tuple[str, int], np.ndarray] = {}
            slack: dict[tuple[str, int], float] = {}
            for name, table in tables.items():
                surrogate = Surrogate(wiring, losses.kernels, losses.tensors, summed_costs(table, ("error", metric)))
                front = surrogate_front(surrogate, most=500 if args.quick else 20_000)
                eight = surrogate.cost(wiring.uniform[-1:])[0, 0]
                for i in spread(list(range(len(front.loss))), MOST_POINTS):
                    keys = {"network": network, "metric": metric, "arch": name}
                    points.append({**keys, "loss": float(front.loss[i]), "saved": float(1 - front.costs[i, 0] / eight)})
                for width in LIMITS:
                    limit = surrogate.loss(wiring.uniform[width - 2 : width - 1])[0]
                    place = np.flatnonzero(front.loss <= limit)[0]
                    slack[name, width] = float(front.loss[place] - front.bounds[place, 0])
                    genomes[name, width] = front.genomes[place].astype(int)
            for (name, width), genome in genomes.items():
                for other, table in tables.items():
                    cost, eight, best = network_cost(
                        table, np.stack([genome, wiring.uniform[-1], genomes[other, width]]), [metric], wiring=wiring
                    )[:, 0]
                    chosen.append(
                        {
                            "network": network,
                            "metric": metric,
                            "loss_of_uniform": width,
                            "chosen_for": name,
                            "priced_on": other,
                            "saved": float(1 - cost / eight),
                            "loss_slack": slack[name, width],
                            "above_best": float(cost / best - 1),
                            "mean_kernel_bits": float(genome[wiring.kernel_genes].mean()),
                            "mean_tensor_bits": float(genome[wiring.tensor_genes].mean()),
                        }
                    )
            print(network, metric, file=sys.stderr, flush=True)
    return {"uniform": uniform, "chosen": chosen, "points": points}


def _uniform(name: str, table: CostTable, wiring: Wiring) -> list[Row]:
    """Least energy, delay and EDP at 8 bits, and with narrow kernels, narrow tensors and both; the multipliers' energy."""
    rows = []
    for stored, kernel in ((8, 8), (8, 4), (4, 8), (4, 4), (8, 2), (2, 2)):
        genome = np.empty((1, wiring.genes), int)
        genome[:, wiring.tensor_genes], genome[:, wiring.kernel_genes] = stored, kernel
        least = {metric: float(network_cost(table, genome, [metric], wiring=wiring)[0, 0]) for metric in METRICS}
        levels, _ = by_level(load_arch(name), table, uniform_widths(wiring, (stored, kernel)))
        mac = only(levels, level="MAC")["energy_pj"]
        units = {"energy": "energy_pj", "edp_sum": "edp_sum_pj_cycles", "delay": "delay_cycles"}
        costs = {units[metric]: value for metric, value in least.items()}
        rows.append({"stored": stored, "kernel": kernel, **costs, "mac_pj": mac, "proven": table.covered})
    return rows


def draw(tables: Tables) -> dict[str, Figure]:
    return {"energy": _draw_energy(tables["uniform"]), "fronts": _draw_fronts(tables["points"])}


def _draw_energy(rows: list[Row]) -> Figure:
    networks, archs = values(rows, "network"), values(rows, "arch")
    figure = Figure(figsize=(10, 3.7), layout="constrained")
    panels = figure.subplots(1, len(networks), squeeze=False)[0]
    for axes, network in zip(panels, networks, strict=True):
        settings = [(row["stored"], row["kernel"]) for row in where(rows, network=network, arch=archs[0])]
        for number, arch in enumerate(archs):
            of_arch = where(rows, network=network, arch=arch)
            total, macs = (np.array([row[key] for row in of_arch]) / 1e9 for key in ("energy_pj", "mac_pj"))
            at = np.arange(len(settings)) + 0.27 * (number - 1)
            axes.bar(at, total, 0.25, color=COLORS[arch], alpha=0.5)
            axes.bar(at, macs, 0.25, color=COLORS[arch], label=f"multipliers: {MACS[arch]}")
        axes.set_title(f"{NETWORKS[network]}: energy by kind of multiplier", **TITLE)
        axes.set_xticks(range(len(settings)), [f"{a}/{b}" for a, b in settings])
        axes.set(xlabel="bits of stored tensors / of kernels", ylabel="least energy (mJ)")
        axes.grid(color="#eceff3", axis="y")
    handles, labels = panels[0].get_legend_handles_labels()
    pale = Patch(color=COLORS["eyeriss"], alpha=0.5)
    figure.legend(
        [*handles, pale], [*labels, "pale: memories"], ncols=4, loc="outside upper center", frameon=False, fontsize=8.5
    )
    return figure


def _draw_fronts(rows: list[Row]) -> Figure:
    networks, metrics = values(rows, "network"), values(rows, "metric")
    figure = Figure(figsize=(10, 3.3 * len(metrics)), layout="constrained")
    panels = figure.subplots(len(metrics), len(networks), squeeze=False)
    for row_of_panels, metric in zip(panels, metrics, strict=True):
        for axes, network in zip(row_of_panels, networks, strict=True):
            for arch in values(rows, "arch"):
                front = where(rows, network=network, metric=metric, arch=arch)
                x, y = np.array([[100 * p["saved"], p["loss"]] for p in front if p["loss"] > 0]).T
                axes.plot(x, y, color=COLORS[arch], linewidth=1.6, label=MACS[arch])
            name = {"energy": "energy", "edp_sum": "EDP"}[metric]
            axes.set_title(f"{NETWORKS[network]}: {name}", **TITLE)
            axes.set(yscale="log", ylim=(1e-3, None), xlim=(0, 100), xlabel=f"{name} saved against 8 bits (%)")
            axes.grid(color="#eceff3")
        row_of_panels[0].set_ylabel("summed loss (nats per image)")
    panels[0, 0].legend(frameon=False, fontsize=8.5, title="multipliers", title_fontsize=8.5, loc="lower right")
    return figure


def describe(tables: Tables) -> str:
    uniform, chosen = tables["uniform"], tables["chosen"]
    body = []
    for network in values(uniform, "network"):
        for arch in values(uniform, "arch"):
            rows = {(r["stored"], r["kernel"]): r for r in where(uniform, network=network, arch=arch)}
            eight = rows[8, 8]
            body.append(
                [
                    f"{NETWORKS[network]}, {MACS[arch]}",
                    f"{eight['energy_pj'] / 1e9:.3f}",
                    percent(eight["mac_pj"] / eight["energy_pj"], 0),
                    *(change(rows[s]["energy_pj"] / eight["energy_pj"]) for s in ((8, 4), (4, 8), (4, 4))),
                    *(change(rows[s]["delay_cycles"] / eight["delay_cycles"]) for s in ((8, 4), (4, 4))),
                ]
            )
    header = ["", "8/8 (mJ)", "multipliers", "8/4", "4/8", "4/4", "cycles, 8/4", "cycles, 4/4"]
    own = [row for row in chosen if row["chosen_for"] == row["priced_on"]]
    picked = [
        [
            f"{NETWORKS[row['network']]}, {MACS[row['priced_on']]}, {'EDP' if row['metric'] == 'edp_sum' else 'energy'}",
            f"{row['loss_of_uniform']} bits",
            percent(row["saved"]),
            f"{row['mean_kernel_bits']:.2f}",
            f"{row['mean_tensor_bits']:.2f}",
        ]
        for row in own
        if row["loss_of_uniform"] == 5
    ]
    lost = {
        metric: span(
            max(0.0, row["above_best"])
            for row in chosen
            if row["metric"] == metric and row["chosen_for"] == "eyeriss" != row["priced_on"]
        )
        for metric in values(chosen, "metric")
    }
    slack = f"{max(row['loss_slack'] for row in chosen):.1g}"
    by_edp = f", and {lost['edp_sum']} more EDP" if "edp_sum" in lost else ""
    return f"""## Multipliers that profit

In the paper's model a multiplication costs the same at any width: narrow operands save words and nothing else. Real multipliers can do better. Two
accelerators have Eyeriss's memories under others: one takes weights bit by bit, so that its energy and time are in proportion to them (figures of
UNPU), one splits into sub-words (figures of Envision, which are relative to its own technology; see the files in `hw/`). So compare savings, not totals.

![Energy at uniform and mixed widths under three kinds of multipliers](energy.png)

{markdown(header, body)}

(Energy, and least cycles, against those of 8/8; stored tensors / kernels.) The paper's assumption is a cautious one: it hides what multipliers could
save, and it makes kernels look less worth narrowing than they are where time or energy depends on their bits.

What the best assignment is changes too. On the front of summed loss (exact but for {slack} nats), at no more loss than 5 bits everywhere:

{markdown(["", "loss of", "saved", "mean bits of kernels", "of stored tensors"], picked)}

![Exact fronts of summed loss under three kinds of multipliers](fronts.png)

An assignment chosen for multipliers that do not profit needs, on those that do, {lost["energy"]} more energy{by_edp} than the one chosen for them at the
same loss. Widths are worth choosing for the multipliers that will run them.
"""


def main() -> None:
    run(sys.modules[__name__])


if __name__ == "__main__":
    main()
