"""A network as a graph of ops, without JAX: what the Flax module, the quantizer and the mapper share."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from functools import cached_property

from mqjax.errors import InputError
from mqjax.models.ops import (
    MANY_INPUTS,
    Activation,
    Add,
    Conv,
    Image,
    Kernel,
    Linear,
    Op,
    Shape,
    is_depthwise,
    kernel_shape,
    mapper_layer,
    output_shape,
    parameters,
)
from mqjax.models.storage import Storage
from mqjax.models.windows import Borders, Extents, pair
from mqjax.network.wiring import Wiring
from mqjax.types import Layer, depthwise_view


@dataclasses.dataclass(frozen=True)
class Node:
    """An op by name, with the names of the nodes that it reads."""

    name: str
    op: Op
    inputs: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Graph:
    """A network: nodes in the order in which they run. The first is the image, the last gives the logits.

    Raises `InputError` naming the node where it reads what does not come before it, or shapes that do not fit.
    """

    name: str
    nodes: tuple[Node, ...]

    def __post_init__(self) -> None:
        if not self.nodes or not isinstance(self.nodes[0].op, Image):
            raise InputError(f"network {self.name!r}: its first node must be the image")
        names = {node.name for node in self.nodes}
        before: set[str] = set()
        for node in self.nodes:
            if node.name in before:
                raise InputError(f"node {node.name!r}: the name is given twice")
            if isinstance(node.op, Image) and before:
                raise InputError(f"node {node.name!r}: a network has one image, its first node")
            for other in node.inputs:
                if other not in names:
                    raise InputError(f"node {node.name!r} reads {other!r}, which is no node of the network")
                if other not in before:
                    raise InputError(
                        f"node {node.name!r} reads {other!r}, which does not come before it: nodes are listed in the order "
                        "in which they run, without cycles"
                    )
            many, wanted = isinstance(node.op, MANY_INPUTS), 0 if isinstance(node.op, Image) else 1
            if len(node.inputs) < 2 if many else len(node.inputs) != wanted:
                need = "two inputs or more" if many else f"{wanted} input"
                raise InputError(f"node {node.name!r} must have {need}, not {len(node.inputs)}")
            before.add(node.name)
        read = {other for node in self.nodes for other in node.inputs}
        if unread := [node.name for node in self.nodes[:-1] if node.name not in read]:
            raise InputError(f"node {unread[0]!r} is read by no other, but is not the last")
        if not self.kernels:
            raise InputError(f"network {self.name!r} has no convolution and no fully connected layer")
        _ = self.shapes, self.storage  # raise

    def __getitem__(self, name: str) -> Node:
        return self._by_name[name]

    @cached_property
    def _by_name(self) -> dict[str, Node]:
        return {node.name: node for node in self.nodes}

    @cached_property
    def shapes(self) -> dict[str, Shape]:
        """The shape of every node's output, for one image."""
        found: dict[str, Shape] = {}
        for node in self.nodes:
            found[node.name] = output_shape(node.op, [found[name] for name in node.inputs], node.name)
        return found

    @cached_property
    def kernels(self) -> tuple[Node, ...]:
        """The L nodes with kernels, which are the layers of the mapper and of the genome."""
        return tuple(node for node in self.nodes if isinstance(node.op, Kernel))

    @cached_property
    def storage(self) -> Storage:
        """What memory keeps, and at which of the widths."""
        return Storage.of(self.nodes)

    @property
    def image_shape(self) -> Shape:
        """Height, width and channels of the images."""
        return self.shapes[self.nodes[0].name]

    @property
    def resolution(self) -> int:
        """Height and width of the images. Raises `InputError` where they are not square, as those of data sets are."""
        height, width, _ = self.image_shape
        if height != width:
            raise InputError(
                f"network {self.name!r} takes images of {height}x{width}; accuracy is measured on square images alone"
            )
        return height

    @property
    def channels(self) -> int:
        """Channels of the images."""
        return self.image_shape[2]

    @property
    def classes(self) -> int:
        """Number of logits."""
        return self.shapes[self.nodes[-1].name][-1]

    def input_shape(self, node: Node) -> Shape:
        """The shape of a node's first input."""
        return self.shapes[node.inputs[0]]

    def kernel_shape(self, node: Node) -> tuple[int, int, int, int]:
        """[S, R, C, M] of the kernel of a node."""
        assert isinstance(node.op, Kernel)
        return kernel_shape(node.op, self.input_shape(node)[-1])

    def depthwise(self, node: Node) -> bool:
        """Whether a node's filters have one channel each."""
        return is_depthwise(node.op, self.input_shape(node)[-1])

    @property
    def parameters(self) -> int:
        """Number of trained parameters; the running statistics of batch norms do not count."""
        return sum(
            parameters(node.op, self.input_shape(node)[-1]) for node in self.kernels if isinstance(node.op, Kernel)
        )

    def layers(self, *, depthwise: str = "channelwise") -> list[Layer]:
        """The layers as the mapper sees them, in genome order.

        depthwise: how depthwise layers are seen, of `mqjax.types.DEPTHWISE`; with "dense" C = M.
        """
        view = depthwise_view(depthwise)
        return [
            mapper_layer(node.op, self.input_shape(node), self.shapes[node.name], f"{self.name}_{node.name}", view)
            for node in self.kernels
        ]

    def wiring(self) -> Wiring:
        """Which layer reads and writes which stored tensor."""
        return self._wiring

    @cached_property
    def _wiring(self) -> Wiring:
        return self.storage.wiring(self)


