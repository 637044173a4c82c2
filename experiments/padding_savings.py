"""What larger bounds save: layers with prime bounds, mapped as they are and with up to K more in every dimension.

    python experiments/padding_savings.py > benchmarks/padding_savings.json

A prime bound has no tiling but itself and 1. Two to three minutes on two cores; `--quick` tries one layer and K = 1 only.
"""

from __future__ import annotations

import argparse
import json
import sys

from mqjax import BitWidths, Layer, load_arch
from mqjax.mapper.best import solve_layer
from mqjax.mapspace.padding import mapped_as
from mqjax.types import METRICS

LAYERS = (
    Layer(C=251, M=256, P=14, Q=14, name="C=251"),
    Layer(C=256, M=256, P=113, Q=14, name="P=113"),
    Layer(C=251, M=256, P=113, Q=113, name="C=251, P=Q=113"),
)
BITS = (BitWidths(), BitWidths(8, 8, 8), BitWidths(4, 4, 4))


def savings(arch_name: str, layer: Layer, most: int) -> list[dict]:
    """Costs of the layer's optima on its own (or the next possible) bounds, and on the best of larger ones."""
    arch = load_arch(arch_name)
    plain, larger = (solve_layer(arch, layer, BITS, pad=pad) for pad in (0, most))
    rows = []
    for m, metric in enumerate(METRICS):
        for i, bits in enumerate(BITS):
            best = larger.optimum(metric, i)
            before, after = plain.values()[m, i], larger.values()[m, i]
            row = {"arch": arch_name, "layer": layer.name, "bits": str(bits), "metric": metric, "tried": most}
            row |= {"without": before, "with": after, "saved": 1 - after / before}
            rows.append({**row, "mapped_as": mapped_as(layer, best.mapped), "covered": larger.covered})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    layers, most = (LAYERS[:1], 1) if quick else (LAYERS, 5)
    rows = [row for arch in ("eyeriss", "simba") for layer in layers for row in savings(arch, layer, most)]
    json.dump(rows, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
