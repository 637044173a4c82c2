"""MobileNetV2: Sandler et al. 2018, table 2. 3,504,872 parameters at 1000 classes."""

from __future__ import annotations

from mqjax.models.graph import Builder, Graph
from mqjax.models.inverted import RELU6, inverted_stages
from mqjax.models.networks import scaled_to_eight
from mqjax.models.ops import GlobalAvgPool

STAGES = (
    (1, 16, 1, 1, 3),
    (6, 24, 2, 2, 3),
    (6, 32, 3, 2, 3),
    (6, 64, 4, 2, 3),
    (6, 96, 3, 1, 3),
    (6, 160, 3, 2, 3),
    (6, 320, 1, 1, 3),
)
"""Expansion, output channels, blocks, stride of the first block, kernel of the depthwise convolutions."""


def build(*, width_multiplier: float, resolution: int, classes: int, channels: int) -> Graph:
    """The graph; options as for `mqjax.models.architecture`."""
    net = Builder("mobilenetv2", resolution=resolution, channels=channels)
    x = net.conv("conv1", "image", scaled_to_eight(32, width_multiplier), 3, stride=2, activation=RELU6)
    x = inverted_stages(net, x, STAGES, width_multiplier)
    last = scaled_to_eight(1280, width_multiplier) if width_multiplier > 1 else 1280
    x = net.conv("conv_last", x, last, activation=RELU6)
    net.linear("fc", net.add("pool", GlobalAvgPool(), x), classes)
    return net.build()
