"""What imports of networks share: the graph that they assemble, with its weights, and the record of what came of it."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mqjax.errors import InputError
from mqjax.models.graph import Graph, Node
from mqjax.models.ops import Activation, Flatten, MaxPool, Op, Shape, output_shape
from mqjax.models.storage import unfused
from mqjax.types import BitWidths


class Skipped(NamedTuple):
    """An op of the source that is no node of the graph, and why."""

    node: str
    op: str
    reason: str


@dataclasses.dataclass(frozen=True)
class Imported:
    """A network from a file or a module."""

    source: str
    """What the user calls it: the file's path, or the module."""

    graph: Graph

    weights: dict[str, tuple[np.ndarray, np.ndarray]]
    """Kernel float32 [S, R, C, M] (C of one group) and bias float32 [M] of every layer."""

    skipped: tuple[Skipped, ...]

    inexact: str | None = None
    """Why the graph computes something else than the source, where it does: it then serves the mapper alone."""

    widths: tuple[BitWidths, ...] = ()
    """Of every layer, as far as the source's quantizers tell; empty where it has none."""

    origins: dict[str, str] = dataclasses.field(default_factory=dict)
    """The source's name of what each layer was, where it has one."""


class Assembly:
    """A graph that grows node by node, with the weights of its layers; the first node is the image."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.nodes: list[Node] = []
        self.graph_shapes: dict[str, Shape] = {}
        self.weights: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        self.skipped: list[Skipped] = []
        self.origins: dict[str, str] = {}
        self.inexact: str | None = None

    def add_node(self, name: str, op: Op, inputs: Sequence[str] = ()) -> str:
        """Add a node under a name, or one like it, that none has yet; the name that it got. Raises `InputError` where its
        shapes do not fit."""
        clean = re.sub(r"[^A-Za-z0-9]+", "_", name).strip("_")[:60] or type(op).__name__
        clean = f"{clean}_1" if clean == "image" and self.nodes else clean
        free, number = clean, 1
        while free in self.graph_shapes:
            number += 1
            free = f"{clean}_{number}"
        try:
            self.graph_shapes[free] = output_shape(op, [self.graph_shapes[other] for other in inputs], free)
        except InputError as error:
            raise InputError(f"{self.source}: {error}") from None
        self.nodes.append(Node(free, op, tuple(inputs)))
        return free

    def scale(self, node: str, gain: np.ndarray, shift: np.ndarray) -> None:
        """Fold x * gain + shift, both [M], into the weights of a layer."""
        kernel, bias = self.weights[node]
        self.weights[node] = kernel * gain, bias * gain + shift

    def finished(self, name: str, last: str) -> tuple[Graph, dict[str, tuple[np.ndarray, np.ndarray]]]:
        """The graph, called `name`, whose logits are those of the node `last`, and its float32 weights."""
        nodes = self._without_unfused(activations_first(self._used(last)))
        try:
            graph = Graph(name, tuple(nodes))
        except InputError as error:
            raise InputError(f"{self.source}: {error}") from None
        weights = {}
        for node in graph.kernels:
            kernel, bias = (np.ascontiguousarray(part, np.float32) for part in self.weights[node.name])
            if not (np.isfinite(kernel).all() and np.isfinite(bias).all()):
                self.inexact = self.inexact or f"the weights of node {node.name!r} are not all finite numbers"
            weights[node.name] = kernel, bias
        return graph, weights

    def _without_unfused(self, nodes: list[Node]) -> list[Node]:
        """The same without activations of what others read as it is: they would be done by the layers that read it. That
        changes no shape, so it serves the mapper alone."""
        while left := [node for node in unfused(nodes) if isinstance(node.op, Activation)]:
            name, (before,) = left[0].name, left[0].inputs
            self.skipped.append(Skipped(name, "activation", "others read what it reads; the mapper does not need it"))
            self.inexact = self.inexact or f"node {name!r} is an activation of a tensor that others read as it is"
            nodes = [
                dataclasses.replace(node, inputs=tuple(before if other == name else other for other in node.inputs))
                for node in nodes
                if node.name != name
            ]
        return nodes

    def _used(self, last: str) -> list[Node]:
        """The nodes that the output depends on, and the image."""
        inputs = {node.name: node.inputs for node in self.nodes}
        used, stack = {self.nodes[0].name}, [last]
        while stack:
            if (name := stack.pop()) not in used:
                used.add(name)
                stack += inputs[name]
        for node in self.nodes:
            if node.name not in used:
                self.skipped.append(Skipped(node.name, type(node.op).__name__, "the output does not depend on it"))
        return [node for node in self.nodes if node.name in used]


def scaled_inputs(
    kernel: np.ndarray, gain: np.ndarray, shift: np.ndarray, groups: int
) -> tuple[np.ndarray, np.ndarray]:
    """Kernel [S, R, C / groups, M] and bias [M] that take x where the layer reads x * gain + shift, both [C]; exact but for
    padded borders."""
    outputs = kernel.shape[-1]
    # Each group of filters reads its own part of the channels.
    gain, shift = (np.repeat(part.reshape(groups, -1).T, outputs // groups, axis=1) for part in (gain, shift))
    return kernel * gain, (kernel * shift).sum(axis=(0, 1, 2))


def activations_first(nodes: list[Node]) -> list[Node]:
    """Nodes with every ReLU before the maxima and the flattening that it follows: it then is the layer's own, and what is
    computed stays the same."""
    nodes = list(nodes)
    moved = True
    while moved:
        moved = False
        places = {node.name: place for place, node in enumerate(nodes)}
        readers: dict[str, int] = {}
        for name in (name for node in nodes for name in node.inputs):
            readers[name] = readers.get(name, 0) + 1
        for place, node in enumerate(nodes):
            if not (isinstance(node.op, Activation) and node.op.kind == "relu"):
                continue
            before = nodes[places[node.inputs[0]]]
            if isinstance(before.op, MaxPool | Flatten) and readers[before.name] == 1:
                swapped = {node.name: before.name}
                nodes = [
                    dataclasses.replace(other, inputs=tuple(swapped.get(name, name) for name in other.inputs))
                    for other in nodes
                ]
                nodes[places[before.name]] = dataclasses.replace(node, inputs=before.inputs)
                nodes[place] = dataclasses.replace(before, inputs=(node.name,))
                moved = True
                break
    return nodes
