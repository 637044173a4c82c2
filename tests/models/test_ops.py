"""Every op in every meaning: integers give what fake quantization gives ("judge of honesty").

Guards: docs/ACCURACY.md, "How a network is quantized".
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mqjax.data import normalize
from mqjax.models.calibration import calibrate
from mqjax.models.graph import Builder, Graph
from mqjax.models.integer import IntegerNetwork
from mqjax.models.network import Network, parameter_count
from mqjax.models.ops import Activation, AvgPool, Concat, Conv, Flatten, MaxPool
from mqjax.models.quantization import forward

RELU, HARD = Activation("relu"), Activation("hardswish")


def everything() -> Graph:
    """Projection, concatenation, all pools, a sum after an activation, dilation, groups, a depthwise multiplier, oblong
    kernels and padding that differs by side."""
    net = Builder("net", resolution=9, channels=3)
    stem = net.add("max", MaxPool(3, 2, 1), net.conv("stem", "image", 8, (3, 1), activation=HARD))
    skip = net.conv("down", stem, 12, norm=False)
    x = net.conv("grouped", stem, 12, 3, groups=4, activation=Activation("relu", 6.0))
    x = net.sum("add", (net.conv("b", x, 12, 3), skip), activation=RELU)
    y = net.add("dilated", Conv(12, 3, 1, 2, dilation=2), x)
    y = net.sum("late", (net.add("dilated_act", RELU, y), x))
    left = net.conv("left", y, 4, activation=RELU)
    right = net.add("right_act", RELU, net.add("right", Conv(24, (2, 3), 1, (1, 2, 0, 0), groups=12), y))
    # Means of nine: those of an even number end in ties, which floats round to even and integers upwards.
    x = net.add("avg", AvgPool(3, 2), net.add("both", Concat(), left, right))
    net.linear("fc", net.add("flat", Flatten(), x), 5)
    return net.build()


@pytest.mark.parametrize("width", [8, 4])
def test_integers_give_the_logits_of_fake_quantization(width):
    graph = everything()
    model = Network(graph, rngs=nnx.Rngs(1))
    assert parameter_count(model) == graph.parameters
    pixels = np.random.default_rng(0).integers(0, 256, (40, 9, 9, 3), dtype=np.uint8)
    images = jnp.asarray(normalize(pixels))
    network = calibrate(model, images).at(jnp.full(graph.wiring().genes, width))
    wanted = np.asarray(jax.jit(forward, static_argnames="architecture")(graph, network, images))
    levels = np.round(wanted / np.asarray(network.steps)[-1] + np.asarray(network.zeros)[-1])
    found = IntegerNetwork(graph, network)(pixels)
    # Only values in the middle between two levels, within float32 or the stated fixed point, may fall either way.
    assert levels.std() > 20 and np.abs(found - levels).mean() < (0.5 if width == 8 else 4)
    if width == 8:
        folded = np.asarray(nnx.jit(lambda m, x: m(x))(model, images))
        assert np.abs(wanted - folded).mean() < 0.1 * folded.std()
