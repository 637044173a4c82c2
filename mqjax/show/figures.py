"""Figures of a search run, drawn from the content of its front.json (see `mqjax.study.runs.describe`), and of training."""

from __future__ import annotations

import io
import itertools
import os
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mqjax.accuracy.training import EpochResult
from mqjax.objectives import OBJECTIVES
from mqjax.show.ticks import label_logarithmic
from mqjax.types import WIDTHS

BLUE, ORANGE, GREY, DARK, PURPLE = "#0b5fa5", "#d9730d", "#b8c0cc", "#1d2430", "#7a4fa3"
LEVEL_COLORS = ("#8a93a3", "#7fc3e8", "#0b5fa5", "#f2b457", "#d9730d", "#7a4fa3", "#4c9f70", "#c44f6c")
STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#8a93a3",
    "axes.axisbelow": True,
    "figure.dpi": 150,
}


def uniform_entry(document: dict[str, Any], width: int) -> dict[str, Any] | None:
    """The uniform assignment of this width, if it fits the accelerator."""
    return next((entry for entry in document["uniform"] if entry["width"] == width), None)


def value(entry: dict[str, Any], name: str) -> float:
    """An objective of a member or of another entry of front.json, as one of the run's or as a total that all have; nan
    where it is neither."""
    objective = OBJECTIVES[name]
    if name in entry.get("objectives", {}):
        return entry["objectives"][name]
    if objective.combine == "product":
        return float(np.prod([value(entry, part) for part in objective.parts]))
    return float("nan") if objective.total is None else entry.get(objective.total, float("nan"))


def judged(document: dict[str, Any]) -> str | None:
    """The run's first objective that comes from the judge."""
    return next((name for name in document["objectives"] if OBJECTIVES[name].combine == "judged"), None)


def frugality(document: dict[str, Any]) -> str:
    """The objective by which the highlighted member is frugal: the run's first that widths change, but the judge's; else
    energy."""
    fixed = ("judged", "constant")
    return next((name for name in document["objectives"] if OBJECTIVES[name].combine not in fixed), "energy")


def highlighted(document: dict[str, Any]) -> dict[str, Any] | None:
    """The most frugal front member whose error is at most that of 8 bits everywhere."""
    eight, error = uniform_entry(document, 8), judged(document)
    if eight is None or error is None:
        return None
    limit, cost = eight["objectives"][error], frugality(document)
    good = [member for member in document["members"] if member["objectives"][error] <= limit]
    return min(good, key=lambda member: value(member, cost), default=None)


class Other(NamedTuple):
    """Another run to compare with: its name and its front.json."""

    name: str
    document: dict[str, Any]


def draw(document: dict[str, Any], evaluated: dict[str, np.ndarray], against: Other | None = None) -> dict[str, bytes]:
    """All figures as PNG, by name; evaluated: columns of evaluated.csv. against: a run with the same objectives, whose front
    and course are drawn too."""
    names = list(document["objectives"])
    vertical = judged(document) or names[0]
    with matplotlib.rc_context(STYLE):
        drawn = {f"front_{x}": _front_figure(document, evaluated, x, vertical, against) for x in names if x != vertical}
        drawn["widths"] = _widths(document)
        drawn["levels"] = _levels(document)
        drawn["layers"] = _layers(document)
        drawn["convergence"] = _convergence(document, against)
        if "surrogate" in document:
            drawn["sensitivities"] = _sensitivities(document["surrogate"]["losses"])
    return {name: png(figure) for name, figure in drawn.items()}


