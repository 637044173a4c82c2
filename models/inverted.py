"""Inverted residual blocks: Sandler et al. 2018, section 3.3."""

from __future__ import annotations

from collections.abc import Sequence

from mqjax.models.graph import Builder
from mqjax.models.networks import scaled_to_eight
from mqjax.models.ops import Activation

RELU6 = Activation("relu", 6.0)


def inverted_stages(
    net: Builder, x: str, stages: Sequence[tuple[int, int, int, int, int]], width_multiplier: float
) -> str:
    """Stages of (expansion, output channels, blocks, stride of the first block, kernel of the depthwise convolutions).

    A block expands, filters each channel and projects without activation; it adds what it read where shapes agree.
    """
    number = 0
    for expansion, filters, repeats, first_stride, kernel in stages:
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
    return x
