"""Everything that waits for a GPU, in one go: agreement with the CPU, throughput by chunk size, tables, accuracies, training.

    python experiments/gpu.py [--quick] [--out benchmarks/gpu.json]

Writes one JSON and prints one table. Meant for a machine with an NVIDIA GPU and `pip install "jax[cuda]"`; without one it
compares the CPU with itself, which --quick does on something small.
Expected: under 8 minutes on an H100; --quick: a minute on 2 cores.

    agreement   tables of both networks on both accelerators, computed there and on the CPU: energies, cycles, mappings and
                counts must be equal to the last bit; accuracies of 32 assignments must be equal
    sweep       evaluated mappings a second by chunk size, one width triple and all 343, on Simba's largest layers
    tables      seconds, nothing cached, second call
    accuracy    assignments a second by how many are evaluated at once
    training    images a second of quantization-aware training
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mqjax.accuracy.judge import default_accuracy
from mqjax.accuracy.recipe import QUANTIZED
from mqjax.accuracy.trained import trained_network
from mqjax.accuracy.training import train
from mqjax.benchmark import timed
from mqjax.cost.packing import packing_boxes
from mqjax.data import Images
from mqjax.hw import load_arch
from mqjax.io.files import write_atomically
from mqjax.mapper.sweep import SIZES_BY_PLATFORM, Sizes, Sweeper
from mqjax.mapper.table import CostTable, cost_table
from mqjax.mapspace.space import Mapspace
from mqjax.models import network_layers
from mqjax.models.qat import QuantizedNetwork
from mqjax.show.progress import print_table
from mqjax.study.runs import environment
from mqjax.types import BitWidths, Layer, all_widths

PAIRS = [(arch, network) for network in ("mobilenetv1", "mobilenetv2") for arch in ("eyeriss", "simba")]
LARGE = Layer(C=512, M=512, P=14, Q=14, name="mobilenetv1_pw7")


def tables(pairs: list[tuple[str, str]], layers: int | None) -> dict[str, Any]:
    """Seconds of each table here, and whether the CPU's is the same."""
    found: dict[str, Any] = {}
    for arch, network in pairs:
        some = network_layers(network)[:layers]
        first, _ = timed(lambda a=arch, s=some: cost_table(load_arch(a), s))
        seconds, here = timed(lambda a=arch, s=some: cost_table(load_arch(a), s))
        with jax.default_device(jax.devices("cpu")[0]):
            there = cost_table(load_arch(arch), some)
        found[f"{network} on {arch}"] = {
            "first_call_s": round(first, 2),
            "seconds": round(seconds, 3),
            "covered": here.covered,
            "equal_to_cpu": same(here, there),
        }
    return found


def same(a: CostTable, b: CostTable) -> bool:
    """Whether all energies, cycles, mappings and counts are equal to the last bit."""
    return all(
        x.mappings == y.mappings
        and all(
            np.array_equal(getattr(x, name), getattr(y, name)) for name in ("energy_pj", "cycles", "index", "valid")
        )
        for x, y in zip(a.tables, b.tables, strict=True)
    )


def sweep(layer: Layer, chunks: list[int], seconds: float) -> dict[str, dict[str, float]]:
    """Mappings a second by chunk size, for one triple and for all."""
    space = Mapspace(load_arch("simba"), layer)
    found: dict[str, dict[str, float]] = {}
    for name, bits in (("one_triple", [BitWidths(8, 8, 8)]), ("all_triples", all_widths())):
        found[name] = {}
        for chunk in chunks:
            sizes = Sizes(chunk, chunk, min(chunk, 2**16), max(chunk, 2**15), 4)
            sweeper = Sweeper(space, packing_boxes(space.arch, bits), sizes)
            jobs = list(sweeper.jobs())
            sweeper.minima(jobs[0])
            mappings, start = 0, time.perf_counter()
            while time.perf_counter() - start < seconds:
                for job in jobs:
                    sweeper.minima(job)
                mappings += space.distinct
            found[name][str(chunk)] = mappings / (time.perf_counter() - start)
    return found


