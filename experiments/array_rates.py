"""How fast whole spaces of a 128x128 systolic array are swept, beside Simba's, and its mappings evaluated one by one.

    python experiments/array_rates.py > benchmarks/array_rates.json

Each rate is that of a second sweep, compiled programs at hand. Under a minute on two cores; `--quick`: a small layer.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from pathlib import Path

import jax

from mqjax import BitWidths, Layer, Mapspace, evaluate, load_arch
from mqjax.mapper.optimum import solve

ARRAY = Path(__file__).parent.parent / "tests" / "golden" / "cases" / "array128x128.yaml"


def swept(arch, layer: Layer) -> dict:
    """The rate of covering a layer's space for unpacked operands by all metrics."""
    solve(Mapspace(arch, layer), [BitWidths()])
    start = time.perf_counter()
    found = solve(Mapspace(arch, layer), [BitWidths()])
    seconds = time.perf_counter() - start
    row = {"arch": arch.name, "layer": layer.dims, "distinct_mappings": found.evaluated, "covered": found.covered}
    return {**row, "seconds": round(seconds, 2), "mappings_per_s": round(found.evaluated / seconds)}


def evaluated(arch, layer: Layer, count: int) -> dict:
    """The rate of the exact evaluator on mappings of the space without constraints."""
    some = Mapspace(arch, layer, constraints="none").sample(jax.random.key(0), count)
    evaluate(arch, layer, BitWidths(), some)
    start = time.perf_counter()
    evaluate(arch, layer, BitWidths(), some)
    return {"arch": arch.name, "evaluated": count, "seconds": round(time.perf_counter() - start, 3)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    layer = Layer(C=16, M=16, P=4) if parser.parse_args().quick else Layer(C=256, M=512, R=3, S=3, P=14, Q=14)
    array = load_arch(ARRAY)
    result = {
        "device": jax.devices()[0].device_kind,
        "swept": [swept(arch, layer) for arch in (array, load_arch("simba"))],
        "evaluated": evaluated(array, layer, 1000),
        "peak_memory_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
    }
    json.dump(result, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
