"""Energy and pace of MACs by width (MODEL.md section 16), from the file to the proven optimum.

Guards: docs/MODEL.md, "16. MACs by width".
"""

from __future__ import annotations

import dataclasses
import random
from fractions import Fraction

import numpy as np
import pytest
import yaml

import judge
import oracle
from accelerator_files import to_yaml
from mqjax.arch import Arch, Level, Mac, WidthFormula, WidthTable
from mqjax.cost.exact.evaluator import evaluate
from mqjax.cost.packing import compute_cycles, mac_cost, packing_boxes, slowest_pace, widths_of
from mqjax.errors import InputError
from mqjax.hw import load_arch
from mqjax.io.accelerator import read_accelerator
from mqjax.mapper.limits import MODES_MOST, Limiter
from mqjax.mapper.optimum import solve
from mqjax.mapspace.space import Mapspace
from mqjax.types import BitWidths, Layer, all_widths
from random_accelerators import Case

MODES = WidthTable((4, 8, 16), (2, 16), ((0.1, 0.5), (0.2, 0.6), (0.4, 0.7)))
FORMULA = WidthFormula(constant=0.5, inputs=0.25, weights=0.125, product=0.0625)

BUFFERED = Arch(
    "buffered",
    Mac("mac", (2, 2), 1.0, 0.0),
    (
        Level("L0", (2, 1), 24, 16, 1, 1, 2.0, None, 1.0, 1.0, 1.0, 0.0, (True, False, True)),
        Level("L1", (1, 1), None, 16, 2, 1, None, 0.5, 10.0, 10.0, 12.0, 0.0, (True, True, True)),
    ),
)
"""Both of its levels limit what moves in a cycle, so that the pace of the MACs matters to them, too."""

LAYER = Layer(C=4, M=3, P=4)


def with_macs(**numbers) -> Arch:
    return dataclasses.replace(BUFFERED, mac=dataclasses.replace(BUFFERED.mac, **numbers))


def test_a_table_takes_the_narrowest_mode_that_holds_the_operands():
    arch = with_macs(energy_pj=MODES)
    for bits, wanted in (
        (BitWidths(4, 2, 8), 0.1),
        (BitWidths(2, 2, 8), 0.1),
        (BitWidths(5, 2, 8), 0.2),
        (BitWidths(8, 3, 2), 0.6),
        (BitWidths(9, 1, 2), 0.4),
        (BitWidths(), 0.7),  # unpacked operands have a word of 16 bits
        (BitWidths(4, None, 8), 0.5),
    ):
        assert mac_cost(arch, bits) == (wanted, 1, 1)


def test_a_formula_is_exact():
    arch = with_macs(energy_pj=FORMULA, cycles_per_operation=WidthFormula(weights=0.1))
    assert mac_cost(arch, BitWidths(4, 8, 8)) == (0.5 + 1 + 1 + 2, 4, 5)
    assert mac_cost(arch, BitWidths(4, 3, 8))[1:] == (3, 10)  # 0.1 * 3 is no 0.30000000000000004
    assert mac_cost(with_macs(operations_per_cycle=0.3), BitWidths())[1:] == (10, 3)


