"""Optima proven level by level (docs/PROOF.md): equal to enumeration and to the sweep wherever these cover, on random
accelerators, too; proven where the space is too large for them; and not called proven where the proof is not done.

Guards: docs/PROOF.md, "What a boundary costs", "Bounds", "EDP and delay".
"""

from __future__ import annotations

import itertools
import math
import random

import numpy as np
import pytest

import judge
from mqjax.arch import Arch, Constraint, Level, Mac
from mqjax.hw import load_arch
from mqjax.mapper.best import best_mappings
from mqjax.mapper.levels.book import WindowBook
from mqjax.mapper.levels.bounds import Bounds, cheapest
from mqjax.mapper.levels.charges import Charges
from mqjax.mapper.levels.coincidences import Inside, needed
from mqjax.mapper.levels.lattice import Lattice
from mqjax.mapper.levels.packings import Packings
from mqjax.mapper.levels.proof import ROUNDING, prove
from mqjax.mapper.levels.runs import LoopRules, distinct_orders, joined
from mqjax.mapper.levels.spreads import spreads
from mqjax.mapper.localsearch import search_mappings
from mqjax.mapper.optimum import solve
from mqjax.mapspace.padding import padded_or_itself
from mqjax.mapspace.space import Mapspace
from mqjax.models import network_layers
from mqjax.types import BitWidths, Layer
from random_accelerators import Case, draw

BITS = [BitWidths(8, 8, 8), BitWidths(4, 2, 8), BitWidths()]


def proven(space: Mapspace, bits=BITS):
    return prove(space, bits, deadline=math.inf).solution()


@pytest.mark.parametrize("number", range(8))
def test_random_accelerators(number):
    """Every rule of MODEL.md sections 4 to 8 and 10, by plain enumeration."""
    judge.judge(draw(random.Random(f"levels/{number}"), size=400), (judge.by_levels,))


@pytest.mark.parametrize("number", [55, 257, 266, 299])
def test_boxes_with_gaps(number):
    """Strides and dilation above what a window covers: the box of a whole layer has elements that no smaller one has."""
    judge.judge(draw(random.Random(f"c/{number}"), size=1000), (judge.by_levels,))


@pytest.mark.parametrize(("name", "place"), [("eyeriss", 1), ("eyeriss", 2), ("simba", 0), ("simba", 7), ("simba", 14)])
def test_the_proof_equals_the_sweep(archs, name, place):
    """Layers of MobileNetV1 under the paper's constraints: sliding windows, bandwidths, and neighbours that forward."""
    arch = archs[name]
    layer = padded_or_itself(arch, list(dict.fromkeys(network_layers("mobilenetv1")))[place])
    space = Mapspace(arch, layer)
    found, swept = proven(space), solve(space, BITS)
    assert found.covered and swept.covered and found.valid is None
    np.testing.assert_allclose(found.values(), swept.values(), rtol=ROUNDING)


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("simba", Layer(C=64, M=64, P=14, Q=14)),
        ("simba_8bit_same", Layer(C=64, R=3, S=3, P=28, Q=28, shape="depthwise")),
        ("eyeriss", Layer(C=16, M=32, R=3, S=3, P=14, Q=14)),
        ("simba", Layer(G=4, C=8, M=16, P=12, Q=12, shape="grouped")),
        ("simba", Layer.from_dims({"B": 4, "M": 48, "K": 64, "N": 64}, shape="matmul")),
    ],
    ids=lambda value: value if isinstance(value, str) else value.shape,
)
def test_large_spaces_are_proven(monkeypatch, name, layer):
    """No mapping that a search finds is better than the optimum of a space that cannot be swept."""
    monkeypatch.setattr("mqjax.mapper.localsearch.ROUNDS_MOST", 20)
    space = Mapspace(load_arch(name), layer, constraints="arch")
    bits = [BitWidths(8, 4, 8), BitWidths(2, 2, 2)]
    found, searched = proven(space, bits), search_mappings(space, bits).solution()
    assert found.covered
    assert (found.values() <= searched.values() * (1 + ROUNDING)).all()


def test_solve_proves_what_it_cannot_sweep(archs):
    layer = Layer(C=32, M=16, P=14, Q=14, name="pointwise")
    assert Mapspace(archs["simba"], layer, constraints="arch").too_large
    for best in best_mappings(archs["simba"], layer, BITS, constraints="arch", metrics=("energy", "edp", "delay")):
        assert all(optimum.covered and optimum.valid_mappings is None for optimum in best.values())


def test_a_proof_that_is_not_done_is_no_proof(archs):
    space = Mapspace(archs["simba"], Layer(C=32, M=16, P=14, Q=14), constraints="arch")
    assert not prove(space, BITS, deadline=-math.inf).solution().covered


