"""The general evaluator on accelerators of any shape against plain Python: arrays at every level, any loops and keeps.

Guards: docs/MODEL.md, "6. Data movement between levels", "7. From deliveries to reads / fills / updates".
"""

from __future__ import annotations

import collections
import math
import random
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from any_shape import check, level, random_arch, random_record
from mqjax.arch import Arch, Mac
from mqjax.cost.exact import nest
from mqjax.cost.exact.children import Fans, grouped, positions
from mqjax.cost.exact.evaluator import analyse_mappings, evaluate
from mqjax.cost.exact.multicast import counted, number_of_groups
from mqjax.cost.exact.nest import problem
from mqjax.cost.packing import is_packed, operands_per_word, wasted_bits
from mqjax.mapspace.mapping import encode
from mqjax.types import DIMS, TENSORS, BitWidths, Layer


@settings(max_examples=60)
@given(seed=st.integers(0, 2**32))
def test_random_accelerators_agree_with_the_oracle(seed):
    rng = random.Random(seed)
    arch = random_arch(rng)
    check(arch, [random_record(rng, arch) for _ in range(8)])


def test_sample_meets_what_is_rare():
    """Kernel and output loops on one array, forwarding, several signatures with bypass: agreed, and met."""
    rng, met = random.Random(4), collections.Counter()
    for _ in range(60):
        arch = random_arch(rng, sizes=(1, 2, 3, 6))
        for record, result in zip(
            records := [random_record(rng, arch) for _ in range(12)], check(arch, records), strict=True
        ):
            if not result["valid"]:
                met[result["fail"]["stage"]] += 1
                continue
            for entry, network in zip(record["mapping"], result["stats"]["networks"].values(), strict=True):
                inputs = network["tensors"]["Inputs"]
                met["links"] += inputs["link_transfers"] > 0
                met["several"] += len(inputs["ingress_by_multicast"]) > 1
                met["bypassed"] += len(inputs["ingress_by_multicast"]) > 1 and "Inputs" not in entry["keep"]
                met["repeated"] += len({d for d, _, _ in entry["spatial"]}) < len(entry["spatial"])
                met["innermost"] += entry is record["mapping"][0] and inputs["fanout"] > 1
                met["outermost"] += entry is record["mapping"][-1] and inputs["fanout"] > 1
    assert len(met) == 8 and min(met.values()) >= 8, met


def wide_record(
    arch: Arch, spatial: list[list[Any]], temporal: list[list[Any]], strides: dict[str, int]
) -> dict[str, Any]:
    """All spatial loops below the middle of three levels, the temporal ones at the outermost."""
    dims: dict[str, int] = {}
    for d, n, *_ in [*spatial, *temporal]:
        dims[d] = dims.get(d, 1) * n
    entries = [{"level": s.name, "temporal": [], "spatial": [], "keep": list(TENSORS)} for s in arch.levels]
    entries[1]["spatial"], entries[2]["temporal"] = spatial, temporal
    return {"dims": dims | strides, "shape": "cnn", "bitwidths": None, "mapping": entries}


WIDE = {
    "kernel and output rows": ([["P", 28, "X"], ["R", 5, "X"], ["S", 3, "Y"], ["Q", 14, "Y"]], [["Q", 2], ["C", 2]], {}),
    "strided": ([["R", 7, "X"], ["P", 14, "X"], ["M", 16, "Y"], ["S", 3, "Y"]], [["P", 2], ["S", 2]], {"Wstride": 2}),
    "dilated": ([["S", 4, "Y"], ["P", 8, "X"], ["Q", 9, "Y"], ["R", 3, "X"]], [["R", 2]], {"Hdilation": 2, "Wstride": 3}),
    "forwarded": ([["M", 8, "Y"], ["S", 16, "X"]], [["C", 2], ["Q", 24]], {}),
    "systolic": ([["M", 128, "X"], ["C", 128, "Y"]], [["C", 2], ["M", 2], ["P", 4]], {}),
}  # fmt: skip


@pytest.mark.parametrize("case", WIDE)
def test_wide_arrays_agree_with_the_oracle(case):
    arch = Arch(
        "wide", Mac("mac", (256, 256), 0.5, 0.0), (level("L0", (256, 256)), level("L1", (1, 1)), level("L2", (1, 1)))
    )
    record = wide_record(arch, *WIDE[case])
    result = check(arch, [record])[0]
    inputs = result["stats"]["networks"]["L1 <==> L0"]["tensors"]["Inputs"]
    assert inputs["fanout"] == math.prod(n for _, n, _ in WIDE[case][0])
    assert (inputs["link_transfers"] > 0) == (case == "forwarded")
    assert (len(inputs["ingress_by_multicast"]) > 1) == (case != "systolic")


