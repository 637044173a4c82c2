"""One module per network: its name is the network's, its function `build` writes the graph."""

from __future__ import annotations

import importlib
import pkgutil
import re

from mqjax.errors import InputError, unknown
from mqjax.models.graph import Graph

NETWORKS = tuple(sorted(module.name for module in pkgutil.iter_modules(__path__)))
"""Names of the networks."""


def architecture(
    name: str, *, width_multiplier: float = 1.0, resolution: int = 224, classes: int = 1000, channels: int = 3
) -> Graph:
    """The graph of the network called `name`, one of `NETWORKS`. width_multiplier scales the channels of every layer.

    Raises `InputError` for unknown names, for sizes that are not positive, and for images too small for the network.
    """
    if name not in NETWORKS:
        raise InputError(unknown("network", name, NETWORKS))
    for what, value in (("resolution", resolution), ("classes", classes), ("channels", channels)):
        if value < 1:
            raise InputError(f"network {name!r}: {what} must be at least 1, not {value}")
    if not width_multiplier > 0:
        raise InputError(f"network {name!r}: the width multiplier must be positive, not {width_multiplier}")
    module = importlib.import_module(f"{__name__}.{name}")
    return module.build(width_multiplier=width_multiplier, resolution=resolution, classes=classes, channels=channels)


def called(name: str) -> str:
    """The name of a network of the user's: made of what it was called, and never that of one of ours, which it need not be."""
    clean = re.sub(r"[^A-Za-z0-9]+", "_", name).strip("_")[:40] or "network"
    return f"{clean}_own" if clean in NETWORKS else clean


def scaled(filters: float, width_multiplier: float) -> int:
    """Channels times the multiplier, rounded down, at least 1."""
    return max(1, int(filters * width_multiplier))


def scaled_to_eight(filters: float, width_multiplier: float) -> int:
    """Channels times the multiplier, rounded to a multiple of 8 without losing more than a tenth (Sandler et al. 2018)."""
    value = filters * width_multiplier
    rounded = max(8, int(value + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * value else rounded
