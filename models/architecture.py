"""Network architectures as plain lists of layers, without JAX: what the Flax modules, the quantizer and the mapper share.

MobileNetV1: Howard et al. 2017, table 1. MobileNetV2: Sandler et al. 2018, table 2. Convolutions pad symmetrically by
(kernel - 1) / 2, so an extent H becomes floor((H - 1) / stride) + 1, as in the reference layer lists.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from mqjax.errors import InputError, unknown
from mqjax.types import Layer


@dataclasses.dataclass(frozen=True)
class Conv:
    """One layer: `kind` is "conv", "dw" (depthwise), "pw" (pointwise) or "fc" (after the global average pool).

    `relu`: a ReLU6 follows. `adds`: name of the earlier layer whose output is added to this one's (residual), if any.
    """

    name: str
    kind: str
    inputs: int
    outputs: int
    kernel: int = 1
    stride: int = 1
    relu: bool = True
    adds: str | None = None


@dataclasses.dataclass(frozen=True)
class Architecture:
    """A network: its layers in order, and the images that it takes."""

    name: str
    convs: tuple[Conv, ...]
    resolution: int
    channels: int
    classes: int

    def layers(self, *, depthwise: str = "native") -> list[Layer]:
        """The layers as the mapper sees them, in genome order.

        depthwise: "native" for true depthwise layers, "dense" for the paper's way of writing them, as dense
        convolutions with C = M, which counts their weights and operations C times too often.
        """
        if depthwise not in ("native", "dense"):
            raise InputError(f"depthwise must be 'native' or 'dense', not {depthwise!r}")
        extent, result = self.resolution, []
        for conv in self.convs:
            extent = 1 if conv.kind == "fc" else (extent - 1) // conv.stride + 1
            dims = {"P": extent, "Q": extent, "R": conv.kernel, "S": conv.kernel}
            strides = {"Wstride": conv.stride, "Hstride": conv.stride}
            name = f"{self.name}_{conv.name}"
            if conv.kind == "dw" and depthwise == "native":
                result.append(Layer.from_dims({"C": conv.inputs, **dims, **strides}, shape="depthwise", name=name))
            else:
                result.append(Layer.from_dims({"C": conv.inputs, "M": conv.outputs, **dims, **strides}, name=name))
        return result


def _mobilenet_v1(width_multiplier: float, classes: int, channels: int) -> list[Conv]:
    def scaled(filters: int) -> int:
        return max(1, int(filters * width_multiplier))

    convs = [Conv("conv1", "conv", channels, scaled(32), kernel=3, stride=2)]
    blocks = [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1)]
    width = scaled(32)
    for number, (filters, stride) in enumerate(blocks, start=1):
        convs.append(Conv(f"dw{number}", "dw", width, width, kernel=3, stride=stride))
        convs.append(Conv(f"pw{number}", "pw", width, scaled(filters)))
        width = scaled(filters)
    return [*convs, Conv("fc", "fc", width, classes, relu=False)]


def _mobilenet_v2(width_multiplier: float, classes: int, channels: int) -> list[Conv]:
    def scaled(filters: float) -> int:
        # To a multiple of 8, without losing more than a tenth (the authors' rule).
        value = filters * width_multiplier
        rounded = max(8, int(value + 4) // 8 * 8)
        return rounded + 8 if rounded < 0.9 * value else rounded

    width = scaled(32)
    convs = [Conv("conv1", "conv", channels, width, kernel=3, stride=2)]
    stages = [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)]
    number = 0
    for expansion, filters, repeats, first_stride in stages:
        for repeat in range(repeats):
            number += 1
            stride = first_stride if repeat == 0 else 1
            hidden, entry = width * expansion, convs[-1].name
            if expansion > 1:
                convs.append(Conv(f"expand{number}", "pw", width, hidden))
            convs.append(Conv(f"dw{number}", "dw", hidden, hidden, kernel=3, stride=stride))
            residual = entry if stride == 1 and width == scaled(filters) else None
            convs.append(Conv(f"project{number}", "pw", hidden, scaled(filters), relu=False, adds=residual))
            width = scaled(filters)
    last = scaled(1280) if width_multiplier > 1 else 1280
    return [*convs, Conv("conv_last", "pw", width, last), Conv("fc", "fc", last, classes, relu=False)]


NETWORKS: dict[str, Callable[[float, int, int], list[Conv]]] = {
    "mobilenetv1": _mobilenet_v1,
    "mobilenetv2": _mobilenet_v2,
}


def architecture(
    name: str, *, width_multiplier: float = 1.0, resolution: int = 224, classes: int = 1000, channels: int = 3
) -> Architecture:
    """The architecture called `name` ("mobilenetv1", "mobilenetv2"). Raises `InputError` for unknown names and for
    sizes that are not positive."""
    if name not in NETWORKS:
        raise InputError(unknown("network", name, NETWORKS))
    for what, value in (("resolution", resolution), ("classes", classes), ("channels", channels)):
        if value < 1:
            raise InputError(f"network {name!r}: {what} must be at least 1, not {value}")
    if not width_multiplier > 0:
        raise InputError(f"network {name!r}: the width multiplier must be positive, not {width_multiplier}")
    return Architecture(name, tuple(NETWORKS[name](width_multiplier, classes, channels)), resolution, channels, classes)
