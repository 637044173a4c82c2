"""AlexNet as torchvision has it: one tower, after Krizhevsky 2014. 61,100,840 parameters at 1000 classes, as torchvision
counts them. Its classifier reads what three pools leave of the image, so parameters depend on the resolution."""

from __future__ import annotations

from mqjax.models.graph import Builder, Graph
from mqjax.models.networks import scaled
from mqjax.models.ops import Activation, Flatten, MaxPool

RELU = Activation("relu")
CONVS = (64, 11, 4, 2, True), (192, 5, 1, 2, True), (384, 3, 1, 1, False), (256, 3, 1, 1, False), (256, 3, 1, 1, True)
"""Channels, kernel, stride, padding, and whether a pool follows."""


def build(*, width_multiplier: float, resolution: int, classes: int, channels: int) -> Graph:
    """The graph; options as for `mqjax.models.architecture`."""
    net = Builder("alexnet", resolution=resolution, channels=channels)
    x = "image"
    for number, (width, kernel, stride, padding, pooled) in enumerate(CONVS, start=1):
        outputs = scaled(width, width_multiplier)
        x = net.conv(f"conv{number}", x, outputs, kernel, stride=stride, padding=padding, norm=False, activation=RELU)
        if pooled:
            x = net.add(f"pool{number}", MaxPool(3, 2), x)
    x = net.add("flatten", Flatten(), x)
    for name in ("fc6", "fc7"):
        x = net.linear(name, x, scaled(4096, width_multiplier), activation=RELU)
    net.linear("fc", x, classes)
    return net.build()
