"""`mqjax train`: train a network, in float or at given bit-widths, and leave a checkpoint."""

from __future__ import annotations

import argparse
import dataclasses
import json
import shlex
import sys
from pathlib import Path
from typing import Any

TRAINED_SIZES = {"width_multiplier": 0.25, "resolution": 32}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from mqjax.accuracy.recipe import QUANTIZED, TrainConfig

    usual = TrainConfig()

    def option(name: str, kind: Any, means: str) -> None:
        # Defaults are applied in `run`, since they depend on --bits.
        value, quantized = getattr(usual, name), getattr(QUANTIZED, name)
        differs = "" if quantized == value else f"; with --bits, {quantized}"
        flag = f"--{name.replace('_', '-')}"
        parser.add_argument(flag, type=kind, default=argparse.SUPPRESS, help=f"{means} (default: {value}{differs})")

    parser.add_argument(
        "--network", default="mobilenetv1", help="a network, such as mobilenetv1 or resnet18_narrow, or an ONNX file"
    )
    parser.add_argument(
        "--width-multiplier",
        type=float,
        default=argparse.SUPPRESS,
        help=f"scales the channels of every layer (default: {TRAINED_SIZES['width_multiplier']})",
    )
    parser.add_argument(
        "--resolution",
        type=int,
        default=argparse.SUPPRESS,
        help=f"height and width of the images (default: {TRAINED_SIZES['resolution']})",
    )
    parser.add_argument(
        "--dataset", default="fashion_mnist", help="a prepared data set; for fashion_mnist the full one"
    )
    parser.add_argument(
        "--data-dir",
        type=Path,
        default=argparse.SUPPRESS,
        help="folder of prepared data sets; default: the installed Fashion-MNIST",
    )
    parser.add_argument(
        "--bits",
        default=argparse.SUPPRESS,
        help="train quantization-aware at these widths: 4, 8/4 (inputs/weights), all digits of a genome, or RUN:ID, a "
        "member of a search's front; the start is a trained network (--init), whose sizes count",
    )
    parser.add_argument(
        "--init",
        default=argparse.SUPPRESS,
        help="with --bits: checkpoint folder, or a shipped one's name (default: the shipped one that fits)",
    )
    option("epochs", int, "passes over the training images")
    option("batch", int, "images per step")
    option("learning_rate", float, "peak of the cosine schedule")
    option("seed", int, "makes the run repeatable")
    parser.add_argument("--out", type=Path, required=True, help="run folder; an interrupted run in it is continued")


def run(args: argparse.Namespace) -> int:
    from mqjax.accuracy.recipe import QUANTIZED, TrainConfig
    from mqjax.accuracy.training import EpochResult, accuracy, train
    from mqjax.data import load_dataset, training_images
    from mqjax.errors import InputError
    from mqjax.io.files import write_atomically
    from mqjax.models.checkpoint import save_checkpoint
    from mqjax.show.figures import training_curves
    from mqjax.show.progress import bar

    # Options without a fixed default are absent where not given.
    for name in (*TRAINED_SIZES, "bits", "init", "data_dir"):
        setattr(args, name, getattr(args, name, None))
    given = {name: getattr(args, name) for name in ("epochs", "batch", "learning_rate", "seed") if hasattr(args, name)}
    config = dataclasses.replace(TrainConfig() if args.bits is None else QUANTIZED, **given)
    for option in ("epochs", "batch", "learning_rate"):
        value = given.get(option, 1)
        if not value > 0:
            raise InputError(f"--{option.replace('_', '-')} must be positive, not {value}")
    if given.get("seed", 0) < 0:
        raise InputError(f"--seed must not be negative, but is {given['seed']}")
    if args.init is not None and args.bits is None:
        raise InputError("--init needs --bits: training in float starts from random weights")
    dataset = load_dataset(args.dataset, data_dir=args.data_dir)
    model, sizes, start = _fresh(args, dataset, config.seed) if args.bits is None else _quantized(args)
    data, validation = training_images(dataset, sizes["resolution"])
    print(f"{len(data):,} training images, {len(validation):,} for validation", file=sys.stderr)

    def report(result: EpochResult) -> None:
        print(
            f"epoch {result.epoch}/{config.epochs}: loss {result.loss:.4f}, validation accuracy "
            f"{result.accuracy:.4f}, {result.images_per_second:.0f} images/s",
            file=sys.stderr,
            flush=True,
        )

    steps = len(data) // config.batch * config.epochs
    with bar("training", steps, "steps") as progress:
        results = train(
            model,
            data,
            validation,
            args.out,
            config=config,
            progress=progress,
            report=report,
        )
    test = dataset.sized(dataset.split("test"), sizes["resolution"])
    reached = {"test_accuracy": accuracy(model, test), "test_images": len(test)}
    command = shlex.join(["mqjax", *sys.argv[1:]])
    about = {**sizes, "dataset": args.dataset, **start, **reached, "command": command}
    write_atomically(args.out / "metrics.png", training_curves({"": results}))
    save_checkpoint(args.out / "checkpoint", model, {**about, "config": dataclasses.asdict(config)})
    print(json.dumps({**start, **reached, "checkpoint": str(args.out / "checkpoint")}))
    return 0


