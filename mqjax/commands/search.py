"""`mqjax search`: per-layer bit-widths by NSGA-II, written to a run folder."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from mqjax.commands._layers import CONSTRAINTS, DEPTHWISE_OPTION, sizes_of
from mqjax.objectives import METRICS, OBJECTIVES
from mqjax.study.config import GENERATIONS, StudyConfig

OPTIONS = StudyConfig().settings()
"""Settings of a run with the library's defaults; a resumed run takes them from its config.json."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    # Defaults are applied in `run`, so that an option given together with --resume can be noticed.
    def option(name: str, help: str, **kwargs: Any) -> None:
        shown = "" if OPTIONS[name] is None else f" (default: {OPTIONS[name]})"
        parser.add_argument(f"--{name.replace('_', '-')}", default=argparse.SUPPRESS, help=help + shown, **kwargs)

    option("arch", "shipped accelerator or YAML file")
    option("dialect", "rule for first fills", choices=("2024", "2023"))
    option(
        "network",
        "a network with a shipped checkpoint or one of --checkpoint, or one with weights: an ONNX file or a Flax module, MODULE:OBJECT@HxWxC",
    )
    for name, kind, means in sizes_of("the network"):
        option(name, f"{means} (default, and the only value that fits: that of its checkpoint)", type=kind)
    option("depthwise", "how the mapper sees depthwise layers", **DEPTHWISE_OPTION)
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
    option(
        "judge", "accuracy of your own: a function that returns a judge (see `mqjax.Judge`)", metavar="MODULE:FUNCTION"
    )
    option("objectives", f"comma-separated, of {', '.join(OBJECTIVES)}; all are minimised")
    option(
        "map_by",
        "what each layer's one mapping is optimal by, on which energy, delay and EDP are measured (default: what serves "
        "the first objective that depends on mappings)",
        choices=METRICS,
    )
    option("population", "individuals per generation, even, at least 8", type=int)
    option(
        "generations",
        f"generations after the first population (default: {GENERATIONS[True]} after the surrogate's, else {GENERATIONS[False]})",
        type=int,
    )
    parser.add_argument(
        "--no-surrogate",
        dest="surrogate",
        action="store_false",
        default=argparse.SUPPRESS,
        help="begin with mutations of the uniform assignments, as the paper does, and not along the exact front of summed "
        "sensitivities",
    )
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
    from mqjax.show.progress import bar
    from mqjax.show.report import write_report
    from mqjax.study.study import run_study

    given = {name: getattr(args, name) for name in (*OPTIONS, "out") if hasattr(args, name)}
    if args.resume is not None:
        if given:
            raise InputError(f"--{next(iter(given)).replace('_', '-')} cannot be changed when a run is resumed")
        found = run_study(folder=args.resume, resume=True, bars=bar)
    else:
        folder = given.pop("out", None)
        if "objectives" in given:
            given["objectives"] = tuple(given["objectives"].split(","))
        found = run_study(StudyConfig(**given), folder=folder, bars=bar)
    path = write_report(found.folder)
    _print_front(found.document)
    print(f"\nreport: {path}")
    return 0


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
