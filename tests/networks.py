"""Networks with random weights that NumPy draws: Flax's own initial weights compile a program for each shape."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from mqjax.models.graph import Builder, Graph
from mqjax.models.network import Network
from mqjax.models.ops import Activation, GlobalAvgPool


def drawn(graph: Graph, seed: int = 0) -> Network:
    """A network of normally distributed kernels, whose outputs neither grow nor fade, and untouched batch norms."""
    network = nnx.eval_shape(lambda: Network(graph, rngs=nnx.Rngs(0)))
    generator = np.random.default_rng(seed)

    def value(path: Any, leaf: Any) -> jax.Array:
        name = jax.tree_util.keystr(path)
        if "kernel" in name:
            found = generator.normal(0, np.sqrt(2 / np.prod(leaf.shape[:-1])), leaf.shape)
        else:
            found = np.full(leaf.shape, float("scale" in name or "var" in name))
        return jnp.asarray(found, leaf.dtype)

    state = nnx.state(network, (nnx.Param, nnx.BatchStat))
    nnx.update(network, jax.tree_util.tree_map_with_path(value, state))
    return network


def tiny_graph() -> Graph:
    """A network for 32x32 images of one channel, whose programs compile in seconds."""
    net, relu6 = Builder("tiny", resolution=32, channels=1), Activation("relu", 6.0)
    x = net.conv("conv", "image", 8, 5, stride=4, activation=relu6)
    x = net.conv("dw", x, 8, 3, stride=2, groups=8, activation=relu6)
    x = net.conv("pw", x, 16, activation=relu6)
    net.linear("fc", net.add("pool", GlobalAvgPool(), x), 10)
    return net.build()


def shallow_graph() -> Graph:
    """Every kind of layer, a stride, a residual sum and a pool of more than one pixel. Few layers, since in a deep network with
    random weights one value that rounds the other way changes everything after it."""
    relu6, net = Activation("relu", 6.0), Builder("mobilenetv2", resolution=9, channels=3)
    entry = net.conv("project1", net.conv("conv1", "image", 8, 3, stride=2, activation=relu6), 6)
    x = net.depthwise("dw2", net.conv("expand2", entry, 24, activation=relu6), 3, activation=relu6)
    x = net.sum("add2", (net.conv("project2", x, 6), entry))
    net.linear("fc", net.add("pool", GlobalAvgPool(), x), 5)
    return net.build()
