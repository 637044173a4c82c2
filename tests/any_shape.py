"""Accelerators of any shape and records for them, and the comparison of the evaluator with `oracle` on them."""

from __future__ import annotations

import random
from typing import Any

import oracle
from mqjax.arch import Arch, Level, Mac
from mqjax.io.records import evaluate_records
from mqjax.types import DIMS, TENSORS

SLOTS = len(DIMS)  # no more loops in a list, so that few shapes are compiled


def level(name: str, mesh: tuple[int, int], **given: Any) -> Level:
    usual = {
        "capacity_words": None, "word_bits": 16, "block_words": 1, "cluster": 1, "read_bandwidth": None,
        "write_bandwidth": None, "read_pj": 1.25, "fill_pj": 1.5, "update_pj": 1.75, "area_um2": 0.0,
        "keep": (True, True, True),
    }  # fmt: skip
    return Level(name=name, mesh=mesh, **(usual | given))


def random_arch(rng: random.Random, sizes: tuple[int, ...] = (1, 1, 2, 3, 4)) -> Arch:
    """2 to 4 levels with arrays anywhere, below the innermost and the outermost level too."""
    depth = rng.randint(2, 4)
    meshes = [(1, 1)]
    for _ in range(depth):  # from the outermost level to the MACs
        x, y = meshes[-1]
        meshes.append((x * rng.choice(sizes), y * rng.choice(sizes)))
    *levels, mac = meshes
    return Arch(
        name="random",
        mac=Mac("mac", mac, 0.5, 0.0),
        levels=tuple(
            level(
                f"L{s}",
                mesh,
                capacity_words=rng.choice([None] * 7 + [40]),
                word_bits=rng.choice([8, 16, 24]),
                block_words=rng.choice([1, 1, 4]),
                read_bandwidth=rng.choice([None, None, 0.7]),
                write_bandwidth=rng.choice([None, None, 0.4]),
                read_pj=rng.choice([0.1, 0.75891, 167.0908]),
                keep=tuple(s == depth - 1 or rng.random() < 0.7 for _ in TENSORS),
            )
            for s, mesh in enumerate(reversed(levels))
        ),
        dialect=rng.choice(["2024", "2024", "2023"]),
    )


def random_record(rng: random.Random, arch: Arch, bounds: tuple[int, ...] = (1, 2, 3, 4, 6)) -> dict[str, Any]:
    """A layer and a mapping of it: factors of each dimension anywhere, in any order, several of one dimension at a level
    too; now and then more children than there are."""
    dims = {d: rng.choice(bounds) for d in DIMS}
    dims |= {key: rng.choice([1, 1, 2, 3]) for key in ("Wstride", "Hstride", "Wdilation", "Hdilation")}
    shape = rng.choice(["cnn", "cnn", "depthwise"])
    if shape == "depthwise":
        dims["M"] = 1
    entries = [{"level": s.name, "temporal": [], "spatial": [], "keep": []} for s in arch.levels]
    for s, entry in zip(arch.levels, entries, strict=True):
        flips = [kept != (rng.random() < 0.15) for kept in s.keep]
        entry["keep"] = [t for t, kept in zip(TENSORS, flips, strict=True) if kept or s is arch.levels[-1]]
    room = [list(fanout) for fanout in arch.fanout]
    for d in rng.sample(DIMS, len(DIMS)):
        for factor in prime_factors(dims[d]):
            places = [(s, axis) for s, left in enumerate(room) for axis in (0, 1) if left[axis] >= factor]
            places = [(s, axis) for s, axis in places if len(entries[s]["spatial"]) < SLOTS]
            if places and rng.random() < 0.6:
                s, axis = rng.choice(places)
                room[s][axis] //= 1 if rng.random() < 0.02 else factor
                entries[s]["spatial"].append([d, factor, "XY"[axis]])
            else:
                free = [entry for entry in entries if len(entry["temporal"]) < SLOTS]
                rng.choice(free)["temporal"].append([d, factor])
    for entry in entries:
        rng.shuffle(entry["temporal"])
        rng.shuffle(entry["spatial"])
    words = [s.word_bits for s in arch.levels]
    bits = {t: rng.randint(1, min(words)) for t in TENSORS} if rng.random() < 0.6 else None
    return {"dims": dims, "shape": shape, "bitwidths": bits, "mapping": entries}


def prime_factors(n: int) -> list[int]:
    found = []
    for p in range(2, n + 1):
        while n % p == 0:
            found.append(p)
            n //= p
    return found


def check(arch: Arch, records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Evaluate and compare with the oracle; the results."""
    results = evaluate_records(arch, records)
    for record, result in zip(records, results, strict=True):
        wanted = oracle.evaluate(arch, record)
        assert result["valid"] == wanted["valid"]
        if not wanted["valid"]:
            failed = [entry["level"] for entry in result["fail"]["levels"]]
            assert (result["fail"]["stage"], failed) == (wanted["stage"], wanted["levels"])
            continue
        totals = result["stats"]["totals"]
        assert (totals["energy_pJ"], totals["cycles"]) == (wanted["energy_pJ"], wanted["cycles"])
        for name, of_level in wanted["levels"].items():
            for tensor, values in of_level["tensors"].items():
                found = result["stats"]["levels"][name]["tensors"][tensor]
                for quantity in ("reads", "fills", "updates", "energy_pJ", "tile_size"):
                    assert found[quantity] == values[quantity], (name, tensor, quantity)
    return results
