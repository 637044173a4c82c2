"""How good is the search? Methods at equal budgets, and how far NSGA-II is from an exact front as its population grows.

    python experiments/search_methods.py [--quick] [--out experiments/results/search_methods]

Takes what two experiments have measured and kept, `search_quality.py` (five methods by true accuracies) and `large_population.py`
(summed losses, whose front is known exactly), and adds what the surrogate was worth to the search with seed 0: rank correlations
with true errors, and the gap to the front of the sums. Expected: five minutes on 2 cores, where accuracies are known;
--quick: a minute, its own small search alone.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from search_quality import METHODS, POPULATION, Pair

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
    values,
    where,
)
from mqjax.accuracy.sensitivity import IMAGES
from mqjax.show.figures import BLUE, GREY, ORANGE
from mqjax.study.config import GENERATIONS
from mqjax.study.worth import worth
from mqjax.types import WIDTHS

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
WORDS = {
    "surrogate": "from the surrogate",
    "paper": "the paper's",
    "paper_400": "the paper's, stopped early",
    "pymoo": "pymoo's NSGA-II",
    "random": "random",
}


def measure(args: argparse.Namespace) -> Tables:
    tables: Tables = {"methods": [], "populations": [], "worth": []}
    for item in _kept("search_quality")["runs"]:
        least = {f"pj_at_{place}": energy for place, energy in enumerate(item["least_energy_pj"])}
        keys = ("network", "arch", "method", "seed", "evaluations", "hypervolume")
        tables["methods"].append({key: item[key] for key in keys} | least)
    for pair, found in _kept("large_population")["pairs"].items():
        network, arch = pair.split(" on ")
        tables["populations"] += [{"network": network, "arch": arch, **row} for row in found["nsga2"]]
    networks, archs, images, population, generations = NETWORKS, ARCHS, 2000, POPULATION, GENERATIONS[True]
    if args.quick:
        networks, archs, images, population, generations = ["mobilenetv1"], ["eyeriss"], 64, 8, 1
    for network in networks:
        for arch in archs:
            pair = Pair(network, arch, images)
            rehearsed = pair.rehearsed(0, generations, population)
            result = pair.searched(0, generations, population, rehearsed)
            about = worth(pair.surrogate, result, rehearsed)
            del about["losses"]
            about["sensitivities"] = 1 + (len(WIDTHS) - 1) * pair.wiring.genes
            tables["worth"].append({"network": network, "arch": arch, **about})
    return tables


def _kept(name: str) -> dict:
    return json.loads((BENCHMARKS / f"{name}.json").read_text())


def draw(tables: Tables) -> dict[str, Figure]:
    pairs = pairs_of(tables["populations"])
    figure, panels = panels_of(pairs, (10, 2.9))
    for axes, (network, arch) in zip(panels, pairs, strict=True):
        rows = where(tables["populations"], network=network, arch=arch)
        sizes = values(rows, "population")
        for number, population in enumerate(sizes):
            some = [row for row in where(rows, population=population) if row["median_gap"] is not None]
            x, y = [row["generations"] for row in some], [100 * row["median_gap"] for row in some]
            color = ORANGE if population == max(sizes) else BLUE
            axes.plot(
                x, y, marker=".", color=color, alpha=0.4 + 0.6 * (number + 1) / len(sizes), label=f"{population:,}"
            )
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
        axes.set(ylim=(0, None))
        axes.set_title(pair_name(network, arch), **TITLE)
        axes.grid(color="#eceff3")
    label_panels(panels, "generations", "median gap (%)")
    panels[0].legend(frameon=False, fontsize=8, title="population")
    return {"methods": _methods(tables), "populations": figure}


def _methods(tables: Tables) -> Figure:
    """Hypervolumes of all seeds by method."""
    pairs = pairs_of(tables["methods"])
    figure, panels = panels_of(pairs, (10, 2.2))
    for axes, (network, arch) in zip(panels, pairs, strict=True):
        rows = where(tables["methods"], network=network, arch=arch)
        names = [name for name in METHODS if where(rows, method=name)]
        for place, name in enumerate(reversed(names)):
            volumes = [row["hypervolume"] for row in where(rows, method=name)]
            axes.plot(volumes, [place] * len(volumes), "o", color=BLUE if name == "surrogate" else GREY, alpha=0.7)
        axes.set_yticks(range(len(names)), [WORDS[name] for name in reversed(names)])
        axes.set_ylim(-0.6, len(names) - 0.4)
        axes.set_title(pair_name(network, arch), **TITLE)
        axes.grid(color="#eceff3", axis="x")
    label_panels(panels, "hypervolume")
    return figure


def describe(tables: Tables) -> str:
    body = []
    for network, arch in pairs_of(tables["methods"]):
        rows = where(tables["methods"], network=network, arch=arch)
        for name in (name for name in METHODS if where(rows, method=name)):
            some = where(rows, method=name)
            volumes = [row["hypervolume"] for row in some]
            saved = _saved(rows, name)
            words = ("", "", "")
            if saved is not None:
                words = (
                    percent(float(np.median(saved))),
                    percent(min(saved)),
                    f"{sum(x < 0 for x in saved)} of {len(saved)}",
                )
            what = [f"{pair_name(network, arch)}, {WORDS[name]}", some[0]["evaluations"], len(some)]
            body.append([*what, f"{np.mean(volumes):.4f}", f"{min(volumes):.4f} to {max(volumes):.4f}", *words])
    header = ["", "judged", "seeds", "hypervolume", "range", "saved by the surrogate's, median", "least", "dearer"]
    ranks = [
        [
            pair_name(row["network"], row["arch"]),
            f"{row['rank_correlation']:.3f}",
            f"{row['fitted_correlation']:.3f}",
            f"{row['rehearsed']:,}",
            percent(row["gap"]),
        ]
        for row in tables["worth"]
    ]
    largest = max(values(tables["populations"], "population"))
    ends = [row for row in where(tables["populations"], population=largest)]
    ends = [row for row in ends if row["generations"] == max(values(ends, "generations"))]
    gaps = [
        [
            pair_name(row["network"], row["arch"]),
            percent(row["median_gap"], 2),
            percent(row["largest_gap"], 2),
            row["out_of_reach"],
            row["seconds"],
            row["cpu_seconds"],
        ]
        for row in ends
    ]
    return f"""## How good is the search?

