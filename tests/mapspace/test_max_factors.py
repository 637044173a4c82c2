"""Upper bounds on factors: every space obeys them, as plain enumeration does (docs/ARCHITECTURE_FORMAT.md, `max_factors`).

Guards: docs/ARCHITECTURE_FORMAT.md, "`constraints`".
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

import judge
import oracle
from mqjax.arch import Arch, Constraint, Level, Mac
from mqjax.errors import InputError
from mqjax.mapper.localsearch import search_mappings
from mqjax.mapspace.mapping import decode
from mqjax.mapspace.padding import padded
from mqjax.mapspace.space import Mapspace
from mqjax.types import BitWidths, Layer
from random_accelerators import Case

FREE = Arch(
    "bounded",
    Mac("mac", (4, 2), 1.0, 0.0),
    (
        Level("L0", (4, 2), 12, 16, 1, 1, None, None, 1.0, 1.0, 1.0, 0.0, (True, False, True)),
        Level("L1", (1, 1), None, 16, 1, 1, None, None, 10.0, 10.0, 10.0, 0.0, (True, True, True)),
    ),
)
RULES = (
    Constraint("L0", False, max_factors=(("C", 3), ("M", 1))),
    Constraint("L1", True, (("P", 1),), max_factors=(("C", 2),)),
)
ARCH = dataclasses.replace(
    FREE, arch_constraints=RULES, paper_constraints=(Constraint("L1", False, max_factors=(("M", 3),)),)
)
LAYER = Layer(C=12, M=6, P=2)


def factors(mapping, level: str, kind: str, dim: str) -> int:
    (entry,) = (entry for entry in mapping if entry["level"] == level)
    return int(np.prod([loop[1] for loop in entry[kind] if loop[0] == dim]))


def test_all_that_is_compared_on_random_accelerators_agrees_here():
    judge.judge(
        Case(ARCH, "paper", (LAYER,), (BitWidths(), BitWidths(4, 8, 3))),
        (judge.sizes, judge.terms, judge.optima, judge.by_levels),
    )


def test_sizes_by_hand():
    """C = 12 over three levels with at most 3 and 2 in the inner two; M = 6 with 1, anything, and at most 3."""
    space = Mapspace(ARCH, LAYER)
    assert sorted(map(tuple, space.tables[0].tolist())) == [
        (1, 1, 12),
        (1, 2, 6),
        (2, 1, 6),
        (2, 2, 3),
        (3, 1, 4),
        (3, 2, 2),
    ]
    assert sorted(map(tuple, space.tables[1].tolist())) == [(1, 2, 3), (1, 3, 2), (1, 6, 1)]
    assert space.sizes["index_factorization"] == 6 * 3 * 2
    assert len(Mapspace(ARCH, LAYER, constraints="arch").tables[1]) == 4
    assert len(Mapspace(ARCH, LAYER, constraints="none").tables[1]) == 9


def test_the_search_of_large_spaces_obeys_them():
    space = Mapspace(ARCH, LAYER)
    solution = search_mappings(space, [BitWidths()]).solution()
    allowed = {repr(mapping) for mapping in map(judge.nest_of, oracle.Space(ARCH, LAYER, "paper").mappings())}
    assert repr(judge.nest_of(solution.mappings[0])) in allowed


def test_samples_obey_them():
    import jax

    space = Mapspace(ARCH, LAYER)
    drawn = space.sample(jax.random.key(0), 100)
    for row in range(100):
        mapping = decode(ARCH, LAYER, drawn, row)
        assert factors(mapping, "L0", "temporal", "C") <= 3 and factors(mapping, "L0", "temporal", "M") == 1
        assert factors(mapping, "L1", "spatial", "C") <= 2 and factors(mapping, "L1", "temporal", "M") <= 3


def test_bounds_that_cannot_be_met_are_padded_or_refused():
    whole = tuple(
        Constraint(name, spatial, max_factors=(("C", 3),))
        for name, spatial in (("L0", False), ("L1", True), ("L1", False))
    )
    arch = dataclasses.replace(FREE, arch_constraints=whole)
    assert padded(arch, Layer(C=5)).C == 6 and padded(arch, Layer(C=13)).C == 18 and padded(arch, Layer(C=27)).C == 27
    with pytest.raises(
        InputError, match="fixed factors of C multiply to 1, and within the upper bounds .* bound 5; pad it"
    ):
        print(Mapspace(arch, Layer(C=5)).tables)
    with pytest.raises(InputError, match="upper bounds"):
        padded(arch, Layer(C=28))


def test_a_factor_is_fixed_or_bounded():
    with pytest.raises(InputError, match="max_factors.C of the temporal loops of L0 is given twice"):
        dataclasses.replace(FREE, arch_constraints=(Constraint("L0", False, (("C", 2),), max_factors=(("C", 3),)),))
