"""MobileNetV2: Sandler et al. 2018, table 2. 3,504,872 parameters at 1000 classes."""

from __future__ import annotations

from mqjax.models.graph import Builder, Graph
from mqjax.models.networks import scaled_to_eight
from mqjax.models.ops import Activation, GlobalAvgPool

RELU6 = Activation("relu", 6.0)
STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
"""Expansion, output channels, blocks, and stride of the first block."""


def build(*, width_multiplier: float, resolution: int, classes: int, channels: int) -> Graph:
    """The graph; options as for `mqjax.models.architecture`."""
    net = Builder("mobilenetv2", resolution=resolution, channels=channels)
    x = net.conv("conv1", "image", scaled_to_eight(32, width_multiplier), 3, stride=2, activation=RELU6)
    number = 0
    for expansion, filters, repeats, first_stride in STAGES:
        outputs = scaled_to_eight(filters, width_multiplier)
        for stride in (first_stride, *[1] * (repeats - 1)):
            number += 1
            entry = x
            if expansion > 1:
                x = net.conv(f"expand{number}", x, net.channels(x) * expansion, activation=RELU6)
            x = net.depthwise(f"dw{number}", x, 3, stride=stride, activation=RELU6)
            x = net.conv(f"project{number}", x, outputs)
            if stride == 1 and net.channels(entry) == outputs:
                x = net.sum(f"add{number}", (x, entry))
    last = scaled_to_eight(1280, width_multiplier) if width_multiplier > 1 else 1280
    x = net.conv("conv_last", x, last, activation=RELU6)
    net.linear("fc", net.add("pool", GlobalAvgPool(), x), classes)
    return net.build()