def test_boundaries_that_do_not_add_up_prove_nothing(archs, monkeypatch):
    """What the boundaries say is compared with the exact price of every mapping that is reported."""
    space = Mapspace(archs["simba"], Layer(C=16, M=8, P=8, Q=8), constraints="arch")
    assert proven(space).covered
    cost = Charges.cost
    monkeypatch.setattr(Charges, "cost", lambda *given, **how: cost(*given, **how) * 0.999)
    assert not proven(space).covered


def test_windows_tell_idle_loops_apart(archs):
    """Of two loops of M with the same extents outside, the window of the longer one must not stand for the shorter."""
    space = Mapspace(archs["simba"], Layer(C=3, M=8, R=3, S=3, P=8, Q=8, Wstride=2, Hstride=2))
    charges = Charges(space, np.ones((len(space.arch.levels), len(space.dims)), np.int64))
    book, lattice = WindowBook(charges), charges.lattice
    order = next(order for order in distinct_orders(book.rules, (), (1, 5)) if order.window == (1, 5))
    whole = lattice.size - 1
    inside = [np.flatnonzero((lattice.extents == (3, m, 3, 3, 1, 4, 8)).all(axis=1))[0] for m in (1, 4)]
    for place, loop in zip(inside, (8, 2), strict=True):
        (number,) = book.numbers(5, np.array([0]), np.array([whole]), np.array([place]), order)
        crossing, _ = book.crossing(5, np.array([place]), np.array([number]))
        assert crossing[0] == charges.boxes[5, 1, place] * charges.trips[place] // loop


def two_levels(fan: tuple[int, int], spatial: str, order: str = "", *, kept: str = "") -> Arch:
    """Registers at each of some MACs and a memory, whose reads are dear. spatial: the dimensions that children may lie along.
    order: of the memory's loops. kept: dimensions without loops at the registers."""
    shared = {"word_bits": 16, "block_words": 1, "cluster": 1, "keep": (True, True, True), "area_um2": 0.0}
    shared |= {"read_bandwidth": None, "write_bandwidth": None}
    registers = Level("registers", fan, capacity_words=64, read_pj=0.0, fill_pj=1.0, update_pj=1.0, **shared)
    memory = Level("memory", (1, 1), capacity_words=None, read_pj=100.0, fill_pj=1.0, update_pj=1.0, **shared)
    rules = (
        Constraint("memory", True, tuple((d, 1) for d in "CMRSNPQ" if d not in spatial)),
        Constraint("memory", False, (), order),
        Constraint("registers", False, tuple((d, 1) for d in kept)),
    )
    return Arch("two", Mac("mac", fan, 0.0, 1.0), (registers, memory), arch_constraints=rules)


@pytest.mark.parametrize(
    ("spatial", "order"), [("R", "SPQR"), ("P", "SRQP"), ("S", "RQPS"), ("Q", "PSRQ"), ("R", "QPSR"), ("Q", "RSPQ")]
)
def test_neighbours_forward_where_a_move_comes_back(spatial, order):
    """MODEL.md section 6: a step along one rank of Inputs undoes a move, so that what is left of it lies along the other."""
    arch = two_levels((2, 1), spatial, order, kept="CMRSPQ")
    judge.judge(Case(arch, "arch", (Layer(R=2, S=2, P=2, Q=2),), (BitWidths(),)), (judge.by_levels,))


@pytest.mark.parametrize(
    ("fan", "spatial", "layer"),
    [
        ((2, 2), "RP", Layer(R=2, P=4)),
        ((4, 1), "SQ", Layer(S=3, Q=4, Hstride=2)),
        ((3, 2), "RP", Layer(R=3, P=4, C=2)),
        ((5, 3), "RP", Layer(R=3, P=5, Wdilation=2)),
        ((2, 2), "RSPQ", Layer(R=2, S=2, P=2, Q=2)),
    ],
    ids=["width", "strided", "channels", "dilated", "plane"],
)
def test_children_along_both_dimensions_of_a_window(fan, spatial, layer):
    """MODEL.md section 6: how many children share data follows from the extents inside."""
    case = Case(two_levels(fan, spatial, kept="CMS"), "arch", (layer,), (BitWidths(), BitWidths(8, 8, 8)))
    judge.judge(case, (judge.by_levels,))


def test_where_nothing_fits_that_is_proven(archs):
    """16-bit words of 8-bit operands in a register of one word: three weights side by side never fit."""
    space = Mapspace(archs["eyeriss"], Layer(R=231, P=2))
    found = proven(space, [BitWidths()])
    assert found.covered and (found.index < 0).all()


def test_bounds_hold(archs):
    """The cheapest bound is below that by extents, which is below the least cost of a spread."""
    space = Mapspace(archs["simba"], Layer(C=16, M=8, R=3, S=3, P=8, Q=8), constraints="arch")
    decision = prove(space, BITS, deadline=math.inf)
    packings = Packings(decision.widths.operands)
    for spatial in spreads(space)[::7]:
        charges = Charges(space, spatial)
        bound = Bounds(charges, packings)
        assert (cheapest(charges, packings) <= bound.root * (1 + ROUNDING)).all()


