"""Where the time of a sweep goes: nanoseconds per mapping on one core, up to and including each stage.

    taskset -c 0 python experiments/profile_sweep.py [--quick] > benchmarks/profile_cpu_1_core.json

Each stage is a program of its own whose results are summed, so stages include those before them; differences show what a
stage adds. A pointwise layer of MobileNetV1, all 343 width triples and unpacked operands. Expected: a minute on one CPU core;
--quick: Eyeriss and a small layer.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from mqjax.cost.fast import terms
from mqjax.cost.packing import packing_boxes
from mqjax.hw import load_arch
from mqjax.mapper import programs
from mqjax.mapper.limits import Limiter
from mqjax.mapper.sweep import Sweeper
from mqjax.mapspace.space import Mapspace
from mqjax.study.runs import environment
from mqjax.types import BitWidths, Layer, all_widths

LAYER = Layer(C=256, M=256, P=28, Q=28, name="mobilenetv1_pw5")
ROUNDS = 5


def total(values: Any) -> jax.Array:
    # Behind a barrier, so that XLA cannot simplify a stage knowing that only sums are wanted.
    return sum((jnp.sum(x) for x in jax.tree.leaves(jax.lax.optimization_barrier(values))), start=jnp.float64(0))


def stages(sweeper: Sweeper, limits: tuple[Any, ...]) -> dict[str, Callable[..., Any]]:
    """Programs of (tables, start) by name."""
    plan, n, size, box = sweeper.plan, sweeper.numbers, sweeper.size, limits[0]

    def counts(tables, start):
        return programs.chunk_counts(plan, tables, start, size)

    def screened(tables, start, boxes):
        found, weight, beyond = counts(tables, start)
        return [programs.screened(plan, n, found, box, weight, ~beyond, size, False) for box in boxes]

    def one_triple(tables, start):
        packings = box.packings._replace(tensors=tuple(table[:1] for table in box.packings.tensors))
        return terms.cost_terms(plan, n, counts(tables, start)[0], packings, size)

    return {
        "read the tables": lambda t, s: programs.unrank(plan, t, s, size),
        "count accesses": counts,
        "price one triple": one_triple,
        "bound the energy": lambda t, s: terms.least_energies(n, counts(t, s)[0], box.corners, size),
        "see what fits": lambda t, s: terms.what_fits(plan, n, counts(t, s)[0], box.packings, size),
        "screen 343 triples": lambda t, s: screened(t, s, limits[:1]),
        "screen 343 triples and unpacked": lambda t, s: screened(t, s, limits),
    }


def measure(sweeper: Sweeper, program: Callable[..., Any]) -> float:
    """Nanoseconds per mapping over the first job."""
    job = next(iter(sweeper.jobs()))
    tables = sweeper._tables(job.block, None)

    def loop(tables: Any) -> jax.Array:
        def chunk(k, acc):
            return acc + total(program(tables, k.astype(jnp.float64) * sweeper.size))

        return jax.lax.fori_loop(0, job.chunks, chunk, jnp.float64(0))

    compiled = jax.jit(loop, compiler_options=programs.FAST)
    return best_of(lambda: compiled(tables).block_until_ready()) / (job.chunks * sweeper.size) * 1e9


def best_of(call: Callable[[], Any]) -> float:
    call()
    seconds = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    layer = Layer(C=8, M=8, P=4, Q=4, name="small") if quick else LAYER
    result: dict[str, Any] = {"command": "python experiments/profile_sweep.py", **environment(), "layer": layer.name}
    for name in ("eyeriss",) if quick else ("eyeriss", "simba"):
        sweeper = Sweeper(
            Mapspace(load_arch(name), layer), packing_boxes(load_arch(name), [*all_widths(), BitWidths()])
        )
        found = [sweeper.least(sweeper.sample(2000).take(slice(0, 2000)))]
        limits = tuple(
            Limiter(box, LAYER.macs).limits(least[box.places])
            for box, least in zip(sweeper.boxes, found[0], strict=True)
        )
        with jax.enable_x64(True):
            times = {stage: measure(sweeper, program) for stage, program in stages(sweeper, limits).items()}
            job = next(iter(sweeper.jobs()))
            mappings = job.chunks * sweeper.size
            times["price 343 triples and unpacked"] = best_of(lambda s=sweeper, j=job: s.minima(j)) / mappings * 1e9
            times["screen, with transfers"] = (
                best_of(lambda s=sweeper, j=job, x=limits: s.screen(j, x)) / mappings * 1e9
            )
        result[name] = {f"{stage} (ns/mapping)": round(value, 1) for stage, value in times.items()}
    json.dump(result, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
