"""Networks by name or from files: ONNX, lists of layers, Timeloop's problems."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from mqjax.errors import InputError, meant
from mqjax.io.layers import read_layers
from mqjax.models.graph import Graph
from mqjax.models.networks import NETWORKS, architecture
from mqjax.models.onnx import called
from mqjax.network.wiring import Wiring
from mqjax.types import Layer

if TYPE_CHECKING:
    from mqjax.models.importing import Imported
    from mqjax.models.network import Network

SUFFIXES = (".onnx", ".yaml", ".yml", ".csv")
"""Of network files."""

SIZES = {"width_multiplier": 1.0, "resolution": 224, "classes": 1000, "channels": 3}
"""What a named network may be scaled to, with the defaults; a file has its own sizes."""


@dataclasses.dataclass(frozen=True)
class NetworkSource:
    """A network as it was found: its graph, or its layers alone, and what an ONNX file says besides."""

    name: str
    graph: Graph | None = None
    listed: tuple[Layer, ...] = ()
    imported: Imported | None = None

    def layers(self, *, depthwise: str = "native") -> list[Layer]:
        """The layers as the mapper sees them (see `Graph.layers`)."""
        if self.graph is not None:
            return self.graph.layers(depthwise=depthwise)
        return [_dense(layer) if depthwise == "dense" else layer for layer in self.listed]

    def wiring(self) -> Wiring:
        """Who reads and writes what; listed layers are a chain."""
        return Wiring.chain(self.listed) if self.graph is None else self.graph.wiring()


def _dense(layer: Layer) -> Layer:
    """A depthwise layer written as a dense convolution."""
    return layer if layer.shape != "depthwise" else dataclasses.replace(layer, M=layer.C, shape="cnn")


def is_file(network: str) -> bool:
    """Whether a network is given as a file and not by name."""
    return Path(network).suffix.lower() in SUFFIXES


def network_name(network: str) -> str:
    """What a network is called, by which its layers are: its name, or one made of its file's."""
    if not is_file(network):
        return network
    if Path(network).suffix.lower() == ".onnx":
        return called(Path(network))
    return Path(network).name.split(".")[0]


def load_network(network: str, **sizes: float) -> NetworkSource:
    """A network by its name and sizes (those of `architecture`), or from a file. Raises `InputError` for unknown names, for
    files that cannot be read or used, and for sizes that are given with a file."""
    if not is_file(network):
        if network not in NETWORKS and (Path(network).is_file() or "/" in network):
            raise InputError(f"{network}: a network file must end in {', '.join(SUFFIXES)}{meant(network, NETWORKS)}")
        graph = architecture(network, **{**SIZES, **sizes})  # type: ignore[arg-type]
        return NetworkSource(graph.name, graph)
    for name, value in sizes.items():
        if value != SIZES[name]:
            raise InputError(
                f"--{name.replace('_', '-')} {value} cannot be given with {network}, whose sizes are its own"
            )
    if Path(network).suffix.lower() == ".onnx":
        from mqjax.models.onnx.reader import read_network

        found = read_network(network)
        return NetworkSource(found.graph.name, found.graph, imported=found)
    return NetworkSource(network_name(network), listed=tuple(read_layers(network)))


def with_weights(found: Imported) -> Network:
    """The network of an ONNX file with its weights. Raises `InputError` where it computes something else than the file."""
    import jax.numpy as jnp
    from flax import nnx

    from mqjax.models.network import Network

    if found.inexact is not None:
        raise InputError(f"{found.source}: its accuracy cannot be measured, for {found.inexact}")
    model = nnx.eval_shape(lambda: Network(found.graph, rngs=nnx.Rngs(0)))
    state = nnx.state(model, nnx.Param)
    arrays = {
        name: {"kernel": jnp.asarray(kernel), "bias": jnp.asarray(bias)}
        for name, (kernel, bias) in found.weights.items()
    }
    nnx.replace_by_pure_dict(state, {"blocks": arrays})
    nnx.update(model, state)
    return model
