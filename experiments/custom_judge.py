"""A judge of one's own for `mqjax search --judge custom_judge:make`, in plain NumPy: a random teacher network of two fully
connected layers labels random inputs, and an assignment is as accurate as its rounded copy agrees with the teacher.

python experiments/custom_judge.py [--quick] searches with it from Python.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np

from mqjax import Layer, StudyConfig, run_study


def rounded(values: np.ndarray, bits: int) -> np.ndarray:
    """Values on a symmetric grid of 2^bits - 1 levels."""
    step = np.abs(values).max() / (2 ** (bits - 1) - 1)
    return np.round(values / step) * step


class Agreement:
    """How often a rounded network agrees with the one in float."""

    layers = (Layer(C=32, M=64, name="hidden"), Layer(C=64, M=8, name="classes"))
    cache_key = "custom-judge-agreement-1"

    def __init__(self) -> None:
        generator = np.random.default_rng(0)
        self.kernels = [generator.normal(size=(layer.C, layer.M)) for layer in self.layers]
        self.validation, self.unseen = generator.normal(size=(2, 2000, 32))

    def __call__(self, genomes: np.ndarray) -> np.ndarray:
        return np.array([self.agreement(self.validation, genome) for genome in genomes])

    def test(self, genomes: np.ndarray) -> np.ndarray:
        return np.array([self.agreement(self.unseen, genome) for genome in genomes])

    def agreement(self, inputs: np.ndarray, genome: np.ndarray) -> float:
        exact, coarse = inputs, inputs
        for kernel, (input_bits, weight_bits) in zip(self.kernels, genome.tolist(), strict=True):
            exact = np.maximum(exact, 0) if exact is not inputs else exact
            coarse = np.maximum(coarse, 0) if coarse is not inputs else coarse
            exact, coarse = exact @ kernel, rounded(coarse, input_bits) @ rounded(kernel, weight_bits)
        return float((exact.argmax(axis=1) == coarse.argmax(axis=1)).mean())


def make() -> Agreement:
    """The judge."""
    return Agreement()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a few assignments only")
    generations = 2 if parser.parse_args().quick else 24
    config = StudyConfig(network="two_layers", population=16, generations=generations)
    with tempfile.TemporaryDirectory() as folder:
        run = run_study(config, judge=make(), folder=Path(folder) / "run")
    rows = [{"objectives": member.objectives, "test_accuracy": member.test_accuracy} for member in run.members]
    print(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