@pytest.mark.parametrize(("cycles", "operations"), [(1, 1), (1, 4), (3, 10), (7, 3), (16, 1)])
def test_cycles_are_rounded_up_once(cycles, operations):
    arch = with_macs(cycles_per_operation=WidthFormula(constant=1.0))
    widths = widths_of(arch, BitWidths())._replace(cycles=np.array(cycles), operations=np.array(operations))
    for steps in (1, 2, 3, 29, 30, 31, 2**40 + 1):
        found = compute_cycles(np.array([steps]), widths)
        assert found.tolist() == [-(-steps * cycles // operations)]


def test_a_layer_by_hand():
    """Twelve steps on one unit: a bit-serial one with 3-bit weights takes 3/16 of a cycle for each, 2.25 cycles in all."""
    level = Level("DRAM", (1, 1), None, 16, 1, 1, None, None, 0.0, 0.0, 0.0, 0.0, (True, True, True))
    mac = Mac("mac", (1, 1), WidthFormula(weights=0.5), 0.0, cycles_per_operation=WidthFormula(weights=0.0625))
    nest = [{"level": "DRAM", "temporal": [["C", 4], ["M", 3]], "spatial": [], "keep": None}]
    cost = evaluate(Arch("serial", mac, (level,)), Layer(C=4, M=3), BitWidths(8, 3, 8), [nest])
    assert cost.energy_pj.tolist() == [12 * 3 * 0.5] and cost.cycles.tolist() == [3]


def test_boxes_tell_apart_what_macs_do():
    """Widths 6, 7 and 8 pack alike; where MACs cost different energies they are priced apart, else together."""
    counts = {}
    for name, macs in (
        ("constant", {}),
        ("modes", {"energy_pj": MODES}),
        ("serial", {"cycles_per_operation": FORMULA}),
    ):
        (box,) = packing_boxes(with_macs(**macs), all_widths())
        counts[name] = len(box.triples)
        widths = box.widths
        for bits, u in zip(all_widths(), box.inverse, strict=True):
            alone = widths_of(with_macs(**macs), bits)
            assert (widths.operands[u] == alone.operands).all() and widths.mac_pj[u] == alone.mac_pj
            assert (widths.cycles[u], widths.operations[u]) == (alone.cycles, alone.operations)
    assert counts == {"constant": 125, "modes": 125, "serial": 7 * 7 * 5}


RANDOM = random.Random(7)


def random_table() -> WidthTable:
    sides = tuple(range(2, 9)) + (16,)
    numbers = [0.5 * RANDOM.randint(1, 12) for _ in sides for _ in sides]
    rows = tuple(tuple(numbers[i * len(sides) : (i + 1) * len(sides)]) for i in range(len(sides)))
    return WidthTable(sides, sides, rows)


def test_optima_equal_plain_enumeration():
    """Every mapping is priced, with tables that tell all 49 pairs of widths apart."""
    arch = with_macs(energy_pj=random_table(), operations_per_cycle=random_table())
    case = Case(arch, "none", (LAYER,), (BitWidths(6, 7, 8), BitWidths(2, 8, 3)))
    judge.judge(case, (judge.evaluator, judge.terms, judge.optima))


def test_the_screen_changes_nothing():
    space = Mapspace(load_arch("eyeriss_bit_serial"), Layer(C=16, M=32, R=3, S=3, P=7, Q=14))
    bits = all_widths()
    with_it, without = solve(space, bits), solve(space, bits, screened=False)
    for field in ("energy_pj", "cycles", "index", "valid"):
        np.testing.assert_array_equal(getattr(with_it, field), getattr(without, field))
    assert with_it.mappings == without.mappings and with_it.covered


def test_limits_of_classes_leave_no_gap():
    """At every triple the mean of its class's limits is at least the best energy known less what its MACs take above the
    class, and at least the best EDP and delay."""
    arch, generator = with_macs(energy_pj=random_table(), operations_per_cycle=random_table()), np.random.default_rng(1)
    (box,) = packing_boxes(arch, all_widths())
    screen, widths = Limiter(box, 1000), box.widths
    best = np.exp(generator.normal(20, 3, (len(box.triples), 3)))
    limits = screen.limits(best)
    modes = limits.modes
    assert modes is not None and len(modes.energy_pj) == MODES_MOST
    for u, mode in enumerate(screen._mode):
        excess = 1000 * (widths.mac_pj[u] - modes.energy_pj[mode])
        pace = Fraction(int(widths.cycles[u]), int(widths.operations[u]))
        assert excess >= 0 and Fraction(int(modes.cycles[mode]), int(modes.operations[mode])) <= pace
        means = screen._shares[u] @ limits.limits[mode]
        assert (means >= best[u] - [excess, 0, 0]).all()


def test_shipped_modes():
    serial, subword = load_arch("eyeriss_bit_serial"), load_arch("eyeriss_subword")
    assert mac_cost(serial, BitWidths(8, 16, 8))[1:] == (1, 1) and mac_cost(serial, BitWidths(8, 4, 8))[1:] == (1, 4)
    paces = {width: mac_cost(subword, BitWidths(width, 2, 8))[1:] for width in (3, 4, 5, 8, 9, 16)}
    assert paces == {3: (1, 4), 4: (1, 4), 5: (1, 2), 8: (1, 2), 9: (1, 1), 16: (1, 1)}
    assert dataclasses.replace(serial, name="", mac=subword.mac) == dataclasses.replace(subword, name="")
    record = {"dims": LAYER.dims, "mapping": [{"level": x.name, "temporal": []} for x in serial.levels]}
    record["mapping"][-1]["temporal"] = [["C", 4], ["M", 3], ["P", 4]]
    found = oracle.evaluate(serial, record | {"bitwidths": {"Inputs": 8, "Weights": 4, "Outputs": 8}})
    assert found["computes"] == 48 and found["levels"]["DRAM"]["cycles"] == 12


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"energy_pj": {"weights": -1}}, "mac.energy_pj: must be a number from 0"),
        ({"energy_pj": {"weight": 1}}, "mac.energy_pj: the key 'weight' is unknown"),
        ({"energy_pj": {"inputs": [8, 4], "weights": [16], "table": [[1], [2]]}}, "must ascend"),
        ({"energy_pj": {"inputs": [8, 16], "weights": [16], "table": [[1]]}}, "a row for each of the 2 inputs"),
        ({"energy_pj": {"inputs": [16], "weights": [4, 16], "table": [[1]]}}, "each of the 2 weights"),
        (
            {"energy_pj": {"inputs": [16], "weights": [8], "table": [[1]]}},
            "energy_pj.weights: the last mode .* 16 bits",
        ),
        ({"operations_per_cycle": 0}, "operations_per_cycle: must be a number from 1e-06"),
        ({"operations_per_cycle": 2, "cycles_per_operation": 2}, "cycles_per_operation: give .* not both"),
        ({"cycles_per_operation": {"inputs": 0}}, "cycles_per_operation: must give a positive number"),
    ],
)
def test_bad_numbers_name_their_key(tmp_path, numbers, message):
    document = yaml.safe_load(to_yaml(BUFFERED))
    document["mac"] |= numbers
    path = tmp_path / "mac.yaml"
    path.write_text(yaml.safe_dump(document))
    with pytest.raises(InputError, match=message):
        read_accelerator(path)


def test_too_fine_a_pace_is_refused():
    arch = with_macs(cycles_per_operation=WidthFormula(constant=1e-9, inputs=0.1))
    with pytest.raises(InputError, match="fewer digits"):
        mac_cost(arch, BitWidths(3, 3, 3))


@pytest.mark.parametrize(
    ("numbers", "slowest"),
    [
        ({}, 1),
        ({"operations_per_cycle": 0.3}, 10),
        ({"cycles_per_operation": WidthFormula(constant=0.5, weights=0.0625)}, 24),  # 1.5 cycles, in sixteenths
        ({"operations_per_cycle": MODES}, 10),
        ({"cycles_per_operation": MODES}, 7),
    ],
)
def test_no_pace_is_slower_than_the_slowest(numbers, slowest):
    arch = with_macs(**numbers)
    assert slowest_pace(arch) == slowest
    assert all(mac_cost(arch, bits).cycles <= slowest for bits in (*all_widths(), BitWidths()))
