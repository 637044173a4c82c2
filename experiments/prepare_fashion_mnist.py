"""Make the embedded Fashion-MNIST subset from the full data set (Debian package dataset-fashion-mnist).

    python experiments/prepare_fashion_mnist.py [/usr/share/datasets/fashion-mnist] [mqjax/data/prepared] [--per-class 200] [--quick]

Expected: half a minute on 2 cores, about 6 MB. The last 500 training images of each class are held out of all training
(`mqjax.data.training_images`); `validation` is 200 of these per class, `train` 200 of the others, `test` all. With --per-class 500, into a
folder of your own, searches have all 5,000 that are held out to validate on (`--data-dir`). --quick: 2 a class, and the first 20 of `test`.
"""

from __future__ import annotations

import argparse
import io
import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from mqjax.data import write_prepared
from mqjax.data.fashion_mnist import CLASSES, SYSTEM_FOLDER, held_out, read_idx

PER_CLASS = 200


def encode(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def balanced(images: np.ndarray, labels: np.ndarray, per_class: int) -> list[tuple[bytes, int]]:
    rows = np.sort(np.concatenate([np.flatnonzero(labels == c)[:per_class] for c in range(len(CLASSES))]))
    return [(encode(images[row]), int(labels[row])) for row in rows]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, nargs="?", default=SYSTEM_FOLDER)
    parser.add_argument("target", type=Path, nargs="?", default=Path("mqjax/data/prepared"))
    parser.add_argument("--per-class", type=int, default=PER_CLASS)
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    source, target = args.source, args.target
    per_class, tested = (2, 20) if args.quick else (args.per_class, None)
    images, labels = read_idx(source, "train")
    out = held_out(labels)
    test_images, test_labels = (part[:tested] for part in read_idx(source, "t10k"))
    examples = {
        "train": balanced(images[~out], labels[~out], per_class),
        "validation": balanced(images[out], labels[out], per_class),
        "test": [(encode(image), int(label)) for image, label in zip(test_images, test_labels, strict=True)],
    }
    folder = write_prepared("fashion_mnist", examples, CLASSES, target, channels=1, size=images.shape[1:])
    shutil.rmtree(target / "downloads", ignore_errors=True)
    print(folder, sum(path.stat().st_size for path in folder.iterdir()) / 1e6, "MB")


if __name__ == "__main__":
    main()