def training_curves(runs: dict[str, list[EpochResult]]) -> bytes:
    """Loss and validation accuracy of training runs, by name, over their epochs, as PNG."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8.5, 3.4), layout="constrained")
        loss, accuracy = figure.subplots(1, 2)
        for (name, results), color in zip(runs.items(), itertools.cycle(LEVEL_COLORS[2:] + LEVEL_COLORS[:2])):
            epochs = [result.epoch for result in results]
            loss.plot(epochs, [result.loss for result in results], "o-", ms=3, color=color, label=name)
            accuracy.plot(epochs, [result.accuracy for result in results], "o-", ms=3, color=color, label=name)
        for axes, label in ((loss, "training loss"), (accuracy, "validation accuracy")):
            axes.set_xlabel("epoch")
            axes.set_ylabel(label)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if len(runs) > 1:
            accuracy.legend(frameon=False, fontsize=8)
    return png(figure)


def png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", bbox_inches="tight", metadata={"Software": None})
    return buffer.getvalue()


def axis(name: str, values: Any) -> tuple[float, str]:
    """Divisor and label of an axis, or of a column, for these values of an objective."""
    return OBJECTIVES[name].scaled(float(np.max(values, initial=0.0)))


def _front_figure(
    document: dict[str, Any], evaluated: dict[str, np.ndarray], x: str, y: str, against: Other | None
) -> Figure:
    members, same = document["members"], document["uniform"]

    def column(entries: list[dict[str, Any]], name: str, divisor: float) -> np.ndarray:
        return np.array([entry["objectives"][name] for entry in entries]) / divisor

    fits = np.isfinite(evaluated[x]) & np.isfinite(evaluated[y])
    cloud_x, cloud_y = evaluated[x][fits], evaluated[y][fits]
    (by_x, label_x), (by_y, label_y) = axis(x, cloud_x), axis(y, cloud_y)
    figure = Figure(figsize=(8.2, 4.6))
    axes = figure.add_subplot()
    axes.scatter(cloud_x / by_x, cloud_y / by_y, s=9, color=GREY, alpha=0.5, linewidths=0, label="evaluated")
    front_x, front_y = column(members, x, by_x), column(members, y, by_y)
    order = np.argsort(front_x, kind="stable")
    if len(document["objectives"]) == 2:
        axes.step(front_x[order], front_y[order], where="post", color=BLUE, linewidth=1.4, alpha=0.8)
    axes.scatter(front_x, front_y, s=26, color=BLUE, zorder=3, label="front")
    if against is not None:
        other = against.document["members"]
        found_x, found_y = column(other, x, by_x), column(other, y, by_y)
        order = np.argsort(found_x, kind="stable")
        line = {
            "where": "post",
            "color": PURPLE,
            "linewidth": 1.2,
            "linestyle": "--",
            "label": f"front of {against.name}",
        }
        axes.step(found_x[order], found_y[order], **line)
    axes.scatter(
        column(same, x, by_x), column(same, y, by_y), marker="s", s=40, color=ORANGE, zorder=4, label="uniform"
    )
    # Widths that pack alike cost the same: one label for all of them, at the lowest.
    for value in np.unique(column(same, x, by_x)):
        alike = [entry for entry in same if entry["objectives"][x] / by_x == value]
        at = (value, min(column(alike, y, by_y)))
        label = ", ".join(str(entry["width"]) for entry in alike)
        axes.annotate(f"{label} bit", at, (7, 5), textcoords="offset points", color=ORANGE, fontsize=9)
    pick = highlighted(document)
    if pick:
        at = (pick["objectives"][x] / by_x, pick["objectives"][y] / by_y)
        axes.scatter(*at, s=170, facecolors="none", edgecolors=DARK, linewidths=1.6, zorder=5, label="highlighted")
    axes.set(xlabel=label_x, ylabel=label_y)
    if OBJECTIVES[y].combine == "judged" and cloud_y.min() > 0:
        # Small errors matter most.
        axes.set_yscale("log")
        label_logarithmic(axes.yaxis)
    axes.grid(color="#eceff3", which="both")
    axes.legend(frameon=False)
    return figure


def _without_network(names: list[str]) -> list[str]:
    """Layer names without the network's, which all of them begin with."""
    shared = os.path.commonprefix(names).rpartition("_")
    return [name.removeprefix(f"{shared[0]}_") if shared[1] else name for name in names]


def spread(items: list[Any], most: int) -> list[Any]:
    """At most so many of the items, evenly spread, ends included."""
    if len(items) <= most:
        return items
    return [items[i] for i in np.linspace(0, len(items) - 1, most).round().astype(int)]


