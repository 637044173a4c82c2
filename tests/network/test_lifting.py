"""What lifting constraints saves: equal to whole spaces under fewer constraints, never negative.

Guards: README.md, "From the command line"; docs/MODEL.md, "11.1 Tiling levels and constraints".
"""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from mqjax.cli import main
from mqjax.hw import load_arch
from mqjax.mapper.best import best_mappings
from mqjax.network.lifting import ALL, AS_BUILT, Lifting, _at_least_as_good, constraint_line, lift_constraints, without
from mqjax.types import BitWidths, Layer

LAYERS = [Layer(C=8, M=16, P=4, Q=4, name="a"), Layer(C=16, M=4, P=2, name="b"), Layer(C=8, M=16, P=4, Q=4, name="c")]
BITS = BitWidths(8, 4, 8)


@pytest.mark.parametrize("metric", ["energy", "edp"])
def test_lifted_alone_and_together(metric):
    arch = load_arch("simba")
    found = lift_constraints(arch, LAYERS, BITS, metric=metric)
    assert [one.lifted for one in found] == [AS_BUILT, *map(constraint_line, arch.arch_constraints), ALL]
    for ends, constraints in ((found[0], "arch"), (found[-1], "none")):
        for i, layer in enumerate(LAYERS):
            (best,) = best_mappings(arch, layer, BITS, metrics=[metric], constraints=constraints)
            assert ends.proven[i] and best[metric].covered
            assert ends.energy_pj[i] == best[metric].energy_pj and ends.cycles[i] == best[metric].cycles
    for one in found[1:-1]:
        assert (found[-1].cost(metric) <= one.cost(metric)).all() and (one.cost(metric) <= found[0].cost(metric)).all()
    assert found[-1].cost(metric).sum() < found[0].cost(metric).sum()
    # Layers of equal sizes are mapped once.
    assert all(one.energy_pj[0] == one.energy_pj[2] for one in found)


def test_each_way_lifts_one_constraint():
    arch = load_arch("eyeriss")
    ways = without(arch)
    assert len(ways) == len(arch.arch_constraints) + 2
    for place, (name, loose) in enumerate(ways[1:-1]):
        left = [rule for rule in arch.arch_constraints if rule not in loose.arch_constraints]
        assert left == [arch.arch_constraints[place]] and name == constraint_line(left[0])
    assert ways[-1][1].arch_constraints == () and ways[0][1].arch_constraints == arch.arch_constraints


def test_what_was_only_searched_is_no_worse_than_with_less_lifted():
    built = Lifting(AS_BUILT, np.array([5.0, 7.0]), np.array([2, 2]), np.array([True, True]))
    searched = Lifting(ALL, np.array([6.0, 4.0]), np.array([1, 1]), np.array([False, True]))
    kept = _at_least_as_good(searched, [built], "energy")
    assert (
        kept.energy_pj.tolist() == [5, 4] and kept.cycles.tolist() == [2, 1] and kept.proven.tolist() == [False, True]
    )
    with pytest.raises(RuntimeError, match="above those of"):
        _at_least_as_good(dataclasses.replace(searched, proven=np.array([True, True])), [built], "energy")


def test_the_command(tmp_path, capsys):
    figure = tmp_path / "constraints.png"
    call = ["constraints", "--arch", "simba", "--layer", "C=8,M=16,P=4,Q=4", "--bits", "8/4/8"]
    assert main([*call, "--json", "--figure", str(figure)]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert rows[0]["lifted"] == AS_BUILT and rows[0]["saved"] == 0 and all(row["proven"] for row in rows)
    assert max(row["saved"] for row in rows) == rows[-1]["saved"] > 0
    assert figure.read_bytes().startswith(b"\x89PNG")
    assert main(call) == 0
    assert "energy saved" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="2"):
        main([*call, "--figure", str(tmp_path / "x.svg")])


def test_an_accelerator_without_constraints_is_refused(tmp_path, capsys):
    free = tmp_path / "free.yaml"
    free.write_text(
        "name: free\nmac: {name: mac, mesh: [1, 1], energy_pj: 1}\nlevels:\n"
        "- {name: DRAM, mesh: [1, 1], capacity_words: unlimited, word_bits: 16, block_words: 1, "
        "energy_pj: {read: 1, fill: 1, update: 1}, keep: [Weights, Inputs, Outputs]}\n"
    )
    assert main(["constraints", "--arch", str(free), "--layer", "C=2"]) == 2
    assert "no constraints of its own" in capsys.readouterr().err
