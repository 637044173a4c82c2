"""Accuracy of bit-width assignments: after calibration alone, or after a short quantization-aware training.

One compiled program serves all assignments. Assignments are evaluated one after the other, the default on a CPU, or several
at once by `vmap`, the default elsewhere; `mqjax bench` measures both.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Callable
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from mqjax.accuracy.recipe import TrainConfig
from mqjax.accuracy.signature import signature
from mqjax.accuracy.trained import Trained, calibration_images, trained_network
from mqjax.accuracy.training import batches, make_optimizer, training_step
from mqjax.data import Images, normalize
from mqjax.errors import InputError
from mqjax.models.calibration import Quantizer
from mqjax.models.graph import Graph
from mqjax.models.qat import QuantizedNetwork, batch_statistics
from mqjax.models.quantization import Quantized, forward, round_kernels
from mqjax.progress import SILENT, Progress
from mqjax.types import WIDTHS, Layer

REVISION = 4
"""Part of cache keys: raised whenever this code would find other accuracies for the same network, method and images."""

PIXELS_AT_ONCE = {"cpu": 2**21, "gpu": 2**24, "tpu": 2**24}
"""Pixels of a batch, times the assignments evaluated together, by platform: 8 and 64 of the embedded networks."""

FINETUNING = TrainConfig(epochs=1, batch=64, learning_rate=0.01, clip_norm=1.0)
"""Settings of short training; its steps are those of `parse_method`."""


def best_at_once(resolution: int, batch: int, finetune_steps: int | None) -> int:
    """How many assignments to evaluate at once on this platform, by the measurements of `mqjax bench`: on CPU a loop is
    faster without training, which has no overhead to share."""
    platform = jax.default_backend()
    if platform == "cpu" and finetune_steps is None:
        return 1
    return max(1, PIXELS_AT_ONCE.get(platform, PIXELS_AT_ONCE["cpu"]) // (batch * resolution**2))


def parse_method(text: str) -> int | None:
    """Training steps of "finetune:K" (0: batch norm statistics alone), or `None` for "ptq". Raises `InputError`."""
    match = re.fullmatch(r"finetune:(\d{1,6})", text)
    if match is None and text != "ptq":
        raise InputError(f"the accuracy must be ptq or finetune:K, with K training steps, not {text!r}")
    return None if match is None else int(match[1])


@cache
def _compiled(function: Callable[..., Any], static: tuple[Any, ...], axes: tuple[int | None, ...], alone: bool) -> Any:
    """See `QuantizedAccuracy._program`. With only one assignment at a time there is nothing to map over."""
    bound = partial(function, *static)

    def of_one(*args: Any) -> Any:
        args = tuple(a if axis is None else jax.tree.map(lambda x: x[0], a) for a, axis in zip(args, axes, strict=True))
        return jax.tree.map(lambda x: x[None], bound(*args))

    return jax.jit(of_one if alone else jax.vmap(bound, axes))


def _correct(architecture: Graph, network: Quantized, kernels: Any, images: jax.Array, labels: jax.Array) -> jax.Array:
    """Number of correctly classified images, int32."""
    logits = forward(architecture, network, images, kernels=kernels)
    return jnp.sum(jnp.argmax(logits, axis=1) == labels, dtype=jnp.int32)


def _begin(graph: nnx.GraphDef, optimizer: Any, state: nnx.State, quantizer: Quantizer, widths: jax.Array) -> Any:
    """The state (parameters, rest) of a network at the start of its short training, and that of the optimizer."""
    model = QuantizedNetwork(nnx.merge(graph, state, copy=True), quantizer, widths)
    _, params, rest = nnx.split(model, nnx.Param, ...)
    return (params, rest), optimizer.init(params)


def _finetuning_step(
    graph: nnx.GraphDef, optimizer: Any, state: Any, optimizer_state: Any, images: Any, labels: Any
) -> Any:
    state, optimizer_state, _ = training_step(
        graph, state, optimizer_state, images, labels, optimizer=optimizer, smoothing=FINETUNING.smoothing
    )
    return state, optimizer_state


def _statistics(graph: nnx.GraphDef, state: Any, images: jax.Array) -> nnx.State:
    return batch_statistics(graph, nnx.merge_state(*state), images)


def _finish(graph: nnx.GraphDef, state: Any, statistics: nnx.State) -> Quantized:
    model = nnx.merge(graph, *state, copy=True)
    nnx.update(model, statistics)
    return model.quantized()


class QuantizedAccuracy:
    """Accuracy of a trained network at any bit-widths, on some images: call it with genomes.

    finetune_steps: `None` for post-training quantization; K for K steps of quantization-aware training from the shared
    weights, on the same batches for every assignment, after which the batch norms' statistics are estimated anew.
    at_once: assignments evaluated together; default by `best_at_once`. settings: what `describe` tells of the images.
    """

    def __init__(
        self,
        trained: Trained,
        data: Images,
        *,
        finetune_steps: int | None = None,
        batch: int = 256,
        at_once: int | None = None,
        settings: dict[str, Any] | None = None,
    ) -> None:
        self.trained, self.architecture = trained, trained.model.architecture
        self.finetune_steps = finetune_steps
        if finetune_steps and len(trained.images) < FINETUNING.batch:
            raise InputError(
                f"short training needs a batch of {FINETUNING.batch} images, but there are {len(trained.images)}"
            )
        self._data, self._batch, self._settings = data, min(batch, len(data)), dict(settings or {})
        self.at_once = at_once or best_at_once(self.architecture.resolution, batch, finetune_steps)

    def on(self, data: Images, **settings: Any) -> QuantizedAccuracy:
        """The same networks judged on other images."""
        settings = {**self._settings, **settings}
        return QuantizedAccuracy(
            self.trained,
            data,
            finetune_steps=self.finetune_steps,
            batch=self._batch,
            at_once=self.at_once,
            settings=settings,
        )

    @property
    def layers(self) -> list[Layer]:
        """The network's layers in genome order."""
        return self.architecture.layers()

    def __call__(self, genomes: np.ndarray, *, progress: Progress = SILENT) -> np.ndarray:
        """Accuracy float64 [N] of genomes, int [N, T + L] (see `Wiring`): widths of stored tensors and kernels, in 2..8. Of
        a network whose layers read one new tensor each they may be given as [N, L, 2], input and weight width.

        progress: advanced after each genome.
        """
        genomes = self.architecture.wiring().checked(genomes)
        values = np.empty(len(genomes))
        # GPUs would multiply float32 with 10 bits of mantissa, which does not hold products of 8-bit integers.
        with jax.enable_x64(False), jax.default_matmul_precision("highest"):
            for start in range(0, len(genomes), self.at_once):
                rows = np.arange(start, min(start + self.at_once, len(genomes)))
                # A last part of a chunk is filled up, so that it needs no program of its own.
                filled = np.resize(rows, self.at_once)
                values[rows] = self._accuracies(jnp.asarray(genomes[filled], jnp.int32))[: len(rows)]
                progress.advance(len(rows))
        return values

    def _accuracies(self, widths: jax.Array) -> np.ndarray:
        """Accuracies float64 [A] of as many assignments int32 [A, T + L] as are evaluated at once."""
        networks = self.networks(widths)
        kernels = self._program(round_kernels, self.architecture, axes=(0,))(networks)
        correct = self._program(_correct, self.architecture, axes=(0, 0, None, None))
        counts, size = jnp.zeros(len(widths), jnp.int32), len(self._data)
        for start in range(0, size, self._batch):
            rows = np.arange(start, start + self._batch)
            images = normalize(self._data.images[rows % size])
            labels = np.where(rows < size, self._data.labels[rows % size], -1)
            # The sum stays on the device, so that batches follow each other without waiting.
            counts += correct(networks, kernels, images, labels)
        return np.asarray(counts) / size

    def networks(self, widths: jax.Array) -> Quantized:
        """The quantized networks of `at_once` assignments int32 [A, T + L], every leaf with an axis [A] in front."""
        trained, images = self.trained, self.trained.images
        if self.finetune_steps is None:
            return self._program(Quantizer.at, axes=(None, 0))(trained.quantizer, widths)
        graph, optimizer = self._tuning
        begin = self._program(_begin, nnx.graphdef(trained.model), optimizer, axes=(None, None, 0))
        state, optimizer_state = begin(nnx.state(trained.model), trained.quantizer, widths)
        step = self._program(_finetuning_step, graph, optimizer, axes=(0, 0, None, None))
        epochs = (batches(images, FINETUNING, epoch) for epoch in itertools.count())
        for batch, labels in itertools.islice(itertools.chain.from_iterable(epochs), self.finetune_steps):
            state, optimizer_state = step(state, optimizer_state, batch, labels)
        measure = self._program(_statistics, graph, axes=(0, None))
        shown = normalize(calibration_images(images))
        found = [measure(state, part) for part in np.array_split(shown, max(1, len(shown) // FINETUNING.batch))]
        statistics = jax.tree.map(lambda *values: sum(values[1:], values[0]) / len(values), *found)
        return self._program(_finish, graph, axes=(0, 0))(state, statistics)

    @cached_property
    def _tuning(self) -> tuple[nnx.GraphDef, optax.GradientTransformation]:
        """The graph of the networks that short training trains, and its optimizer."""
        widths = jnp.full(self.architecture.wiring().genes, WIDTHS[-1])
        model = QuantizedNetwork(nnx.clone(self.trained.model), self.trained.quantizer, widths)
        return nnx.graphdef(model), make_optimizer(FINETUNING, self.finetune_steps or 0)

    def _program(self, function: Callable[..., Any], *static: Any, axes: tuple[int | None, ...]) -> Callable[..., Any]:
        """`function` over the leading axis [A] of the arguments whose entry in `axes` is 0, with `static` put first."""
        return _compiled(function, static, axes, self.at_once == 1)

    @cached_property
    def float_accuracy(self) -> float:
        """Accuracy of the network in float on the same images."""
        from mqjax.accuracy.training import accuracy

        with jax.enable_x64(False):
            return accuracy(self.trained.model, self._data)

    @cached_property
    def cache_key(self) -> str:
        """A digest of weights, grids, method and images: equal keys mean equal accuracies."""
        digest = hashlib.sha256(f"({REVISION}, {signature(self.architecture)}, {self.finetune_steps})".encode())
        leaves = [*jax.tree.leaves(self.trained.quantizer), self._data.images, self._data.labels]
        if self.finetune_steps is not None:
            digest.update(repr(FINETUNING).encode())
            # Training moves kernels and batch norms apart, which the quantizer holds folded into each other.
            leaves += jax.tree.leaves(nnx.state(self.trained.model))
            leaves += [self.trained.images.images, self.trained.images.labels]
        for leaf in leaves:
            digest.update(np.ascontiguousarray(leaf).tobytes())
        return digest.hexdigest()[:32]

    def describe(self) -> dict[str, Any]:
        """Settings for a run's config.json."""
        kind = "ptq" if self.finetune_steps is None else f"finetune:{self.finetune_steps}"
        return {"kind": kind, "images": len(self._data), **self._settings}


def default_accuracy(
    network: str = "mobilenetv1",
    dataset: str = "fashion_mnist",
    *,
    method: str = "ptq",
    checkpoint: str | Path | None = None,
    split: str | None = None,
    num_images: int | None = 1024,
    data_dir: str | Path | None = None,
    at_once: int | None = None,
) -> QuantizedAccuracy:
    """Accuracy of a trained network on the first `num_images` images (default 1024; `None`: all) of a split (default:
    those for validation, see `Dataset.split`).

    method: "ptq" or "finetune:K", with K training steps. checkpoint, data_dir: see `trained_network`.
    Raises `InputError` for unknown networks, data sets, splits and methods, and for a checkpoint that does not fit.
    """
    steps = parse_method(method)
    trained = trained_network(network, dataset, checkpoint=checkpoint, data_dir=data_dir)
    resolution = trained.model.architecture.resolution
    split = split or trained.dataset.split("validation")
    return QuantizedAccuracy(
        trained,
        trained.dataset.sized(split, resolution, limit=num_images),
        finetune_steps=steps,
        at_once=at_once,
        settings={
            "network": network,
            "dataset": dataset,
            "split": split,
            "checkpoint": trained.name,
            "width_multiplier": trained.about["width_multiplier"],
            "resolution": resolution,
        },
    )
