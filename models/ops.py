"""What a node of a network does: one frozen record per op, and what follows from shapes alone, without JAX.

Shapes are those of one image: (height, width, channels), or (features,) after a global pool or a flattening. An op that is
added needs a record here, its branch in `output_shape`, and one in each meaning: `mqjax.models.network.apply` (float),
`mqjax.models.integer` (integers) and, if it has a kernel, `mapper_layer`.
"""

from __future__ import annotations

import dataclasses
from functools import singledispatch

from mqjax.errors import InputError
from mqjax.models.windows import Borders, Extents, Windowed, pair, shortest
from mqjax.types import Layer

Shape = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Image:
    """The network's input: square images of a height and width, or oblong ones of (height, width)."""

    resolution: Extents
    channels: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "resolution", shortest(self.resolution))


@dataclasses.dataclass(frozen=True)
class Conv(Windowed):
    """A convolution with as many groups as divide its channels: 1 for a dense one, all channels for a depthwise one, whose
    multiplier is `outputs` over them. A batch norm follows (`norm`), or else a bias is added."""

    outputs: int
    kernel: Extents = 1
    stride: Extents = 1
    padding: Borders = 0
    dilation: Extents = 1
    groups: int = 1
    norm: bool = True


@dataclasses.dataclass(frozen=True)
class Linear:
    """A fully connected layer with a bias, on features."""

    outputs: int


@dataclasses.dataclass(frozen=True)
class Activation:
    """`kind`: "none", "relu", cut at `limit` if there is one, or "hardswish": x * min(max(x + 3, 0), 6) / 6."""

    kind: str = "relu"
    limit: float | None = None

    def __post_init__(self) -> None:
        if self.kind not in ("none", "relu", "hardswish"):
            raise InputError(f"an activation must be 'none', 'relu' or 'hardswish', not {self.kind!r}")
        if self.limit is not None and (self.kind != "relu" or not self.limit > 0):
            raise InputError(f"only 'relu' has a limit, which must be positive, not {self.kind!r} with {self.limit}")


@dataclasses.dataclass(frozen=True)
class Add:
    """The sum of tensors of one shape."""


@dataclasses.dataclass(frozen=True)
class MaxPool(Windowed):
    """The largest value of each window; what is padded never counts."""

    kernel: Extents
    stride: Extents
    padding: Borders = 0


@dataclasses.dataclass(frozen=True)
class AvgPool(Windowed):
    """The mean of each window; padded zeros count, as in PyTorch."""

    kernel: Extents
    stride: Extents
    padding: Borders = 0


@dataclasses.dataclass(frozen=True)
class GlobalAvgPool:
    """The mean of each channel, as features."""


@dataclasses.dataclass(frozen=True)
class Concat:
    """Tensors side by side along the channels."""


@dataclasses.dataclass(frozen=True)
class Flatten:
    """All values as features, in the order height, width, channel."""


Op = Image | Conv | Linear | Activation | Add | MaxPool | AvgPool | GlobalAvgPool | Concat | Flatten
Kernel = Conv | Linear
"""Ops that the mapper knows as layers."""

Rearranging = MaxPool | AvgPool | GlobalAvgPool | Concat | Flatten
"""Ops on what is stored, that keep its grid and width."""

MANY_INPUTS = (Add, Concat)


def is_depthwise(op: Op, channels: int) -> bool:
    """Whether an op that reads so many channels has filters of one channel each."""
    return isinstance(op, Conv) and 1 < op.groups == channels


