"""Real size: what assignments found on small networks save at 224x224 with 1,000 classes.

    python experiments/real_size.py [--found benchmarks/headline.json] [--quick] [--out experiments/results/real_size]

The losses of single tensors are measured on the shipped networks (32x32, a quarter or a third as wide, 10 classes) as `mqjax
search` does, and give the exact front of summed loss against energy there. Its members are priced again on the full-size
network, and beside them stands the exact front of the same losses with full-size energies. Full-size networks have the
same layers and so the same genes; whether they have the same sensitivities only training on ImageNet could tell.
--found: the file of `headline.py`, whose assignments (accuracy kept after training) are priced too, where it exists.
Expected: four minutes on 2 cores. At full size the assignments save about half to three quarters of the share that they save
at small size, and are 1 to 6 points short of what could be chosen for full size. --quick: one network on Eyeriss.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
from bits import by_level, uniform_widths
from matplotlib.figure import Figure

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
    span,
    where,
)
from mqjax import CostTable, cost_table, load_arch, network_cost, network_layers
from mqjax.accuracy.judge import default_accuracy
from mqjax.accuracy.sensitivity import sensitivities
from mqjax.io.files import cache_folder
from mqjax.network.wiring import Wiring
from mqjax.show.figures import BLUE, GREY, ORANGE, spread
from mqjax.study.surrogate import Surrogate, summed_costs, surrogate_front

LIMITS = (6, 5, 4)
"""Assignments of least energy whose summed loss is at most that of these uniform widths."""
MOST_POINTS = 100
"""Members of a front that its table lists."""


def measure(args: argparse.Namespace) -> Tables:
    chosen: list[Row] = []
    points: list[Row] = []
    found: list[Row] = []
    shares: list[Row] = []
    for network in ("mobilenetv1",) if args.quick else NETWORKS:
        judge = default_accuracy(network)
        wiring = judge.architecture.wiring()
        losses = sensitivities(judge, cache=cache_folder())
        full_size = network_layers(network)
        for arch in ("eyeriss",) if args.quick else ARCHS:
            keys = {"network": network, "arch": arch}
            tables = {
                size: cost_table(load_arch(arch), layers, cache=cache_folder())
                for size, layers in (("small", judge.layers), ("full", full_size))
            }
            surrogates = {
                size: Surrogate(wiring, losses.kernels, losses.tensors, summed_costs(table, ("error", "energy")))
                for size, table in tables.items()
            }
            fronts = {
                size: surrogate_front(surrogate, most=500 if args.quick else 20_000)
                for size, surrogate in surrogates.items()
            }
            eight = uniform_widths(wiring, (8, 8))
            for size, table in tables.items():
                levels, energies = by_level(load_arch(arch), table, eight)
                macs = only(levels, level="MAC")["energy_pj"]
                shares.append({**keys, "size": size, "energy_pj": float(energies.sum()), "mac_pj": macs})
            uniform = dict(zip(range(2, 9), surrogates["small"].loss(wiring.uniform), strict=True))
            for width in LIMITS:
                row: Row = {**keys, "loss_of_uniform": width, "loss": float(uniform[width])}
                row |= {
                    f"uniform_saved_{size}": _saved(tables[size], wiring, wiring.uniform[width - 2]) for size in tables
                }
                for name, front in fronts.items():
                    place = np.flatnonzero(front.loss <= uniform[width])[0]
                    genome = front.genomes[place].astype(int)
                    row |= {f"chosen_{name}_saved_{size}": _saved(tables[size], wiring, genome) for size in tables}
                    row[f"chosen_{name}_loss_slack"] = float(front.loss[place] - front.bounds[place, 0])
                    row[f"chosen_{name}_genome"] = "g" + "".join(map(str, genome))
                chosen.append(row)
            for name, front in fronts.items():
                for i in spread(list(range(len(front.loss))), MOST_POINTS):
                    genome = front.genomes[i].astype(int)
                    saved = {f"saved_{size}": _saved(tables[size], wiring, genome) for size in tables}
                    points.append({**keys, "chosen_for": name, "loss": float(front.loss[i]), **saved})
            found += _found(args.found, keys, tables, wiring)
            print(network, arch, file=sys.stderr, flush=True)
    return {"chosen": chosen, "points": points, "shares": shares} | ({"found": found} if found else {})


def _saved(table: CostTable, wiring: Wiring, genome: np.ndarray, metric: str = "energy") -> float:
    """What a genome saves against 8 bits everywhere."""
    of_genome, eight = network_cost(table, np.stack([genome, wiring.uniform[-1]]), [metric], wiring=wiring)[:, 0]
    return float(1 - of_genome / eight)


def _found(path: Path, keys: Row, tables: dict[str, CostTable], wiring: Wiring) -> list[Row]:
    """The assignments of `headline.py` for a network and an accelerator."""
    fronts = json.loads(path.read_text())["fronts"] if path.exists() else {}
    rows = []
    for metric in ("energy", "edp"):
        front = fronts.get(f"{keys['network']} on {keys['arch']} by {metric}")
        if front is not None:
            genome = np.array([*map(int, front["genome"])])
            saved = {f"saved_{size}": _saved(table, wiring, genome, metric) for size, table in tables.items()}
            accuracy = {key: front[key] for key in ("test_accuracy", "test_accuracy_of_8_bits")}
            rows.append({**keys, "metric": metric, **saved, **accuracy})
    return rows


def draw(tables: Tables) -> dict[str, Figure]:
    points = tables["points"]
    pairs = pairs_of(points)
    figure, panels = panels_of(pairs, (10, 3.2))
    for axes, (network, arch) in zip(panels, pairs, strict=True):
        of_pair = where(points, network=network, arch=arch)
        small, full = (where(of_pair, chosen_for=size) for size in ("small", "full"))
        for rows, key, color, style, label in (
            (small, "saved_small", GREY, "-", "chosen for and priced at small size"),
            (small, "saved_full", ORANGE, "-", "chosen for small, priced at full size"),
            (full, "saved_full", BLUE, "--", "chosen for and priced at full size"),
        ):
            x, y = np.array([[100 * row[key], row["loss"]] for row in rows if row["loss"] > 0]).T
            axes.plot(x, y, style, color=color, linewidth=1.5, label=label)
        for row in where(tables["chosen"], network=network, arch=arch):
            if row["uniform_saved_full"] > 0:
                axes.plot(100 * row["uniform_saved_full"], row["loss"], "s", ms=5, color="#1d2430")
                axes.annotate(
                    f"{row['loss_of_uniform']} bits  ",
                    (100 * row["uniform_saved_full"], row["loss"]),
                    ha="right",
                    va="center",
                    fontsize=8.5,
                )
        axes.plot([], [], "s", ms=5, color="#1d2430", label="uniform, priced at full size")
        axes.set_title(pair_name(network, arch), **TITLE)
        axes.set(yscale="log", xlim=(0, None), ylim=(1e-3, None))
        axes.grid(color="#eceff3")
    label_panels(panels, "energy saved against 8 bits (%)", "summed loss (nats per image)")
    panels[0].legend(frameon=False, fontsize=8)
    return {"fronts": figure}


def describe(tables: Tables) -> str:
    chosen = tables["chosen"]
    body = [
        [
            pair_name(row["network"], row["arch"]),
            f"{row['loss_of_uniform']} bits",
            *(
                percent(row[key])
                for key in (
                    "uniform_saved_small",
                    "uniform_saved_full",
                    "chosen_small_saved_small",
                    "chosen_small_saved_full",
                    "chosen_full_saved_full",
                )
            ),
        ]
        for row in chosen
    ]
    header = ["", "loss of", "uniform, small", "full", "found small, small", "full", "chosen for full size"]
    ratio = span((row["chosen_small_saved_full"] / row["chosen_small_saved_small"] for row in chosen), 0)
    short = span(max(0.0, row["chosen_full_saved_full"] - row["chosen_small_saved_full"]) for row in chosen)
    share = {
        size: span((row["mac_pj"] / row["energy_pj"] for row in where(tables["shares"], size=size)), 0)
        for size in ("small", "full")
    }
    slack = f"{max(row[f'chosen_{size}_loss_slack'] for row in chosen for size in ('small', 'full')):.1g}"
    ahead = span((row["chosen_small_saved_full"] - row["uniform_saved_full"] for row in chosen), 0)
    return f"""## At real size

