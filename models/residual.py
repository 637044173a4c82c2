"""Blocks of residual networks: He et al. 2016, section 4.1 and figure 5.

A block's projection runs first, so that the last convolution of the main path ends the block and adds what memory holds.
"""

from __future__ import annotations

from collections.abc import Sequence

from mqjax.models.graph import Builder
from mqjax.models.networks import scaled
from mqjax.models.ops import Activation

RELU = Activation("relu")


def basic_block(net: Builder, name: str, x: str, outputs: int, *, stride: int) -> str:
    """Two 3x3 convolutions; with a 1x1 projection where extent or channels change."""
    skip = _skip(net, name, x, outputs, stride)
    x = net.conv(f"{name}_conv1", x, outputs, 3, stride=stride, activation=RELU)
    x = net.conv(f"{name}_conv2", x, outputs, 3)
    return net.sum(f"{name}_add", (x, skip), activation=RELU)


def basic_stages(net: Builder, x: str, widths: Sequence[int], width_multiplier: float) -> str:
    """Two basic blocks for each of `widths`; all stages but the first halve the extent."""
    for stage, width in enumerate(widths, start=1):
        for block in range(2):
            stride = 2 if stage > 1 and block == 0 else 1
            x = basic_block(net, f"layer{stage}_{block}", x, scaled(width, width_multiplier), stride=stride)
    return x


def bottleneck_block(net: Builder, name: str, x: str, hidden: int, *, stride: int) -> str:
    """1x1, 3x3 and 1x1 convolutions to four times the hidden channels; the stride is in the 3x3, as torchvision has it."""
    skip = _skip(net, name, x, 4 * hidden, stride)
    x = net.conv(f"{name}_conv1", x, hidden, activation=RELU)
    x = net.conv(f"{name}_conv2", x, hidden, 3, stride=stride, activation=RELU)
    x = net.conv(f"{name}_conv3", x, 4 * hidden)
    return net.sum(f"{name}_add", (x, skip), activation=RELU)


def _skip(net: Builder, name: str, x: str, outputs: int, stride: int) -> str:
    if stride == 1 and net.channels(x) == outputs:
        return x
    return net.conv(f"{name}_downsample", x, outputs, stride=stride)
