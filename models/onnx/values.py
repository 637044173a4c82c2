"""What a tensor of the file is."""

from __future__ import annotations

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Value:
    """What a tensor of the file is in the graph."""

    node: str
    layout: str = "NCHW"
    """Of the file's tensor: "NCHW", "NHWC" or "features"; the latter also for [N, C, 1, 1] after a global pool."""

    mixed: tuple[int, int, int] | None = None
    """Channels, height and width, if the file lists features in this order, while the graph's channels come last."""

    padding: tuple[int, ...] | None = None
    """Zeros that the next layer pads: top, left, bottom, right."""

    affine: tuple[np.ndarray, np.ndarray] | None = None
    """Gain and shift [channels] that the next layer applies to the image."""

    gate: bool = False
    """The node's value through a hard sigmoid, which its own multiplication makes a hard swish."""

    shared: bool = False
    """Whether others read the value, too, so that nothing can go into the layer before."""
