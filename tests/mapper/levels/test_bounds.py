"""No mapping costs less than what was promised of it, at any boundary, on random accelerators.

Guards: docs/PROOF.md, "Bounds".
"""

from __future__ import annotations

import dataclasses
import random
from typing import NamedTuple

import numpy as np
import pytest

from mqjax.arch import Arch, Constraint, Level, Mac
from mqjax.errors import InputError
from mqjax.mapper.decision import Decision
from mqjax.mapper.levels.book import WindowBook
from mqjax.mapper.levels.bounds import Bounds
from mqjax.mapper.levels.charges import Charges
from mqjax.mapper.levels.descent import Descent
from mqjax.mapper.levels.lattice import Lattice
from mqjax.mapper.levels.packings import Packings
from mqjax.mapper.levels.runs import _order
from mqjax.mapper.levels.spreads import spreads
from mqjax.mapper.levels.states import Measure, Targets
from mqjax.mapper.localsearch import Codec
from mqjax.mapspace.space import Mapspace
from mqjax.types import TENSORS, BitWidths, Layer, all_widths
from random_accelerators import random_arch

ANY = Targets(*(np.full(1, np.inf) for _ in Targets._fields))


class Step(NamedTuple):
    """The temporal loops of level b, inner to outer; place: the extents that they leave inside, flat."""

    b: int
    place: int
    loops: list[int]


def layer_with_windows(rng: random.Random) -> Layer:
    """Kernel and output extents of one rank, some of them with many divisors."""
    stride = rng.choice((1, 1, 1, 2, 3))
    dims = {
        "C": rng.choice((1, 2, 4)),
        "R": rng.choice((1, 2, 3, 3, 4, 5)),
        "S": rng.choice((1, 1, 2, 3, 3)),
        "P": rng.choice((1, 2, 4, 6, 8, 12)),
        "Q": rng.choice((1, 1, 2, 4, 6, 8)),
        "Wstride": stride,
        "Hstride": rng.choice((stride, 1)),
        "Wdilation": rng.choice((1, 1, 1, 2)),
    }
    return rng.choice((Layer(**dims, M=rng.choice((1, 2, 4, 6))), Layer(**dims, shape="depthwise")))


def drawn(rng: random.Random, constraints: tuple[str, ...]) -> tuple[Mapspace, np.ndarray]:
    """A space of a random accelerator and a layer that suits its constraints, and its spreads."""
    while True:
        arch, layer = random_arch(rng, 5), layer_with_windows(rng)
        try:
            space = Mapspace(arch, layer, constraints=rng.choice(constraints))
            found = spreads(space)
        except InputError:
            continue
        assert found is not None
        return space, found


def placed_at_random(rng: random.Random, bounds: Bounds, prefix: list[tuple[int, ...]]) -> list[Step]:
    """Temporal loops of all levels, outermost first, that fit and obey the constraints; none where the draw leads nowhere."""
    charges, lattice = bounds.charges, bounds.charges.lattice
    steps, whole = [], lattice.size - 1
    if not charges.fits(charges.depth, bounds.packings.operands)[whole, 0]:
        return []
    for b in range(charges.depth - 1, 0, -1):
        factors = lattice.extents[whole] / lattice.extents
        fits = (factors % 1 == 0).all(axis=1) & charges.fits(b, bounds.packings.operands)[:, 0]
        levels = [(b, factors), (0, lattice.extents)] if b == 1 else [(b, factors)]
        for level, of_level in levels:
            fits &= (of_level <= bounds.most[level]).all(axis=1)
            for d, factor in bounds.fixed[level].items():
                fits &= of_level[:, d] == factor
        # Runs and windows are made of levels that have few loops or none.
        few = fits & ((factors > 1).sum(axis=1) <= rng.choice((0, 1, 1, 2, 2, 7)))
        places = np.flatnonzero(few if few.any() else fits).tolist()
        if not places:
            return []
        place = rng.choice(places)
        moving = [d for d in range(len(factors[place])) if factors[place][d] > 1]
        first = [d for d in prefix[b] if d in moving]
        others = [d for d in moving if d not in first]
        steps.append(Step(b, place, first + rng.sample(others, len(others))))
        whole = place
    return steps


def packings_of(space: Mapspace, bits: list[BitWidths]) -> Packings:
    codec = Codec(space)
    return Packings(Decision(space, bits, codec.width, codec.nests).widths.operands)


class Trial:
    """A spread of a space, at one width triple."""

    def __init__(self, space: Mapspace, spatial: np.ndarray) -> None:
        packings = packings_of(space, [BitWidths(8, 8, 8)])
        charges = Charges(space, spatial)
        self.bounds, self.start = Bounds(charges, packings), charges.of_macs(packings)
        self.book = WindowBook(charges)
        self.descent = Descent([Measure(charges, self.bounds, self.start, np.inf)], np.ones(1), self.book)
        self.prefix = [space.prefix(t) for t, level in enumerate(space.tiling) if not level.spatial]

    def violations(self, steps: list[Step]) -> list[str]:
        """Where what a mapping costs up to a boundary and what is promised for the rest exceed what it costs; none where
        neighbours may forward, so that its cost is only bounded."""
        descent = self.descent
        state = descent.start()
        promised = [("all", float(self.start[0] + self.bounds.root[0]))]
        for b, place, loops in steps:
            order = _order(self.book.rules, tuple(loops)) if loops else None
            pair = np.array([0]), np.array([place])
            tensor = None if order is None else order.tensor
            promises = [descent._promise(b, state, *pair, t) for t in range(len(TENSORS))]
            promise = min(promises) if tensor is None else promises[tensor]
            promised.append((f"level {b}", float(state.cost[0, 0, 0] + promise[0, 0])))
            state = descent._priced(b, state, *pair, np.array([descent._number(order)]), ANY)
            if not len(state):
                return [f"boundary {b} is taken for impossible"]
            promised.append((f"boundary {b}", float(state.cost[0, 0, 0] + descent._inside(b, state)[0, 0, 0])))
        cost = float(state.cost[0, 0, 0])
        if not state.exact[0]:
            return []
        return [f"{what}: {least} of {cost}" for what, least in promised if least > cost * (1 + 1e-9) + 1e-9]