Accuracy is measured here on small networks: 32x32 pixels, a quarter (MobileNetV1) or 35 % (MobileNetV2) as wide, ten classes. The hardware side knows
no such limit. The same assignments priced on the networks at 224x224 with 1,000 classes, all by proven optima:

{markdown(header, body)}

(Energy saved against 8 bits everywhere by assignments whose loss is at most that of so many bits everywhere. Loss is the sum of what each tensor
loses alone, on the small network; found assignments are those of least energy on its front, which is exact but for {slack} nats.)

**Savings shrink at full size**: an assignment saves there only {ratio} of the share that it saves on the small network. Larger
layers use each word more often, so that multipliers, which gain nothing from narrow operands in this model, take {share["full"]} of the energy at 8 bits instead of
{share["small"]}. A saving measured at 32x32 must not be quoted for 224x224. What stays is that mixed widths pay: at full size the assignments save {ahead} of the
8-bit energy more than uniform widths of the same loss; choosing anew with full-size energies would add {short}.

![Exact fronts at small and at full size](fronts.png)
{_of_headline(tables)}
**What could not be run here** is accuracy on ImageNet: neither its images nor the time to train on them are at hand, so nothing on this page is an
accuracy on it. The path is the same as for any prepared data set; with a checkpoint trained on it, one command does the rest
([how to get both](ACCURACY.md#imagenet)):

```
mqjax search --network mobilenetv1 --dataset imagenet2012 --data-dir PREPARED --checkpoint TRAINED --images 10000 --test-images 50000
```
"""


def _of_headline(tables: Tables) -> str:
    if "found" not in tables:
        return ""
    rows = [
        [
            f"{pair_name(row['network'], row['arch'])}, {'EDP' if row['metric'] == 'edp' else 'energy'}",
            f"{row['test_accuracy']:.4f}",
            f"{row['test_accuracy_of_8_bits']:.4f}",
            percent(row["saved_small"]),
            percent(row["saved_full"]),
        ]
        for row in tables["found"]
    ]
    header = ["", "accuracy (small)", "of 8 bits", "saved, small size", "saved, full size"]
    return f"""
The assignments of the search that keep the accuracy of 8 bits after training on all images:

{markdown(header, rows)}

"""


def main() -> None:
    run(
        sys.modules[__name__],
        lambda parser: parser.add_argument(
            "--found", type=Path, default=Path("benchmarks/headline.json"), help="what headline.py left"
        ),
    )


if __name__ == "__main__":
    main()
