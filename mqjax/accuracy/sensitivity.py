"""What a network loses when one kernel or one stored tensor is narrowed and all else stays at 8 bits.

The loss is the mean Kullback-Leibler divergence (nats per image) of the quantized network's classes from those of the
float network, or the classification error, on training images, with the judge's grids after calibration, without training.
It is given in excess of the loss of 8 bits everywhere, and never below zero: narrower is not taken for better.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mqjax.accuracy.judge import QuantizedAccuracy
from mqjax.data import normalize
from mqjax.errors import InputError
from mqjax.io.files import AppendedTable, write_atomically
from mqjax.models.quantization import forward, round_kernels
from mqjax.progress import SILENT, Progress
from mqjax.types import WIDTHS

LOSSES = ("divergence", "error")
IMAGES = 256

_REVISION = 1


class Sensitivities(NamedTuple):
    """Losses by width (axis 7: `WIDTHS`) beyond that of 8 bits everywhere."""

    kernels: np.ndarray  # float64 [L, 7]
    tensors: np.ndarray  # float64 [T, 7]


def sensitivities(
    judge: QuantizedAccuracy,
    *,
    loss: str = "divergence",
    images: int = IMAGES,
    cache: Path | None = None,
    progress: Progress = SILENT,
) -> Sensitivities:
    """Measure the losses of every gene at every width. images: training images, the first ones. cache: a folder where
    results are kept by content. progress: advanced after each network. Raises `InputError` for bad options."""
    if loss not in LOSSES:
        raise InputError(f"the loss of a sensitivity must be one of {', '.join(LOSSES)}, not {loss!r}")
    if images < 1:
        raise InputError(f"sensitivities need at least 1 training image, not {images}")
    path = None if cache is None else Path(cache) / "sensitivities" / f"{_key(judge, loss, images)}.json"
    if path is not None and path.exists():
        return read_sensitivities(path)
    wiring = judge.architecture.wiring()
    narrower = [(gene, width) for gene in range(wiring.genes) for width in WIDTHS[:-1]]
    genomes = np.full((1 + len(narrower), wiring.genes), WIDTHS[-1], np.int32)
    for row, (gene, width) in enumerate(narrower, start=1):
        genomes[row, gene] = width
    measure = _Losses(judge, loss, images)
    losses = np.empty(len(genomes))
    for row, genome in enumerate(genomes):
        losses[row] = measure(genome)
        progress.advance()
    excess = np.zeros((wiring.genes, len(WIDTHS)))
    excess[:, :-1] = np.maximum(losses[1:] - losses[0], 0.0).reshape(wiring.genes, -1)
    found = Sensitivities(kernels=excess[wiring.kernel_genes], tensors=excess[wiring.tensor_genes])
    if path is not None:
        write_sensitivities(path, found)
    return found


class Divergence:
    """Loss of whole assignments: how far the classes of the quantized network diverge from those of the float network.

    On its 256 images it costs an eighth of an accuracy on 2,000, and being no count of images it ranks assignments that hardly
    differ in accuracy. images: training images, the first ones. cache: a folder where values are kept by content.
    """

    def __init__(self, judge: QuantizedAccuracy, *, images: int = IMAGES, cache: Path | None = None) -> None:
        self._judge, self._images = judge, images
        self._measure: _Losses | None = None
        path = None if cache is None else Path(cache) / "divergence" / f"{_key(judge, LOSSES[0], images)}.csv"
        self._known = AppendedTable(path)

    def __call__(self, genomes: np.ndarray) -> np.ndarray:
        """Mean Kullback-Leibler divergence (nats per image), float64 [N] of genomes int [N, T + L] or [N, L, 2]."""
        values = np.empty(len(genomes))
        for row, genome in enumerate(np.asarray(genomes, np.int32).reshape(len(genomes), -1)):
            key = "".join(map(str, genome))
            known = self._known.get(key)
            if known is None:
                self._measure = self._measure or _Losses(self._judge, LOSSES[0], self._images)
                known = self._measure(genome)
                self._known.add(key, known)
            values[row] = known
        return values


def write_sensitivities(path: Path, found: Sensitivities) -> None:
    """Write losses as JSON; numbers are kept to the last digit."""
    write_atomically(path, json.dumps({name: part.tolist() for name, part in found._asdict().items()}) + "\n")


def read_sensitivities(path: Path) -> Sensitivities:
    """What `write_sensitivities` wrote. Raises `InputError` for a file that is something else."""
    try:
        content = json.loads(Path(path).read_text())
        return Sensitivities(*(np.array(content[name], np.float64) for name in Sensitivities._fields))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} holds no sensitivities: {error}; delete it to have them measured again") from None


def _key(judge: QuantizedAccuracy, loss: str, images: int) -> str:
    """A digest of the calibrated network, the images and the kind of loss."""
    shown = judge.trained.images
    digest = hashlib.sha256(repr((_REVISION, judge.architecture, loss)).encode())
    leaves = [*jax.tree.leaves(judge.trained.quantizer), shown.images[:images], shown.labels[:images]]
    for leaf in leaves:
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()[:32]


class _Losses:
    """Losses of assignments on training images: one compiled program, in which widths are traced."""

    def __init__(self, judge: QuantizedAccuracy, loss: str, images: int) -> None:
        shown, architecture = judge.trained.images, judge.architecture
        self._loss, self._quantizer = loss, judge.trained.quantizer
        self._labels = np.asarray(shown.labels[:images])
        # As in the judge, kernels are rounded in a program of their own, and products are those of integers.
        self._rounded = jax.jit(partial(round_kernels, architecture))
        self._run: Any = jax.jit(lambda network, kernels, x: forward(architecture, network, x, kernels=kernels))
        self._at = jax.jit(type(self._quantizer).at)
        with self._precision():
            self._images = jnp.asarray(normalize(shown.images[:images]))
            self._target = _log_softmax(np.asarray(judge.trained.model(self._images), np.float64))

    def __call__(self, genome: np.ndarray) -> float:
        """Loss of a genome int32 [T + L]."""
        with self._precision():
            network = self._at(self._quantizer, jnp.asarray(genome))
            logits = np.asarray(self._run(network, self._rounded(network), self._images), np.float64)
        if self._loss == "error":
            return float(np.mean(logits.argmax(axis=1) != self._labels))
        return float(np.mean(np.sum(np.exp(self._target) * (self._target - _log_softmax(logits)), axis=1)))

    @staticmethod
    @contextlib.contextmanager
    def _precision() -> Iterator[None]:
        with jax.enable_x64(False), jax.default_matmul_precision("highest"):
            yield


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
