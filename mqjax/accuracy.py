"""Accuracy of bit-width assignments: post-training quantization, one compiled program for all of them."""

from __future__ import annotations

import hashlib
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mqjax.data import Dataset, Images, load_dataset, normalize, pad_to
from mqjax.errors import InputError
from mqjax.models.architecture import Architecture
from mqjax.models.checkpoint import load_checkpoint
from mqjax.models.mobilenet import MobileNet
from mqjax.models.quantization import Quantizer, Scheme, calibrate, forward
from mqjax.types import WIDTHS, Layer

DEFAULT_CHECKPOINTS = {("mobilenetv1", "fashion_mnist"): "mobilenetv1_025_fashion_mnist"}
"""Shipped checkpoints by network and data set."""

CALIBRATION_IMAGES = 512


@partial(jax.jit, static_argnames=("architecture", "symmetric"))
def _correct(
    architecture: Architecture, quantizer: Quantizer, images: jax.Array, labels: jax.Array, widths, symmetric: bool
) -> jax.Array:
    """Number of correctly classified images, int32."""
    logits = forward(architecture, quantizer, images, widths, symmetric=symmetric)
    return jnp.sum(jnp.argmax(logits, axis=1) == labels, dtype=jnp.int32)


class PostTrainingAccuracy:
    """Accuracy of a calibrated network at any bit-widths: call it with genomes.

    model: the float network. calibration: images that choose the grids. data: the images that are classified.
    """

    def __init__(
        self,
        model: MobileNet,
        calibration: Images,
        data: Images,
        *,
        scheme: Scheme = Scheme(),
        batch: int = 256,
        settings: dict[str, Any] | None = None,
    ) -> None:
        self.architecture = model.architecture
        self._scheme, self._batch, self._settings = scheme, min(batch, len(data)), dict(settings or {})
        with jax.enable_x64(False):
            self._quantizer = calibrate(model, jnp.asarray(normalize(calibration.images)), scheme)
        self._data = data
        self._model = model

    @property
    def layers(self) -> list[Layer]:
        """The network's layers in genome order."""
        return self.architecture.layers()

    def __call__(self, genomes: np.ndarray) -> np.ndarray:
        """Accuracy float64 [N] of genomes, int [N, L, 2]: input and weight width of every layer, in 2..8."""
        genomes = np.asarray(genomes)
        expected = (len(self.architecture.convs), 2)
        if genomes.ndim != 3 or genomes.shape[1:] != expected:
            raise InputError(f"genomes must have the shape [N, {expected[0]}, 2], not {list(genomes.shape)}")
        if genomes.size and not (genomes.min() >= WIDTHS[0] and genomes.max() <= WIDTHS[-1]):
            raise InputError(f"bit-widths must lie in {WIDTHS[0]}..{WIDTHS[-1]}")
        return np.array([self._accuracy(genome.astype(np.int32)) for genome in genomes], np.float64)

    def _accuracy(self, widths: np.ndarray) -> float:
        counts = []
        with jax.enable_x64(False):
            for start in range(0, len(self._data), self._batch):
                rows = np.arange(start, start + self._batch)
                images = normalize(self._data.images[rows % len(self._data)])
                labels = np.where(rows < len(self._data), self._data.labels[rows % len(self._data)], -1)
                counts.append(
                    _correct(
                        self.architecture,
                        self._quantizer,
                        images,
                        labels,
                        widths,
                        self._scheme.symmetric_activations,
                    )
                )
        return sum(int(count) for count in counts) / len(self._data)

    @property
    def float_accuracy(self) -> float:
        """Accuracy of the network in float on the same images."""
        from mqjax.training import accuracy

        with jax.enable_x64(False):
            return accuracy(self._model, self._data)

    @property
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
            raise InputError(f"no checkpoint of {network!r} for {dataset!r} ships; make one with mqjax train, pass --checkpoint")
        checkpoint = DEFAULT_CHECKPOINTS[network, dataset]
    model, about = load_checkpoint(checkpoint)
    if model.architecture.name != network or about["dataset"] != dataset:
        raise InputError(
            f"the checkpoint {checkpoint} is of {model.architecture.name!r} on {about['dataset']!r}, "
            f"not of {network!r} on {dataset!r}"
        )
    return PostTrainingAccuracy(
        model,
        _images(data, "train", CALIBRATION_IMAGES, model),
        _images(data, split, num_images, model),
        settings={
            "network": network,
            "dataset": dataset,
            "split": split,
            "checkpoint": str(checkpoint),
            "width_multiplier": about["width_multiplier"],
            "resolution": about["resolution"],
        },
    )


def _images(data: Dataset, split: str, limit: int | None, model: MobileNet) -> Images:
    resolution = model.architecture.resolution
    shape = data.builder.info.features["image"].shape
    varying = shape[0] is None and data.name != "fashion_mnist"
    images = data.load(split, limit=limit, resolution=resolution if varying else None)
    return Images(pad_to(images.images, resolution), images.labels)
