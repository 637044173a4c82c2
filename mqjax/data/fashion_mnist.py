"""Fashion-MNIST (Xiao et al. 2017, MIT licence) as its authors distribute it: gzipped IDX files."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np

SYSTEM_FOLDER = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's package dataset-fashion-mnist puts the files."""

CLASSES = ["T-shirt", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"]

HELD_OUT_PER_CLASS = 500


def read_idx(folder: Path, part: str) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 [N, 28, 28] and labels uint8 [N] of `part`, "train" or "t10k"."""
    with gzip.open(folder / f"{part}-images-idx3-ubyte.gz") as file:
        images = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 28, 28)
    with gzip.open(folder / f"{part}-labels-idx1-ubyte.gz") as file:
        labels = np.frombuffer(file.read(), np.uint8, offset=8)
    return images, labels


def held_out(labels: np.ndarray) -> np.ndarray:
    """bool [N]: the last 500 training images of each class, never trained on: validation images come from these."""
    mask = np.zeros(len(labels), bool)
    for c in range(len(CLASSES)):
        mask[np.flatnonzero(labels == c)[-HELD_OUT_PER_CLASS:]] = True
    return mask
