"""Which accuracy should guide the search: after calibration alone, with new batch norm statistics, or after a few steps?

    python experiments/guides.py [--network mobilenetv1] [--arch eyeriss] [--seconds 120] [--epochs 3] [--members 10] [--seeds 2]
        [--runs runs/guides] [--quick] [--out benchmarks/guides.json]

Each of `--accuracy ptq`, `finetune:0` and `finetune:20` gets equal time: how long it takes for one assignment is measured first,
and the population is as large as `--seconds` of accuracies allow (generations as by default). Members of every front, evenly
spread over its energies below that of 8 bits, are then trained alike, quantization-aware at their widths, and judged
on all test images. Fronts are compared after that: hypervolume up to the energy of 8 bits everywhere and an error of one half,
relative to that box, and the least energy at the trained error of 8 bits everywhere, of 6 and of 4.
Training images are the embedded 2,000, or all 55,000 where Debian's dataset-fashion-mnist is installed.
Expected with --members 6 --epochs 2: an hour of one core for each seed; --quick: a minute, without the last guide. Results are kept as
they come, and a killed run goes on.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from headline import Trainings

from mqjax import hypervolume, network_cost
from mqjax.accuracy.judge import default_accuracy
from mqjax.io.files import write_atomically
from mqjax.network.wiring import Wiring
from mqjax.show.figures import spread
from mqjax.study.config import GENERATIONS, StudyConfig
from mqjax.study.seeding import ROUNDS
from mqjax.study.study import run_study
from mqjax.types import WIDTHS

GUIDES = ("ptq", "finetune:0", "finetune:20")
WORST_ERROR = 0.5
UNIFORM = (8, 6, 4)


def seconds_each(config: StudyConfig, guide: str, wiring: Wiring) -> float:
    """Seconds of one assignment's accuracy, compilation not counted."""
    judge = default_accuracy(config.network, config.dataset, method=guide, num_images=config.images)
    genomes = np.random.default_rng(0).integers(3, 9, (2 * judge.at_once, wiring.genes))
    genomes = wiring.shaped(genomes)
    judge(genomes[: judge.at_once])
    started = time.perf_counter()
    judge(genomes)
    return (time.perf_counter() - started) / len(genomes)


def affordable(seconds: float, each: float) -> int:
    """The population whose search with default generations judges as many assignments as fit into `seconds`."""
    count = (seconds / each - len(WIDTHS)) / (ROUNDS + GENERATIONS[True])
    return max(8, int(count) // 2 * 2)


def measured(config: StudyConfig, folder: Path, trainings: Trainings, members: int, seed: int) -> dict[str, Any]:
    """One guide's front after training."""
    run = run_study(config, folder=folder, resume=(folder / "config.json").exists())
    wiring = trainings.trained.model.architecture.wiring()
    uniform = wiring.uniform
    genomes = wiring.flat(np.stack([member.genome for member in run.members]))
    cost = network_cost(run.table, np.concatenate([uniform, genomes]), ["energy"], wiring=wiring)[:, 0]
    eight = float(cost[len(WIDTHS) - 1])
    cheaper = np.flatnonzero(cost[len(WIDTHS) :] < eight)
    order = cheaper[np.argsort(cost[len(WIDTHS) :][cheaper])]
    chosen = np.array(spread(order.tolist(), members))
    points = np.array([[1 - trainings(genomes[n], seed)[1], cost[len(WIDTHS) + n]] for n in chosen])
    errors = {width: 1 - trainings(uniform[width - WIDTHS[0]], seed)[1] for width in UNIFORM}
    box = np.array([WORST_ERROR, eight])
    saved = {}
    for width, error in errors.items():
        within = points[points[:, 0] <= error, 1]
        saved[str(width)] = round(1 - float(within.min()) / eight, 4) if len(within) else None
    return {
        "assignments": len(run.result.genomes),
        "hypervolume": round(hypervolume(points / box, np.ones(2)), 5),
        "saved_at_error_of_uniform": saved,
        "trained": [[round(error, 5), round(energy / 1e6, 3)] for error, energy in points.tolist()],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="mobilenetv1")
    parser.add_argument("--arch", default="eyeriss")
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--members", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--runs", type=Path, default=Path("runs/guides"))
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    base, guides = StudyConfig(arch=args.arch, network=args.network), GUIDES
    if args.quick:
        guides = GUIDES[:2]
        args.seconds, args.epochs, args.members, args.seeds = 0.2, 1, 2, 1
        base = dataclasses.replace(base, images=64, test_images=64, generations=0)
    document = json.loads(args.out.read_text()) if args.out and args.out.exists() else {"trainings": {}, "guides": {}}
    options = ("seconds", "epochs", "members", "seeds")
    document["command"] = " ".join(["python experiments/guides.py", *(f"--{x} {vars(args)[x]:g}" for x in options)])
    document["device"] = jax.devices()[0].device_kind

    def keep() -> None:
        if args.out:
            write_atomically(args.out, json.dumps(document, indent=1) + "\n")

    trainings = Trainings(args.network, args.epochs, args.runs / "trained", document["trainings"], keep, args.quick)
    document["training_images"] = len(trainings.data)
    wiring = trainings.trained.model.architecture.wiring()
    for guide in guides:
        if guide not in document["guides"]:
            each = seconds_each(base, guide, wiring)
            population = affordable(args.seconds, each)
            document["guides"][guide] = {"seconds_each": round(each, 4), "population": population, "fronts": []}
            keep()
        found = document["guides"][guide]
        for seed in range(len(found["fronts"]), args.seeds):
            config = dataclasses.replace(base, accuracy=guide, population=found["population"], seed=seed)
            folder = args.runs / f"{guide.replace(':', '_')}-{seed}"
            found["fronts"].append(measured(config, folder, trainings, args.members, 0))
            print(guide, seed, found["fronts"][-1], file=sys.stderr, flush=True)
            keep()
    print(json.dumps(document["guides"], indent=1))


if __name__ == "__main__":
    main()
