"""Is the search better that begins from the surrogate's exact front? Against the paper's method, random search and pymoo.

    python experiments/search_quality.py [--networks mobilenetv1,mobilenetv2] [--archs eyeriss,simba] [--seeds 5] [--quick]
        [--out benchmarks/search_quality.json]

Error on 2,000 validation images (post-training quantization) against energy. Every method's evaluations are judged alike:
hypervolume up to the energy of 8 bits everywhere and an error of one half, relative to that box, and the least energy at
errors between those of uniform 8 and uniform 4 bits.

    surrogate   sensitivities, rehearsal, then at most 391 assignments (`mqjax search`)
    paper       NSGA-II from the uniform assignments, 1,600 assignments (`mqjax search --no-surrogate`)
    paper_400   the same, stopped after 384
    pymoo       pymoo's NSGA-II, 384 assignments from random ones
    random      384 random assignments

Expected: two hours on 2 cores; --quick: a minute. Results are written as they come, a killed run goes on.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
from pymoo.algorithms.moo.nsga2 import NSGA2
from pymoo.core.problem import Problem
from pymoo.operators.crossover.sbx import SBX
from pymoo.operators.mutation.pm import PM
from pymoo.operators.repair.rounding import RoundingRepair
from pymoo.operators.sampling.rnd import IntegerRandomSampling
from pymoo.optimize import minimize

from mqjax import cost_table, hypervolume, load_arch, network_cost, search
from mqjax.accuracy.judge import QuantizedAccuracy, default_accuracy
from mqjax.accuracy.sensitivity import Divergence, sensitivities
from mqjax.io.files import cache_folder, write_atomically
from mqjax.mapper.table import CostTable
from mqjax.study.bitsearch import SearchResult
from mqjax.study.config import GENERATIONS, REHEARSED
from mqjax.study.rehearsal import Rehearsed, rehearse
from mqjax.study.surrogate import Surrogate, summed_costs
from mqjax.types import WIDTHS

POPULATION, BUDGET = 64, 384
METHODS = ("surrogate", "paper", "paper_400", "pymoo", "random")
THRESHOLDS = 21
WORST_ERROR = 0.5


class Pair:
    """A network on an accelerator, with what all methods need. metric: what is weighed against the error."""

    def __init__(self, network: str, arch: str, images: int, metric: str = "energy") -> None:
        self.metric = metric
        self.judge: QuantizedAccuracy = default_accuracy(network, num_images=images)
        self.wiring = self.judge.architecture.wiring()
        self.table: CostTable = cost_table(load_arch(arch), self.judge.layers, cache=cache_folder())
        losses = sensitivities(self.judge, cache=cache_folder())
        self.divergence = Divergence(self.judge, cache=cache_folder())
        costs = summed_costs(self.table, ("error", metric))
        self.surrogate = Surrogate(self.wiring, losses.kernels, losses.tensors, costs)
        self.uniform = self.objectives(self.wiring.uniform)

    def objectives(self, genomes: np.ndarray) -> np.ndarray:
        """float64 [N, 2] of genomes int [N, G]."""
        return np.column_stack([1 - self.judge(genomes), self.costs(genomes)])

    def costs(self, genomes: np.ndarray) -> np.ndarray:
        """The metric, float64 [N, 1], of genomes int [N, G]."""
        return network_cost(self.table, genomes, [self.metric], wiring=self.wiring)

    def rehearsed(self, seed: int, generations: int, population: int) -> Rehearsed:
        effort = {"population": population, "generations": REHEARSED * generations}
        return rehearse(self.surrogate, self.divergence, self.costs, seed=seed, **effort)

    def searched(
        self, seed: int, generations: int, population: int, rehearsed: Rehearsed | None = None
    ) -> SearchResult:
        """By the paper's method, or from what was rehearsed."""
        return search(
            self.table,
            self.judge,
            objectives=("error", self.metric),
            population=population,
            generations=generations,
            seed=seed,
            wiring=self.wiring,
            cache=cache_folder(),
            surrogate=None if rehearsed is None else self.surrogate,
            rehearsed=rehearsed,
        )

    def by_pymoo(self, seed: int, population: int, generations: int) -> np.ndarray:
        pair, found = self, []

        class Widths(Problem):
            def __init__(self) -> None:
                super().__init__(n_var=pair.wiring.genes, n_obj=2, xl=WIDTHS[0], xu=WIDTHS[-1], vtype=int)

            def _evaluate(self, x: np.ndarray, out: dict[str, Any], *args: Any, **kwargs: Any) -> None:
                out["F"] = pair.objectives(x.astype(int))
                found.append(out["F"])

        repair = RoundingRepair()
        algorithm = NSGA2(
            population,
            sampling=IntegerRandomSampling(),
            crossover=SBX(vtype=float, repair=repair),
            mutation=PM(vtype=float, repair=repair),
        )
        minimize(Widths(), algorithm, ("n_gen", generations + 1), seed=seed)
        return np.concatenate(found)

    def run(self, method: str, seed: int, quick: bool) -> np.ndarray:
        """Objectives float64 [E, 2] of all that a method evaluates."""
        population = 8 if quick else POPULATION
        few = 1 if quick else BUDGET // POPULATION - 1
        if method == "surrogate":
            effort = (seed, 1 if quick else GENERATIONS[True], population)
            return self.searched(*effort, self.rehearsed(*effort)).objectives
        if method == "paper":
            return self.searched(seed, 2 if quick else GENERATIONS[False], population).objectives
        if method == "paper_400":
            return self.searched(seed, few, population).objectives
        if method == "pymoo":
            return self.by_pymoo(seed, population, few)
        shape = (population * (few + 1), self.wiring.genes)
        return self.objectives(np.random.default_rng(seed).integers(WIDTHS[0], WIDTHS[-1] + 1, shape))

    def judged(self, objectives: np.ndarray) -> dict[str, Any]:
        """Hypervolume, and the least of the metric at errors between those of uniform 8 and uniform 4 bits."""
        box = np.array([WORST_ERROR, self.uniform[-1, 1]])
        errors = np.linspace(self.uniform[-1, 0], self.uniform[2, 0], THRESHOLDS)
        least = [objectives[objectives[:, 0] <= error, 1].min(initial=np.inf) for error in errors]
        return {
            "evaluations": len(objectives),
            "hypervolume": float(hypervolume(objectives / box, np.ones(2))),
            "least_energy_pj": [value if np.isfinite(value) else None for value in least],
        }


