"""Ticks of logarithmic axes that can be read, whether the values span a tenth of a decade or ten."""

from __future__ import annotations

import math

from matplotlib.axis import Axis
from matplotlib.ticker import FuncFormatter, LogFormatterMathtext, LogLocator, MaxNLocator, NullFormatter, NullLocator


def label_logarithmic(axis: Axis) -> None:
    """Label the ticks of a logarithmic axis as drawn so far: round numbers over less than 0.8 decades, 1, 2 and 5 of each
    decade over up to 2.5, powers of ten beyond that, so that labels neither overlap nor are missing."""
    low, high = sorted(axis.get_view_interval())
    decades = math.log10(high / low)
    axis.set_minor_formatter(NullFormatter())
    if decades >= 2.5:
        axis.set_major_locator(LogLocator(numticks=8))
        axis.set_major_formatter(LogFormatterMathtext())
        return
    if decades < 0.8:
        axis.set_major_locator(MaxNLocator(5))
        axis.set_minor_locator(NullLocator())
    else:
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:{'.12g' if 1e-3 <= value < 1e4 else '.4g'}}"))
