"""Valid mappings of AlexNet's layers on the Eyeriss-like accelerator: all of them, against the authors' published logs.

    python experiments/alexnet_counts.py > benchmarks/alexnet_counts.json

The logs of the authors' exhaustive searches (2023) list fewer valid mappings than exist: their tool stopped early.
"""

from __future__ import annotations

import json
import sys

from mqjax import BitWidths, Layer, Mapspace, load_arch
from mqjax.optimum import solve

LAYERS = {
    1: Layer(C=3, M=96, R=11, S=11, P=55, Q=55, Wstride=4, Hstride=4, name="alexnet_layer1"),
    2: Layer(C=96, M=256, R=5, S=5, P=27, Q=27, name="alexnet_layer2"),
    5: Layer(C=384, M=256, R=3, S=3, P=13, Q=13, name="alexnet_layer5"),
}
BITS = (BitWidths(), BitWidths(16, 3, 16), BitWidths(4, 4, 4))
PUBLISHED = {1: (539, 564, 926), 2: (5700, 5700, 7483), 5: (7095, 7095, 8771)}


def main() -> None:
    eyeriss, rows = load_arch("eyeriss"), []
    for number, layer in LAYERS.items():
        space = Mapspace(eyeriss, layer)
        solution = solve(space, BITS)
        assert solution.valid is not None, "the space is covered"
        for bits, valid, listed in zip(BITS, solution.valid, PUBLISHED[number], strict=True):
            sizes = {"nominal_size": space.size, "pruned_size": space.pruned_size, "covered": solution.covered}
            counts = {"valid_mappings": int(valid), "in_published_log": listed}
            rows.append({"layer": layer.name, "bits": str(bits), **sizes, **counts})
    json.dump(rows, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
