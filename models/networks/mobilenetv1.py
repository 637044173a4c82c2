"""MobileNetV1: Howard et al. 2017, table 1. 4,231,976 parameters at 1000 classes."""

from __future__ import annotations

from mqjax.models.graph import Builder, Graph
from mqjax.models.networks import scaled
from mqjax.models.ops import Activation, GlobalAvgPool

RELU6 = Activation("relu", 6.0)
BLOCKS = (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1)
"""Output channels and stride of each block."""


def build(*, width_multiplier: float, resolution: int, classes: int, channels: int) -> Graph:
    """The graph; options as for `mqjax.models.architecture`."""
    net = Builder("mobilenetv1", resolution=resolution, channels=channels)
    x = net.conv("conv1", "image", scaled(32, width_multiplier), 3, stride=2, activation=RELU6)
    for number, (filters, stride) in enumerate(BLOCKS, start=1):
        x = net.depthwise(f"dw{number}", x, 3, stride=stride, activation=RELU6)
        x = net.conv(f"pw{number}", x, scaled(filters, width_multiplier), activation=RELU6)
    net.linear("fc", net.add("pool", GlobalAvgPool(), x), classes)
    return net.build()
