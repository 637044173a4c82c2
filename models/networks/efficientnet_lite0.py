"""EfficientNet-Lite0: EfficientNet-B0 (Tan and Le 2019, table 1) without squeeze-and-excitation and with ReLU6, stem and
last convolution not scaled.

4,652,008 parameters at 1000 classes: 4.65 million, as timm lists `tf_efficientnet_lite0` in its results-imagenet.csv.
"""

from __future__ import annotations

from mqjax.models.graph import Builder, Graph
from mqjax.models.inverted import RELU6, inverted_stages
from mqjax.models.ops import GlobalAvgPool

STAGES = (
    (1, 16, 1, 1, 3),
    (6, 24, 2, 2, 3),
    (6, 40, 2, 2, 5),
    (6, 80, 3, 2, 3),
    (6, 112, 3, 1, 5),
    (6, 192, 4, 2, 5),
    (6, 320, 1, 1, 3),
)
"""Expansion, output channels, blocks, stride of the first block, kernel of the depthwise convolutions."""


def build(*, width_multiplier: float, resolution: int, classes: int, channels: int) -> Graph:
    """The graph; options as for `mqjax.models.architecture`."""
    net = Builder("efficientnet_lite0", resolution=resolution, channels=channels)
    x = net.conv("stem", "image", 32, 3, stride=2, activation=RELU6)
    x = inverted_stages(net, x, STAGES, width_multiplier)
    x = net.conv("head", x, 1280, activation=RELU6)
    net.linear("fc", net.add("pool", GlobalAvgPool(), x), classes)
    return net.build()
