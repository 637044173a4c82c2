"""Training of a front's members at their widths."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from mqjax.accuracy.recipe import QUANTIZED
from mqjax.accuracy.trained import Trained
from mqjax.accuracy.training import accuracy, train
from mqjax.data import Images, training_images
from mqjax.models.qat import QuantizedNetwork
from mqjax.progress import Bars


def retrain(
    trained: Trained,
    genomes: np.ndarray,
    document: dict[str, Any],
    test: Images,
    folder: Path,
    *,
    epochs: int,
    seed: int,
    bars: Bars,
) -> None:
    """Train every member of the front, genomes int [F, ...], quantization-aware, in a folder of its own, and note its accuracy
    on the test images in its entry of front.json's `document`. bars: told of the training."""
    data, validation = training_images(trained.dataset, trained.model.architecture.resolution)
    config = dataclasses.replace(QUANTIZED, epochs=epochs, batch=min(QUANTIZED.batch, len(data)), seed=seed)
    steps = len(data) // config.batch * config.epochs
    members = list(zip(document["members"], genomes, strict=True))
    with bars("retraining", steps * len(members), "steps") as progress, jax.enable_x64(False):
        for member, genome in members:
            model = QuantizedNetwork(nnx.clone(trained.model), trained.quantizer, jnp.asarray(genome, jnp.int32))
            train(
                model,
                data,
                validation,
                folder / "retrained" / f"member_{member['id']:03d}",
                config=config,
                progress=progress,
            )
            member["retrained_accuracy"] = accuracy(model, test)
    document["retrained"] = {"epochs": config.epochs, "training_images": len(data)}
