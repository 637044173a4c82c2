"""How much less energy (or EDP) at no loss of accuracy? Members of searched fronts, trained on all images, against 8 bits.

    python experiments/headline.py [--networks mobilenetv1,mobilenetv2] [--archs eyeriss,simba] [--metrics energy,edp]
        [--members 4] [--refine 2] [--seeds 3] [--epochs 5] [--lost-most 0.01] [--accuracy ptq] [--data-dir DIR --images 5000]
        [--generations 3] [--runs runs/headline] [--quick] [--out benchmarks/headline.json]

Needs all 60,000 training images of Fashion-MNIST (Debian's package dataset-fashion-mnist), or it trains on the embedded
2,000. For each network, accelerator and metric a search (`mqjax search`) gives a front; validated on 2,000 images, its members are less
accurate than they seem there, so give it all 5,000 (`experiments/prepare_fashion_mnist.py` with --per-class 500). Some members, evenly
spread over what they cost, and 8 bits everywhere are trained alike, quantization-aware from the shipped network: same epochs,
same seeds, same images. Accuracies of single trainings on the 5,000 validation images differ by more than members do, so they are
smoothed: accuracy may only rise with cost (isotonic regression). The cheapest member is sought that loses nothing there against
8 bits, nor, beyond chance, on the 10,000 test images: members may owe what they seem to be worth to the search's having seen
the validation images, so test images have a veto, and no other say. It is trained with all seeds before it counts, and so are
cheaper ones that may only seem worse. What was trained so for another front of the network takes part (with --members 0 nothing
else). Then --refine times a member halfway to the next cheaper one is tried. Accuracies are means over seeds. What a member saves
by each metric, on the mappings that are best by it, is reported too.
Longer training wins back more: after two epochs a member that saves 40 % of MobileNetV1's energy on Eyeriss is at 0.918, after eight
at 0.921, 8 bits at 0.921 and 0.922 (test images, one seed).
Expected: 5 minutes of one core for a training of MobileNetV1, 11 for MobileNetV2 (`taskset` two runs of one network each), a dozen
trainings for each of eight fronts; results are kept as they come, and a killed run goes on. --quick: a small front, one seed, one epoch,
256 images.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from scipy.optimize import isotonic_regression

from mqjax.accuracy.recipe import QUANTIZED
from mqjax.accuracy.trained import trained_network
from mqjax.accuracy.training import accuracy, train
from mqjax.data import Images, training_images
from mqjax.errors import InputError
from mqjax.io.files import write_atomically
from mqjax.models.qat import QuantizedNetwork
from mqjax.network.cost import network_cost
from mqjax.study.config import StudyConfig
from mqjax.study.study import run_study
from mqjax.types import METRICS, WIDTHS

CHANCE = 0.0015
"""By how much validation accuracies of two trainings that differ in the seed alone differ (5,000 images, standard deviation)."""

TEST_CHANCE = 0.0007
"""What a member may lose on test images: standard deviation of the difference of two means of three seeds."""

QUICK = slice(256)
"""Images of each part that --quick looks at."""


class Trainings:
    """Trainings of one network at many widths; each is done once. known: accuracies [validation, test] by genome and seed,
    kept by `keep` as they come."""

    def __init__(
        self,
        network: str,
        epochs: int,
        folder: Path,
        known: dict[str, list[float]],
        keep: Callable[[], None],
        quick: bool,
    ) -> None:
        self.trained = trained_network(network, "fashion_mnist")
        dataset, resolution = self.trained.dataset, self.trained.model.architecture.resolution
        some = QUICK if quick else slice(None)
        data, validation = training_images(dataset, resolution)
        assert isinstance(data, Images)
        self.data, self.validation, self.test = (
            Images(part.images[some], part.labels[some])
            for part in (data, validation, dataset.sized("test", resolution))
        )
        self.epochs, self.folder, self.known, self.keep = epochs, folder, known, keep

    def __call__(self, genome: np.ndarray, seed: int) -> list[float]:
        """Accuracy on the validation and the test images of a flat genome int [G], trained with `seed`."""
        digits = "".join(map(str, genome))
        key = f"{digits}/{seed}"
        if key not in self.known:
            model = QuantizedNetwork(nnx.clone(self.trained.model), self.trained.quantizer, jnp.asarray(genome))
            config = dataclasses.replace(QUANTIZED, epochs=self.epochs, seed=seed)
            train(model, self.data, self.validation, self.folder / digits / str(seed), config=config)
            self.known[key] = [accuracy(model, self.validation), accuracy(model, self.test)]
            self.keep()
            print(self.trained.name, key, self.known[key], file=sys.stderr, flush=True)
        return self.known[key]

    def done(self, seeds: int) -> np.ndarray:
        """Genomes int [K, G] that were trained with so many seeds."""
        genes = self.trained.model.architecture.wiring().genes
        counts = Counter(key.split("/")[0] for key in self.known)
        found = [list(map(int, digits)) for digits, count in counts.items() if count >= seeds]
        return np.array(found, np.int64).reshape(-1, genes)

    def means(self, genome: np.ndarray, seeds: int) -> np.ndarray:
        """Means of both accuracies over seeds, float64 [2]."""
        return np.mean([self(genome, seed) for seed in range(seeds)], axis=0)


def cheapest(trainings: Trainings, members: np.ndarray, eight: np.ndarray, seeds: int) -> tuple[int | None, list[int]]:
    """The first of members int [F, G], cheapest first, that loses nothing against 8 bits everywhere by smoothed accuracy, and
    how many seeds each was trained with; `None` if there is none. Before it is decided all members that are as cheap and by
    chance may only seem worse are trained with more seeds."""
    trained = [1] * len(members)
    of_eight = trainings.means(eight, seeds)
    while True:
        gained = np.array([trainings.means(genome, k) - of_eight for genome, k in zip(members, trained, strict=True)])
        gained = gained.reshape(-1, 2)  # there may be no members
        least = np.minimum(gained[:, 0], gained[:, 1] + TEST_CHANCE)
        smoothed = isotonic_regression([*least, 0], weights=[*trained, seeds]).x
        place = int(np.argmax(smoothed >= smoothed[-1] - 1e-9))
        hopeful = smoothed[:-1] >= smoothed[-1] - CHANCE / np.sqrt(trained)
        open_ones = [i for i in range(min(place + 1, len(members))) if hopeful[i] and trained[i] < seeds]
        if not open_ones:
            return None if place == len(members) else place, trained
        trained[open_ones[0]] += 1


def halfway(costs: np.ndarray, chosen: list[int], place: int | None) -> int | None:
    """The member halfway, by cost, between `chosen[place]` and the next cheaper of `chosen`, or `None` if there is none. costs:
    float64 [F + 1], ascending, the last that of 8 bits everywhere, which is meant where `place` is `None`."""
    place = len(chosen) if place is None else place
    if not place:
        return None
    below, above = chosen[place - 1], [*chosen, len(costs) - 1][place]
    if above - below < 2:
        return None
    middle = (costs[below] + costs[above]) / 2
    return below + 1 + int(np.abs(costs[below + 1 : above] - middle).argmin())


def saved_on(
    config: StudyConfig, folder: Path, trainings: Trainings, seeds: int, count: int, refine: int, lost_most: float
) -> dict[str, Any]:
    """What a search's front saves after training: `count` members spread over it, and `refine` more. Members whose error after
    calibration exceeds that of 8 bits by more than `lost_most` are not trained: training wins back less."""
    run = run_study(config, folder=folder, resume=(folder / "config.json").exists())
    wiring = trainings.trained.model.architecture.wiring()
    eight, metric = wiring.uniform[-1], config.objectives[1]

    def costs_of(genomes: np.ndarray) -> np.ndarray:
        return network_cost(run.table, genomes, [metric], wiring=wiring)[:, 0]

    of_eight = costs_of(eight[None])[0]
    after_calibration = {one["width"]: one["objectives"]["error"] for one in run.document["uniform"]}
    most = after_calibration[WIDTHS[-1]] + lost_most
    found = [wiring.flat(member.genome[None])[0] for member in run.members if member.objectives[0] <= most]
    # What was trained for other fronts of the network costs nothing more.
    elsewhere = trainings.done(seeds)
    genomes = np.unique([*found, *elsewhere, eight], axis=0)
    costs = costs_of(genomes)
    cheaper = np.argsort(costs, kind="stable")[: (costs < of_eight).sum()]
    if not len(cheaper):
        raise InputError(f"the front in {folder} has no member that is cheaper than 8 bits everywhere")
    genomes, costs = genomes[cheaper], costs[cheaper]
    # Evenly spread over what they cost, then more where the cheapest that will do may lie.
    spread = {int(np.abs(costs - cost).argmin()) for cost in np.linspace(costs[0], costs[-1], count)}
    known = np.flatnonzero((genomes[:, None] == elsewhere).all(axis=2).any(axis=1)).tolist()
    chosen = sorted(spread.union(known))
    place, trained = cheapest(trainings, genomes[chosen], eight, seeds)
    for _ in range(refine):
        if (more := halfway(np.append(costs, of_eight), chosen, place)) is None:
            break
        chosen = sorted([*chosen, more])
        place, trained = cheapest(trainings, genomes[chosen], eight, seeds)
    members, costs = genomes[chosen], costs[chosen]
    whole = run.document["native"]
    unpacked = None if whole is None else whole["energy_pj"] * (whole["cycles"] if metric == "edp" else 1)

    def row(genome: np.ndarray, cost: float, number: int) -> dict[str, Any]:
        validation, test = trainings.means(genome, number)
        both = np.stack([genome, eight])
        others = [other for other in METRICS if other != metric]
        by_others = {other: network_cost(run.table, both, [other], wiring=wiring)[:, 0] for other in others}
        return {
            "genome": "".join(map(str, genome)),
            "mean_width": round(float(genome.mean()), 2),
            "saved_against_8_bits": round(1 - float(cost / of_eight), 4),
            "saved_against_one_operand_per_word": None if unpacked is None else round(1 - float(cost / unpacked), 4),
            **{f"{other}_saved": round(1 - float(mine / its), 4) for other, (mine, its) in by_others.items()},
            "validation_accuracy": round(float(validation), 5),
            "test_accuracy": round(float(test), 5),
            "seeds": number,
        }

    rows = [row(*of_one) for of_one in zip(members, costs, trained, strict=True)]
    baseline = row(eight, of_eight, seeds)
    return {
        "metric": metric,
        **(baseline if place is None else rows[place]),
        "test_accuracy_of_8_bits": baseline["test_accuracy"],
        "validation_accuracy_of_8_bits": baseline["validation_accuracy"],
        "trained": rows,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", default="mobilenetv1,mobilenetv2")
    parser.add_argument("--archs", default="eyeriss,simba")
    parser.add_argument("--metrics", default="energy,edp")
    parser.add_argument("--members", type=int, default=4)
    parser.add_argument("--refine", type=int, default=2)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--lost-most", type=float, default=0.01)
    parser.add_argument("--accuracy", default="ptq")
    parser.add_argument("--data-dir")
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--generations", type=int)
    parser.add_argument("--runs", type=Path, default=Path("runs/headline"))
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    more: dict[str, Any] = {"data_dir": args.data_dir, "images": args.images, "generations": args.generations}
    if args.quick:
        args.networks, args.archs, args.metrics = "mobilenetv1", "eyeriss", "energy"
        args.members, args.refine, args.seeds, args.epochs = 2, 1, 1, 1
        more |= {"images": 64, "test_images": 64, "population": 8, "generations": 0}
    document = json.loads(args.out.read_text()) if args.out and args.out.exists() else {"trainings": {}, "fronts": {}}
    document["device"] = jax.devices()[0].device_kind

    def keep() -> None:
        if args.out:
            write_atomically(args.out, json.dumps(document, indent=1) + "\n")

    for network in args.networks.split(","):
        known = document["trainings"].setdefault(f"{network}, {args.epochs} epochs", {})
        trained_in = args.runs / network / f"trained-{args.epochs}"
        trainings = Trainings(network, args.epochs, trained_in, known, keep, args.quick)
        document["training_images"] = len(trainings.data)
        for arch in args.archs.split(","):
            for metric in args.metrics.split(","):
                name = f"{network} on {arch} by {metric}"
                if name in document["fronts"]:
                    continue
                config = StudyConfig(
                    arch=arch, network=network, objectives=("error", metric), accuracy=args.accuracy, **more
                )
                folder = args.runs / network / f"{arch}-{metric}"
                command = f"python experiments/headline.py --networks {network} --archs {arch} --metrics {metric}"
                options = "members refine seeds epochs lost_most accuracy images generations"
                for option in options.split():
                    if (value := getattr(args, option)) is not None:
                        command += f" --{option.replace('_', '-')} {value}"
                document["fronts"][name] = {
                    "command": command + (" --data-dir DIR" if args.data_dir else ""),
                    **saved_on(config, folder, trainings, args.seeds, args.members, args.refine, args.lost_most),
                }
                print(name, document["fronts"][name], file=sys.stderr, flush=True)
                keep()
    print(json.dumps(document["fronts"], indent=1))


if __name__ == "__main__":
    main()