class Builder:
    """Writes a graph node by node. Every method returns the name of the node that it adds, for others to read."""

    def __init__(self, name: str, *, resolution: Extents, channels: int) -> None:
        image = Image(resolution, channels)
        self._name, self._nodes = name, [Node("image", image)]
        self._shapes: dict[str, Shape] = {"image": output_shape(image, [], "image")}

    def channels(self, name: str) -> int:
        """Channels (or features) of a node's output."""
        return self._shapes[name][-1]

    def add(self, name: str, op: Op, *inputs: str) -> str:
        """Any op."""
        for other in inputs:
            if other not in self._shapes:
                raise InputError(f"node {name!r} reads {other!r}, which is no node before it")
        self._shapes[name] = output_shape(op, [self._shapes[other] for other in inputs], name)
        self._nodes.append(Node(name, op, inputs))
        return name

    def conv(
        self,
        name: str,
        x: str,
        outputs: int,
        kernel: Extents = 1,
        *,
        stride: Extents = 1,
        padding: Borders | None = None,
        groups: int = 1,
        norm: bool = True,
        activation: Activation | None = None,
    ) -> str:
        """A convolution, on all sides padded by (kernel - 1) / 2 unless told otherwise, and its activation if it has one."""
        if padding is None:
            top, left = ((extent - 1) // 2 for extent in pair(kernel))
            padding = (top, left, top, left)
        self.add(name, Conv(outputs, kernel, stride, padding, groups=groups, norm=norm), x)
        return self._activated(name, activation)

    def depthwise(self, name: str, x: str, kernel: Extents, *, stride: Extents = 1, activation: Activation) -> str:
        """A depthwise convolution with one filter per channel, and its activation."""
        return self.conv(
            name, x, self.channels(x), kernel, stride=stride, groups=self.channels(x), activation=activation
        )

    def linear(self, name: str, x: str, outputs: int, *, activation: Activation | None = None) -> str:
        """A fully connected layer, and its activation if it has one."""
        self.add(name, Linear(outputs), x)
        return self._activated(name, activation)

    def sum(self, name: str, inputs: Iterable[str], *, activation: Activation | None = None) -> str:
        """A residual sum, and its activation if it has one."""
        self.add(name, Add(), *inputs)
        return self._activated(name, activation)

    def _activated(self, name: str, activation: Activation | None) -> str:
        return name if activation is None else self.add(f"{name}_act", activation, name)

    def build(self) -> Graph:
        """The graph; the node added last gives the logits."""
        return Graph(self._name, tuple(self._nodes))