def compared(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """By pair and method: hypervolumes, and how much less energy the surrogate's search needs at equal error, over all
    thresholds and seeds that both reach: median and least."""
    result: dict[str, Any] = {}
    for run in runs:
        pair = result.setdefault(f"{run['network']} on {run['arch']}", {})
        pair.setdefault(run["method"], {"hypervolumes": [], "energies": []})
        pair[run["method"]]["hypervolumes"].append(round(run["hypervolume"], 5))
        pair[run["method"]]["energies"].append([value or np.inf for value in run["least_energy_pj"]])
    for pair in result.values():
        energies = {method: np.array(values.pop("energies")) for method, values in pair.items()}
        for method, values in pair.items():
            mine = energies.get("surrogate")
            if method == "surrogate" or mine is None:
                continue
            seeds = min(len(mine), len(energies[method]))
            mine, other = mine[:seeds], energies[method][:seeds]
            both = np.isfinite(mine) & np.isfinite(other)
            saved = 1 - mine[both] / other[both]
            if len(saved):
                values["energy_saved"] = {
                    "median": round(float(np.median(saved)), 4),
                    "least": round(float(saved.min()), 4),
                }
    return result


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--networks", default="mobilenetv1,mobilenetv2")
    parser.add_argument("--archs", default="eyeriss,simba")
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="one small network's pair, 64 images, tiny budgets")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if args.quick:
        args.networks, args.archs, args.seeds = "mobilenetv1", "eyeriss", 1
    runs = json.loads(args.out.read_text())["runs"] if args.out and args.out.exists() else []
    done = {(run["network"], run["arch"], run["method"], run["seed"]) for run in runs}
    document: dict[str, Any] = {"command": f"python experiments/search_quality.py --seeds {args.seeds}"}
    document["device"] = jax.devices()[0].device_kind
    for network in args.networks.split(","):
        for arch in args.archs.split(","):
            pair = Pair(network, arch, 64 if args.quick else 2000)
            for method in args.methods.split(","):
                for seed in range(args.seeds):
                    key = {"network": network, "arch": arch, "method": method, "seed": seed}
                    if tuple(key.values()) in done:
                        continue
                    runs.append({**key, **pair.judged(pair.run(method, seed, args.quick))})
                    print(key, round(runs[-1]["hypervolume"], 5), file=sys.stderr, flush=True)
                    document |= {"compared": compared(runs), "runs": runs}
                    if args.out:
                        write_atomically(args.out, json.dumps(document, indent=1) + "\n")
    print(json.dumps(document["compared"], indent=1))


if __name__ == "__main__":
    main()
