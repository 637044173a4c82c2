"""Mixed widths against uniform ones, and what guides the search: energy or EDP of the hardware, or the model's size.

    python experiments/searches.py [--seeds 5] [--quick] [--out experiments/results/searches]

Both MobileNets (as shipped, on Fashion-MNIST) on both accelerators, by energy and by EDP. Two searches of equal effort (`mqjax search`,
its defaults): one weighs the error against the metric itself; the other, the naive proxy, against the bits of all weights,
whatever the hardware, and its members are then priced. Error on 2,000 validation images after calibration. Hypervolume up to the cost
of 8 bits everywhere and an error of one half, relative to that box. What retraining makes of the fronts is measured by
`experiments/headline.py`. Expected: an hour or more, accuracies are kept on disk; --quick: a minute.
"""

from __future__ import annotations

import argparse
import json
import sys

import numpy as np
from matplotlib.figure import Figure
from search_quality import POPULATION, WORST_ERROR, Pair

from common import (
    ARCHS,
    HEADLINE,
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
    values,
    where,
)
from mqjax import hypervolume
from mqjax.show.figures import BLUE, ORANGE
from mqjax.study.config import GENERATIONS
from mqjax.study.pareto import pareto_front
from mqjax.types import WIDTHS

METRICS = ("energy", "edp")
GUIDES = ("metric", "size")
COLORS = dict(zip(GUIDES, (BLUE, ORANGE), strict=True))
WORDS = {"metric": "guided by the hardware", "size": "guided by model size", "energy": "energy", "edp": "EDP"}
SHOWN = (8, 6, 4)
"""Uniform widths at whose errors savings are shown."""
UNITS = {"energy": (1e6, "energy (µJ)"), "edp": (1e12, "EDP (µJ × 10⁶ cycles)")}


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seeds", type=int, default=5)


def measure(args: argparse.Namespace) -> Tables:
    networks, archs, metrics = list(NETWORKS), list(ARCHS), METRICS
    images, population, generations, seeds = 2000, POPULATION, GENERATIONS[True], args.seeds
    if args.quick:
        networks, archs, metrics, images, population, generations, seeds = (
            networks[:1],
            archs[:1],
            METRICS[:1],
            64,
            8,
            1,
            1,
        )
    tables: Tables = {"uniform": [], "runs": [], "fronts": []}
    for network in networks:
        by_size = Pair(network, archs[0], images, "weight_memory")
        of_size = [_searched(by_size, seed, generations, population) for seed in range(seeds)]
        for arch in archs:
            for metric in metrics:
                pair = Pair(network, arch, images, metric)
                keys: Row = {"network": network, "arch": arch, "metric": metric}
                for width, (error, cost) in zip(WIDTHS, pair.uniform.tolist(), strict=True):
                    tables["uniform"].append({**keys, "width": width, "error": error, "cost": cost})
                for seed in range(seeds):
                    mine = _searched(pair, seed, generations, population)
                    for guide, (genomes, errors) in zip(GUIDES, (mine, of_size[seed]), strict=True):
                        points = np.column_stack([errors, pair.costs(genomes)])
                        row, front = _found({**keys, "guide": guide, "seed": seed}, points, pair.uniform[-1, 1])
                        tables["runs"].append(row)
                        tables["fronts"] += front
                print(network, arch, metric, file=sys.stderr, flush=True)
    if HEADLINE.exists() and not args.quick:
        tables["headline"] = trained_rows()
    return tables


def trained_rows() -> list[Row]:
    """What `experiments/headline.py` found, a row for each front."""
    rows = []
    for name, front in sorted(json.loads(HEADLINE.read_text())["fronts"].items()):
        network, arch, metric = name.replace(" on ", " ").replace(" by ", " ").split()
        left_out = ("metric", "genome", "command", "trained")
        rows.append(
            {"network": network, "arch": arch, "metric": metric} | {k: v for k, v in front.items() if k not in left_out}
        )
    return rows


def _searched(pair: Pair, seed: int, generations: int, population: int) -> tuple[np.ndarray, np.ndarray]:
    """Genomes int [E, G] that a search judges, and their errors float64 [E]."""
    result = pair.searched(seed, generations, population, pair.rehearsed(seed, generations, population))
    return pair.wiring.flat(result.genomes), result.objectives[:, 0]


def _found(keys: Row, points: np.ndarray, eight: float) -> tuple[Row, list[Row]]:
    """Hypervolume and front of what a search evaluated, float64 [E, 2]."""
    box = np.array([WORST_ERROR, eight])
    front = np.unique(points[pareto_front(points)], axis=0)
    row = {**keys, "evaluations": len(points), "hypervolume": hypervolume(points / box, np.ones(2))}
    return row, [{**keys, "error": float(error), "cost": float(cost)} for error, cost in front]


