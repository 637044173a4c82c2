"""`mqjax search`: per-layer bit-widths by NSGA-II, written to a run folder."""

from __future__ import annotations

import argparse
import datetime
import sys
import time
from pathlib import Path
from typing import Any

from mqjax.commands._layers import CONSTRAINTS, checked_padding
from mqjax.types import SECONDS

OPTIONS = {
    "arch": "eyeriss",
    "dialect": "2024",
    "network": "mobilenetv1",
    "depthwise": "native",
    "constraints": "paper",
    "pad": 0,
    "seconds": SECONDS,
    "dataset": "fashion_mnist",
    "data_dir": None,
    "checkpoint": None,
    "accuracy": "ptq",
    "objectives": "error,energy",
    "population": 64,
    "generations": 24,
    "images": 2000,
    "test_images": 10_000,
    "retrain": 0,
    "seed": 0,
}
"""Settings of a run with their defaults; a resumed run takes them from its config.json."""

_NEWER = {name: OPTIONS[name] for name in ("constraints", "pad", "seconds")}
"""Settings that the config.json of older runs lacks."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    # Defaults are applied in `run`, so that an option given together with --resume can be noticed.
    def option(name: str, help: str, **kwargs: Any) -> None:
        shown = "" if OPTIONS[name] is None else f" (default: {OPTIONS[name]})"
        parser.add_argument(f"--{name.replace('_', '-')}", default=argparse.SUPPRESS, help=help + shown, **kwargs)

    option("arch", "shipped accelerator or YAML file")
    option("dialect", "rule for first fills", choices=("2024", "2023"))
    option("network", "a network with a shipped checkpoint or one of --checkpoint, or an ONNX file with weights")
    option("depthwise", "how the mapper sees depthwise layers", choices=("native", "dense"))
    option("constraints", CONSTRAINTS, choices=("paper", "arch", "none"))
    option("pad", "also try up to so many larger bounds of every dimension of a layer", type=int, metavar="K")
    parser.add_argument(
        "--no-pad",
        dest="pad",
        action="store_const",
        const=None,
        default=argparse.SUPPRESS,
        help="refuse layers that would have to be padded, since fixed factors do not divide a bound",
    )
    option("seconds", "time for one layer, after which its best mapping is called not proven", type=float)
    option("dataset", "prepared data set")
    option("data_dir", "folder of prepared data sets; without it the embedded ones")
    option("checkpoint", "trained network: a folder made by mqjax train, or a shipped one's name")
    option("accuracy", "ptq (after calibration) or finetune:K (after K training steps; 0: batch norm statistics alone)")
    parser.add_argument(
        "--finetune-steps",
        dest="accuracy",
        metavar="K",
        type=lambda steps: f"finetune:{steps}",
        default=argparse.SUPPRESS,
        help="the same as --accuracy finetune:K",
    )
    option("objectives", "comma-separated, of error, energy, edp, delay, memory; all are minimised")
    option("population", "individuals per generation, even, at least 8", type=int)
    option("generations", "generations after the first population", type=int)
    option("images", "validation images that accuracy is measured on", type=int)
    option("test_images", "test images that the final front is judged on", type=int)
    option("retrain", "epochs of quantization-aware training for every member of the final front", type=int)
    option("seed", "makes the run repeatable", type=int)
    parser.add_argument(
        "--out", type=Path, default=argparse.SUPPRESS, help="new run folder (default: runs/NETWORK-ARCH-TIME)"
    )
    parser.add_argument("--resume", type=Path, metavar="RUN", help="continue a run that was interrupted")


def run(args: argparse.Namespace) -> int:
    from mqjax.errors import InputError
    from mqjax.study.runs import claim, read_settings

    started = time.perf_counter()
    given = {name: getattr(args, name) for name in (*OPTIONS, "out") if hasattr(args, name)}
    if args.resume is not None:
        if given:
            raise InputError(f"--{next(iter(given)).replace('_', '-')} cannot be changed when a run is resumed")
        folder = args.resume
        stored = read_settings(folder)
        stored = {**_NEWER, **stored}
        if missing := [name for name in OPTIONS if name not in stored]:
            raise InputError(f"{folder / 'config.json'}: the setting {missing[0]!r} is missing")
    else:
        stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
        settings = {**OPTIONS, **{name: value for name, value in given.items() if name != "out"}}
        folder = (
            given.get("out") or Path("runs") / f"{Path(settings['network']).stem}-{Path(settings['arch']).stem}-{stamp}"
        )
        stored = settings
    prepared = _Prepared(stored)
    if args.resume is None:
        claim(folder, {**stored, **prepared.digests})
    else:
        prepared.check(folder, stored)
    print(f"run folder: {folder}", file=sys.stderr)
    return _search(prepared, stored, folder, started)


class _Prepared:
    """Everything that a run needs and that can be wrong, loaded before the run folder is touched."""

    def __init__(self, settings: dict[str, Any]) -> None:
        import hashlib

        from mqjax.accuracy.judge import default_accuracy
        from mqjax.errors import InputError, unknown
        from mqjax.hw import load_arch
        from mqjax.mapspace.padding import padded_or_itself
        from mqjax.models import NETWORKS
        from mqjax.models.files import is_file
        from mqjax.study.bitsearch import check_options

        self.objectives = tuple(settings["objectives"].split(","))
        check_options(self.objectives, settings["population"], settings["generations"])
        if settings["seed"] < 0:
            raise InputError(f"--seed must not be negative, but is {settings['seed']}")
        for name in ("images", "test_images"):
            if settings[name] < 1:
                raise InputError(f"--{name.replace('_', '-')} must be at least 1, not {settings[name]}")
        if settings["retrain"] < 0:
            raise InputError(f"--retrain must be a number of epochs, 0 for none, not {settings['retrain']}")
        pad = checked_padding(settings["pad"], settings["seconds"])
        if settings["network"] not in NETWORKS and not is_file(settings["network"]):
            raise InputError(unknown("network", settings["network"], NETWORKS))
        self.arch = load_arch(settings["arch"], dialect=settings["dialect"])
        self.accuracy = default_accuracy(
            settings["network"],
            settings["dataset"],
            method=settings["accuracy"],
            checkpoint=settings["checkpoint"],
            num_images=settings["images"],
            data_dir=settings["data_dir"],
        )
        if not self.accuracy.architecture.wiring().is_chain:
            raise InputError(
                f"network {self.accuracy.architecture.name!r} is no chain of layers: tensors are read or written by several of "
                "them, which a search does not price yet; mqjax map and mqjax table do, layer by layer"
            )
        self.layers = self.accuracy.architecture.layers(depthwise=settings["depthwise"])
        self.constraints = settings["constraints"]
        self.mapped = {
            layer: padded_or_itself(self.arch, layer, constraints=self.constraints, pad=pad)
            for layer in dict.fromkeys(self.layers)
        }
        self.digests = {
            "arch_digest": hashlib.sha256(repr(self.arch).encode()).hexdigest()[:32],
            "accuracy_digest": self.accuracy.cache_key,
        }

    def check(self, folder: Path, settings: dict[str, Any]) -> None:
        """Raise `InputError` if the accelerator or the network is no longer what the run began with."""
        from mqjax.errors import InputError

        for name, digest in self.digests.items():
            if settings.get(name) != digest:
                what = {"arch_digest": "the accelerator", "accuracy_digest": "the trained network or its data"}[name]
                raise InputError(f"{folder} cannot be resumed: {what} is not what the run began with")


def _search(prepared: _Prepared, settings: dict[str, Any], folder: Path, started: float) -> int:
    from mqjax.io.files import cache_folder
    from mqjax.mapper.table import cost_table
    from mqjax.show.progress import bar
    from mqjax.show.report import write_report
    from mqjax.study.bitsearch import search
    from mqjax.study.runs import describe, write_run

    arch, accuracy = prepared.arch, prepared.accuracy
    seconds = {"start": time.perf_counter() - started}
    clock = time.perf_counter()
    with bar("tabulating", len(set(prepared.layers)), "layers") as progress:
        table = cost_table(
            arch,
            prepared.layers,
            constraints=settings["constraints"],
            pad=settings["pad"],
            seconds=settings["seconds"],
            cache=cache_folder(),
            progress=lambda layer: progress.advance(),
            say=progress.say,
        )
    _check_fit(prepared, table)
    seconds["table"] = time.perf_counter() - clock
    total = settings["population"] * (settings["generations"] + 1)
    with bar("searching", total, "assignments") as progress:
        result = search(
            table,
            accuracy,
            objectives=prepared.objectives,
            population=settings["population"],
            generations=settings["generations"],
            seed=settings["seed"],
            folder=folder / "population",
            cache=cache_folder(),
            progress=lambda done, _: progress.update(done),
        )
    clock = time.perf_counter()
    data = accuracy.trained.dataset
    split = data.split("test")
    limit = min(settings["test_images"], data.count(split))
    images = data.sized(split, accuracy.architecture.resolution, limit=limit)
    test = accuracy.on(images, split=split)
    about = {
        "accuracy": {**accuracy.describe(), "float": accuracy.float_accuracy},
        "test": {"split": split, "images": limit, "float": test.float_accuracy},
    }
    with bar("testing", len(result.front) + 7, "assignments") as progress:
        document = describe(
            arch,
            table,
            result,
            test_accuracy=lambda genomes: test(genomes, progress=progress.advance),
            about=about,
        )
    seconds["test"] = time.perf_counter() - clock
    if settings["retrain"]:
        # The front is worth hours; it is kept should the training be interrupted.
        write_run(folder, {**document, "seconds": {**seconds, **document["seconds"]}}, result)
        clock = time.perf_counter()
        _retrain(prepared, settings, folder, result, document, images)
        seconds["retrain"] = time.perf_counter() - clock
    document["seconds"] = {**{k: round(v, 3) for k, v in seconds.items()}, **document["seconds"]}
    write_run(folder, document, result)
    path = write_report(folder)
    _print_front(document)
    print(f"\nreport: {path}")
    return 0


def _check_fit(prepared: _Prepared, table: Any) -> None:
    """Say which layers are padded. Raises `InputError` where one fits at no widths."""
    from mqjax.mapper.decision import nothing_fits
    from mqjax.mapspace.padding import padding_of
    from mqjax.mapspace.space import Mapspace
    from mqjax.types import BitWidths

    for layer, entries in zip(table.unique, table.tables, strict=True):
        if (entries.index[0, :-1] < 0).all():
            space = Mapspace(prepared.arch, prepared.mapped[layer], constraints=prepared.constraints)
            raise nothing_fits(layer, space, BitWidths(2, 2, 2), covered=entries.covered)
        if larger := padding_of(layer, entries.mappings):
            print(f"{layer.name}: {larger}", file=sys.stderr)


def _retrain(
    prepared: _Prepared, settings: dict[str, Any], folder: Path, result: Any, document: dict[str, Any], test: Any
) -> None:
    """Train every member of the front at its widths, and note its accuracy on the test images beside the one without."""
    import dataclasses

    import jax
    import jax.numpy as jnp
    from flax import nnx

    from mqjax.accuracy.training import QUANTIZED, accuracy, train
    from mqjax.data import training_images
    from mqjax.models.qat import QuantizedNetwork
    from mqjax.show.progress import bar

    trained = prepared.accuracy.trained
    data, validation = training_images(trained.dataset, trained.model.architecture.resolution)
    config = dataclasses.replace(
        QUANTIZED, epochs=settings["retrain"], batch=min(QUANTIZED.batch, len(data)), seed=settings["seed"]
    )
    steps = len(data) // config.batch * config.epochs
    members = list(zip(document["members"], result.genomes[result.front], strict=True))
    with bar("retraining", steps * len(members), "steps") as progress, jax.enable_x64(False):
        for number, (member, genome) in enumerate(members):
            model = QuantizedNetwork(nnx.clone(trained.model), trained.quantizer, jnp.asarray(genome, jnp.int32))
            train(
                model,
                data,
                validation,
                folder / "retrained" / f"member_{member['id']:03d}",
                config=config,
                progress=lambda step, _, loss, done=steps * number: progress.update(done + step, f"loss {loss:.3f}"),
            )
            member["retrained_accuracy"] = accuracy(model, test)
    document["retrained"] = {"epochs": config.epochs, "training_images": len(data)}


def _print_front(document: dict[str, Any]) -> None:
    from mqjax.show.figures import spread
    from mqjax.show.progress import print_table

    columns = list(document["objectives"].items())
    lines = []
    for member in spread(document["members"], 20):
        values = [f"{member['objectives'][name]:.6g}" for name, _ in columns]
        accuracies = [f"{member[name]:.4f}" for name in ("test_accuracy", "retrained_accuracy") if name in member]
        lines.append((str(member["id"]), *values, *accuracies))
    retrained = ["retrained"] if "retrained" in document else []
    headings = ("id", *(f"{name} ({unit})" for name, unit in columns), "test accuracy", *retrained)
    shown = "" if len(lines) == len(document["members"]) else f", {len(lines)} of them shown"
    print_table(f"Pareto front: {len(document['members'])} assignments{shown}", headings, lines)
