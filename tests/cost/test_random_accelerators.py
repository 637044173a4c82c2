"""Random accelerators: fast path, exact evaluator and enumeration must agree on each (see `judge`).

Guards: docs/MODEL.md, "4. Validity", "6. Data movement between levels", "8. Energy", "11. Map space and search".
"""

from __future__ import annotations

import itertools
import random

import hypothesis
import pytest
from hypothesis import strategies as st

import judge
import oracle
from accelerator_files import to_yaml
from mqjax.arch import Arch, Level, Mac
from mqjax.cost.packing import mac_cost
from mqjax.io.accelerator import read_accelerator
from mqjax.types import BitWidths, Layer
from random_accelerators import Case, draw, simpler

FEATURES = {
    "one level": lambda case: len(case.arch.levels) == 1,
    "five levels": lambda case: len(case.arch.levels) == 5,
    "innermost level fans out": lambda case: case.arch.fanout[0] != (1, 1),
    "outermost level has a mesh": lambda case: case.arch.levels[-1].instances > 1,
    "fan-out in X": lambda case: any(x > 1 and y == 1 for x, y in case.arch.fanout),
    "fan-out in Y": lambda case: any(x == 1 and y > 1 for x, y in case.arch.fanout),
    "fan-out in X and Y": lambda case: any(x > 1 and y > 1 for x, y in case.arch.fanout),
    "cluster": lambda case: any(level.cluster > 1 for level in case.arch.levels),
    "words differ": lambda case: len({level.word_bits for level in case.arch.levels}) > 1,
    "blocks": lambda case: any(level.block_words > 1 for level in case.arch.levels),
    "nothing kept": lambda case: any(not any(level.keep) for level in case.arch.levels),
    "outermost level limited": lambda case: case.arch.levels[-1].capacity_words is not None,
    "reads limited only": lambda case: any(
        x.read_bandwidth is not None and x.write_bandwidth is None for x in case.arch.levels
    ),
    "writes limited only": lambda case: any(
        x.read_bandwidth is None and x.write_bandwidth is not None for x in case.arch.levels
    ),
    "zero energy": lambda case: any(0.0 in (x.read_pj, x.fill_pj, x.update_pj) for x in case.arch.levels),
    "MAC energy by width": lambda case: not isinstance(case.arch.mac.energy_pj, float),
    "MAC pace by width": lambda case: mac_cost(case.arch, case.bits[-1])[1:] != mac_cost(case.arch, case.bits[0])[1:],
    "2023": lambda case: case.arch.dialect == "2023",
    "no constraints": lambda case: not rules_of(case),
    "all constraints": lambda case: len(rules_of(case)) == len(case.arch.tiling_levels()),
    "rules in both lists": lambda case: case.arch.arch_constraints and case.arch.paper_constraints,
    "partial permutation": lambda case: any(0 < len(rule.permutation) < 8 for rule in rules_of(case)),
    "full permutation": lambda case: any(len(rule.permutation) == 8 for rule in rules_of(case)),
    "given split": lambda case: any(rule.split is not None for rule in rules_of(case)),
    "free split": lambda case: any(x.spatial and x.split is None for x in case.arch.tiling_levels()),
    "whole bound": lambda case: any(0 in dict(rule.factors).values() for rule in rules_of(case)),
    "factor above the bound": lambda case: any(
        n > getattr(case.layers[0], d) for rule in rules_of(case) for d, n in rule.factors
    ),
    "upper bound": lambda case: any(
        n < getattr(case.layers[0], d) for rule in rules_of(case) for d, n in rule.max_factors
    ),
    "minimum utilization": lambda case: any(rule.min_utilization for rule in rules_of(case)),
    "halo": lambda case: any((x.R > 1 and x.P > 1) or (x.S > 1 and x.Q > 1) for x in case.layers),
    "stride": lambda case: any(x.Wstride * x.Hstride > 1 for x in case.layers),
    "dilation": lambda case: any(x.Wdilation * x.Hdilation > 1 for x in case.layers),
    "batch": lambda case: any(x.N > 1 for x in case.layers),
    "depthwise": lambda case: any(x.shape == "depthwise" and x.C > 1 for x in case.layers),
    "grouped": lambda case: any(x.shape == "grouped" and x.G > 1 for x in case.layers),
    "matmul": lambda case: any(x.shape == "matmul" and x.macs > 1 for x in case.layers),
    "prime": lambda case: any(n in (7, 13) for x in case.layers for n in x.bounds),
    "1 bit": lambda case: any(1 in bits.by_tensor() for bits in case.bits),
    "16 bits": lambda case: any(16 in bits.by_tensor() for bits in case.bits),
}