def draw(tables: Tables) -> dict[str, Figure]:
    figures = {}
    for metric in values(tables["runs"], "metric"):
        scale, unit = UNITS[metric]
        pairs = pairs_of(where(tables["runs"], metric=metric))
        figure, panels = panels_of(pairs, (10, 3.1))
        for axes, (network, arch) in zip(panels, pairs, strict=True):
            keys = {"network": network, "arch": arch, "metric": metric}
            uniform = where(tables["uniform"], **keys)
            worst = max(row["error"] for row in uniform if row["width"] >= 4)
            for guide in GUIDES:
                for seed in values(where(tables["fronts"], **keys), "seed"):
                    front = where(tables["fronts"], **keys, guide=guide, seed=seed)
                    x, y = [100 * row["error"] for row in front], [row["cost"] / scale for row in front]
                    label = WORDS[guide] if seed == 0 else None
                    axes.step(x, y, where="post", color=COLORS[guide], alpha=0.6, linewidth=1, label=label)
            x, y = [100 * row["error"] for row in uniform], [row["cost"] / scale for row in uniform]
            axes.plot(x, y, "ks", markersize=4, label="uniform 8 to 4 bits")
            axes.set(xlim=(100 * min(row["error"] for row in uniform) - 0.5, 100 * worst + 2), ylim=(0, None))
            axes.set_title(pair_name(network, arch), **TITLE)
            axes.grid(color="#eceff3")
        label_panels(panels, "validation error (%)", unit)
        panels[0].legend(frameon=False, fontsize=8)
        figures[metric] = figure
    return figures


def describe(tables: Tables) -> str:
    body = []
    for network, arch in pairs_of(tables["runs"]):
        for metric in values(tables["runs"], "metric"):
            keys = {"network": network, "arch": arch, "metric": metric}
            found = {guide: where(tables["runs"], **keys, guide=guide) for guide in GUIDES}
            volumes = [_spread([row["hypervolume"] for row in rows]) for rows in found.values()]
            shares = [percent(_share_saved(tables, keys, guide, width)) for width in SHOWN for guide in GUIDES]
            body.append([f"{pair_name(network, arch)}, {WORDS[metric]}", *volumes, *shares])
    header = [
        "",
        "hypervolume",
        "by size",
        *(f"{words}{bits} bits" for bits in SHOWN for words in ("", "by size, ")),
    ]
    seeds = len(values(tables["runs"], "seed"))
    return f"""## The search

Accuracy against energy and against EDP. Guided by what the hardware needs, and by the naive proxy, the bits of all weights, with equal
effort: {max(row["evaluations"] for row in tables["runs"])} assignments judged, {seeds} {"seed" if seeds == 1 else "seeds"}.

![Fronts by energy](energy.png)

{markdown(header, body)}

(Hypervolume: mean and range over seeds; of the front that was guided by the metric itself, and by size. Bits: how much less than 8 bits
everywhere the cheapest assignment takes, in the mean, whose validation error is at most that of so many bits everywhere.)

{_worse(tables)}{_edp(tables)}{_headline(tables)}"""


def _spread(found: list[float]) -> str:
    return f"{np.mean(found):.4f} ({min(found):.4f} to {max(found):.4f})"


def _share_saved(tables: Tables, keys: Row, guide: str, width: int) -> float:
    """Mean saving against 8 bits at no more error than `width` bits everywhere have."""
    uniform = {row["width"]: row for row in where(tables["uniform"], **keys)}
    saved = []
    for seed in values(where(tables["runs"], **keys), "seed"):
        front = where(tables["fronts"], **keys, guide=guide, seed=seed)
        costs = [row["cost"] for row in front if row["error"] <= uniform[width]["error"]]
        saved.append(1 - min(costs, default=uniform[8]["cost"]) / uniform[8]["cost"])
    return float(np.mean(saved))


def _worse(tables: Tables) -> str:
    """Where the proxy guides better."""
    found = []
    for network, arch in pairs_of(tables["runs"]):
        for metric in values(tables["runs"], "metric"):
            keys: Row = {"network": network, "arch": arch, "metric": metric}
            for width in SHOWN:
                mine, by_size = (_share_saved(tables, keys, guide, width) for guide in GUIDES)
                if mine < by_size:
                    found.append(f"{pair_name(network, arch)} by {WORDS[metric]} at the error of {width} bits")
    if not found:
        return ""
    return f"Model size guides better: {', '.join(found)}.\n\n"


def _edp(tables: Tables) -> str:
    if "edp" not in values(tables["runs"], "metric"):
        return ""
    return "![Fronts by EDP](edp.png)\n\n"


def _headline(tables: Tables) -> str:
    """After training on all images, where that was measured."""
    if not (rows := tables.get("headline")):
        return ""
    body = [
        [
            pair_name(row["network"], row["arch"]),
            percent(row["saved_against_8_bits"]),
            percent(row["edp_saved"]),
            percent(row["saved_against_one_operand_per_word"]),
            f"{row['test_accuracy']:.4f}",
            f"{row['test_accuracy_of_8_bits']:.4f}",
            row["mean_width"],
        ]
        for row in where(rows, metric="energy")
    ]
    header = ["", "energy", "EDP", "energy against one operand per word", "test accuracy", "of 8 bits", "mean width"]
    return f"""**After training.** Trained on all images at their widths, 8 bits everywhere alike, the cheapest assignments that lose nothing on validation
images nor, beyond chance, on the 10,000 test images save so much against 8 bits everywhere (means of {rows[0]["seeds"]} seeds;
`experiments/headline.py`, found by energy on Eyeriss; [what bounds it](ACCURACY.md#what-a-front-keeps-after-training)):

{markdown(header, body)}

The paper's abstract reports up to 37 % of energy without saying against what.
"""


def main() -> None:
    run(sys.modules[__name__], options)


if __name__ == "__main__":
    main()