def _widths(document: dict[str, Any]) -> Figure:
    members = spread(document["members"], 30)
    triples = np.array([[[*map(int, layer["bits"].split("/"))] for layer in m["layers"]] for m in members])
    layers = _without_network(document["layers"])
    figure = Figure(figsize=(max(9.0, 0.36 * len(layers)), 1.5 + 0.2 * len(members)), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    image = None
    for axes, title, axis in zip(panels, ("input width", "weight width"), (0, 1), strict=True):
        image = axes.imshow(triples[:, :, axis], cmap="YlGnBu", vmin=1.5, vmax=8.5, aspect="auto")
        axes.set_title(title, loc="left")
        axes.set_xticks(range(len(layers)), layers, rotation=90, fontsize=8)
        axes.tick_params(length=0)
    panels[0].set_yticks(range(len(members)), [str(member["id"]) for member in members], fontsize=8)
    panels[0].set(ylabel="member")
    if image is not None:
        figure.colorbar(image, ax=list(panels), ticks=range(2, 9), label="bits", pad=0.01, fraction=0.03)
    return figure


def _compared(document: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """What is compared side by side: unpacked operands, uniform assignments, the highlighted member."""
    entries = [("unpacked", document["native"])] if document["native"] else []
    entries += [(f"{entry['width']} bit", entry) for entry in reversed(document["uniform"])]
    pick = highlighted(document)
    return [*entries, (f"member {pick['id']}", pick)] if pick else entries


def _levels(document: dict[str, Any]) -> Figure:
    entries = _compared(document)
    levels = list(document["members"][0]["layers"][0]["level_pj"])
    sums = np.array([[sum(layer["level_pj"][v] for layer in e["layers"]) for v in levels] for _, e in entries])
    divisor, label = axis("energy", sums.sum(axis=1))
    figure = Figure(figsize=(8.2, 0.42 * len(entries) + 1.3))
    axes = figure.add_subplot()
    left = np.zeros(len(entries))
    for number, level in enumerate(levels):
        widths = sums[:, number] / divisor
        color = LEVEL_COLORS[number % len(LEVEL_COLORS)]
        axes.barh(range(len(entries)), widths, left=left, color=color, label=level, height=0.72)
        left += widths
    axes.set_yticks(range(len(entries)), [name for name, _ in entries])
    axes.invert_yaxis()
    axes.set(xlabel=label)
    axes.legend(frameon=False, ncols=len(levels), loc="lower center", bbox_to_anchor=(0.5, 1.0), fontsize=8.5)
    return figure


def _layers(document: dict[str, Any]) -> Figure:
    entries = [(name, entry) for name, entry in _compared(document) if not name.endswith("bit") or name == "8 bit"]
    entries = entries or _compared(document)
    layers = _without_network(document["layers"])
    energies = np.array([[layer["energy_pj"] for layer in entry["layers"]] for _, entry in entries])
    divisor, label = axis("energy", energies)
    figure = Figure(figsize=(max(8.2, 0.34 * len(layers)), 3.6))
    axes = figure.add_subplot()
    width = 0.8 / len(entries)
    for number, ((name, _), values) in enumerate(zip(entries, energies, strict=True)):
        color = {"unpacked": GREY, "8 bit": ORANGE}.get(name, BLUE)
        axes.bar(
            np.arange(len(layers)) + (number + 0.5) * width - 0.4, values / divisor, width, color=color, label=name
        )
    axes.set_xticks(range(len(layers)), layers, rotation=90)
    axes.set(ylabel=label, xlim=(-0.6, len(layers) - 0.4))
    axes.legend(frameon=False)
    return figure


def _convergence(document: dict[str, Any], against: Other | None) -> Figure:
    figure = Figure(figsize=(8.2, 2.6))
    axes = figure.add_subplot()
    for run, color, label in (
        (document, BLUE, "this run"),
        (against and against.document, PURPLE, against and against.name),
    ):
        if run is not None:
            evaluations, volumes = ([h[key] for h in run["history"]] for key in ("evaluations", "hypervolume"))
            axes.plot(evaluations, volumes, color=color, marker="o", markersize=3, label=label)
    if against is not None:
        axes.legend(frameon=False)
    axes.set(xlabel="assignments evaluated", ylabel="hypervolume")
    axes.grid(color="#eceff3")
    return figure


def _sensitivities(losses: dict[str, dict[str, list[float]]]) -> Figure:
    """losses: of kernels and of stored tensors, by name, at widths 2 to 8; drawn down to a thousandth of the largest."""
    count = max(len(rows) for rows in losses.values())
    figure = Figure(figsize=(max(6.5, 0.24 * count + 2), 5.6), layout="constrained")
    panels = figure.subplots(len(losses), 1)
    largest = max(float(np.max(list(rows.values()))) for rows in losses.values()) or 1.0
    colors = ScalarMappable(LogNorm(largest / 1000, largest), "viridis")
    for axes, (part, rows) in zip(panels, losses.items(), strict=True):
        values = np.maximum(np.array(list(rows.values())).T[:-1], largest / 1000)
        axes.imshow(values, norm=colors.norm, cmap=colors.cmap, aspect="auto", origin="lower")
        axes.set_xticks(range(len(rows)), _without_network(list(rows)), rotation=90, fontsize=7)
        axes.set_yticks(range(len(values)), [str(width) for width in WIDTHS[:-1]])
        axes.set_ylabel(f"{'kernel' if part == 'kernels' else 'stored tensor'}: width (bits)")
    figure.colorbar(colors, ax=panels, label="loss beyond 8 bits")
    return figure


def draw_mapspace(layers: list[tuple[str, list[tuple[str, dict[str, Any]]]]], arch: str) -> bytes:
    """PNG of how many mappings cost at most so much, one row per layer; a curve ends at the number that fit.

    layers: (name, [(bits, {metric: Distribution})]). Of many width triples the unpacked and the uniform ones are told apart
    by colour and legend, equal curves by one entry; the others are grey.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10.5, 2.4 * len(layers) + 0.6), layout="constrained")
        panels = figure.subplots(len(layers), 2, squeeze=False)
        for row, (name, spreads) in zip(panels, layers, strict=True):
            named = _told_apart([bits for bits, _ in spreads])
            others = len(spreads) - sum(named)
            spreads, named = _merged(spreads, named)
            shades = iter(matplotlib.colormaps["viridis"](np.linspace(0, 0.9, max(1, sum(named)))))
            colors = [next(shades) if is_named else GREY for is_named in named]
            for axes, metric in zip(row, ("energy", "edp"), strict=True):
                divisor, heading = axis(metric, [spread[metric].dearest for _, spread in spreads])
                for (bits, spread), color, is_named in zip(spreads, colors, named, strict=True):
                    found = spread[metric]
                    used = np.flatnonzero(found.counts)
                    if not len(used):
                        continue
                    edges = found.edges[used[0] : used[-1] + 2]
                    below = np.concatenate([[0], np.cumsum(found.counts[used[0] : used[-1] + 1])])
                    label_of_curve = f"{bits}: {below[-1]:,} fit"
                    style = (
                        {"linewidth": 1.6, "label": label_of_curve} if is_named else {"linewidth": 0.5, "alpha": 0.5}
                    )
                    axes.plot(edges / divisor, below, color=color, zorder=3 if is_named else 2, **style)
                if others:
                    axes.plot([], [], color=GREY, linewidth=0.8, label=f"{others} other width triples")
                axes.set(xscale="log", xlabel=heading)
                label_logarithmic(axes.xaxis)
                axes.yaxis.set_major_formatter("{x:,.0f}")
                axes.grid(color="#eceff3")
            row[0].set(ylabel="mappings at most this costly")
            row[0].set_title(f"{name} on {arch}", loc="left")
            row[1].legend(frameon=False, fontsize=8.5, loc="center left", bbox_to_anchor=(1.0, 0.5), title="bits I/W/O")
        return png(figure)


def _merged(
    spreads: list[tuple[str, dict[str, Any]]], named: list[bool]
) -> tuple[list[tuple[str, dict[str, Any]]], list[bool]]:
    """The same with one entry for named curves that coincide, as those of widths that pack alike do."""
    curves: dict[Any, tuple[str, dict[str, Any]]] = {}
    for number, ((bits, spread), is_named) in enumerate(zip(spreads, named, strict=True)):
        key = tuple(part.tobytes() for found in spread.values() for part in (found.edges, found.counts))
        key = (is_named, key if is_named else number)
        before = curves.get(key)
        curves[key] = (bits, spread) if before is None else (f"{before[0]}, {bits}", spread)
    return list(curves.values()), [is_named for is_named, _ in curves]


def _told_apart(bits: list[str]) -> list[bool]:
    """Which width triples a figure names: all of a few, of many the unpacked and the uniform ones."""
    if len(bits) <= 8:
        return [True] * len(bits)
    return [len(set(text.split("/"))) == 1 for text in bits]