def test_nothing_grows_with_an_array():
    """A million MACs below one level: what is kept of a mapping does not depend on how many there are."""
    sizes = []
    for side in (4, 1024):
        mesh = (side, side)
        arch = Arch("wide", Mac("mac", mesh, 0.5, 0.0), (level("L0", mesh), level("L1", (1, 1)), level("L2", (1, 1))))
        record = wide_record(arch, [["M", side, "X"], ["C", side, "Y"]], [["P", 4], ["C", 2]], {})
        layer = Layer(**record["dims"])
        arrays = encode(arch, [layer], [record["mapping"]])
        (part,) = analyse_mappings(arch, [layer], arrays)
        kept = [*part.analysis, *part.traffic[:5], *part.traffic.network]
        sizes.append(sum(x.nbytes for x in kept))
        cost = evaluate(arch, layer, BitWidths(), arrays)
        assert cost.valid[0] and cost.cycles[0] == 8
    assert sizes[0] == sizes[1]


@settings(max_examples=200)
@given(data=st.data())
def test_counted_groups_are_those_of_the_children(data):
    """Chains counted in closed form against children looked at one by one."""
    small = st.integers(1, 6)
    layer = Layer(
        **{key: data.draw(small, label=key) for key in ("Wstride", "Hstride", "Wdilation", "Hdilation")},
        **{d: 400 for d in DIMS},
    )
    n = [data.draw(st.integers(1, 3 if d in "CMN" else 7), label=f"children along {d}") for d in DIMS]
    below = np.array([[data.draw(small, label=f"{d} of a child") for d in DIMS]], np.int64)
    p, spatial = problem(layer), np.array([n], np.int64)
    fan = Fans(np.zeros(1, np.int64), spatial, p.keys[1] * below)
    key = positions(fan)
    wanted = grouped(key, np.ones(key.shape, bool))
    _, multicast, scatter = counted(p.coefficients[None], spatial, below)
    found: collections.Counter = collections.Counter()
    for g, sc in zip(multicast.tolist(), scatter.tolist(), strict=True):
        found[g] += sc
    assert found == dict(zip(wanted.multicast.tolist(), wanted.scatter.tolist(), strict=True))
    assert number_of_groups(p.coefficients[None], spatial, below)[0] == wanted.scatter.sum()


def test_quotients_are_rounded_before_they_are_added():
    """A child has 7 of 20 Inputs: as quotients, summed in the order of the signatures, that is just below 7."""
    mac, outer = Mac("mac", (20, 1), 1.0, 1.0), {"read_pj": 10.0, "fill_pj": 10.0, "update_pj": 10.0}
    inner = level("L0", (20, 1), read_pj=1.0, fill_pj=1.0, update_pj=1.0)
    arch = Arch("small", mac, (inner, level("L1", (1, 1), **outer)))
    entries = [{"level": s.name, "temporal": [], "spatial": [], "keep": list(TENSORS)} for s in arch.levels]
    entries[1] |= {"spatial": [["P", 5, "X"], ["R", 4, "X"]], "temporal": [["C", 7]]}
    record = {"dims": {"C": 7, "R": 4, "P": 5}, "shape": "cnn", "bitwidths": None, "mapping": entries}
    stats = check(arch, [record])[0]["stats"]
    assert stats["levels"]["L0"]["tensors"]["Inputs"]["fills"] == 6
    assert stats["totals"]["energy_pJ"] == 1830


def test_packing_rules_of_records():
    assert [is_packed(16, bits) for bits in (None, 16, 8, 9)] == [False, False, True, True]
    assert [wasted_bits(16, bits) for bits in (None, 16, 8, 9, 3, 20)] == [0, 0, 0, 7, 1, 0]
    for bits in range(1, 17):
        assert operands_per_word(16, bits) * bits + wasted_bits(16, bits) == 16


@given(a=st.integers(1, 2**53 - 1), b=st.integers(1, 2**53 - 1), quotient=st.integers(1, 2**53 - 1))
def test_quotients_of_products_beyond_64_bits(a, b, quotient):
    divisor = min(max(1, a * b // quotient), 2**53 - 1)
    assume(a * b // divisor < 2**53)
    with jax.enable_x64(True):
        found = nest._muldiv(jnp.int64(a), jnp.int64(b), jnp.int64(divisor))
    assert int(found) == a * b // divisor


def test_tensors_whose_squares_exceed_64_bits(archs):
    layer = Layer(M=2, P=2**25, Q=2**24)
    loops = {"PEWeightRegs": [["Q", 2], ["P", 2]], "GlobalBuffer": [["P", 2**12]]}
    loops["DRAM"] = [["Q", 2**23], ["P", 2**12], ["M", 2]]
    mapping = [
        {
            "level": level.name,
            "temporal": loops.get(level.name, []),
            "spatial": [],
            "keep": [tensor for tensor, kept in zip(TENSORS, level.keep, strict=True) if kept],
        }
        for level in archs["simba"].levels
    ]
    record = {"arch": "simba", "dims": layer.dims, "shape": "cnn", "bitwidths": None, "mapping": mapping}
    assert check(archs["simba"], [record])[0]["valid"]
