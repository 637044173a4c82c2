"""`mqjax train`: train a network and leave a checkpoint."""

from __future__ import annotations

import argparse
import dataclasses
import json
import shlex
import sys
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--network", default="mobilenetv1", help="mobilenetv1 or mobilenetv2")
    parser.add_argument("--width-multiplier", type=float, default=0.25, help="scales the channels of every layer")
    parser.add_argument("--resolution", type=int, default=32, help="height and width of the images")
    parser.add_argument(
        "--dataset", default="fashion_mnist", help="a prepared data set; for fashion_mnist the full one"
    )
    parser.add_argument(
        "--data-dir", type=Path, help="folder of prepared data sets; default: the installed Fashion-MNIST"
    )
    parser.add_argument("--epochs", type=int, default=40, help="passes over the training images")
    parser.add_argument("--batch", type=int, default=128, help="images per step")
    parser.add_argument("--learning-rate", type=float, default=0.1, help="peak of the cosine schedule")
    parser.add_argument("--seed", type=int, default=0, help="makes the run repeatable")
    parser.add_argument("--out", type=Path, required=True, help="run folder; an interrupted run in it is continued")


def run(args: argparse.Namespace) -> int:
    from mqjax.data import load_dataset
    from mqjax.errors import InputError
    from mqjax.models import architecture
    from mqjax.models.checkpoint import save_checkpoint
    from mqjax.progress import bar
    from mqjax.training import EpochResult, TrainConfig, accuracy, full_fashion_mnist, train

    for option in ("epochs", "batch"):
        if getattr(args, option) < 1:
            raise InputError(f"--{option} must be at least 1, not {getattr(args, option)}")
    dataset = load_dataset(args.dataset, data_dir=args.data_dir)

    if args.dataset == "fashion_mnist" and args.data_dir is None:
        data, validation = full_fashion_mnist(args.resolution)
    else:
        data, validation = (
            dataset.sized(split, args.resolution)
            for split in ("train", "validation" if "validation" in dataset.splits else "test")
        )
    network = architecture(
        args.network,
        width_multiplier=args.width_multiplier,
        resolution=args.resolution,
        classes=dataset.classes,
        channels=data.images.shape[-1],
    )
    config = TrainConfig(epochs=args.epochs, batch=args.batch, learning_rate=args.learning_rate, seed=args.seed)

    def report(result: EpochResult) -> None:
        print(
            f"epoch {result.epoch}/{args.epochs}: loss {result.loss:.4f}, validation accuracy {result.accuracy:.4f}, "
            f"{result.images_per_second:.0f} images/s",
            file=sys.stderr,
            flush=True,
        )

    steps = len(data) // args.batch * args.epochs
    with bar("training", steps, "steps") as progress:
        model = train(
            network,
            data,
            validation,
            args.out,
            config=config,
            progress=lambda step, _, loss: progress.update(step, f"loss {loss:.3f}"),
            report=report,
        )
    test = dataset.sized("test", args.resolution) if "test" in dataset.splits else validation
    reached = accuracy(model, test)
    about = {
        "width_multiplier": args.width_multiplier,
        "dataset": args.dataset,
        "test_accuracy": reached,
        "test_images": len(test),
        "command": shlex.join(["mqjax", *sys.argv[1:]]),
        "config": dataclasses.asdict(config),
    }
    save_checkpoint(args.out / "checkpoint", model, about)
    print(json.dumps({"test_accuracy": reached, "test_images": len(test), "checkpoint": str(args.out / "checkpoint")}))
    return 0
