"""AlexNet's layers on the Eyeriss-like accelerator: valid mappings, and the lines of the authors' published search logs.

    python experiments/alexnet_counts.py [--quick] > benchmarks/alexnet_counts.json

The authors' exhaustive searches (2023) ran in 24 threads, of which thread i takes the factorisations i, i + 24, ... in
the order of MODEL.md section 11.2. A line of their logs is not a valid mapping but the best of a run: consecutive valid
mappings of one thread with the same innermost tile (the factor of M at psum_spad), whatever invalid ones lie between.
The number of runs, counted here from fan-outs and capacities alone, is the number of lines in each of the 12 logs, and
the sum of valid mappings over all threads is the whole space's. What the lines say (which mapping of a run is its best)
is not replayed here. Expected: half a minute on 2 cores; --quick: the first layer.
"""

from __future__ import annotations

import argparse
import json
import sys

import numpy as np

from mqjax import BitWidths, Layer, Mapspace, load_arch
from mqjax.cost.packing import packing_table, words
from mqjax.mapper.optimum import solve
from mqjax.types import DIMS

LAYERS = {
    1: Layer(C=3, M=96, R=11, S=11, P=55, Q=55, Wstride=4, Hstride=4, name="alexnet_layer1"),
    2: Layer(C=96, M=256, R=5, S=5, P=27, Q=27, name="alexnet_layer2"),
    3: Layer(C=256, M=384, R=3, S=3, P=13, Q=13, name="alexnet_layer3"),
    5: Layer(C=384, M=256, R=3, S=3, P=13, Q=13, name="alexnet_layer5"),
}
BITS = (BitWidths(), BitWidths(16, 3, 16), BitWidths(4, 4, 4))
PUBLISHED = {1: (539, 564, 926), 2: (5700, 5700, 7483), 3: (18079, 18157, 25600), 5: (7095, 7095, 8771)}
THREADS = 24


def factorisations(space: Mapspace) -> np.ndarray:
    """All index factorisations in the reference's order, C changing fastest: int64 [D, T, size]."""
    sizes = [len(table) for table in space.tables]
    digits = np.unravel_index(np.arange(space.size), sizes, order="F")
    return np.stack([table[digit].T for table, digit in zip(space.tables, digits, strict=True)])


def fits(space: Mapspace, factors: np.ndarray, bits: BitWidths) -> np.ndarray:
    """Which factorisations respect all fan-outs and capacities, bool [size]."""
    arch, layer = space.arch, space.layer
    operands = packing_table(arch, bits)
    valid = np.ones(factors.shape[-1], bool)
    extent = dict.fromkeys(DIMS, np.int64(1))
    for t, tiling in enumerate(space.tiling):
        here = dict(zip(DIMS, factors[:, t], strict=True))
        extent = {dim: extent[dim] * here[dim] for dim in DIMS}
        level = arch.levels[tiling.level]
        if tiling.spatial:
            assert tiling.split is not None and len(tiling.permutation) == len(DIMS), "orders and splits are given"
            for axis, dims in enumerate((tiling.permutation[: tiling.split], tiling.permutation[tiling.split :])):
                product = np.prod([here[dim] for dim in dims], axis=0)
                valid &= product <= arch.fanout[tiling.level][axis]
        elif level.capacity_words is not None:
            # A tile is a layer of these extents.
            c, m, r, s, n, p, q = (extent[dim] for dim in DIMS)
            width = (p - 1) * layer.Wstride + (r - 1) * layer.Wdilation + 1
            height = (q - 1) * layer.Hstride + (s - 1) * layer.Hdilation + 1
            tiles = (c * m * r * s, n * c * width * height, n * m * p * q)
            held = zip(tiles, operands[tiling.level], level.keep, strict=True)
            used = [words(tile, each) for tile, each, keep in held if keep]
            if used:
                valid &= np.sum(used, axis=0) <= level.capacity_words
    return valid


def runs(valid: np.ndarray, innermost: np.ndarray) -> int:
    """Runs of valid mappings with the same innermost tile, over all threads."""
    total = 0
    for thread in range(THREADS):
        tiles = innermost[thread::THREADS][valid[thread::THREADS]]
        total += int((tiles[1:] != tiles[:-1]).sum()) + (len(tiles) > 0)
    return total


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    layers = list(LAYERS.items())[: 1 if parser.parse_args().quick else None]
    eyeriss, rows = load_arch("eyeriss"), []
    for number, layer in layers:
        space = Mapspace(eyeriss, layer)
        factors = factorisations(space)
        solution = solve(space, BITS)
        assert solution.valid is not None, "the space is covered"
        for bits, valid, listed in zip(BITS, solution.valid, PUBLISHED[number], strict=True):
            fit = fits(space, factors, bits)
            assert fit.sum() == valid, "fan-outs and capacities are all that makes a mapping invalid"
            sizes = {"nominal_size": space.size, "pruned_size": space.pruned_size, "covered": solution.covered}
            lines = {"log_lines": runs(fit, factors[DIMS.index("M"), 0]), "in_published_log": listed}
            rows.append({"layer": layer.name, "bits": str(bits), **sizes, "valid_mappings": int(valid), **lines})
    json.dump(rows, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
