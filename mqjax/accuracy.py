"""Accuracy of bit-width assignments: post-training quantization, one compiled program for all of them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mqjax.data import Images, load_dataset, normalize
from mqjax.errors import InputError
from mqjax.models.architecture import Architecture
from mqjax.models.checkpoint import load_checkpoint
from mqjax.models.mobilenet import MobileNet
from mqjax.models.quantization import Quantizer, Scheme, calibrate, forward, round_kernels
from mqjax.types import WIDTHS, Layer

DEFAULT_CHECKPOINTS = {
    ("mobilenetv1", "fashion_mnist"): "mobilenetv1_025_fashion_mnist",
    ("mobilenetv2", "fashion_mnist"): "mobilenetv2_035_fashion_mnist",
}
"""Shipped checkpoints by network and data set."""

CALIBRATION_IMAGES = 512


_kernels = jax.jit(round_kernels, static_argnames="architecture")


@partial(jax.jit, static_argnames=("architecture", "symmetric"))
def _correct(
    architecture: Architecture,
    quantizer: Quantizer,
    kernels: dict[str, jax.Array],
    images: jax.Array,
    labels: jax.Array,
    widths: jax.Array,
    symmetric: bool,
) -> jax.Array:
    """Number of correctly classified images, int32."""
    logits = forward(architecture, quantizer, images, widths, kernels=kernels, symmetric=symmetric)
    return jnp.sum(jnp.argmax(logits, axis=1) == labels, dtype=jnp.int32)


class PostTrainingAccuracy:
    """Accuracy of a calibrated network at any bit-widths, on some images: call it with genomes.

    settings: what `describe` tells of it.
    """

    def __init__(
        self,
        model: MobileNet,
        quantizer: Quantizer,
        data: Images,
        *,
        scheme: Scheme = Scheme(),
        batch: int = 256,
        settings: dict[str, Any] | None = None,
    ) -> None:
        self.architecture = model.architecture
        self._model, self._quantizer, self._data, self._scheme = model, quantizer, data, scheme
        self._batch, self._settings = min(batch, len(data)), dict(settings or {})

    def on(self, data: Images, **settings: Any) -> PostTrainingAccuracy:
        """The same quantized network judged on other images."""
        settings = {**self._settings, **settings}
        return PostTrainingAccuracy(
            self._model, self._quantizer, data, scheme=self._scheme, batch=self._batch, settings=settings
        )

    @property
    def layers(self) -> list[Layer]:
        """The network's layers in genome order."""
        return self.architecture.layers()

    def __call__(self, genomes: np.ndarray, *, progress: Callable[[], None] = lambda: None) -> np.ndarray:
        """Accuracy float64 [N] of genomes, int [N, L, 2]: input and weight width of every layer, in 2..8.

        progress is called after each genome.
        """
        genomes = np.asarray(genomes)
        expected = (len(self.architecture.convs), 2)
        if genomes.ndim != 3 or genomes.shape[1:] != expected:
            raise InputError(f"genomes must have the shape [N, {expected[0]}, 2], not {list(genomes.shape)}")
        if genomes.size and not (genomes.min() >= WIDTHS[0] and genomes.max() <= WIDTHS[-1]):
            raise InputError(f"bit-widths must lie in {WIDTHS[0]}..{WIDTHS[-1]}")
        values = np.empty(len(genomes))
        for i, genome in enumerate(genomes.astype(np.int32)):
            values[i] = self._accuracy(genome)
            progress()
        return values

    def _accuracy(self, widths: np.ndarray) -> float:
        size, count = len(self._data), jnp.int32(0)
        with jax.enable_x64(False):
            kernels = _kernels(self.architecture, self._quantizer, widths)
            for start in range(0, size, self._batch):
                rows = np.arange(start, start + self._batch)
                images = normalize(self._data.images[rows % size])
                labels = np.where(rows < size, self._data.labels[rows % size], -1)
                symmetric = self._scheme.symmetric_activations
                # The sum stays on the device, so that batches follow each other without waiting.
                count += _correct(self.architecture, self._quantizer, kernels, images, labels, widths, symmetric)
        return int(count) / size

    @cached_property
    def float_accuracy(self) -> float:
        """Accuracy of the network in float on the same images."""
        from mqjax.training import accuracy

        with jax.enable_x64(False):
            return accuracy(self._model, self._data)

    @cached_property
    def cache_key(self) -> str:
        """A digest of weights, grids and images: equal keys mean equal accuracies."""
        digest = hashlib.sha256(repr((self.architecture, self._scheme)).encode())
        for leaf in (*jax.tree.leaves(self._quantizer), self._data.images, self._data.labels):
            digest.update(np.ascontiguousarray(leaf).tobytes())
        return digest.hexdigest()[:32]

    def describe(self) -> dict[str, Any]:
        """Settings for a run's config.json."""
        return {"kind": "ptq", "images": len(self._data), **self._settings}


def default_accuracy(
    network: str = "mobilenetv1",
    dataset: str = "fashion_mnist",
    *,
    checkpoint: str | Path | None = None,
    split: str = "validation",
    num_images: int | None = 1024,
    data_dir: str | Path | None = None,
) -> PostTrainingAccuracy:
    """Post-training accuracy of a trained network on the first `num_images` images (default 1024; `None`: all) of a
    split, calibrated on training images. checkpoint: a folder, a shipped one's name, or the shipped one that fits.

    Raises `InputError` for unknown networks, data sets and splits, and for a checkpoint that does not fit.
    """
    data = load_dataset(dataset, data_dir=data_dir)
    if checkpoint is None:
        if (network, dataset) not in DEFAULT_CHECKPOINTS:
            raise InputError(
                f"no checkpoint of {network!r} for {dataset!r} ships; make one with mqjax train and pass --checkpoint"
            )
        checkpoint = DEFAULT_CHECKPOINTS[network, dataset]
    model, about = load_checkpoint(checkpoint)
    if model.architecture.name != network or about["dataset"] != dataset:
        raise InputError(
            f"the checkpoint {checkpoint} is of {model.architecture.name!r} on {about['dataset']!r}, "
            f"not of {network!r} on {dataset!r}"
        )
    resolution, scheme = model.architecture.resolution, Scheme()
    calibration = data.sized("train", resolution, limit=CALIBRATION_IMAGES)
    with jax.enable_x64(False):
        quantizer = calibrate(model, jnp.asarray(normalize(calibration.images)), scheme)
    return PostTrainingAccuracy(
        model,
        quantizer,
        data.sized(split, resolution, limit=num_images),
        scheme=scheme,
        settings={
            "network": network,
            "dataset": dataset,
            "split": split,
            "checkpoint": str(checkpoint),
            "width_multiplier": about["width_multiplier"],
            "resolution": resolution,
        },
    )