def _fresh(args: argparse.Namespace, dataset: Any, seed: int) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    """A float network with random weights, its sizes, and nothing to say about its start."""
    from flax import nnx

    from mqjax.errors import InputError
    from mqjax.models import architecture, load_network
    from mqjax.models.files import is_own
    from mqjax.models.network import Network

    if is_own(args.network):
        source = load_network(args.network)
        graph = source.graph
        if source.imported is not None and source.imported.inexact is not None:
            raise InputError(f"{args.network} cannot be trained, for {source.imported.inexact}")
        if graph is None or (graph.classes, graph.channels) != (dataset.classes, dataset.channels):
            fits = f"take images of {dataset.channels} channels to {dataset.classes} classes"
            raise InputError(
                f"{args.network} must be an ONNX file or a Flax module whose network would {fits}, to be trained on {dataset.name!r}"
            )
        for name in TRAINED_SIZES:
            if getattr(args, name) is not None:
                raise InputError(
                    f"--{name.replace('_', '-')} cannot be given with {args.network}, whose sizes are its own"
                )
        return Network(graph, rngs=nnx.Rngs(seed)), {"width_multiplier": 1.0, "resolution": graph.resolution}, {}
    sizes = {
        name: value if getattr(args, name) is None else getattr(args, name) for name, value in TRAINED_SIZES.items()
    }
    network = architecture(args.network, **sizes, classes=dataset.classes, channels=dataset.channels)
    return Network(network, rngs=nnx.Rngs(seed)), sizes, {}


def _quantized(args: argparse.Namespace) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    """A trained network at --bits, its sizes, and the start that the checkpoint will tell of."""
    import jax.numpy as jnp

    from mqjax.accuracy.trained import check_sizes, trained_network
    from mqjax.models.qat import QuantizedNetwork
    from mqjax.study.assignments import parse_assignment

    trained = trained_network(args.network, args.dataset, checkpoint=args.init, data_dir=args.data_dir)
    sizes = {name: trained.about[name] for name in TRAINED_SIZES}
    given = {name: getattr(args, name) for name in TRAINED_SIZES}
    check_sizes(trained, {name: value for name, value in given.items() if value is not None})
    widths = parse_assignment(args.bits, trained.model.architecture.wiring())
    model = QuantizedNetwork(trained.model, trained.quantizer, jnp.asarray(widths))
    about = trained.about
    start = {
        "bits": "".join(map(str, widths.ravel())),
        "start": trained.name,
        "float": about.get("float", about.get("test_accuracy")),
    }
    return model, sizes, start
