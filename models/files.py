"""Networks by name, from files (ONNX, lists of layers, Timeloop's problems) and as modules of Flax."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mqjax.errors import InputError, meant
from mqjax.io.code import load_object, reason
from mqjax.io.layers import read_layers
from mqjax.models.graph import Graph
from mqjax.models.networks import NETWORKS, architecture, called
from mqjax.network.wiring import Wiring
from mqjax.types import Layer, depthwise_view

if TYPE_CHECKING:
    from mqjax.models.importing import Imported
    from mqjax.models.network import Network

SUFFIXES = (".onnx", ".yaml", ".yml", ".csv")
"""Of network files."""

MODULE_NAME = re.compile(r"^.*:|@.*$")
"""What goes from "package.module:object@32x32x3" for the network's name."""

SIZES = {"width_multiplier": 1.0, "resolution": 224, "classes": 1000, "channels": 3}
"""What a named network may be scaled to, with the defaults; a file has its own sizes."""


@dataclasses.dataclass(frozen=True)
class NetworkSource:
    """A network as it was found: its graph, or its layers alone, and what came with it."""

    name: str
    graph: Graph | None = None
    listed: tuple[Layer, ...] = ()
    imported: Imported | None = None

    def layers(self, *, depthwise: str = "channelwise") -> list[Layer]:
        """The layers as the mapper sees them (see `Graph.layers`)."""
        if self.graph is not None:
            return self.graph.layers(depthwise=depthwise)
        return [_dense(layer) if depthwise_view(depthwise) == "dense" else layer for layer in self.listed]

    def wiring(self) -> Wiring:
        """Who reads and writes what; listed layers are a chain."""
        return Wiring.chain(self.listed) if self.graph is None else self.graph.wiring()


def _dense(layer: Layer) -> Layer:
    """A depthwise layer written as a dense convolution."""
    return layer if layer.shape != "depthwise" else dataclasses.replace(layer, M=layer.C, shape="cnn")


def is_file(network: str) -> bool:
    """Whether a network is given as a file and not by name."""
    return Path(network).suffix.lower() in SUFFIXES


def is_own(network: str) -> bool:
    """Whether a network is the user's: a file, or a module of Flax."""
    return is_file(network) or ":" in network


def has_weights(network: str) -> bool:
    """Whether a network comes with weights of its own, so that it serves as its own checkpoint."""
    return Path(network).suffix.lower() == ".onnx" or (is_own(network) and not is_file(network))


def network_name(network: str) -> str:
    """What a network is called, by which its layers are: its name, or one made of its file's or its module's."""
    if not is_own(network):
        return network
    if not is_file(network):
        return called(MODULE_NAME.sub("", network))
    if Path(network).suffix.lower() == ".onnx":
        return called(Path(network).stem)
    return Path(network).name.split(".")[0]


def load_network(network: Any, input_shape: Sequence[int] | None = None, **sizes: float) -> NetworkSource:
    """A network by its name and sizes (those of `architecture`), from a file, or a module of Flax NNX with its weights, given
    as itself or as "package.module:object@HEIGHTxWIDTHxCHANNELS", where the object is one or a function that returns one.

    input_shape: (height, width, channels) of the images of a module that is given as itself; it is traced for them as for
    inference, and may be anything that becomes convolutions, fully connected layers, batch norms, activations, sums,
    concatenations and pools.

    Raises `InputError` for unknown names, for files that cannot be read or used, for sizes that are given with a file, and
    for an op that is not supported, by its name.
    """
    if not isinstance(network, str):
        return _from_module(network, input_shape, source=type(network).__name__, name=called(type(network).__name__))
    if input_shape is not None:
        raise InputError(f"input_shape is for modules alone; {network} has sizes of its own")
    if not is_own(network):
        if network not in NETWORKS and (Path(network).is_file() or "/" in network):
            raise InputError(f"{network}: a network file must end in {', '.join(SUFFIXES)}{meant(network, NETWORKS)}")
        graph = architecture(network, **{**SIZES, **sizes})  # type: ignore[arg-type]
        return NetworkSource(graph.name, graph)
    for name, value in sizes.items():
        if value != SIZES[name]:
            raise InputError(
                f"--{name.replace('_', '-')} {value} cannot be given with {network}, whose sizes are its own"
            )
    if not is_file(network):
        place, _, shape = network.partition("@")
        if not re.fullmatch(r"[0-9]+x[0-9]+x[0-9]+", shape, re.ASCII):
            raise InputError(
                f"--network {network}: a module must be given with the shape of its images, height x width x channels, "
                f"such as {place}@32x32x3"
            )
        images = [int(extent) for extent in shape.split("x")]
        return _from_module(load_object(place, "--network"), images, source=place, name=network_name(network))
    if Path(network).suffix.lower() == ".onnx":
        from mqjax.models.onnx.reader import read_network

        found = read_network(network)
        return NetworkSource(found.graph.name, found.graph, imported=found)
    return NetworkSource(network_name(network), listed=tuple(read_layers(network)))


def _from_module(module: Any, input_shape: Sequence[int] | None, *, source: str, name: str) -> NetworkSource:
    """A module's network; `source` is what messages call it."""
    from flax import nnx

    from mqjax.models.traced.reader import read_module

    if callable(module) and not isinstance(module, nnx.Module):
        try:
            module = module()
        except Exception as error:  # the user's code may raise anything
            raise InputError(f"{source} cannot be called without arguments: {reason(error)}") from error
    found = read_module(module, input_shape or (), source=source, name=name)
    return NetworkSource(name, found.graph, imported=found)


def with_weights(found: Imported) -> Network:
    """An imported network with its weights. Raises `InputError` where it computes something else than its source."""
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
