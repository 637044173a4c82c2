"""A narrow ResNet-18 for small images, such as 32x32: a 3x3 stem of stride 1, no max-pool, a quarter of the channels.

About 0.7 million parameters at 10 classes.
"""

from __future__ import annotations

from mqjax.models.graph import Builder, Graph
from mqjax.models.networks import scaled
from mqjax.models.ops import GlobalAvgPool
from mqjax.models.residual import RELU, basic_stages

CHANNELS = 16, 32, 64, 128
"""Channels of the stages."""


def build(*, width_multiplier: float, resolution: int, classes: int, channels: int) -> Graph:
    """The graph; options as for `mqjax.models.architecture`."""
    net = Builder("resnet18_narrow", resolution=resolution, channels=channels)
    x = net.conv("conv1", "image", scaled(CHANNELS[0], width_multiplier), 3, activation=RELU)
    x = basic_stages(net, x, CHANNELS, width_multiplier)
    net.linear("fc", net.add("pool", GlobalAvgPool(), x), classes)
    return net.build()
