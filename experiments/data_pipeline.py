"""Whether images are decoded and augmented fast enough to keep the training step busy.

    python experiments/data_pipeline.py [--quick] [--out benchmarks/data_pipeline.json]

Made-up JPEG pictures of 500x375, as in ImageNet, prepared as tensorflow-datasets would, are turned into training views of
224x224; the step is that of a MobileNetV1 of 1000 classes on the same device. Expected: two minutes on 2 cores;
--quick: a few images, and steps of a small network at 32x32.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import json
import os
import tempfile
import time
from pathlib import Path

import jax
import numpy as np
from flax import nnx
from PIL import Image

from mqjax.accuracy.recipe import TrainConfig
from mqjax.accuracy.training import batches, make_optimizer, training_step
from mqjax.data import EncodedImages, load_dataset, training_images, write_prepared
from mqjax.io.files import write_atomically
from mqjax.models.graph import Builder
from mqjax.models.network import MobileNetV1, Network
from mqjax.models.ops import Activation, GlobalAvgPool

CONFIG = TrainConfig(batch=32)


def picture(seed: int) -> bytes:
    """A smooth random picture with some noise, of about 100 kB, as photographs have."""
    generator = np.random.default_rng(seed)
    coarse = Image.fromarray(generator.integers(0, 256, (12, 16, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((500, 375), Image.Resampling.BICUBIC)).astype(int)
    noisy = np.clip(smooth + generator.normal(0, 12, smooth.shape), 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noisy).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def rate(make, count: int) -> float:
    """Images per second of the `count` batches after the first, which warms up."""
    batches = iter(make())
    next(batches)
    start = time.perf_counter()
    images = sum(len(next(batches)[1]) for _ in range(count))
    return images / (time.perf_counter() - start)


def small_network() -> Network:
    """One whose step compiles fast, of images of 32x32."""
    net = Builder("small", resolution=32, channels=3)
    x = net.conv("conv", "image", 16, 3, stride=2, activation=Activation("relu"))
    net.linear("fc", net.add("pool", GlobalAvgPool(), x), 1000)
    return Network(net.build(), rngs=nnx.Rngs(0))


def step_rate(network: Network, steps: int = 3) -> float:
    """Training images per second of the compiled step."""
    resolution = network.architecture.resolution
    graph, *state = nnx.split(network, nnx.Param, ...)
    optimizer = make_optimizer(CONFIG, 100)
    optimizer_state = optimizer.init(state[0])
    images, labels = np.zeros((CONFIG.batch, resolution, resolution, 3), np.float32), np.zeros(CONFIG.batch, np.int32)
    for number in range(steps + 2):
        if number == 2:
            start = time.perf_counter()
        state, optimizer_state, loss = training_step(
            graph, state, optimizer_state, images, labels, optimizer=optimizer, smoothing=0.0
        )
        loss.block_until_ready()
    return steps * CONFIG.batch / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, default=Path("benchmarks/data_pipeline.json"))
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    out, count, resolution = args.out, 2 if args.quick else 18, 32 if args.quick else 224
    with tempfile.TemporaryDirectory() as folder:
        items = [(picture(i), i % 10) for i in range(96 if args.quick else 640)]
        write_prepared("pictures", {"train": items, "validation": items[:10]}, [str(i) for i in range(10)], folder)
        encoded, _ = training_images(load_dataset("pictures", data_dir=folder), 224)
        assert isinstance(encoded, EncodedImages)
        decoded = rate(lambda: batches(encoded, CONFIG, 0), count)
    network = small_network() if args.quick else MobileNetV1(classes=1000)
    small, _ = training_images(load_dataset("fashion_mnist"), 32)
    document = {
        "command": "python experiments/data_pipeline.py",
        "device": jax.devices()[0].device_kind,
        "cores": os.cpu_count(),
        "jpeg_bytes": sum(len(image) for image, _ in items) // len(items),
        "views_224_per_s": round(decoded),
        f"step_{resolution}_images_per_s": round(step_rate(network), 1),
        "fashion_mnist_views_per_s": round(rate(lambda: batches(small, dataclasses.replace(CONFIG, batch=128), 0), 14)),
    }
    document["views_per_step_image"] = round(
        document["views_224_per_s"] / document[f"step_{resolution}_images_per_s"], 1
    )
    write_atomically(out, json.dumps(document, indent=1) + "\n")
    print(json.dumps(document, indent=1))


if __name__ == "__main__":
    main()
