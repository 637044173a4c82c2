"""How well cheap accuracies rank assignments: Spearman correlation with quantization-aware training on all images.

    python experiments/ranking.py [--network mobilenetv1] [--assignments 24] [--epochs 1] [--quick]
        [--out benchmarks/ranking.json]

Random assignments of different mean width are trained on all training images of Fashion-MNIST and judged on all test
images; post-training and short-trained accuracy are those of 1,024 validation images, as a search sees them. These are
also noted for one width in all layers.
Expected: half an hour on 2 cores; --quick: few images, two methods, three assignments, a minute. Results are written as they come; trained accuracies in the file are kept, so a killed run
goes on.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from scipy.stats import spearmanr

from mqjax.accuracy.judge import default_accuracy
from mqjax.accuracy.recipe import QUANTIZED
from mqjax.accuracy.training import accuracy, train
from mqjax.data import training_images
from mqjax.io.files import write_atomically
from mqjax.models.qat import QuantizedNetwork
from mqjax.types import WIDTHS

METHODS = ("ptq", "finetune:0", "finetune:20", "finetune:100")


def assignments(count: int, genes: int) -> np.ndarray:
    """Assignments int32 [count, T + L] whose mean width goes from 2.5 to 6.5 in even steps."""
    generator = np.random.default_rng(0)
    means = np.linspace(2.5, 6.5, count)
    drawn = generator.normal(means[:, None], 1.0, (count, genes))
    return np.clip(np.round(drawn), 2, 8).astype(np.int32)


def fully_trained(trained, genome: np.ndarray, epochs: int, data, validation, test) -> float:
    model = QuantizedNetwork(nnx.clone(trained.model), trained.quantizer, jnp.asarray(genome))
    with tempfile.TemporaryDirectory() as folder:
        train(model, data, validation, Path(folder) / "run", config=dataclasses.replace(QUANTIZED, epochs=epochs))
    return accuracy(model, test)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--network", default="mobilenetv1")
    parser.add_argument("--assignments", type=int, default=24)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/ranking.json"))
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    methods = METHODS[:2] if args.quick else METHODS
    number = 64 if args.quick else 1024
    judges = {method: default_accuracy(args.network, method=method, num_images=number) for method in methods}
    trained = judges["ptq"].trained
    data, validation = training_images(trained.dataset, trained.model.architecture.resolution)
    test = trained.dataset.sized("test", trained.model.architecture.resolution)
    if args.quick:
        args.assignments = 3
        few = trained.dataset.sized("validation", trained.model.architecture.resolution, limit=256)
        data = validation = test = few
    wiring = trained.model.architecture.wiring()
    genomes = assignments(args.assignments, wiring.genes)
    options = f"--network {args.network} --assignments {args.assignments} --epochs {args.epochs}"
    command = f"python experiments/ranking.py {options}"
    found = json.loads(args.out.read_text()) if args.out.exists() else {"assignments": []}
    if found.get("command", command) != command:
        parser.error(f"{args.out} is of {found['command']!r}; give another --out")
    trained_before = {row["genome"]: row["trained"] for row in found["assignments"]}
    uniform, columns = {}, {}
    for method, judge in judges.items():
        values = judge(np.concatenate([wiring.uniform, genomes])).tolist()
        uniform[method] = dict(zip(map(str, WIDTHS), values, strict=False))
        columns[method] = values[len(WIDTHS) :]
    rows = []
    for number, genome in enumerate(genomes):
        row = {"genome": "".join(map(str, genome.ravel())), "mean_width": round(float(genome.mean()), 2)}
        row |= {method: column[number] for method, column in columns.items()}
        row["trained"] = trained_before.get(row["genome"])
        if row["trained"] is None:
            row["trained"] = fully_trained(trained, genome, args.epochs, data, validation, test)
        rows.append(row)
        print(row, flush=True)
        document = {
            "network": args.network,
            "training_images": len(data),
            "device": jax.devices()[0].device_kind,
            "command": command,
            "spearman": {method: correlation(rows, method) for method in methods},
            "uniform": uniform,
            "assignments": rows,
        }
        write_atomically(args.out, json.dumps(document, indent=1) + "\n")


def correlation(rows: list[dict], method: str) -> float | None:
    """Of a method's accuracies with the trained ones; `None` where it is not defined."""
    columns = [[row[name] for row in rows] for name in (method, "trained")]
    if len(rows) < 3 or any(len(set(column)) == 1 for column in columns):
        return None
    return round(float(spearmanr(*columns).statistic), 3)


if __name__ == "__main__":
    main()
