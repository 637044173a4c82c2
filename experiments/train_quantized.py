"""Training curves and accuracies of the shipped networks, in float and at several widths.

    python experiments/train_quantized.py [--only v1_4 v2_4 ...] [--quick] [--runs runs/training] [--out benchmarks/training]

Runs the `mqjax train` commands of RUNS one after the other; leaves metrics.csv of each as NAME.csv, the accuracies on
all test images with the commands in accuracies.json, and curves of the runs in float.png and quantized.png. A killed run
is continued, a finished one is only read.
Expected on 2 cores: 2 minutes an epoch of MobileNetV2, 1 of MobileNetV1; three hours for all;
--quick: v1_8 alone, on 256 images of each part of the embedded subset.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
from pathlib import Path

import jax
from prepare_fashion_mnist import encode

from mqjax.accuracy.training import EpochResult
from mqjax.data import load_dataset, write_prepared
from mqjax.data.fashion_mnist import CLASSES
from mqjax.io.files import write_atomically
from mqjax.show.figures import training_curves

RUNS = {
    "v1_float": "--network mobilenetv1 --width-multiplier 0.25 --epochs 40",
    "v2_float": "--network mobilenetv2 --width-multiplier 0.35 --epochs 40",
    "v1_8": "--network mobilenetv1 --bits 8 --epochs 1",
    "v1_4": "--network mobilenetv1 --bits 4 --epochs 4",
    "v1_3": "--network mobilenetv1 --bits 3 --epochs 4 --learning-rate 0.04",
    "v1_4_2": "--network mobilenetv1 --bits 4/2 --epochs 2 --learning-rate 0.04",
    "v2_8": "--network mobilenetv2 --bits 8 --epochs 1 --learning-rate 0.005",
    "v2_4": "--network mobilenetv2 --bits 4 --epochs 3 --learning-rate 0.04",
    "v2_3": "--network mobilenetv2 --bits 3 --epochs 12 --learning-rate 0.04",
    "v2_4_2": "--network mobilenetv2 --bits 4/2 --epochs 3 --learning-rate 0.04",
}


def prepare_few(folder: Path) -> None:
    """Prepare the first 256 images of each part of the embedded subset in a folder."""
    embedded = load_dataset("fashion_mnist")
    parts = {name: embedded.load(name, limit=256) for name in embedded.splits}
    items = {
        name: [(encode(image[..., 0]), int(label)) for image, label in zip(part.images, part.labels, strict=True)]
        for name, part in parts.items()
    }
    write_prepared("fashion_mnist", items, CLASSES, folder, channels=1)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", nargs="+", choices=RUNS, default=list(RUNS))
    parser.add_argument("--runs", type=Path, default=Path("runs/training"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/training"))
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    more = ""
    if args.quick:
        args.only, more = ["v1_8"], f" --data-dir {args.runs / 'few'}"
        prepare_few(args.runs / "few")
    summary = args.out / "accuracies.json"
    document = json.loads(summary.read_text()) if summary.exists() else {"device": "", "runs": {}}
    document["device"] = jax.devices()[0].device_kind
    for name in args.only:
        folder = args.runs / name
        command = f"mqjax train {RUNS[name]}{more}"
        print(command, flush=True)
        arguments = [sys.executable, "-m", "mqjax.cli", *command.split()[1:], "--out", folder]
        done = subprocess.run(arguments, check=True, stdout=subprocess.PIPE, text=True)
        reached = json.loads(done.stdout)
        document["runs"][name] = {"command": command, **{k: v for k, v in reached.items() if k != "checkpoint"}}
        write_atomically(args.out / f"{name}.csv", (folder / "metrics.csv").read_text())
        document["runs"] = {name: document["runs"][name] for name in RUNS if name in document["runs"]}
        write_atomically(summary, json.dumps(document, indent=1) + "\n")
    for figure, floats in (("float.png", True), ("quantized.png", False)):
        names = [name for name in document["runs"] if ("float" in name) == floats]
        if names:
            write_atomically(args.out / figure, training_curves({name: curve(args.out, name) for name in names}))


def curve(folder: Path, name: str) -> list[EpochResult]:
    with open(folder / f"{name}.csv", newline="") as file:
        rows = csv.DictReader(file)
        return [EpochResult(int(row.pop("epoch")), **{k: float(v) for k, v in row.items()}) for row in rows]


if __name__ == "__main__":
    main()
