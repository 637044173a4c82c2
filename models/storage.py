"""Which values of a network memory keeps, and at which of the widths: its stored tensors.

Activations and sums are fused with the layer that ends them: they happen in its wide sums, before what comes of them is
stored. A sum is ended by the last of its operands to run; it reads the others from memory, each at its own width. So the
output of a residual projection is a stored tensor like any other.

Pools and flattening keep the grid and width of what they read, and the parts of a concatenation are stored on one grid, at
one width: their producers write it in place. All of these share one stored tensor, with one gene.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from mqjax.errors import InputError
from mqjax.models.ops import Activation, Add, Concat, Flatten, Kernel, Rearranging
from mqjax.network.wiring import Wiring

if TYPE_CHECKING:
    from mqjax.models.graph import Graph, Node


@dataclasses.dataclass(frozen=True)
class Stage:
    """A layer with what is fused with it."""

    layer: str
    fused: tuple[str, ...]
    """Activations and sums, in order."""

    adds: tuple[tuple[str, ...], ...]
    """For each of `fused`: the nodes that it reads from memory."""

    @property
    def result(self) -> str:
        """The node whose value is stored."""
        return self.fused[-1] if self.fused else self.layer


@dataclasses.dataclass(frozen=True)
class Storage:
    """The T + 1 stored tensors of a network, of which number T is its output, and the stages that write them."""

    stages: tuple[Stage, ...]
    """The L layers, in order."""

    tensors: tuple[tuple[str, int], ...]
    """Each node whose value is in memory, and the number of its stored tensor."""

    reads: tuple[int, ...]
    """Number of the tensor that each layer reads as its Inputs."""

    first: tuple[int, ...]
    """Number of the first layer that reads each of the T tensors; ascending."""

    @classmethod
    def of(cls, nodes: Sequence[Node]) -> Storage:
        """Raises `InputError` naming the node where an activation or a sum has no layer to be fused with, or where what is
        stored at the output's width is read, too."""
        stages = list(_stages(nodes))
        for node in unfused(nodes):
            kind = "an activation" if isinstance(node.op, Activation) else "a sum"
            raise InputError(
                f"node {node.name!r}: {kind} must follow a layer whose output it alone reads, for it happens before storing"
            )
        fused = {name for stage in stages for name in (stage.layer, *stage.fused)}
        groups = _stored_after(nodes, fused - {stage.result for stage in stages})
        output = groups[nodes[-1].name]
        numbers: dict[str, int] = {}
        first, reads = [], []
        inputs = {node.name: node.inputs for node in nodes}
        for place, stage in enumerate(stages):
            for name in (*inputs[stage.layer], *(other for others in stage.adds for other in others)):
                if groups[name] == output:
                    raise InputError(f"node {stage.layer!r} reads {name!r}, which is stored as the network's output")
                if groups[name] not in numbers:
                    numbers[groups[name]] = len(first)
                    first.append(place)
            reads.append(numbers[groups[inputs[stage.layer][0]]])
        numbers[output] = len(first)
        tensors = tuple((name, numbers[group]) for name, group in groups.items())
        return cls(tuple(stages), tensors, tuple(reads), tuple(first))

    def wiring(self, graph: Graph) -> Wiring:
        """For the mapper and the search, whose layers are named after the network."""
        numbers, count = dict(self.tensors), len(self.first)
        layers = tuple(f"{graph.name}_{stage.layer}" for stage in self.stages)
        writes = tuple(numbers[stage.result] for stage in self.stages)
        readers = dict(reversed([(tensor, f"{layer}_input") for tensor, layer in zip(self.reads, layers, strict=True)]))
        writers = dict(zip(writes, (f"{layer}_output" for layer in layers), strict=True))
        return Wiring(
            layers=layers,
            tensors=tuple(readers.get(tensor) or writers[tensor] for tensor in range(count)),
            reads=self.reads,
            writes=writes,
            first=self.first,
            live=self._live(graph),
        )

    def _live(self, graph: Graph) -> tuple[tuple[int, ...], ...]:
        """[L][T + 1], see `Wiring.live`. Times: layer n runs at 2 n, pools that come after it at 2 n + 1."""
        numbers = dict(self.tensors)
        places = {stage.layer: place for place, stage in enumerate(self.stages)}
        adds = {name: others for stage in self.stages for name, others in zip(stage.fused, stage.adds, strict=True)}
        ends = {stage.result: 2 * place for place, stage in enumerate(self.stages)}
        ended = {name: 2 * place for place, stage in enumerate(self.stages) for name in stage.fused}
        written: dict[str, int] = {}
        held: dict[str, tuple[str, ...]] = {}  # the values in memory that each node's value consists of
        last: dict[str, int] = {}
        now = -1
        for node in graph.nodes:
            if node.name in places:
                now = 2 * places[node.name]
            if node.name in places or node.name in adds:
                time, read = ended.get(node.name, now), adds.get(node.name, node.inputs)
            else:
                time, read = now | 1, node.inputs
            for value in (value for other in read if other in held for value in held[other]):
                last[value] = max(last[value], time)
            if isinstance(node.op, Concat | Flatten):
                held[node.name] = tuple(value for other in node.inputs for value in held[other])
            elif node.name in numbers:
                held[node.name] = (node.name,)
                written[node.name] = last[node.name] = ends.get(node.name, time)
        live = [[0] * (len(self.first) + 1) for _ in self.stages]
        for value, start in written.items():
            elements = 1
            for extent in graph.shapes[value]:
                elements *= extent
            for place in range(len(self.stages)):
                if start <= 2 * place <= last[value]:
                    live[place][numbers[value]] += elements
        return tuple(map(tuple, live))


def _stages(nodes: Sequence[Node]) -> Iterator[Stage]:
    """Every layer with the activations and sums that its wide sums go through."""
    order = {node.name: place for place, node in enumerate(nodes)}
    readers: dict[str, list[Node]] = {node.name: [] for node in nodes}
    for node in nodes:
        for other in node.inputs:
            readers[other].append(node)
    for node in nodes:
        if not isinstance(node.op, Kernel):
            continue
        chain: list[str] = []
        adds: list[tuple[str, ...]] = []
        end = node.name
        while len(readers[end]) == 1:
            after = readers[end][0]
            others = tuple(name for name in after.inputs if name != end)
            if not isinstance(after.op, Activation | Add) or any(order[name] > order[node.name] for name in others):
                break
            chain.append(after.name)
            adds.append(others)
            end = after.name
        yield Stage(node.name, tuple(chain), tuple(adds))


def unfused(nodes: Sequence[Node]) -> list[Node]:
    """Activations and sums that no layer's wide sums go through: others read what they read, too, or a pool is between."""
    fused = {name for stage in _stages(nodes) for name in stage.fused}
    return [node for node in nodes if isinstance(node.op, Activation | Add) and node.name not in fused]


def _stored_after(nodes: Sequence[Node], wide: set[str]) -> dict[str, str]:
    """Each node whose value is stored, with the node after which its stored tensor is called; `wide`: those that are not."""
    above: dict[str, str] = {}

    def root(name: str) -> str:
        while above[name] != name:
            name = above[name]
        return name

    for node in nodes:
        if node.name in wide:
            continue
        above[node.name] = node.name
        if isinstance(node.op, Rearranging):
            for other in node.inputs:
                above[root(other)] = root(node.name)
    return {name: root(name) for name in above}