def only(arch: Arch, spatial: np.ndarray, steps: list[Step], lattice: Lattice, loops: str) -> Arch:
    """The accelerator with constraints that leave nothing but a mapping."""
    rules = []
    whole = lattice.size - 1
    inside = {step.b: step for step in steps}
    for b, level in reversed(list(enumerate(arch.levels))):
        place = inside[b].place if b else 0
        factors = lattice.extents[whole] // lattice.extents[place]
        order = inside[b].loops if b else []
        names = tuple(zip(loops, factors.tolist(), strict=True))
        rules.append(Constraint(level.name, False, names, "".join(loops[d] for d in order)))
        if (b and arch.levels[b - 1] or arch.mac).mesh != level.mesh:
            rules.append(Constraint(level.name, True, tuple(zip(loops, spatial[b].tolist(), strict=True))))
        whole = place
    return dataclasses.replace(arch, arch_constraints=tuple(rules), paper_constraints=())


@pytest.mark.parametrize("number", range(30))
def test_no_mapping_is_below_its_bounds(number):
    """Neither among all others nor, which leaves the bounds no slack, where the constraints allow nothing else."""
    rng = random.Random(f"bounds/{number}")
    space, found = drawn(rng, ("arch", "arch", "none", "paper"))
    arch, layer = space.arch, space.layer
    for spatial in found[rng.sample(range(len(found)), min(len(found), 4))]:
        trial = Trial(space, spatial)
        for _ in range(30):
            steps = placed_at_random(rng, trial.bounds, trial.prefix)
            if steps:
                assert not trial.violations(steps), (arch, layer, spatial, steps)
                one = only(arch, spatial, steps, trial.bounds.charges.lattice, layer.loops)
                alone = Trial(Mapspace(one, layer, constraints="arch"), spatial)
                assert not alone.violations(steps), (one, layer, spatial, steps)


@pytest.mark.parametrize(
    ("inner", "outer"), [("P", "MP"), ("P", "PM"), ("PM", "P"), ("MP", "P"), ("P", "P"), ("M", "PM"), ("PM", "MP")]
)
def test_windows_that_go_on_over_loops_of_other_dimensions(inner, outer):
    """MODEL.md section 6: a loop of P repeats the move of one further in, whatever loops of M stand between them."""
    shared = {"word_bits": 16, "block_words": 1, "cluster": 1, "area_um2": 0.0, "fill_pj": 1.0, "update_pj": 1.0}
    shared |= {"mesh": (1, 1), "keep": (True, True, True), "read_bandwidth": None, "write_bandwidth": None}
    names, capacities = ("registers", "buffer", "memory"), (64, 64, None)
    levels = tuple(
        Level(name, capacity_words=capacity, read_pj=read, **shared)
        for name, capacity, read in zip(names, capacities, (0.0, 100.0, 1.0), strict=True)
    )
    layer = Layer(R=3, P=4 if "P" in inner and "P" in outer else 2, M=4 if "M" in inner and "M" in outer else 2)
    loops = "".join(layer.loops)
    lattice = Lattice(tuple(layer.bounds))
    extents = np.array([3 if d == "R" else 1 for d in loops])
    steps = []
    for b, order in ((1, inner), (2, outer)):
        place = int(np.flatnonzero((lattice.extents == extents).all(axis=1))[0])
        steps.insert(0, Step(b, place, [loops.index(d) for d in order]))
        extents = extents * [2 if d in order else 1 for d in loops]
    assert (extents <= lattice.bounds).all()
    spatial = np.ones((3, len(loops)), np.int64)
    bare = Arch("three", Mac("mac", (1, 1), 0.0, 1.0), levels)
    alone = only(bare, spatial, steps, lattice, loops)
    assert not Trial(Mapspace(alone, layer, constraints="arch"), spatial).violations(steps)


@pytest.mark.parametrize("number", range(30))
def test_corners_of_the_packings_promise_no_more_than_each_packing(number):
    rng = random.Random(f"corners/{number}")
    space, found = drawn(rng, ("arch", "none"))
    packings = packings_of(space, [bits for bits in all_widths() if rng.random() < 0.2])
    corners, weights = packings.corners()
    assert len(corners) <= 8 and np.allclose(weights.sum(axis=1), 1) and (weights >= 0).all()
    for spatial in found[rng.sample(range(len(found)), min(len(found), 8))]:
        charges = Charges(space, spatial)
        rough, tight = Bounds(charges, corners).root, Bounds(charges, packings).root
        if np.isfinite(rough).all():
            assert (weights @ rough <= tight * (1 + 1e-9) + 1e-9).all()
        else:
            assert np.isinf(rough).all() and np.isinf(tight).all()