def output_shape(op: Op, inputs: list[Shape], name: str) -> Shape:
    """The shape of a node's output from those of its inputs. Raises `InputError` naming the node where they do not fit."""
    if isinstance(op, Image):
        return *pair(op.resolution), op.channels
    if isinstance(op, MANY_INPUTS):
        return _joined(op, inputs, name)
    (shape,) = inputs
    if isinstance(op, Activation):
        return shape
    if isinstance(op, Linear):
        if len(shape) != 1:
            raise InputError(f"node {name!r}: a fully connected layer reads features, not {_shown(shape)}; flatten it")
        return (op.outputs,)
    if len(shape) != 3:
        raise InputError(f"node {name!r}: {type(op).__name__} reads an image (height, width, channels), not features")
    if isinstance(op, GlobalAvgPool):
        return shape[2:]
    if isinstance(op, Flatten):
        return (shape[0] * shape[1] * shape[2],)
    height, width, channels = shape
    outputs = channels
    if isinstance(op, Conv):
        outputs = op.outputs
        if op.groups < 1 or channels % op.groups or outputs % op.groups:
            raise InputError(
                f"node {name!r}: {op.groups} groups must divide its {channels} input and {outputs} output channels"
            )
    places = op.window.places(height, width)
    if min(places) < 1:
        size = op.kernel if isinstance(op.kernel, int) else _shown(op.kernel)
        raise InputError(f"node {name!r}: its window of {size} is larger than what it reads, {_shown(shape)}")
    return *places, outputs


def _joined(op: Op, inputs: list[Shape], name: str) -> Shape:
    """The shape of a sum or a concatenation."""
    what, same = ("an Add", inputs) if isinstance(op, Add) else ("a Concat", [shape[:-1] for shape in inputs])
    if len(set(same)) != 1:
        listed = " and ".join(map(_shown, inputs))
        need = "equal shapes" if isinstance(op, Add) else "equal heights and widths"
        raise InputError(f"node {name!r}: {what} needs inputs of {need}, not {listed}")
    return inputs[0] if isinstance(op, Add) else (*same[0], sum(shape[-1] for shape in inputs))


def _shown(shape: Shape) -> str:
    return "x".join(map(str, shape))


def kernel_shape(op: Kernel, channels: int) -> tuple[int, int, int, int]:
    """[S, R, C, M] of the kernel of an op that reads so many channels: height, width, channels of one group, outputs."""
    if isinstance(op, Linear):
        return 1, 1, channels, op.outputs
    return *op.window.kernel, channels // op.groups, op.outputs


def parameters(op: Kernel, channels: int) -> int:
    """Trained numbers of an op: kernel, and the gain and shift of the batch norm, or the bias."""
    rows, columns, inputs, outputs = kernel_shape(op, channels)
    return rows * columns * inputs * outputs + outputs * (2 if isinstance(op, Conv) and op.norm else 1)


@singledispatch
def mapper_layer(op: Op, inputs: Shape, outputs: Shape, name: str, depthwise: str) -> Layer:
    """The op as the mapper sees it. depthwise: see `Graph.layers`."""
    raise TypeError(f"{op} has no kernel")


@mapper_layer.register
def _(op: Linear, inputs: Shape, outputs: Shape, name: str, depthwise: str) -> Layer:
    return Layer(C=inputs[0], M=outputs[0], name=name)


@mapper_layer.register
def _(op: Conv, inputs: Shape, outputs: Shape, name: str, depthwise: str) -> Layer:
    # Q and S go with the height, P and R with the width.
    window = op.window
    dims = {"Q": outputs[0], "P": outputs[1]}
    dims |= dict(zip(("S", "R"), window.kernel, strict=True))
    dims |= dict(zip(("Hstride", "Wstride"), window.stride, strict=True))
    dims |= dict(zip(("Hdilation", "Wdilation"), window.dilation, strict=True))
    if op.groups == 1 or (depthwise == "dense" and is_depthwise(op, inputs[2])):
        return Layer.from_dims({"C": inputs[2], "M": op.outputs, **dims}, name=name)
    if is_depthwise(op, inputs[2]) and op.outputs == inputs[2]:
        return Layer.from_dims({"C": inputs[2], **dims}, shape="depthwise", name=name)
    dims |= {"G": op.groups, "C": inputs[2] // op.groups, "M": op.outputs // op.groups}
    return Layer.from_dims(dims, shape="grouped", name=name)
