"""Trained networks, calibrated on training images: what a judge of assignments starts from."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mqjax.data import Dataset, Images, load_dataset, normalize
from mqjax.errors import InputError
from mqjax.models.calibration import Quantizer, calibrate
from mqjax.models.checkpoint import load_checkpoint
from mqjax.models.files import is_own, load_network
from mqjax.models.graph import Graph
from mqjax.models.network import Network

DEFAULT_CHECKPOINTS = {
    ("mobilenetv1", "fashion_mnist"): "mobilenetv1_025_fashion_mnist",
    ("mobilenetv2", "fashion_mnist"): "mobilenetv2_035_fashion_mnist",
    ("resnet18_narrow", "fashion_mnist"): "resnet18_narrow_fashion_mnist",
}
"""Shipped checkpoints by network and data set."""

CALIBRATION_IMAGES, CALIBRATION_PIXELS = 512, 2**23
"""Training images for grids and batch norms: so many, or fewer where they are large, since all their tensors are kept."""

SHARED_IMAGES = 4096
"""Training images that calibration and short training draw from, at most: they are kept in memory."""


@dataclasses.dataclass(frozen=True)
class Trained:
    """A trained network with the grids that calibration on training images found.

    images: those for calibration and short training. about: the checkpoint's model.json.
    """

    name: str
    model: Network
    quantizer: Quantizer
    images: Images
    about: dict[str, Any]
    dataset: Dataset


def checkpoint_of(network: str, dataset: str, checkpoint: str | Path | None = None) -> str | Path:
    """The checkpoint that is given, a network that is its own, or the shipped one that fits. Raises `InputError` if none does."""
    if checkpoint is not None:
        return checkpoint
    if is_own(network):
        return network
    if (network, dataset) not in DEFAULT_CHECKPOINTS:
        raise InputError(
            f"no checkpoint of {network!r} for {dataset!r} ships; make one with mqjax train and pass it by --checkpoint "
            "(mqjax search) or --init (mqjax train)"
        )
    return DEFAULT_CHECKPOINTS[network, dataset]


def trained_network(
    network: str, dataset: str, *, checkpoint: str | Path | None = None, data_dir: str | Path | None = None
) -> Trained:
    """Load and calibrate a trained network. checkpoint: a folder, a shipped one's name, or the shipped one that fits. A
    network that is an ONNX file or a module of Flax is its own checkpoint, or the one that a checkpoint trained on.

    Raises `InputError` for unknown networks and data sets, and for a checkpoint that does not fit.
    """
    data = load_dataset(dataset, data_dir=data_dir)
    checkpoint = checkpoint_of(network, dataset, checkpoint)
    model, about = load_checkpoint(checkpoint)
    if is_own(network):
        _check_own(network, model.architecture, data, about)
    elif model.architecture.name != network or about["dataset"] != dataset:
        raise InputError(
            f"the checkpoint {checkpoint} is of {model.architecture.name!r} on {about['dataset']!r}, "
            f"not of {network!r} on {dataset!r}"
        )
    split = data.split("train")
    images = data.sized(split, model.architecture.resolution, limit=min(data.count(split), SHARED_IMAGES))
    with jax.enable_x64(False):
        quantizer = calibrate(model, jnp.asarray(normalize(calibration_images(images))))
    return Trained(str(checkpoint), model, quantizer, images, about, data)


def check_sizes(trained: Trained, given: Mapping[str, float]) -> None:
    """Raise `InputError` where one of the sizes that are given is not that of a trained network."""
    for name, value in given.items():
        found = trained.about.get(name, value)
        if value != found:
            raise InputError(
                f"--{name.replace('_', '-')} {value} does not fit: the trained network {trained.name} has {found}"
            )


def _check_own(network: str, found: Graph, data: Dataset, about: dict[str, Any]) -> None:
    """Raise `InputError` where a user's network does not fit the data set, or a checkpoint not the network."""
    wanted = load_network(network).graph
    if wanted is None:
        raise InputError(
            f"{network} lists layers alone; accuracy needs a network with weights: an ONNX file or a Flax module"
        )
    if wanted != found or about["dataset"] not in (None, data.name):
        raise InputError(
            f"the checkpoint is of another network than the one in {network}, or was trained on other data"
        )
    if (found.classes, found.channels) != (data.classes, data.channels):
        raise InputError(
            f"{network} takes images of {found.channels} channels to {found.classes} classes, but {data.name!r} has "
            f"{data.channels} and {data.classes}"
        )


def calibration_images(images: Images) -> np.ndarray:
    """The first training images, uint8, as many as statistics are taken over."""
    count = min(CALIBRATION_IMAGES, max(1, CALIBRATION_PIXELS // images.images[0, ..., 0].size))
    return images.images[:count]