def accuracies(networks: list[str], at_once: list[int], images: int) -> dict[str, Any]:
    """Assignments a second by how many are evaluated at once, and whether the CPU finds the same accuracies."""
    found: dict[str, Any] = {}
    for network in networks:
        rates, values = {}, []
        for count in at_once:
            judge = default_accuracy(network, num_images=images, at_once=count)
            genomes = np.random.default_rng(0).integers(2, 9, (max(32, count), judge.architecture.wiring().genes))
            judge(genomes[:count])
            spent, accuracy = timed(lambda j=judge, g=genomes: j(g))
            rates[str(count)] = len(genomes) / spent
            values.append(accuracy[:32])
        with jax.default_device(jax.devices("cpu")[0]):
            judge = default_accuracy(network, num_images=images, at_once=1)
            genomes = np.random.default_rng(0).integers(2, 9, (32, judge.architecture.wiring().genes))
            there = judge(genomes)
        equal = [int((value == there).sum()) for value in values]
        found[network] = {"assignments_per_s": rates, "of_32_equal_to_cpu": dict(zip(rates, equal, strict=True))}
    return found


def training(steps: int) -> float:
    """Images a second of quantization-aware training, the first epoch, which compiles, not counted."""
    trained = trained_network("mobilenetv1", "fashion_mnist")
    repeats = np.resize(np.arange(len(trained.images)), steps * QUANTIZED.batch)
    data = Images(trained.images.images[repeats], trained.images.labels[repeats])
    widths = jnp.full(trained.model.architecture.wiring().genes, 4)
    model = QuantizedNetwork(trained.model, trained.quantizer, widths)
    with tempfile.TemporaryDirectory() as folder, jax.enable_x64(False):
        found = train(model, data, trained.images, folder, config=dataclasses.replace(QUANTIZED, epochs=2))
    return found[-1].images_per_second


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    quick = args.quick
    started = time.perf_counter()
    result: dict[str, Any] = {"command": "python experiments/gpu.py", **environment()}
    result["sizes"] = SIZES_BY_PLATFORM.get(jax.default_backend(), SIZES_BY_PLATFORM["gpu"])._asdict()
    result["tables"] = tables(PAIRS[:1] if quick else PAIRS, 2 if quick else None)
    chunks = [2**12] if quick else [2**12, 2**14, 2**16, 2**18, 2**20, 2**22]
    result["sweep_mappings_per_s"] = sweep(Layer(C=8, M=8, P=4) if quick else LARGE, chunks, 0.1 if quick else 2.0)
    networks = ["mobilenetv1"] if quick else ["mobilenetv1", "mobilenetv2"]
    result["accuracy"] = accuracies(networks, [1] if quick else [1, 8, 64, 256], 32 if quick else 1024)
    result["training_images_per_s"] = training(1 if quick else 100)
    result["seconds"] = round(time.perf_counter() - started, 1)
    if args.out:
        write_atomically(args.out, json.dumps(result, indent=1) + "\n")
    print_table(f"mqjax on {jax.devices()[0].device_kind}", ("what", "value"), rows(result))
    print(f"{result['seconds']} s", file=sys.stderr)


def rows(result: dict[str, Any]) -> list[tuple[str, str]]:
    """The table's lines."""
    lines = [
        (f"table of {pair}", f"{found['seconds']} s, {'equal to' if found['equal_to_cpu'] else 'NOT'} the CPU's")
        for pair, found in result["tables"].items()
    ]
    for name, rates in result["sweep_mappings_per_s"].items():
        lines += [(f"mappings/s, {name}, {chunk} at once", f"{rate:,.0f}") for chunk, rate in rates.items()]
    for network, found in result["accuracy"].items():
        for count, rate in found["assignments_per_s"].items():
            equal = found["of_32_equal_to_cpu"][count]
            lines.append(
                (f"assignments/s, {network}, {count} at once", f"{rate:,.1f}; {equal} of 32 equal to the CPU's")
            )
    return [*lines, ("training, images/s", f"{result['training_images_per_s']:,.0f}")]


if __name__ == "__main__":
    main()
