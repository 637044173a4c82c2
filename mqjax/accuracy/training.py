"""Training a network, in float or quantization-aware: SGD with momentum, a cosine schedule, light augmentation; exact
resume from orbax.

Every random draw derives from (seed, epoch), so a resumed run continues to the same weights.
"""

from __future__ import annotations

import collections
import concurrent.futures
import csv
import dataclasses
import hashlib
import io
import itertools
import json
import os
import time
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
from flax import nnx

from mqjax.accuracy.recipe import TrainConfig
from mqjax.data import EncodedImages, Images, normalize
from mqjax.errors import InputError
from mqjax.io.checkpoints import open_manager, restore_latest
from mqjax.io.files import write_atomically
from mqjax.models.network import Network
from mqjax.models.qat import QuantizedNetwork, Step, reestimate
from mqjax.progress import SILENT, Progress

REESTIMATION_BATCHES = 40
"""Batches that the final batch norm statistics of a quantized network are taken from."""


BATCHES_AHEAD = 2
"""Batches of encoded images that are decoded while the current one is trained on."""

Trainable = Network | QuantizedNetwork


@dataclasses.dataclass(frozen=True)
class EpochResult:
    """What an epoch reached: mean loss, accuracy on the validation images, training images per second."""

    epoch: int
    loss: float
    accuracy: float
    images_per_second: float


def augment(images: np.ndarray, config: TrainConfig, generator: np.random.Generator) -> np.ndarray:
    """Shift, mirror and erase a batch of uint8 images [B, H, W, C], each in its own way."""
    batch, height, width, _ = images.shape
    padded = np.pad(images, ((0, 0), (config.shift,) * 2, (config.shift,) * 2, (0, 0)))
    moves = generator.integers(0, 2 * config.shift + 1, (batch, 2))
    rows = moves[:, :1] + np.arange(height)
    columns = moves[:, 1:] + np.arange(width)
    if config.mirror:
        flip = generator.random(batch) < 0.5
        columns[flip] = columns[flip, ::-1]
    result = padded[np.arange(batch)[:, None, None], rows[:, :, None], columns[:, None]]
    if config.erase:
        corner = generator.integers(-config.erase + 1, [[height, width]], (batch, 2))
        inside = [
            (np.arange(size) >= corner[:, axis, None]) & (np.arange(size) < corner[:, axis, None] + config.erase)
            for axis, size in enumerate((height, width))
        ]
        chosen = generator.random(batch) < 0.5
        result[inside[0][:, :, None] & inside[1][:, None] & chosen[:, None, None]] = 0
    return result


