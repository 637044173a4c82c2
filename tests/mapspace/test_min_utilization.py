"""Mappings that use too little of a fan-out are no mappings: every space leaves them out, as plain enumeration does, and says so
where nothing else is left (docs/ARCHITECTURE_FORMAT.md, `min_utilization`).

Guards: docs/ARCHITECTURE_FORMAT.md, "`constraints`".
"""

from __future__ import annotations

import dataclasses

import pytest

import judge
import oracle
from mqjax.arch import Arch, Constraint, Level, Mac
from mqjax.errors import InputError
from mqjax.mapper.best import best_mappings
from mqjax.mapper.localsearch import search_mappings
from mqjax.mapspace.space import Mapspace
from mqjax.types import BitWidths, Layer
from random_accelerators import Case

FREE = Arch(
    "used",
    Mac("mac", (4, 2), 1.0, 0.0),
    (
        Level("L0", (4, 2), 12, 16, 1, 1, None, None, 1.0, 1.0, 1.0, 0.0, (True, False, True)),
        Level("L1", (1, 1), None, 16, 1, 1, None, None, 10.0, 10.0, 10.0, 0.0, (True, True, True)),
    ),
)
RULE = Constraint("L1", True, (("P", 1), ("Q", 1)), "CMRSNPQ", 1, min_utilization=0.75)
ARCH = dataclasses.replace(FREE, arch_constraints=(RULE,))
LAYER = Layer(C=6, M=4, P=2)


def test_all_that_is_compared_on_random_accelerators_agrees_here():
    judge.judge(
        Case(ARCH, "paper", (LAYER,), (BitWidths(), BitWidths(4, 8, 3))), (judge.sizes, judge.terms, judge.optima)
    )


def test_what_is_left_by_hand():
    """C on X of 4 and M on Y of 2: of 8, at least 6 must be in use, which 3 by 2 do and nothing else of 6 and 4."""
    space = Mapspace(ARCH, LAYER)
    assert {tuple(group.bounds(d, 1, row) for d in (0, 1)) for group in space.groups if {0, 1} <= {*group.dims}
            for row in range(len(group.weight))} == {(3, 2)}  # fmt: skip
    assert (
        space.size
        == Mapspace(
            dataclasses.replace(ARCH, arch_constraints=(dataclasses.replace(RULE, min_utilization=0.0),)), LAYER
        ).size
    )
    found = best_mappings(ARCH, LAYER)[0]["energy"]
    assert sorted(loop[:2] for loop in found.mapping[1]["spatial"] if loop[1] > 1) == [["C", 3], ["M", 2]]
    assert found.covered and found.valid_mappings < best_mappings(FREE, LAYER)[0]["energy"].valid_mappings


def test_the_search_of_large_spaces_obeys_it():
    solution = search_mappings(Mapspace(ARCH, LAYER), [BitWidths()]).solution()
    assert not oracle.Space(ARCH, LAYER, "paper").underused(solution.mappings[0])


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        (
            Layer(C=5, M=2),
            "all do not fit the fan-out of L1 (2 instances in use at most where 6 must be); L1 with 5 instances along X",
        ),
        (
            Layer(P=4),
            "all do not fit the fan-out of L1 (1 instance in use at most where 6 must be); L1 with 1 instance in use",
        ),
    ],
)
def test_where_nothing_fits_the_reason_is_given(layer, words):
    """The second layer has nothing that could lie on the array."""
    assert Mapspace(ARCH, layer).fanout_valid == 0
    with pytest.raises(InputError) as caught:
        best_mappings(ARCH, layer, pad=None)
    assert words in str(caught.value)
