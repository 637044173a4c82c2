"""What the paper's mapspace constraints cost: best mappings under them against those that the hardware alone allows.

    python experiments/constraint_cost.py [--quick] > benchmarks/constraint_cost.json

Pointwise layers of MobileNetV1 (224x224) on both accelerators at two width triples. Where the wider
space is too large to cover ("proven": false) its optimum is that of a seeded search, so the true cost of the constraints
may be higher. Expected: about ten minutes on two CPU cores; --quick: one small layer on Eyeriss.
"""

from __future__ import annotations

import argparse
import json
import sys

from mqjax.hw import load_arch
from mqjax.mapper.optimum import solve
from mqjax.mapspace.space import Mapspace
from mqjax.models import network_layers
from mqjax.types import BitWidths, Layer

BITS = (BitWidths(8, 8, 8), BitWidths(4, 4, 4))
LAYERS = [layer for layer in dict.fromkeys(network_layers("mobilenetv1")) if layer.R == 1 and layer.P > 1]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    rows, total = [], {}
    for name in ("eyeriss",) if quick else ("eyeriss", "simba"):
        arch = load_arch(name)
        for layer in (Layer(C=8, M=8, P=4, Q=4, name="small"),) if quick else LAYERS:
            paper, hardware = (solve(Mapspace(arch, layer, constraints=c), BITS) for c in ("paper", "arch"))
            for i, bits in enumerate(BITS):
                row = {"arch": name, "layer": layer.name, "bits": str(bits), "proven": hardware.covered}
                for metric in ("energy", "edp"):
                    best = [solution.optimum(metric, i) for solution in (paper, hardware)]
                    costs = [x.energy_pj if metric == "energy" else x.edp for x in best]
                    row[f"{metric}_paper"], row[f"{metric}_hardware"] = costs
                    row[f"{metric}_cost_of_constraints"] = round(costs[0] / costs[1] - 1, 5)
                    for which, cost in zip(("paper", "hardware"), costs, strict=True):
                        key = f"{name} {bits} {metric}"
                        total.setdefault(key, {"paper": 0.0, "hardware": 0.0})[which] += cost
                rows.append(row)
            print(name, layer.name, file=sys.stderr, flush=True)
    for sums in total.values():
        sums["cost_of_constraints"] = round(sums["paper"] / sums["hardware"] - 1, 5)
    json.dump({"sum_over_different_layers": total, "layers": rows}, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
