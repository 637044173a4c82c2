"""Figure of what constraints cost."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import matplotlib
from matplotlib.figure import Figure

from mqjax.network.lifting import Lifting
from mqjax.objectives import sum_of
from mqjax.show.figures import BLUE, GREY, STYLE, png


def draw_liftings(liftings: Sequence[Lifting], metric: str, title: str) -> bytes:
    """PNG: for each lifted constraint by how much the network's total falls. Hatched: not all layers are proven, so that it
    may fall further."""
    built, *lifted = liftings
    total = built.cost(metric).sum()
    saved = [100 * (1 - one.cost(metric).sum() / total) for one in lifted]
    names = ["\n".join(textwrap.wrap(one.lifted, 34)) for one in lifted]
    height = 1.3 + 0.22 * sum(name.count("\n") + 2 for name in names)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6.8, height), layout="constrained")
        axes = figure.subplots()
        for place, (one, percent) in enumerate(zip(lifted, saved, strict=True)):
            unproven = not one.proven.all()
            axes.barh(place, percent, 0.6, color=GREY if unproven else BLUE, hatch="//" if unproven else None)
            note = f"{percent:.1f} %" + (f", at least ({(~one.proven).sum()} layers not proven)" if unproven else "")
            axes.annotate(note, (percent, place), (4, 0), textcoords="offset points", va="center", fontsize=8.5)
        axes.set_yticks(range(len(names)), names, fontsize=8.5)
        axes.invert_yaxis()
        axes.set_xlim(0, max(1.0, max(saved, default=0.0)) * 1.6)
        axes.set_xlabel(f"{sum_of(metric).label} saved by lifting the constraint (%)")
        axes.set_title(title, loc="left", fontsize=10)
        return png(figure)
