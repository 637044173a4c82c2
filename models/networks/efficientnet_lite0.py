"""EfficientNet-Lite0: EfficientNet-B0 (Tan and Le 2019, table 1) without squeeze-and-excitation and with ReLU6, stem and
last convolution not scaled.

4,652,008 parameters at 1000 classes: 4.65 million, as timm lists `tf_efficientnet_lite0` in its results-imagenet.csv.
"""

from __future__ import annotations

from mqjax.models.graph import Builder, Graph
from mqjax.models.networks import scaled_to_eight
from mqjax.models.ops import Activation, GlobalAvgPool

RELU6 = Activation("relu", 6.0)
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
    number = 0
    for expansion, filters, repeats, first_stride, kernel in STAGES:
        outputs = scaled_to_eight(filters, width_multiplier)
        for stride in (first_stride, *[1] * (repeats - 1)):
            number += 1
            entry = x
            if expansion > 1:
                x = net.conv(f"expand{number}", x, net.channels(x) * expansion, activation=RELU6)
            x = net.depthwise(f"dw{number}", x, kernel, stride=stride, activation=RELU6)
            x = net.conv(f"project{number}", x, outputs)
            if stride == 1 and net.channels(entry) == outputs:
                x = net.sum(f"add{number}", (x, entry))
    x = net.conv("head", x, 1280, activation=RELU6)
    net.linear("fc", net.add("pool", GlobalAvgPool(), x), classes)
    return net.build()
