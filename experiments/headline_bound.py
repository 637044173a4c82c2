"""What bounds the headline: how far the classes of cheap assignments diverge, and what training brings back of that.

    python experiments/headline_bound.py [--quick] [--out experiments/results/headline_bound]

For both MobileNets on both accelerators, by energy: the front of (divergence, energy), which is that of summed sensitivities (exact,
by dynamic programming) refined on the divergence of whole assignments, as every search begins. Beside it the assignments that
`experiments/headline.py` trained, with what they lost of the accuracy of 8 bits everywhere, trained alike. Divergence (Kullback-Leibler,
after calibration, without training) from the float network on 2,048 training images. Expected: 15 minutes; --quick: a minute.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections import defaultdict
from typing import Any

import numpy as np
from headline import TEST_CHANCE
from matplotlib.figure import Figure
from search_quality import POPULATION, Pair

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
from mqjax.accuracy.sensitivity import Divergence
from mqjax.io.files import cache_folder
from mqjax.show.figures import BLUE, ORANGE, spread
from mqjax.study.config import GENERATIONS
from mqjax.study.pareto import pareto_front

IMAGES = 2048
JUDGED = 64
"""Validation images of the judge, whose accuracies are not asked for."""

MEMBERS = 40
SHOWN = (0.2, 0.3, 0.4, 0.5)
GOAL = 0.4


def measure(args: argparse.Namespace) -> Tables:
    networks, archs = list(NETWORKS), list(ARCHS)
    images, population, generations, members = IMAGES, POPULATION, GENERATIONS[True], MEMBERS
    if args.quick:
        networks, archs, images, population, generations, members = networks[:1], archs[:1], 64, 8, 1, 5
    tables: Tables = {"fronts": [], "trained": []}
    for network in networks:
        trained = trainings(network)
        for arch in archs:
            pair, keys = Pair(network, arch, JUDGED), {"network": network, "arch": arch}
            found = pair.rehearsed(0, generations, population)
            points = np.column_stack([found.losses, pair.costs(found.genomes)[:, 0]])
            front = np.flatnonzero(pareto_front(points))
            front = spread(front[np.argsort(points[front, 1])].tolist(), members)
            divergence = Divergence(pair.judge, images=images, cache=cache_folder())
            tables["fronts"] += [keys | row for row in against_eight(pair, divergence, found.genomes[front])]
            rows = against_eight(pair, divergence, np.stack([genome for genome, _ in trained]))
            tables["trained"] += [keys | results | row for (_, results), row in zip(trained, rows, strict=True)]
            print(network, arch, file=sys.stderr, flush=True)
    return tables


def against_eight(pair: Pair, divergence: Divergence, genomes: np.ndarray) -> list[Row]:
    """What genomes int [N, G] save against 8 bits everywhere, how far they diverge, and how many times as far as that."""
    with_eight = np.concatenate([genomes, pair.wiring.uniform[-1:]])
    *costs, cost = pair.costs(with_eight)[:, 0].tolist()
    *apart, least = divergence(with_eight).tolist()
    return [
        {"saved": 1 - mine / cost, "divergence": away, "times": away / least}
        for mine, away in zip(costs, apart, strict=True)
    ]


def trainings(network: str) -> list[tuple[np.ndarray, Row]]:
    """Flat genomes that `experiments/headline.py` trained, and what they lost against 8 bits everywhere."""
    found = []
    for name, known in json.loads(HEADLINE.read_text())["trainings"].items():
        if name.split(",")[0] != network:
            continue
        by_genome: dict[str, list[list[float]]] = defaultdict(list)
        for key, accuracies in known.items():
            by_genome[key.split("/")[0]].append(accuracies)
        means = {genome: np.mean(accuracies, axis=0) for genome, accuracies in by_genome.items()}
        eight = next(genome for genome in means if set(genome) == {"8"})
        for genome, mean in means.items():
            validation, test = (means[eight] - mean).tolist()
            results = {"seeds": len(by_genome[genome]), "lost_validation": validation, "lost_test": test}
            found.append((np.array(list(map(int, genome)), np.int32), results))
    return found


def draw(tables: Tables) -> dict[str, Figure]:
    pairs = pairs_of(tables["fronts"])
    figure, panels = panels_of(pairs, (10, 3.2))
    for axes, (network, arch) in zip(panels, pairs, strict=True):
        keys: Row = {"network": network, "arch": arch}
        front = sorted(where(tables["fronts"], **keys), key=lambda row: row["saved"])
        axes.plot(
            [100 * row["saved"] for row in front], [row["times"] for row in front], "-", color="#8a94a3", linewidth=1
        )
        for row in where(tables["trained"], **keys):
            lost = row["lost_test"] > TEST_CHANCE
            x, y = 100 * row["saved"], row["times"]
            axes.plot(x, y, "o" if row["seeds"] > 1 else "^", color=ORANGE if lost else BLUE, markersize=5)
            if not row["saved"]:
                continue  # 8 bits everywhere
            beside = (-8, 5, "right") if row["seeds"] > 1 else (6, -9, "left")
            axes.annotate(
                f"{-100 * row['lost_test']:.2f}",
                (x, y),
                beside[:2],
                ha=beside[2],
                textcoords="offset points",
                fontsize=7,
            )
        axes.axvline(100 * GOAL, color="#8a94a3", linewidth=1, linestyle=":", zorder=0)
        axes.set(yscale="log", xlim=(-3, 62), ylim=(0.8, 100))
        axes.set_title(pair_name(network, arch), **TITLE)
        axes.grid(color="#eceff3")
    label_panels(panels, "energy saved against 8 bits (%)", "divergence / that of 8 bits")
    return {"bound": figure}


def kept_most(trained: list[Row]) -> float:
    """The largest divergence, as a multiple of that of 8 bits, at which training brought all accuracy back but for chance."""
    return max((row["times"] for row in trained if row["lost_test"] <= TEST_CHANCE), default=math.nan)


def reached(front: list[Row], times: float) -> float:
    """The most that members of a front save that diverge at most so many times as much as 8 bits."""
    return max((row["saved"] for row in front if row["times"] <= times), default=0.0)


def at_saving(front: list[Row], saved: float) -> float:
    """The least divergence, as a multiple of that of 8 bits, at which a front saves so much."""
    return min((row["times"] for row in front if row["saved"] >= saved), default=math.nan)


def describe(tables: Tables) -> str:
    body: list[list[Any]] = []
    for network, arch in pairs_of(tables["fronts"]):
        keys: Row = {"network": network, "arch": arch}
        front, trained = where(tables["fronts"], **keys), where(tables["trained"], **keys)
        most = kept_most(trained)
        least = min(
            (row["times"] for row in trained if row["lost_test"] > TEST_CHANCE and row["times"] > most),
            default=math.nan,
        )
        shown = [f"{at_saving(front, saved):.1f}" for saved in SHOWN]
        body.append([pair_name(network, arch), *shown, f"{most:.1f}", f"{least:.1f}", percent(reached(front, most))])
    header = [
        "",
        *(f"at {percent(saved)} saved" for saved in SHOWN),
        "won back up to",
        "not from",
        "so the front allows",
    ]
    seeds = max(values(tables["trained"], "seeds"))
    return f"""## What bounds the saving

How many times as far as those of 8 bits everywhere the classes of the least divergent assignments diverge from the float
network's, before training; and how far they may for training to bring all accuracy back.

![Divergence against energy saved](bound.png)

(Line: the least divergence found. Points: trained assignments with the test accuracy, in per cent, that they gain or lose against 8 bits
everywhere; orange: more than chance, {100 * TEST_CHANCE:.2f} %. Round: means of up to {seeds} seeds; triangles: one seed. Dotted: the goal of {percent(GOAL)}.)

{markdown(header, body)}

(Divergence as a multiple of that of 8 bits. "Won back": the largest at which a trained assignment lost no test accuracy but for chance;
"not from": the least beyond that at which one did.)
"""


def main() -> None:
    run(sys.modules[__name__])


if __name__ == "__main__":
    main()
