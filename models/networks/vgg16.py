"""VGG-16: Simonyan and Zisserman 2015, table 1, column D. 138,357,544 parameters at 1000 classes, as torchvision counts
them. Its classifier reads what five pools leave of the image, so parameters depend on the resolution."""

from __future__ import annotations

from mqjax.models.graph import Builder, Graph
from mqjax.models.networks import scaled
from mqjax.models.ops import Activation, Flatten, MaxPool

RELU = Activation("relu")
STAGES = (64, 2), (128, 2), (256, 3), (512, 3), (512, 3)
"""Channels and convolutions between pools."""


def build(*, width_multiplier: float, resolution: int, classes: int, channels: int) -> Graph:
    """The graph; options as for `mqjax.models.architecture`."""
    net = Builder("vgg16", resolution=resolution, channels=channels)
    x = "image"
    for stage, (width, convs) in enumerate(STAGES, start=1):
        for number in range(1, convs + 1):
            outputs = scaled(width, width_multiplier)
            x = net.conv(f"conv{stage}_{number}", x, outputs, 3, norm=False, activation=RELU)
        x = net.add(f"pool{stage}", MaxPool(2, 2), x)
    x = net.add("flatten", Flatten(), x)
    for name in ("fc1", "fc2"):
        x = net.linear(name, x, scaled(4096, width_multiplier), activation=RELU)
    net.linear("fc", x, classes)
    return net.build()
