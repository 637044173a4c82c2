"""The next-best mapping of a space, against plain enumeration and against exact prices of all distinct mappings.

Guards: docs/MODEL.md, "11. Map space"; README.md, "From the command line".
"""

from __future__ import annotations

import random

import numpy as np
import pytest

from mqjax.cli import main
from mqjax.cost.exact.evaluator import evaluate
from mqjax.hw import load_arch
from mqjax.mapper import nextbest
from mqjax.mapper.best import solve_layer
from mqjax.mapper.nextbest import RunnerUp, runner_up, runner_up_near
from mqjax.mapspace.rows import Numbering, mappings
from mqjax.mapspace.space import Mapspace
from mqjax.types import METRICS, BitWidths, Layer
from random_accelerators import draw
from trial import Trial

BITS = BitWidths(8, 8, 8)


@pytest.mark.parametrize("number", range(6))
def test_random_spaces_agree_with_plain_enumeration(number, monkeypatch):
    """Also where neighbours may forward data, and where few mappings are priced at a time."""
    monkeypatch.setattr(nextbest, "PRICED_AT_A_TIME", 7)
    # Two of three slide along both dimensions of a pair, so that forwarding is met.
    for attempt in range(100):
        trial = Trial(case := draw(random.Random(f"next/{number}/{attempt}"), size=600, depth=3), case.layers[0])
        if trial.bits and (number % 3 == 0 or trial.space.may_forward):
            break
    bits = trial.bits[0]
    costs = trial.costs(bits)
    for metric in METRICS:
        values = {"energy": [e for e, _ in costs], "edp": [e * c for e, c in costs], "delay": [c for _, c in costs]}
        least = sorted(set(values[metric]))[:2]
        found = runner_up(trial.arch, trial.layer, bits, metric=metric, constraints=trial.constraints)
        if not least:
            assert found is None
            continue
        assert [found.best, found.value] == [*least, None][:2]
        if found.value is not None:
            cost = evaluate(trial.arch, trial.layer, bits, [found.mapping])
            assert cost.valid[0] and cost.metric(metric)[0] == found.value
            assert not trial.enumerated.underused(found.mapping)


def test_random_cases_meet_what_is_rare():
    """The cases above would prove little if none of their spaces were doubtful."""
    cases = [draw(random.Random(f"next/{n}/0"), size=600, depth=3) for n in range(40)]
    spaces = [Trial(case, case.layers[0]).space for case in cases]
    assert sum(space.may_forward for space in spaces) > 2


@pytest.mark.parametrize("metric", METRICS)
def test_a_space_of_more_than_65536_mappings(metric):
    arch, layer = load_arch("eyeriss"), Layer(C=128, M=128, P=56, Q=56, name="pw3")
    space = Mapspace(arch, layer)
    assert space.distinct > 2**16
    numbering, values = Numbering(space), []
    for start in range(0, len(numbering), 2**14):
        numbers = np.arange(start, min(start + 2**14, len(numbering)))
        values.append(evaluate(arch, layer, BITS, mappings(space, numbering.at(numbers))).metric(metric))
    costs, counts = np.unique(np.concatenate(values), return_counts=True)
    found = runner_up(arch, layer, BITS, metric=metric)
    assert (found.best, found.value, found.ties) == (costs[0], costs[1], counts[0])
    assert found.best == solve_layer(arch, layer, [BITS]).value(metric)[0]
    assert evaluate(arch, layer, BITS, [found.mapping]).metric(metric)[0] == found.value


def test_spaces_that_no_sweep_covers_are_left():
    layer = Layer(C=256, M=256, P=28, Q=28)
    assert runner_up(load_arch("simba"), layer, BITS, constraints="none") is None
    assert runner_up(load_arch("eyeriss"), Layer(C=128, M=128, P=56, Q=56), BITS, seconds=0.0) is None


def test_a_single_cost_has_no_next(capsys):
    from mqjax.show.draw import runner_up_text

    found = runner_up(load_arch("eyeriss"), Layer(), BITS)
    assert found.value is None and found.mapping is None and found.ties >= 1 and found.best > 0
    assert "have the same energy" in runner_up_text(found)


@pytest.mark.parametrize(("loss", "told"), [(0.0321, "+3.21%"), (2.4e-5, "+0.002%")])
def test_a_small_loss_is_not_told_as_none(loss, told):
    from mqjax.show.draw import runner_up_text

    assert told in runner_up_text(RunnerUp("energy", 1.0, 1.0 + loss, loss, 1, []))


def test_padded_bounds_are_said(capsys):
    assert main(["explain", "--arch", "eyeriss", "--layer", "M=7", "--pad", "1"]) == 0
    told = capsys.readouterr()
    assert "one of the same bounds as the best" in told.err and "the next-best mapping has" in told.out


@pytest.mark.parametrize("metric", METRICS)
def test_a_search_around_the_best_finds_what_comes_next(metric):
    """In a space that a sweep compares, and so knows better."""
    arch, layer = load_arch("eyeriss"), Layer(C=16, M=32, R=3, S=3, P=14, Q=14)
    best = solve_layer(arch, layer, [BITS]).optimum(metric, 0)
    swept = runner_up(arch, layer, BITS, metric=metric)
    found = runner_up_near(arch, layer, BITS, best.mapping, metric=metric)
    assert swept.best == found.best < found.value and found.value >= swept.value and not found.covered
    assert found.loss == found.value / found.best - 1 < 0.05
    assert evaluate(arch, layer, BITS, [found.mapping]).metric(metric)[0] == found.value


def test_explain_searches_where_the_space_is_not_compared(capsys):
    layer = "C=64,M=64,P=14,Q=14"
    assert main(["explain", "--arch", "simba", "--layer", layer, "--bits", "8/8/8", "--constraints", "arch"]) == 0
    assert "or less: it was searched for around this one" in capsys.readouterr().out


def test_where_nothing_is_near_none_is_named():
    from mqjax.show.draw import runner_up_text

    arch, layer = load_arch("eyeriss"), Layer()
    best = solve_layer(arch, layer, [BITS]).optimum("energy", 0)
    found = runner_up_near(arch, layer, BITS, best.mapping)
    assert found.value is None and "no mapping near this one has another energy" in runner_up_text(found)
