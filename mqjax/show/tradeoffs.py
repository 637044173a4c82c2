"""Figure of energy against delay: the front of a network's sums, and what each layer's own optima add up to."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from mqjax.mapper.tradeoff import Tradeoff
from mqjax.network.tradeoff import NetworkTradeoff, least_edp_of_layers
from mqjax.show.figures import BLUE, DARK, GREY, ORANGE, STYLE, axis, png


def draw_tradeoff(network: NetworkTradeoff, sets: Sequence[Tradeoff], title: str) -> bytes:
    """PNG of the front of total energy and cycles, with its ends, its least EDP, and the sum of the layers' EDP optima."""
    by_cycles, cycles_label = axis("delay", network.cycles)
    by_energy, energy_label = axis("energy", network.energy_pj)
    x, y = network.cycles / by_cycles, network.energy_pj / by_energy
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6.4, 4.2), layout="constrained")
        axes = figure.subplots()
        axes.step(
            x, y, where="post", color=BLUE, linewidth=1.4, zorder=3, label=f"front, {len(x):,} choices of mappings"
        )
        best = int(network.edp.argmin())
        reach = np.linspace(*axes.get_xlim(), 200)
        low, high = axes.get_ylim()
        axes.plot(
            reach, x[best] * y[best] / reach, color=GREY, linewidth=1, linestyle="--", zorder=1, label="equal EDP"
        )
        axes.set_ylim(low, high)
        axes.plot(x[best], y[best], "o", color=DARK, zorder=4, label="least EDP of the network")
        energy, cycles = least_edp_of_layers(sets)
        # Hollow, since for one layer it is the same point.
        hollow = {"markersize": 10, "markerfacecolor": "none", "markeredgewidth": 1.6}
        axes.plot(
            cycles / by_cycles,
            energy / by_energy,
            "s",
            color=ORANGE,
            zorder=4,
            label="least EDP of every layer",
            **hollow,
        )
        axes.set(xlabel=cycles_label, ylabel=energy_label)
        axes.set_title(title, loc="left", fontsize=10)
        axes.grid(color="#eceff3")
        axes.legend(frameon=False, fontsize=8.5)
        return png(figure)