Each method's assignments are judged on 2,000 validation images after calibration. The hypervolume reaches up to the energy of 8 bits everywhere and
an error of one half. Saved: how much less energy the search that begins from the surrogate needs than this method, at equal error,
over 21 errors between those of 8 and of 4 bits everywhere and all seeds; dearer: at how many of these it needs more (at the
error of 8 bits itself it hangs on a few images what the least is). That search also measures what is not counted
as judged: losses of single tensors and of whole assignments, on {IMAGES} training images each, {_measured(tables)}.

![Hypervolumes of all seeds by method](methods.png)

{markdown(header, body)}

What the surrogate says, against what is true: rank correlations of summed losses with all errors of the search with seed 0, as they were measured
alone and as fitted to the rehearsal; how much more energy the front found takes than the fitted sum allows.

{markdown(["", "alone", "fitted", "rehearsed", "gap"], ranks)}

Where the loss *is* the sum, the front is known exactly, and NSGA-II's distance from it can be measured: how much more energy it needs for each
member's loss. Populations begin from mutations of the uniform assignments.

![Median gap by generations and population](populations.png)

{markdown(["", f"gap of {largest:,}, median", "largest", "not reached", "seconds", "of CPU"], gaps)}
"""


def _measured(tables: Tables) -> str:
    """What sensitivities and rehearsal amount to."""
    counts = [row["rehearsed"] + row["sensitivities"] for row in tables["worth"]]
    return f"as many images as {min(counts) * IMAGES // 2000} to {max(counts) * IMAGES // 2000} judged assignments take"


def _saved(rows: list[Row], method: str) -> list[float] | None:
    """Shares of energy that the surrogate's search saves at equal error, for all errors and seeds; what one of them does not
    reach is left out."""
    if method == "surrogate":
        return None
    shares = []
    for other in where(rows, method=method):
        for mine in where(rows, method="surrogate", seed=other["seed"]):
            for key in (key for key in other if key.startswith("pj_at_")):
                if mine[key] is not None and other[key] is not None:
                    shares.append(1 - mine[key] / other[key])
    return shares or None


def main() -> None:
    run(sys.modules[__name__])


if __name__ == "__main__":
    main()
