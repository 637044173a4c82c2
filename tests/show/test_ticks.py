"""Ticks of logarithmic axes.

Guards: README.md, "From the command line": figures that can be read.
"""

from __future__ import annotations

import itertools

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from mqjax.show.ticks import label_logarithmic


@pytest.mark.parametrize("ratio", [1.05, 1.4, 3.0, 7.0, 30.0, 300.0, 1e4, 1e12])
@pytest.mark.parametrize("low", [0.55, 24.0])  # objectives are in units that keep them below 1000
def test_labels_are_there_and_do_not_overlap(low, ratio):
    figure = Figure(figsize=(3.6, 2.4), layout="constrained")
    canvas, axes = FigureCanvasAgg(figure), figure.add_subplot()
    axes.plot([low, low * ratio], [0, 1])
    axes.set_xscale("log")
    label_logarithmic(axes.xaxis)
    canvas.draw()
    left, right = axes.get_xlim()
    ticks = zip(axes.get_xticks(), axes.get_xticklabels(), strict=True)
    shown = [(label.get_window_extent(), label.get_text()) for at, label in ticks if left <= at <= right]
    assert len({text for _, text in shown}) == len(shown) >= 2
    assert not any(label.get_text() for label in axes.get_xticklabels(minor=True))
    for (one, _), (other, _) in itertools.combinations(shown, 2):
        assert not one.overlaps(other)
