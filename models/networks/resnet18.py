"""ResNet-18: He et al. 2016, table 1. 11,689,512 parameters at 1000 classes, as torchvision counts them."""

from __future__ import annotations

from mqjax.models.graph import Builder, Graph
from mqjax.models.networks import scaled
from mqjax.models.ops import GlobalAvgPool, MaxPool
from mqjax.models.residual import RELU, basic_stages

CHANNELS = 64, 128, 256, 512
"""Channels of the stages."""


def build(*, width_multiplier: float, resolution: int, classes: int, channels: int) -> Graph:
    """The graph; options as for `mqjax.models.architecture`."""
    net = Builder("resnet18", resolution=resolution, channels=channels)
    x = net.conv("conv1", "image", scaled(CHANNELS[0], width_multiplier), 7, stride=2, activation=RELU)
    x = net.add("maxpool", MaxPool(3, 2, 1), x)
    x = basic_stages(net, x, CHANNELS, width_multiplier)
    net.linear("fc", net.add("pool", GlobalAvgPool(), x), classes)
    return net.build()