def batches(data: Images | EncodedImages, config: TrainConfig, epoch: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Augmented batches of one epoch, float32 [B, H, W, C] and int32 [B], in the order that (seed, epoch) decides; a last
    part of a batch is left out. Encoded images are decoded by all cores, some batches ahead."""
    generator = np.random.default_rng([config.seed, epoch])
    order = generator.permutation(len(data))
    parts = [order[start : start + config.batch] for start in range(0, len(data) - config.batch + 1, config.batch)]
    if isinstance(data, EncodedImages):
        yield from _decoded(data, config, epoch, parts)
        return
    for rows in parts:
        yield normalize(augment(data.images[rows], config, generator)), data.labels[rows]


def _decoded(
    data: EncodedImages, config: TrainConfig, epoch: int, parts: list[np.ndarray]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Batches of random views; each depends on (seed, epoch, image) alone, whichever thread makes it."""
    pending: collections.deque[list[concurrent.futures.Future]] = collections.deque()
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        try:
            for rows in [*parts, *[None] * BATCHES_AHEAD]:
                if rows is not None:
                    seeds = ([config.seed, epoch, int(i)] for i in rows)
                    views = [pool.submit(data.view, seed[2], seed, mirror=config.mirror) for seed in seeds]
                    pending.append(views)
                if pending and (rows is None or len(pending) > BATCHES_AHEAD):
                    images, labels = zip(*(view.result() for view in pending.popleft()), strict=True)
                    yield normalize(np.stack(images)), np.array(labels, np.int32)
        finally:
            pool.shutdown(cancel_futures=True)


@cache
def make_optimizer(config: TrainConfig, steps: int) -> optax.GradientTransformation:
    """SGD with Nesterov momentum for weights and Adam for learned step sizes, both on a cosine after a warm-up.

    Kept, since `training_step` compiles anew for each optimizer that it has not seen: a front is retrained by one program.
    """
    warmup = min(steps // 10, 1000)

    def schedule(peak: float) -> optax.Schedule:
        return optax.warmup_cosine_decay_schedule(0.0, peak, warmup, max(steps, warmup + 1))

    weights = optax.chain(
        optax.identity() if config.clip_norm is None else optax.clip_by_global_norm(config.clip_norm),
        optax.add_decayed_weights(config.weight_decay, mask=lambda tree: jax.tree.map(lambda x: x.ndim > 1, tree)),
        optax.sgd(schedule(config.learning_rate), momentum=config.momentum, nesterov=True),
    )

    def kinds(params: nnx.State) -> nnx.State:
        return nnx.map_state(lambda _, leaf: leaf.replace("steps" if isinstance(leaf, Step) else "weights"), params)

    return optax.partition({"weights": weights, "steps": optax.adam(schedule(config.step_learning_rate))}, kinds)


@partial(jax.jit, static_argnames=("graph", "optimizer", "smoothing"), donate_argnames=("state", "optimizer_state"))
def training_step(graph, state, optimizer_state, images, labels, *, optimizer, smoothing):
    """One step on a batch: the new (params, rest) of the module `graph`, the new state of the optimizer, the loss."""

    def loss_of(params, rest):
        model = nnx.merge(graph, params, rest, copy=True)
        logits = model(images, train=True)
        targets = optax.smooth_labels(jax.nn.one_hot(labels, logits.shape[-1]), smoothing)
        loss = jnp.mean(optax.softmax_cross_entropy(logits, targets))
        return loss, nnx.state(model, nnx.Not(nnx.Param))

    params, rest = state
    (loss, rest), gradients = jax.value_and_grad(loss_of, has_aux=True)(params, rest)
    updates, optimizer_state = optimizer.update(gradients, optimizer_state, params)
    return (optax.apply_updates(params, updates), rest), optimizer_state, loss


@partial(jax.jit, static_argnames="graph")
def _logits(graph, params, rest, images):
    return nnx.merge(graph, params, rest, copy=True)(images)


def accuracy(model: Trainable, data: Images, batch: int = 500) -> float:
    """Share of correctly classified images."""
    graph, params, rest = nnx.split(model, nnx.Param, ...)
    correct = 0
    for start in range(0, len(data), batch):
        images = data.images[start : start + batch]
        missing = batch - len(images)
        images = np.pad(images, ((0, missing), (0, 0), (0, 0), (0, 0)))
        logits = np.asarray(_logits(graph, params, rest, normalize(images)))[: batch - missing]
        correct += int((logits.argmax(axis=1) == data.labels[start : start + batch]).sum())
    return correct / len(data)


def train(
    model: Trainable,
    data: Images | EncodedImages,
    validation: Images,
    folder: str | Path,
    *,
    config: TrainConfig = TrainConfig(),
    progress: Progress = SILENT,
    report: Callable[[EpochResult], None] | None = None,
) -> list[EpochResult]:
    """Train `model` in place, or continue the run that `folder` holds, to the same result as without the interruption.

    Writes checkpoints after every epoch, metrics.csv and config.json. A quantized network ends with its batch norms'
    statistics estimated anew. progress: advanced after every step, told the loss. report: called after every epoch.
    Raises `InputError` where `folder` holds a run with another configuration or start, or where there is less than one batch.
    """
    if len(data) < config.batch:
        raise InputError(f"{len(data)} training images are fewer than one batch of {config.batch}")
    folder = Path(folder).absolute()
    graph, *state = nnx.split(model, nnx.Param, ...)
    # Fresh copies: steps must not donate the caller's arrays, and compile once for arrays from wherever.
    state = jax.tree.map(lambda leaf: jnp.asarray(np.array(leaf)), tuple(state))
    _claim(folder, model, state, config, len(data))
    per_epoch = len(data) // config.batch
    # Whatever the seed, one optimizer, and so one compiled step.
    optimizer = make_optimizer(dataclasses.replace(config, seed=0), per_epoch * config.epochs)
    optimizer_state = optimizer.init(state[0])
    results: list[EpochResult] = []
    with open_manager(folder / "checkpoints") as manager:
        state, optimizer_state, results = _restore(manager, state, optimizer_state)
        progress.advance(len(results) * per_epoch)
        for epoch in range(len(results), config.epochs):
            start, losses = time.perf_counter(), []
            for images, labels in batches(data, config, epoch):
                state, optimizer_state, loss = training_step(
                    graph, state, optimizer_state, images, labels, optimizer=optimizer, smoothing=config.smoothing
                )
                losses.append(loss)
                progress.advance()
                if progress is not SILENT:  # who reads the loss waits for the step
                    progress.say(f"loss {float(loss):.3f}")
            rate = per_epoch * config.batch / (time.perf_counter() - start)
            nnx.update(model, *jax.tree.map(jnp.copy, state))
            results.append(EpochResult(epoch + 1, float(np.mean(losses)), accuracy(model, validation), rate))
            manager.save(epoch, args=ocp.args.Composite(**_payload(state, optimizer_state, results)))
            write_atomically(folder / "metrics.csv", _epochs_csv(results))
            if report is not None:
                report(results[-1])
        manager.wait_until_finished()
    nnx.update(model, *state)
    if isinstance(model, QuantizedNetwork):
        later = itertools.islice(batches(data, config, config.epochs), REESTIMATION_BATCHES)
        reestimate(model, (jnp.asarray(images) for images, _ in later))
    return results


def _claim(folder: Path, model: Trainable, state: Any, config: TrainConfig, images: int) -> None:
    """Note the run's configuration in its folder; refuse a folder that belongs to something else."""
    start = hashlib.sha256(b"".join(np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(state)))
    content = {
        "architecture": repr(model.architecture),
        "config": dataclasses.asdict(config),
        "images": images,
        "start": start.hexdigest()[:32],
    }
    text = json.dumps(content, indent=1)
    path = folder / "config.json"
    if path.exists():
        if path.read_text() != text:
            raise InputError(
                f"{folder} holds a training run with other settings (see its config.json); use another folder"
            )
    elif folder.exists() and any(folder.iterdir()):
        raise InputError(f"{folder} is not empty and holds no training run; use another folder")
    else:
        write_atomically(path, text)


def _payload(state: Any, optimizer_state: Any, results: list[EpochResult]) -> dict[str, Any]:
    leaves = {"params": nnx.to_pure_dict(state[0]), "rest": nnx.to_pure_dict(state[1])}
    return {
        "arrays": ocp.args.StandardSave({**leaves, "optimizer": jax.tree.leaves(optimizer_state)}),
        "results": ocp.args.JsonSave({"epochs": [dataclasses.asdict(result) for result in results]}),
    }


def _restore(manager: ocp.CheckpointManager, state: Any, optimizer_state: Any) -> tuple[Any, Any, list[EpochResult]]:
    """The latest checkpoint that can be read; without one, the fresh state."""
    template = _payload(state, optimizer_state, [])["arrays"].item
    found = restore_latest(
        manager, ocp.args.Composite(arrays=ocp.args.StandardRestore(template), results=ocp.args.JsonRestore())
    )
    if found is None:
        return state, optimizer_state, []
    _, saved = found
    nnx.replace_by_pure_dict(state[0], saved["arrays"]["params"])
    nnx.replace_by_pure_dict(state[1], saved["arrays"]["rest"])
    optimizer_state = jax.tree.unflatten(jax.tree.structure(optimizer_state), saved["arrays"]["optimizer"])
    return state, optimizer_state, [EpochResult(**result) for result in saved["results"]["epochs"]]


def _epochs_csv(results: list[EpochResult]) -> str:
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, [field.name for field in dataclasses.fields(EpochResult)])
    writer.writeheader()
    writer.writerows(dataclasses.asdict(result) for result in results)
    return buffer.getvalue()
