"""NSGA-II with large populations on the surrogate's own objectives: how close does it come to the exact front?

    python experiments/large_population.py [--networks mobilenetv1,mobilenetv2] [--archs eyeriss,simba] [--populations 256,1024,4096,16384]
        [--generations 200] [--quick] [--out benchmarks/large_population.json]

Loss and energy are sums over layers (`mqjax.study.surrogate`), so that the exact front is known. The gap of a member of
the exact front is how much more energy the least one takes that NSGA-II found with no higher loss; members whose loss
none reaches are counted. It is looked at after 10, 25, 50, 100 and 200 generations. Populations begin with mutations of the
uniform assignments, as in the paper. Expected: three minutes on 2 cores for each pair, accuracy of single tensors not counted;
--quick: 256 individuals, 20 generations, one pair.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mqjax import cost_table, load_arch
from mqjax.accuracy.judge import default_accuracy
from mqjax.accuracy.sensitivity import sensitivities
from mqjax.io.files import cache_folder, write_atomically
from mqjax.study.nsga2 import NSGA2, uniform_population
from mqjax.study.pareto import pareto_front
from mqjax.study.surrogate import Surrogate, SurrogateFront, summed_costs, surrogate_front
from mqjax.types import WIDTHS

OBJECTIVES = ("error", "energy")
LOOKED_AT = (10, 25, 50, 100, 200)
"""Generations after which gaps are taken, and after the last."""


def evolved(surrogate: Surrogate, exact: SurrogateFront, population: int, generations: int) -> list[dict[str, Any]]:
    """How far NSGA-II is from the exact front after some of its generations."""
    started, worked = time.perf_counter(), time.process_time()
    genes = surrogate.wiring.genes
    algorithm = NSGA2(population, np.zeros(genes, np.int32), low=WIDTHS[0], high=WIDTHS[-1])
    params = algorithm.default_params
    keys = jax.random.split(jax.random.key(0), generations + 1)
    children = uniform_population(keys[0], population, genes, low=WIDTHS[0], high=WIDTHS[-1])
    fitness = objectives(surrogate, children)
    state = algorithm.init(keys[0], children, fitness, params)
    best = fitness[pareto_front(fitness)]
    rows = []
    for generation, key in enumerate(keys[1:], start=1):
        ask, tell = jax.random.split(key)
        children, state = algorithm.ask(ask, state, params)
        fitness = objectives(surrogate, children)
        state, _ = algorithm.tell(tell, children, fitness, state, params)
        seen = np.concatenate([best, fitness])
        best = np.unique(seen[pareto_front(seen)], axis=0)
        if generation in LOOKED_AT or generation == generations:
            gap = gaps(exact, best)
            reached = gap[np.isfinite(gap)]
            rows.append(
                {
                    "population": population,
                    "generations": generation,
                    "seconds": round(time.perf_counter() - started, 1),
                    "cpu_seconds": round(time.process_time() - worked, 1),
                    "median_gap": round(float(np.median(reached)), 5) if len(reached) else None,
                    "largest_gap": round(float(reached.max()), 5) if len(reached) else None,
                    "out_of_reach": int(np.isinf(gap).sum()),
                    "front": len(best),
                }
            )
    return rows


def objectives(surrogate: Surrogate, genomes: np.ndarray) -> np.ndarray:
    """Loss and energy, float64 [N, 2], of genomes int [N, G]."""
    return np.column_stack([surrogate.loss(genomes), surrogate.cost(genomes)])


def gaps(front: SurrogateFront, found: np.ndarray) -> np.ndarray:
    """How much more energy the least of `found` [N, 2] takes whose loss is not above that of each member of the exact
    front, relative, float64 [F]; inf where there is none."""
    order = np.argsort(found[:, 0], kind="stable")
    loss, energy = found[order, 0], np.minimum.accumulate(found[order, 1])
    place = np.searchsorted(loss, front.loss, side="right")
    least = np.where(place > 0, energy[np.maximum(place, 1) - 1], np.inf)
    return least / front.costs[:, -1] - 1


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--networks", default="mobilenetv1,mobilenetv2")
    parser.add_argument("--archs", default="eyeriss,simba")
    parser.add_argument("--populations", default="256,1024,4096,16384")
    parser.add_argument("--generations", type=int, default=200)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    options = f"--populations {args.populations} --generations {args.generations}"
    if args.quick:
        args.networks, args.archs, args.populations, args.generations = "mobilenetv1", "eyeriss", "256", 20
    document: dict[str, Any] = {"command": f"python experiments/large_population.py {options}"}
    document |= {"device": jax.devices()[0].device_kind, "pairs": {}}
    for network in args.networks.split(","):
        judge = default_accuracy(network)
        losses = sensitivities(judge, cache=cache_folder())
        for arch in args.archs.split(","):
            table = cost_table(load_arch(arch), judge.layers, cache=cache_folder())
            costs = summed_costs(table, OBJECTIVES)
            surrogate = Surrogate(judge.architecture.wiring(), losses.kernels, losses.tensors, costs)
            started = time.perf_counter()
            exact = surrogate_front(surrogate)
            found = {"exact_front": len(exact.loss), "exact_front_slack": float(exact.slack[0])}
            found["exact_front_s"] = round(time.perf_counter() - started, 2)
            document["pairs"][f"{network} on {arch}"] = {**found, "nsga2": []}
            for population in map(int, args.populations.split(",")):
                rows = evolved(surrogate, exact, population, args.generations)
                document["pairs"][f"{network} on {arch}"]["nsga2"] += rows
                print(network, arch, rows[-1], file=sys.stderr, flush=True)
            if args.out:
                write_atomically(args.out, json.dumps(document, indent=1) + "\n")
    print(json.dumps(document["pairs"], indent=1))


if __name__ == "__main__":
    main()
