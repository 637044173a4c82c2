"""Flax networks and their quantization (installed as `mqjax.models`). Importing this loads no JAX."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from mqjax.models.files import NetworkSource, load_network
from mqjax.models.graph import Graph
from mqjax.models.networks import NETWORKS, architecture
from mqjax.types import Layer

if TYPE_CHECKING:
    from mqjax.models.network import MobileNetV1, MobileNetV2, Network

__all__ = [
    "NETWORKS",
    "Graph",
    "MobileNetV1",
    "MobileNetV2",
    "Network",
    "NetworkSource",
    "architecture",
    "load_network",
    "network_layers",
]


def network_layers(
    network: str | Any,
    *,
    width_multiplier: float = 1.0,
    resolution: int = 224,
    classes: int = 1000,
    channels: int = 3,
    depthwise: str = "channelwise",
) -> list[Layer]:
    """The layers of a network, named, in a file, a `Graph` or a `Network`, as the mapper sees them (see `Graph.layers`)."""
    if isinstance(network, str):
        network = load_network(
            network, width_multiplier=width_multiplier, resolution=resolution, classes=classes, channels=channels
        )
    return getattr(network, "architecture", network).layers(depthwise=depthwise)


def __getattr__(name: str) -> Any:
    if name in ("Network", "MobileNetV1", "MobileNetV2"):
        return getattr(importlib.import_module("mqjax.models.network"), name)
    raise AttributeError(f"module 'mqjax.models' has no attribute {name!r}")
