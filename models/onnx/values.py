"""Records of the import: what a tensor of the file is, and the network that comes of all."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mqjax.models.graph import Graph
from mqjax.types import BitWidths


class Skipped(NamedTuple):
    """A node of the file that is no node of the graph, and why."""

    node: str
    op: str
    reason: str


@dataclasses.dataclass(frozen=True)
class Imported:
    """A network from a file."""

    path: Path
    graph: Graph

    weights: dict[str, tuple[np.ndarray, np.ndarray]]
    """Kernel float32 [S, R, C, M] (C of one group) and bias float32 [M] of every layer."""

    skipped: tuple[Skipped, ...]

    widths: tuple[BitWidths, ...]
    """Of every layer, as far as the file's quantizers tell."""

    origins: dict[str, str]
    """The file's name of the node that each layer was, where it has one."""

    inexact: str | None
    """Why the graph computes something else than the file, where it does: it then serves the mapper alone."""


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
