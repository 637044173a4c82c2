"""Quantization-aware training: a network that rounds its weights and stored tensors while it learns, step sizes included.

Learned step size quantization (Esser et al. 2020): steps start from calibration and are learned, as logarithms, so that
they stay positive and move by shares of themselves; zero points stay. Batch norms use the statistics of the batch in
training; after it these are estimated anew (`reestimate`), since a running mean lags behind the rounded weights.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from mqjax.models.calibration import Quantizer, fold, magnitude
from mqjax.models.network import MOMENTUM, Network, walk
from mqjax.models.quantization import Quantized, load, round_to, split_genome
from mqjax.types import WIDTHS


class Step(nnx.Param):
    """Base-2 logarithm of learned step sizes."""


class Fixed(nnx.Variable):
    """What training leaves as it is."""


class QuantizedNetwork(nnx.Module):
    """`network` at the widths of a genome int32 [T + L] (for a chain also [L, 2]), with the steps that `quantizer` found for it to begin with.

    Widths are part of the state, not of the graph, so all assignments share one compiled training step.
    """

    def __init__(self, network: Network, quantizer: Quantizer, genome: Array) -> None:
        self.architecture, self.network = network.architecture, network
        start = quantizer.at(genome)
        row = start.kernel_widths - WIDTHS[0]
        self.kernel_steps = nnx.Dict(
            {name: Step(jnp.log2(quantizer.weights[name].step[row[n]])) for n, name in enumerate(quantizer.names)}
        )
        self.steps = Step(jnp.log2(start.steps))
        self.zeros, self.widths, self.signed = Fixed(start.zeros), Fixed(genome.reshape(-1)), Fixed(start.signed)

    def __call__(self, x: Array, *, train: bool = False) -> Array:
        """Logits [B, classes] of images [B, H, W, channels]; in training, batch norms use the batch's own statistics."""
        steps, zeros, signed = jnp.exp2(self.steps[...]), self.zeros[...], self.signed[...]
        widths, weight_widths = split_genome(self.architecture.wiring(), self.widths[...])
        kernels = {
            node.name: round_to(
                self.network.blocks[node.name].kernel[...],
                jnp.exp2(self.kernel_steps[node.name][...]),
                0.0,
                weight_widths[n],
                signed=True,
            )
            for n, node in enumerate(self.architecture.kernels)
        }
        return walk(
            self.architecture,
            load(x, steps[0]),
            lambda x, node: self.network.blocks[node.name](x, node.op, train=train, kernel=kernels[node.name]),
            lambda x, _, n: round_to(x, steps[n], zeros[n], widths[n], signed=signed),
        )

    def quantized(self) -> Quantized:
        """What an accelerator would load: batch norms folded in."""
        kernel_steps = {node.name: self.kernel_steps[node.name][...] for node in self.architecture.kernels}
        fixed = (value[...] for value in (self.zeros, self.widths, self.signed))
        return quantize(self.network, kernel_steps, self.steps[...], *fixed)


def quantize(
    network: Network, kernel_steps: dict[str, Array], steps: Array, zeros: Array, widths: Array, signed: Array
) -> Quantized:
    """Fold the batch norms of a trained network; the logarithms of its steps as in `QuantizedNetwork`; widths: a genome."""
    gains, biases = fold(network)
    tensor_widths, kernel_widths = split_genome(network.architecture.wiring(), widths)
    return Quantized(
        tensor_widths=tensor_widths,
        kernel_widths=kernel_widths,
        kernels={name: network.blocks[name].kernel[...] * gain for name, gain in gains.items()},
        kernel_steps={name: jnp.exp2(kernel_steps[name]) * magnitude(gain) for name, gain in gains.items()},
        biases=biases,
        steps=jnp.exp2(steps),
        zeros=zeros,
        signed=signed,
    )


def reestimate(model: QuantizedNetwork, batches: Iterable[Array]) -> None:
    """Replace the statistics of every batch norm by their mean over batches of images."""
    graph, state = nnx.split(model)
    found = [batch_statistics(graph, state, images) for images in batches]
    nnx.update(model, jax.tree.map(lambda *values: sum(values[1:], values[0]) / len(values), *found))


@partial(jax.jit, static_argnames="graph")
def batch_statistics(graph: nnx.GraphDef, state: nnx.State, images: Array) -> nnx.State:
    """Means and variances of one batch at every batch norm of the module (graph, state)."""
    model = nnx.merge(graph, state, copy=True)
    nnx.update(model, jax.tree.map(jnp.zeros_like, nnx.state(model, nnx.BatchStat)))
    model(images, train=True)
    # From zero, the running statistics have become (1 - momentum) times those of the batch.
    return jax.tree.map(lambda value: value / (1 - MOMENTUM), nnx.state(model, nnx.BatchStat))
