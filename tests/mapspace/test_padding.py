"""Layers with larger bounds: those that fixed factors need, and those that only map better.

Guards: docs/MODEL.md, "11.1 Tiling levels and constraints".
"""

from __future__ import annotations

import dataclasses
import itertools
import json

import numpy as np
import pytest

from mqjax.cli import main
from mqjax.errors import InputError
from mqjax.mapper import best as mapper
from mqjax.mapper.best import best_mappings, solve_layer
from mqjax.mapper.optimum import solve
from mqjax.mapper.table import cost_table, entry_of
from mqjax.mapspace.mapping import mapped_layer
from mqjax.mapspace.padding import bounds_to_try, mapped_as, padded, padding_of
from mqjax.mapspace.space import Mapspace
from mqjax.types import BitWidths, Layer

BITS = [BitWidths(), BitWidths(8, 4, 8)]
METRICS = ("energy", "edp", "delay")


def test_bounds_rise_to_the_next_that_fixed_factors_divide(archs):
    layer = Layer(C=10, M=10, P=4)
    assert mapped_as(layer, padded(archs["simba"], layer)) == {"C": 12, "M": 12}
    assert padded(archs["simba"], layer, constraints="none") == layer
    assert padded(archs["eyeriss"], layer) == layer
    # Factors above the bound are ignored, so smaller bounds stay.
    assert padded(archs["simba"], Layer(C=3, M=2)) == Layer(C=3, M=2)


def test_a_padded_layer_costs_what_its_larger_bounds_cost(archs):
    layer, larger = Layer(C=10, M=10, P=4), Layer(C=12, M=12, P=4)
    found, wanted = (best_mappings(archs["simba"], x, BITS, metrics=METRICS) for x in (layer, larger))
    for at, bits in itertools.product(METRICS, range(len(BITS))):
        a, b = found[bits][at], wanted[bits][at]
        assert (a.energy_pj, a.cycles, a.mapping) == (b.energy_pj, b.cycles, b.mapping)
        assert (a.layer, a.mapped, b.mapped) == (layer, larger, larger)


def test_without_padding_such_a_layer_is_refused(archs):
    with pytest.raises(InputError, match="M multiply to 4.*bound 10"):
        best_mappings(archs["simba"], Layer(C=4, M=10), pad=None)


@pytest.mark.parametrize("most", [mapper.TRIED_MOST, 1])
def test_larger_bounds_are_tried_and_the_best_is_kept(archs, most, monkeypatch):
    """Against every combination by itself; one dimension after another finds the same here."""
    monkeypatch.setattr(mapper, "TRIED_MOST", most)
    arch, layer = archs["eyeriss"], Layer(C=7, M=13, P=2)
    combined = itertools.product(*(range(bound, bound + 3) for bound in (7, 13, 2)))
    layers = [dataclasses.replace(layer, C=c, M=m, P=p) for c, m, p in combined]
    values = np.stack([solve(Mapspace(arch, x), BITS).values() for x in layers])
    found = solve_layer(arch, layer, BITS, pad=2)
    assert (found.values() == values.min(axis=0)).all() if most > 1 else (found.values() <= values[0]).all()
    assert found.covered
    for m, metric in enumerate(METRICS):
        optimum = found.optimum(metric, 1)
        of_mapped = solve(Mapspace(arch, optimum.mapped), BITS).values()[m, 1]
        assert {"energy": optimum.energy_pj, "edp": optimum.edp, "delay": optimum.cycles}[metric] == of_mapped


def test_bounds_to_try(archs):
    layer = Layer(C=10, M=9, P=5)
    assert bounds_to_try(archs["simba"], layer, "paper", "C", 3) == [12]
    assert bounds_to_try(archs["simba"], layer, "paper", "M", 8) == [12, 16]
    assert bounds_to_try(archs["simba"], layer, "paper", "P", 2) == [5, 6, 7]
    assert bounds_to_try(archs["simba"], layer, "paper", "Q", 2) == [1]


def test_tables_say_what_is_padded(archs, tmp_path):
    layer = Layer(C=10, M=16, P=2, name="ten")
    table = cost_table(archs["simba"], [layer], cache=tmp_path)
    again = cost_table(archs["simba"], [layer], cache=tmp_path)
    for found in (table, again):
        assert padding_of(layer, found.tables[0].mappings) == "C=10 mapped as 12"
        assert mapped_as(layer, mapped_layer(layer, found.mapping("energy", 0, BITS[1]))) == {"C": 12}
    wanted = best_mappings(archs["simba"], layer, BITS[1])[0]["energy"]
    assert table.tables[0].energy_pj[0, entry_of(BITS[1])] == wanted.energy_pj


def test_commands_say_what_is_padded(capsys, tmp_path):
    asked = ["--arch", "simba", "--layer", "C=10,M=8,P=2"]
    assert main(["map", *asked, "--json", "--out", str(tmp_path)]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["mapped_as"] == {"C": 12}
    (written,) = tmp_path.iterdir()
    assert written.read_text().startswith("# layer: C=10 mapped as 12")
    assert main(["map", *asked]) == 0
    assert "C mapped as 12" in capsys.readouterr().out
    assert main(["map", *asked, "--no-pad"]) == 2
    assert main(["map", *asked, "--pad", "-1"]) == 2
    assert main(["map", *asked, "--seconds", "0"]) == 2
    assert "--seconds" in capsys.readouterr().err