@pytest.mark.parametrize("moving", [False, True])
@pytest.mark.parametrize("fixed", [{}, {1: 2}, {1: 1}])
def test_least_over_divisors(fixed, moving):
    """Of every extent's divisors along two of three dimensions, one of which may have a fixed factor; with a loop at least."""
    grid = Lattice((12, 10, 2))
    values = np.random.default_rng(0).random((grid.size, 2))
    found = grid.least(values.copy(), [0, 1], fixed, moving=moving)
    for place, extents in enumerate(grid.extents):
        factors = extents / grid.extents
        inside = (factors % 1 == 0).all(axis=1) & (factors[:, 2] == 1)
        for d, factor in fixed.items():
            inside &= factors[:, d] == factor
        if moving:
            inside &= (factors > 1).any(axis=1)
        np.testing.assert_array_equal(found[place], values[inside].min(axis=0, initial=np.inf))


def test_what_is_outermost_along_some_dimensions():
    grid = Lattice((12, 10))
    values, others = np.random.default_rng(0).random((2, grid.size, 3))
    found = grid.plus_outermost(values, others, [1])
    for place, extents in enumerate(grid.extents):
        (whole,) = np.flatnonzero((grid.extents == (extents[0], 10)).all(axis=1))
        np.testing.assert_array_equal(found[place], values[place] + others[whole])


def test_orders_that_may_differ():
    """MODEL.md section 6: C, R and S leave Outputs as they are, M Inputs, and N, P and Q Weights; Inputs slide along R, P."""
    rules = LoopRules(((4, 5, 6), (1,), (0, 2, 3)), ((2, 5),), inputs=1, forwards=False)
    found = distinct_orders(rules, (), (0, 1, 5))
    assert {(order.tensor, order.run, order.window) for order in found} == {
        (2, (0,), ()), (1, (1,), (1,)), (1, (1,), (1, 5)), (0, (5,), (5,)),
    }  # fmt: skip
    assert [order.loops for order in distinct_orders(rules, (5, 0, 1), (0, 1, 5))] == [(5, 0, 1)]
    assert joined(rules, ((5, 2, 3),), ((1, 4, 0), (0, 3, 0))) == ((5, 2, 3), (1, 4, 0))
    assert joined(rules, ((1, 2, 0),), ((1, 4, 0), (2, 7, 4))) == ((1, 8, 0), (2, 7, 4))


def placements(levels: int, extents: tuple[int, int], spread) -> list[tuple[list[tuple[int, int]], tuple[int, int]]]:
    """Ways to place loops inside a boundary that leave nothing, for units of 1: (loops, inner to outer, as (move, level),
    extents that are inside all of them)."""
    if not levels:
        return [([], extents)]
    ways = []
    for inside in itertools.product(*([x for x in range(1, whole + 1) if whole % x == 0] for whole in extents)):
        own = [
            (x * width, levels - 1)
            for x, whole, width in zip(inside, extents, spread[levels], strict=True)
            if x < whole
        ]
        for loops, before in placements(levels - 1, inside, spread):
            ways += [([*loops, *order], before) for order in itertools.permutations(own)]
    return ways


@pytest.mark.parametrize("seed", range(6))
def test_windows_end_where_no_more_moves_coincide(seed):
    """MODEL.md section 6: loop j repeats the first move if D_j = v_0, whatever comes inside; plain enumeration agrees."""
    chosen = random.Random(seed)
    spread = [(1, 1)]
    for _ in range(2):
        spread.append(tuple(width * chosen.choice((1, 1, 2)) for width in spread[-1]))
    extents = chosen.choice(((3, 1), (1, 2), (3, 2), (2, 4), (3, 4)))
    inside = Inside((1, 1), extents, tuple(spread), 0)
    outer = [extents[1] * spread[-1][1]]
    for _ in range(3):
        outer.append(outer[-1] * chosen.choice((2, 2, 3)))
    if extents[0] == 1:
        outer.insert(chosen.randrange(3), spread[-1][0])
    saving = 0
    for loops, before in placements(2, extents, spread):
        moves = [move for move, _ in loops] + outer
        boundary = loops[0][1] if loops else 2
        length = sum(x * width for x, width in zip(before, spread[boundary], strict=True)) - 1
        for j in range(len(loops), len(moves)):
            if moves[0] < length and (j == 0 or moves[j] - sum(moves[:j]) == moves[0]):
                saving = max(saving, j - len(loops) + 1)
    assert needed([(move,) for move in outer], [inside]) >= saving
    # Idle loops may come inside the first one: boxes then stay whole where a move is undone.
    assert needed([(move,) for move in (0, *outer)], [inside]) >= 1
