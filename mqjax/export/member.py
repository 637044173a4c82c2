"""A member of a finished run's front: its widths by layer, and, where they are asked for, its network and grids."""

from __future__ import annotations

import dataclasses
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mqjax.errors import InputError
from mqjax.models.files import has_weights, is_own, load_network, network_name
from mqjax.models.graph import Graph
from mqjax.study.stored import member_of, read_config, read_front

if TYPE_CHECKING:
    from mqjax.models.network import Network
    from mqjax.models.quantization import Quantized


class LayerWidths(NamedTuple):
    """A layer of a member. `name` is that in the network, without the network's own; `module` is what PyTorch calls it, where
    the network comes from a file that PyTorch wrote, else the same."""

    name: str
    module: str
    input: int
    weight: int
    output: int


@dataclasses.dataclass(frozen=True)
class Member:
    """A member of a front."""

    run: Path
    number: int
    layers: tuple[LayerWidths, ...]
    entry: dict[str, Any]
    """What front.json says of it."""

    arch: str
    settings: dict[str, Any]

    @cached_property
    def graph(self) -> Graph | None:
        """The network's graph; `None` where only layers are known (a judge of one's own, or a list)."""
        return self.source.graph if self.own else None

    @property
    def own(self) -> bool:
        """Whether the run judged one of the package's networks, and not by a judge of the user's."""
        return self.settings.get("judge") is None

    @cached_property
    def source(self) -> Any:
        """The network as it was found; of a named network the trained one's graph decides about sizes."""
        network = self.settings["network"]
        if is_own(network):
            return load_network(network)
        from mqjax.accuracy.trained import checkpoint_of
        from mqjax.models.checkpoint import load_checkpoint

        checkpoint = checkpoint_of(network, self.settings["dataset"], self.settings.get("checkpoint"))
        return _Trained(load_checkpoint(checkpoint)[0].architecture)

    @cached_property
    def trained(self) -> tuple[Network, Quantized]:
        """The float network, and the quantized one after calibration at the member's widths. Raises `InputError` where the
        run had a judge of its own, or its network is no longer there."""
        import jax
        import jax.numpy as jnp

        from mqjax.accuracy.trained import trained_network
        from mqjax.study.assignments import parse_assignment

        if not self.own:
            raise InputError(f"{self.run}: its accuracy came from a judge of its own, so there is no network to export")
        found = trained_network(
            self.settings["network"],
            self.settings["dataset"],
            checkpoint=self.settings.get("checkpoint"),
            data_dir=self.settings.get("data_dir"),
        )
        genome = parse_assignment(f"{self.run}:{self.number}", found.model.architecture.wiring())
        with jax.enable_x64(False):
            return found.model, found.quantizer.at(jnp.asarray(genome))


class _Trained(NamedTuple):
    graph: Graph


def read_member(run: str | Path, number: int) -> Member:
    """A member of the front of a finished run. Raises `InputError` where there is none."""
    run = Path(run)
    document, settings = read_front(run), read_config(run)["settings"]
    entry = member_of(run, document, number)
    modules: dict[str, str] = {}
    prefix = ""
    if settings.get("judge") is None:
        prefix = f"{network_name(settings['network'])}_"
        if has_weights(settings["network"]):
            modules = _modules(settings["network"])
    layers = []
    for layer in entry["layers"]:
        name: str = layer["name"].removeprefix(prefix)
        layers.append(LayerWidths(name, modules.get(name, name), *map(int, layer["bits"].split("/"))))
    return Member(run, number, tuple(layers), entry, document["arch"], settings)


def _modules(network: str) -> dict[str, str]:
    """What the framework calls the layers: Flax, or PyTorch in an ONNX file that it wrote."""
    imported = load_network(network).imported
    return {} if imported is None else imported.origins