def rules_of(case: Case):
    return case.arch.constraint_set("paper")


@pytest.fixture(scope="module")
def cases() -> list[Case]:
    return [draw(random.Random(seed), size=200) for seed in range(150)]


@pytest.mark.parametrize("feature", FEATURES)
def test_draws_have_every_feature(cases, feature):
    assert sum(bool(FEATURES[feature](case)) for case in cases) >= 3


def test_draws_are_small_and_repeat(cases):
    for seed, case in enumerate(cases[:20]):
        size = oracle.Space(case.arch, case.layers[0], case.constraints).pruned_size()
        assert size <= 200 and draw(random.Random(seed), size=200) == case
    assert sum(case.layers[0].macs > 1 for case in cases) > 0.9 * len(cases)


def test_accelerators_can_be_written_and_read(cases, tmp_path):
    for case in cases:
        path = tmp_path / "random.yaml"
        path.write_text(to_yaml(case.arch))
        assert read_accelerator(path, dialect=case.arch.dialect) == case.arch


def test_simpler_cases_differ_and_end(cases):
    case, steps = cases[3], 0
    while (following := next(simpler(case), None)) is not None:
        assert following != case
        case, steps = following, steps + 1
    assert steps > 5 and len(case.arch.levels) == 1 and case.layers[0].macs == 1


def trial_of(examples: int):
    """Some cases of hypothesis, always the same. Compiling takes most of the time, so layers are tried several at once;
    experiments/fuzz.py tries many more cases, and larger ones."""

    def decorated(test):
        given = hypothesis.given(st.randoms(use_true_random=False))(test)
        return hypothesis.settings(max_examples=examples, suppress_health_check=list(hypothesis.HealthCheck))(given)

    return decorated


@trial_of(8)
def test_exact_evaluator_equals_the_oracle(rng):
    case = draw(rng, size=200, layers=2)
    hypothesis.note(str(case))
    judge.judge(case, (judge.sizes, judge.evaluator))


@trial_of(3)
def test_spaces_equal_enumeration(rng):
    case = draw(rng, size=150, layers=3, widths=2, depth=3)
    hypothesis.note(str(case))
    judge.judge(case, (judge.sizes, judge.terms, judge.optima))


@trial_of(2)
def test_all_widths_equal_each_alone_and_the_table(rng):
    case = draw(rng, size=100, widths=2, depth=2)
    hypothesis.note(str(case))
    judge.judge(case, (judge.together, judge.table))


PLAIN = Case(
    Arch(
        "plain",
        Mac("mac", (4, 1), 1.0, 0.0),
        (
            Level("L0", (4, 1), 12, 16, 1, 1, 0.5, None, 1.0, 1.0, 1.0, 0.0, (True, False, True)),
            Level("L1", (1, 1), None, 16, 1, 1, None, None, 10.0, 10.0, 10.0, 0.0, (True, True, True)),
        ),
    ),
    "none",
    (Layer(C=2, M=2, P=2),),
    (BitWidths(), BitWidths(4, 8, 3)),
)
"""A case in which all agrees."""


def found_in(case: Case) -> set[str]:
    """The checks that disagree."""
    return {message.partition(":")[0] for message in judge.disagreements(case, case.layers[0])}


def read_twice(traffic):
    """A model that is wrong about one count."""

    def wrong(arch, analysis, tensor):
        found = traffic(arch, analysis, tensor)
        reads, fills, updates = found["traffic"][-1]
        found["traffic"][-1] = (reads + 1, fills, updates)
        return found

    return wrong


def one_less(space):
    """An enumeration that overlooks the last mapping."""
    return lambda self: itertools.islice(space(self), 55)


def test_judge_finds_nothing_where_all_agrees():
    judge.judge(PLAIN)


@pytest.mark.parametrize(
    ("owner", "name", "change", "checks"),
    [
        (oracle, "traffic", read_twice, {"evaluator", "optima", "by_levels"}),
        (oracle.Space, "mappings", one_less, {"sizes", "optima", "by_levels"}),
        (judge, "fast_terms", lambda f: lambda *x: (lambda c, e: (c | {"steps": c["steps"] + 1}, e))(*f(*x)), {"terms"}),
        (judge, "entry_of", lambda f: lambda bits: (f(bits) + 49) % 343, {"table"}),
    ],
)  # fmt: skip
def test_judge_notices(monkeypatch, owner, name, change, checks):
    monkeypatch.setattr(owner, name, change(getattr(owner, name)))
    assert found_in(PLAIN) == checks
    with pytest.raises(AssertionError, match=min(checks)):
        judge.judge(PLAIN)
