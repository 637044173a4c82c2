"""Hops and partial sums on networks between levels, against plain Python and by hand.

Guards: docs/MODEL.md, "6. Data movement between levels".
"""

from __future__ import annotations

import collections
import math
import random
from typing import Any

import pytest

import oracle
from any_shape import level, random_arch, random_record
from mqjax.arch import Arch, Mac
from mqjax.io.records import evaluate_records
from mqjax.types import TENSORS


def plain_hops(offsets: list[Any], width: int, height: int) -> dict[int, float]:
    """Hops of one delivery to all groups of each size, from MODEL.md section 6."""
    members: dict[Any, list[int]] = {}
    for element, offset in enumerate(offsets):
        members.setdefault(offset, []).append(element)
    total: dict[int, float] = collections.defaultdict(float)
    middle = (height - 1) / 2
    for elements in members.values():
        hops = float(max(e % width for e in elements))
        for column in {e % width for e in elements}:
            rows = [e // width for e in elements if e % width == column]
            hops += max(0, max(rows) - middle) + max(0, middle - min(rows))
        total[len(elements)] += hops
    return total


def test_hops_agree_with_plain_python():
    rng, compared = random.Random(11), 0
    for _ in range(12):
        arch = random_arch(rng)
        if arch.dialect != "2024":
            continue
        records = [random_record(rng, arch) for _ in range(8)]
        for record, result in zip(records, evaluate_records(arch, records), strict=True):
            if not result["valid"]:
                continue
            nest = oracle.Nest(record)
            for s, network in enumerate(result["stats"]["networks"].values()):
                for tensor, found in network["tensors"].items():
                    box = oracle.ranks(record["shape"], record["dims"], tensor)
                    moved = oracle.Movement(nest, s, box, arch.fanout[s])
                    if found["fanout"] == 1 or moved.link:
                        assert found["fanout"] > 1 or found["num_hops"] == 0
                        continue
                    hops = plain_hops(list(moved.offsets.values()), *arch.fanout[s])
                    for signature in found["ingress_by_multicast"]:
                        assert signature["hops_weighted"] == hops[signature["multicast"]] * moved.delta
                        compared += 1
    assert compared > 100


def two_levels(capacity: int | None, dialect: str, keep=(True, True, True)) -> Arch:
    mesh = (4, 4)
    outer = level("L1", (1, 1), capacity_words=capacity)
    return Arch("small", Mac("mac", mesh, 0.5, 0.0), (level("L0", mesh, keep=keep), outer), dialect=dialect)


def small_record(arch: Arch) -> dict[str, Any]:
    entries = [{"level": s.name, "temporal": [], "spatial": [], "keep": list(TENSORS)} for s in arch.levels]
    entries[1] |= {"spatial": [["C", 4, "X"], ["M", 4, "Y"]], "temporal": [["C", 3], ["P", 5]]}
    return {"dims": {"C": 12, "M": 4, "P": 5}, "shape": "cnn", "bitwidths": None, "mapping": entries}


@pytest.mark.parametrize("dialect", ["2024", "2023"])
def test_only_a_dram_sends_partial_sums_out_to_be_added_to(dialect):
    ingresses = []
    for capacity in (None, 10_000):
        arch = two_levels(capacity, dialect)
        network = evaluate_records(arch, [small_record(arch)])[0]["stats"]["networks"]["L1 <==> L0"]
        ingresses.append(network["tensors"]["Outputs"]["ingresses"])
    # 20 partial sums arrive 3 times each; a DRAM also sends all but the first of each.
    assert ingresses == [2 * 60 - 20, 60]


def test_hops_of_the_2023_dialect():
    arch = two_levels(None, "2023")
    network = evaluate_records(arch, [small_record(arch)])[0]["stats"]["networks"]["L1 <==> L0"]
    for tensor, multicast in (("Weights", 1), ("Inputs", 4), ("Outputs", 4)):
        found = network["tensors"][tensor]
        assert found["multicast_factor"] == multicast and found["fanout"] == 16
        root_f, root_m = 4.0, math.sqrt(multicast)
        wanted = root_f * (root_m + 0.5 - 1 / root_m) - (root_m - 1) / 2
        assert found["num_hops"] == pytest.approx(wanted, rel=1e-12)
        assert sum(s["hops_weighted"] for s in found["ingress_by_multicast"]) == pytest.approx(
            wanted * found["ingresses"]
        )
