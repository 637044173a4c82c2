"""Throughput of the parts of mqjax on this machine. Each function returns plain numbers for a JSON file."""

from __future__ import annotations

import concurrent.futures
import functools
import importlib.util
import itertools
import os
import resource
import time
import types
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mqjax.arch import Arch
from mqjax.cost.exact.evaluator import evaluate
from mqjax.cost.packing import packing_boxes
from mqjax.hw import load_arch
from mqjax.mapper.sweep import Rows, Sweeper
from mqjax.mapper.table import CostTable, cost_table
from mqjax.mapspace.space import Mapspace
from mqjax.models import network_layers
from mqjax.network.cost import network_cost
from mqjax.study.nsga2 import NSGA2, uniform_population
from mqjax.types import DEPTHWISE, BitWidths, Layer, all_widths

SINGLE = BitWidths(8, 8, 8)


def timed(function: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds that a call takes, and its result."""
    start = time.perf_counter()
    result = function()
    return time.perf_counter() - start, result


def bench_evaluator(arch: Arch, layer: Layer, *, seconds: float = 2.0) -> dict[str, Any]:
    """Mappings per second of the sweep over the layer's space, for one triple and for all 343, minima only."""
    space = Mapspace(arch, layer)
    result: dict[str, Any] = {"arch": arch.name, "layer": layer.name, "distinct_mappings": space.distinct}
    for name, bits in (("one_triple", [SINGLE]), ("all_triples", all_widths())):
        sweeper = Sweeper(space, packing_boxes(arch, bits))
        jobs = list(sweeper.jobs())
        compiled, _ = timed(lambda s=sweeper, j=jobs: s.minima(j[0]))
        rounds, spent = 0, 0.0
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            while spent < seconds:
                spent += timed(lambda p=pool, s=sweeper, j=jobs: list(p.map(s.minima, j)))[0]
                rounds += 1
        rate = rounds * space.distinct / spent
        result[name] = {
            "first_call_s": round(compiled, 3),
            "evaluated_mappings_per_s": rate,
            "covered_mappings_per_s": rate * space.pruned_size / space.distinct,
            "mapping_triples_per_s": rate * len(bits),
        }
        result[name]["operations_per_s"] = rate * sweeper.operations(jobs[0])
    sweeper = Sweeper(space, packing_boxes(arch, [SINGLE]))
    rate = plain_numpy(sweeper, seconds=seconds)
    result["plain_numpy"] = {
        "evaluated_mappings_per_s": rate,
        "speedup_of_one_triple": result["one_triple"]["evaluated_mappings_per_s"] / rate,
    }
    result["machine_operations_per_s"] = machine()
    result["share_of_machine"] = result["one_triple"]["operations_per_s"] / result["machine_operations_per_s"]
    return result


def numpy_costs(sweeper: Sweeper, rows: Rows) -> Any:
    """Cost terms (`mqjax.cost.fast.terms.Costs`) of at most a chunk of mappings, for the sweeper's first box: the same formulas, run
    by NumPy one operation at a time."""
    tables = sweeper.chosen_tables(rows)
    plan, n = sweeper.plan, tables.numbers
    bound = dict(zip(itertools.chain(*plan.columns), tables.columns[0], strict=True))
    for t, (_, _, fixed, free) in enumerate(plan.tiling):
        for d in (*fixed, *free):
            bound.setdefault((d, t), n.bounds[d] if d in plan.single else np.float64(1))
    terms = _terms_in_numpy()
    counts = terms.counts_of(plan, n, terms.unroll(plan, n, bound, tables.picks))
    return terms.cost_terms(plan, n, counts, sweeper.boxes[0].packed, sweeper.chosen_size)


@functools.cache
def _terms_in_numpy() -> Any:
    """A second copy of `mqjax.cost.fast.terms` whose functions call NumPy where those of the first call JAX."""
    spec = importlib.util.find_spec("mqjax.cost.fast.terms")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.__dict__["jnp"] = np
    module.__dict__["lax"] = types.SimpleNamespace(optimization_barrier=lambda values: values)
    return module


def plain_numpy(sweeper: Sweeper, *, seconds: float) -> float:
    """Mappings per second that `numpy_costs` prices for one triple."""
    rows = sweeper.numbering.at(np.arange(min(len(sweeper.numbering), sweeper.chosen_size)))
    spent, rounds = 0.0, 0
    with np.errstate(all="ignore"):
        while spent < seconds:
            took, _ = timed(lambda: numpy_costs(sweeper, rows))
            spent += took
            rounds += 1
    return rounds * len(rows) / spent


def machine() -> float:
    """Element-wise float64 operations per second in a fused kernel with as little memory traffic, on all cores."""
    chains, length, size, repeats = 8, 32, 2**20, 8

    @jax.jit
    def kernel(x: jax.Array) -> jax.Array:
        # Independent chains, as the evaluator has independent counts; multiplication and addition alternate.
        values = [x + k for k in range(chains)]
        for _ in range(length):
            values = [(v * x) + 0.5 for v in values]
        return sum(values, start=jnp.zeros_like(x))

    with jax.enable_x64(True):
        x = jnp.linspace(0.0, 0.5, size)
        kernel(x).block_until_ready()
        seconds, _ = timed(lambda: [kernel(x).block_until_ready() for _ in range(repeats)])
    return 2 * chains * length * size * repeats / seconds


def general(arch: Arch, layer: Layer, count: int = 4096) -> dict[str, float]:
    """Mappings per second of the general evaluator, which prices any mapping, on a random sample of the space."""
    mappings = Mapspace(arch, layer).sample(jax.random.key(0), count)
    evaluate(arch, layer, SINGLE, mappings)
    seconds, _ = timed(lambda: evaluate(arch, layer, SINGLE, mappings))
    return {"evaluated_mappings_per_s": count / seconds}


def bench_table(arch: Arch, network: str, depthwise: str) -> dict[str, Any]:
    """Seconds for the table of a 224x224 network: all triples and unpacked, three metrics, mappings, nothing cached; the
    first call compiles."""
    layers = network_layers(network, depthwise=depthwise)
    first, _ = timed(lambda: cost_table(arch, layers))
    seconds, found = timed(lambda: cost_table(arch, layers))
    distinct = sum(entry.evaluated for entry in found.tables)
    pruned = sum(entry.pruned_size for entry in found.tables)
    return {
        "arch": arch.name,
        "network": network,
        "depthwise": depthwise,
        "unique_layers": len(found.unique),
        "first_call_s": round(first, 3),
        "seconds": round(seconds, 3),
        "covered": found.covered,
        "distinct_mappings": distinct,
        "evaluated_mappings_per_s": distinct / seconds,
        "covered_mappings_per_s": pruned / seconds,
    }


def pricing(network: str = "mobilenetv2", count: int = 2**20) -> dict[str, Any]:
    """Genomes per second priced by look-up, in a table of made-up costs."""
    generator = np.random.default_rng(0)
    layers = network_layers(network)
    unique = tuple(dict.fromkeys(layers))
    index = np.array([unique.index(layer) for layer in layers])
    costs = {"energy": generator.random((len(unique), 7, 7, 7))}
    made_up = CostTable("none", tuple(layers), unique, index, costs)
    genomes = generator.integers(2, 9, (count, len(layers), 2)).astype(np.int8)
    seconds, _ = timed(lambda: network_cost(made_up, genomes))
    return {"network": network, "genomes_per_s": count / seconds}


def generation(objectives: int, population: int = 16_384, genes: int = 106) -> dict[str, Any]:
    """Seconds of one NSGA-II generation (ask and tell) without evaluations."""
    algorithm = NSGA2(population, np.zeros(genes, np.int32), low=2, high=8)
    params, key = algorithm.default_params, jax.random.key(0)
    weights = np.random.default_rng(0).random((genes, objectives))

    def fitness(genomes: np.ndarray) -> np.ndarray:
        values = genomes @ weights
        values[:, 0] = (2.0**-genomes) @ weights[:, 0]
        return values

    start = uniform_population(key, population, genes, low=2, high=8)
    state = algorithm.init(key, start, fitness(start), params)
    algorithm.ask(key, state, params)
    spent = 0.0
    for step in range(3):
        asked, (children, state) = timed(lambda s=step, st=state: algorithm.ask(jax.random.fold_in(key, s), st, params))
        values = fitness(children)
        told, (state, _) = timed(lambda c=children, v=values, st=state: algorithm.tell(key, c, v, st, params))
        spent += asked + told
    return {"objectives": objectives, "population": population, "seconds": round(spent / 3, 4)}


def bench_accuracy(method: str, images: int = 1024) -> dict[str, Any]:
    """Assignments per second by how many are evaluated at once, with the shipped network on the embedded data."""
    from mqjax.accuracy.judge import default_accuracy

    start, judge = timed(lambda: default_accuracy(num_images=images, method=method))
    genes, default = judge.architecture.wiring().genes, judge.at_once
    rates = {}
    for at_once in sorted({1, 8, default} if jax.default_backend() == "cpu" else {1, 8, 64, 256, default}):
        judge = default_accuracy(num_images=images, method=method, at_once=at_once)
        genomes = np.random.default_rng(0).integers(2, 9, (max(8, at_once), genes))
        judge(genomes[:at_once])
        seconds, _ = timed(lambda judge=judge, genomes=genomes: judge(genomes))
        rates[str(at_once)] = len(genomes) / seconds
    return {
        "method": method,
        "images": images,
        "start_s": round(start, 3),
        "default_at_once": default,
        "assignments_per_s_by_at_once": rates,
    }


PARTS: dict[str, Callable[[], Any]] = {
    "evaluator": lambda: [bench_evaluator(load_arch(name), _typical()) for name in ("eyeriss", "simba")],
    "general": lambda: {name: general(load_arch(name), _typical()) for name in ("eyeriss", "simba")},
    "table": lambda: [
        bench_table(load_arch(arch), network, DEPTHWISE[0])
        for network in ("mobilenetv1", "mobilenetv2")
        for arch in ("eyeriss", "simba")
    ],
    "pricing": pricing,
    "nsga2": lambda: [generation(objectives) for objectives in (2, 3)],
    "accuracy": lambda: [bench_accuracy(method) for method in ("ptq", "finetune:0", "finetune:20")],
}
"""What `mqjax bench` measures, by name."""


def _typical() -> Layer:
    """A pointwise layer in the middle of MobileNetV1 at 224x224."""
    return Layer(C=256, M=256, P=28, Q=28, name="mobilenetv1_pw5")


def peak_memory_bytes() -> int:
    """The most memory that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
