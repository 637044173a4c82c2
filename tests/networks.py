"""Networks with random weights that NumPy draws: Flax's own initial weights compile a program for each shape."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from mqjax.models.graph import Graph
from mqjax.models.network import Network


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
