"""Projections (MODEL.md section 1): shapes of layers are rows of data, from which all else follows.

Guards: docs/MODEL.md, "1. Problem".
"""

from __future__ import annotations

import dataclasses
import json
import math

import pytest

import judge
import oracle
from mqjax.arch import FULL, Arch, Constraint, Level, Mac
from mqjax.cli import main
from mqjax.cost.exact.evaluator import evaluate
from mqjax.errors import InputError
from mqjax.io.records import evaluate_records
from mqjax.io.timeloop import mapping_document, read_mapping, write_mapping
from mqjax.mapspace.padding import describe_padding, mapped_as, padded, padding_of, with_bounds_of
from mqjax.mapspace.space import Mapspace
from mqjax.projection import LOOPS, PROJECTIONS, SLIDING
from mqjax.types import SHAPES, TENSORS, BitWidths, Layer
from random_accelerators import Case

GROUPED = Layer.from_dims({"G": 3, "C": 2, "M": 4, "R": 3, "P": 4, "Wstride": 2}, shape="grouped", name="grouped")
MATMUL = Layer.from_dims({"B": 2, "M": 6, "K": 4, "N": 3}, shape="matmul", name="matmul")

ARRAY = Arch(
    "array",
    Mac("mac", (2, 3), 1.0, 0.0),
    (
        Level("L0", (2, 3), 40, 16, 1, 1, None, None, 0.5, 0.6, 0.7, 0.0, (True, False, True)),
        Level("L1", (1, 1), None, 16, 2, 1, None, 2.0, 10.0, 11.0, 12.0, 0.0, (True, True, True)),
    ),
    (Constraint("L1", True, (("N", 1), ("R", 1)), "CGPMQSRN", 3), Constraint("L0", False, (("P", 1), ("M", 1)))),
    (Constraint("L1", False, (("S", 1), ("G", FULL)), "RPCQMSNG"),),
)
"""Lays up to two of C and G side by side on X, or outputs, and the rest on Y."""


@pytest.mark.parametrize("shape", SHAPES)
def test_tables_are_sound(shape):
    """Windows slide over Inputs alone; dimensions come in one order; users name all but those that are 1."""
    projection = PROJECTIONS[shape]
    assert projection.loops == LOOPS[: len(projection.loops)]
    assert set("".join(projection.relevant)) | set(projection.unit) == set(projection.loops)
    for tensor, ranks in zip(TENSORS, projection.ranks, strict=True):
        assert all(len(rank) == 1 or (tensor == "Inputs" and rank in SLIDING) for rank in ranks)
    assert set(projection.named.values()) | set(projection.unit) == set(projection.loops)
    assert all(hasattr(Layer(), field) for field in projection.keys.values())


def test_elements_by_hand():
    assert [GROUPED.elements(tensor) for tensor in TENSORS] == [3 * 2 * 4 * 3, 3 * 2 * (2 * 3 + 3), 3 * 4 * 4]
    assert [MATMUL.elements(tensor) for tensor in TENSORS] == [2 * 4 * 3, 2 * 6 * 4, 2 * 6 * 3]
    assert GROUPED.macs == 3 * 2 * 4 * 3 * 4 and MATMUL.macs == 2 * 6 * 4 * 3
    assert MATMUL.dims == {"K": 4, "N": 3, "M": 6, "B": 2}
    assert Layer.from_dims(MATMUL.dims, shape="matmul") == MATMUL


def renamed(mapping, names):
    """A mapping with its dimensions renamed; those that have no new name must have a bound of 1 and vanish."""
    loops = [loop for level in mapping for kind in ("temporal", "spatial") for loop in level[kind]]
    assert all(loop[1] == 1 for loop in loops if loop[0] not in names)

    def of_level(level):
        kinds = {
            kind: [[names[loop[0]], *loop[1:]] for loop in level[kind] if loop[0] in names]
            for kind in ("temporal", "spatial")
        }
        return level | kinds

    return [of_level(level) for level in mapping]


@pytest.mark.parametrize(
    ("layer", "other", "names"),
    [
        # One group is a dense convolution, one channel to a group a depthwise one, one product a fully connected layer.
        (
            dataclasses.replace(GROUPED, G=1),
            Layer(C=2, M=4, R=3, P=4, Wstride=2),
            {d: d for d in "CMRSNPQ"},
        ),
        (
            dataclasses.replace(GROUPED, C=1, M=1),
            Layer(C=3, R=3, P=4, Wstride=2, shape="depthwise"),
            {"G": "C", "R": "R", "S": "S", "N": "N", "P": "P", "Q": "Q"},
        ),
        (dataclasses.replace(MATMUL, G=1), Layer(C=4, M=3, N=6), {"K": "C", "N": "M", "M": "N"}),
        (MATMUL, dataclasses.replace(GROUPED, G=2, C=4, M=3, R=1, P=1, Q=6, Wstride=1), dict(zip("KNMB", "CMQG", strict=True))),
    ],
    ids=["one group", "depthwise", "one product", "1x1"],
)  # fmt: skip
def test_shapes_agree_where_they_coincide(layer, other, names):
    space = Mapspace(ARRAY, layer, constraints="none")
    some = [space.mapping(i) for i in range(0, space.size, space.size // 60 + 1)]
    twins = [renamed(mapping, names) for mapping in some]
    bits = BitWidths(5, 3, 8)
    here, there = evaluate(ARRAY, layer, bits, some), evaluate(ARRAY, other, bits, twins)
    assert here.valid.any()
    assert here.energy_pj.tolist() == there.energy_pj.tolist() and here.cycles.tolist() == there.cycles.tolist()


def test_new_shapes_equal_plain_enumeration():
    """All that `judge` compares, for layers that share compiled programs."""
    grouped = dataclasses.replace(GROUPED, G=2, C=1, M=2, S=2)
    case = Case(ARRAY, "paper", (grouped, MATMUL), (BitWidths(), BitWidths(8, 4, 6)))
    judge.judge(case, (judge.sizes, judge.evaluator, judge.terms, judge.optima))


def test_constraints_on_groups_do_not_touch_other_layers():
    """G may be named; a layer without it lays the others where it would without that name."""
    without = dataclasses.replace(
        ARRAY,
        arch_constraints=(Constraint("L1", True, (("N", 1), ("R", 1)), "CPMQSRN", 2), ARRAY.arch_constraints[1]),
        paper_constraints=(Constraint("L1", False, (("S", 1),), "RPCQMSN"),),
    )
    layer = Layer(C=4, M=4, P=3, R=3)
    here, there = (Mapspace(arch, layer) for arch in (ARRAY, without))
    assert here.tiling == there.tiling and here.size == there.size
    grouped = Mapspace(ARRAY, GROUPED)
    assert {row[-1] for row in grouped.tables[LOOPS.index("G")].tolist()} == {3}


def test_records_of_all_shapes_are_evaluated_together():
    layers = [GROUPED, Layer(C=2, M=4, R=3, P=4), MATMUL, Layer(C=4, R=3, P=2, shape="depthwise")]
    records = []
    for layer in layers:
        space = Mapspace(ARRAY, layer, constraints="none")
        for index in range(0, space.size, space.size // 9 + 1):
            records.append({"dims": layer.dims, "shape": layer.shape, "mapping": space.mapping(index)})
    for record, result in zip(records, evaluate_records(ARRAY, records), strict=True):
        wanted = oracle.evaluate(ARRAY, record)
        assert result["valid"] == wanted["valid"]
        if result["valid"]:
            totals = result["stats"]["totals"]
            assert (totals["energy_pJ"], totals["cycles"]) == (wanted["energy_pJ"], wanted["cycles"])


@pytest.mark.parametrize("layer", [GROUPED, MATMUL], ids=lambda layer: layer.name)
def test_mappings_are_written_and_read(tmp_path, layer):
    space = Mapspace(ARRAY, layer, constraints="none")
    mapping = space.mapping(space.size // 3)
    path = tmp_path / "map.yaml"
    write_mapping(path, mapping)
    named = list(layer.projection.named)
    again = read_mapping(path, ARRAY.level_names, named)
    assert (
        evaluate(ARRAY, layer, BitWidths(), [again]).energy_pj
        == evaluate(ARRAY, layer, BitWidths(), [mapping]).energy_pj
    )
    for target in mapping_document(mapping)["mapping"]:
        if "factors" in target:
            factors = dict(part.split("=") for part in target["factors"].split())
            assert sorted(factors) == sorted(named) == sorted(target["permutation"])


def test_padding_speaks_of_the_users_dimensions(archs):
    layer = Layer.from_dims({"B": 2, "M": 6, "K": 10, "N": 3}, shape="matmul")
    larger = padded(archs["simba"], layer)
    assert mapped_as(layer, larger) == {"K": 12} and describe_padding(layer, {"K": 12}) == "K=10 mapped as 12"
    mapping = Mapspace(archs["simba"], larger).mapping(0)
    assert padding_of(layer, [mapping]) == "K=10 mapped as 12" and with_bounds_of(layer, mapping) == larger


def test_matmul_from_the_command_line(tmp_path, capsys):
    layer = ["--layer", "B=2,M=8,K=16,N=8", "--shape", "matmul", "--arch", "eyeriss", "--bits", "8/4/8"]
    assert main(["map", *layer, "--json", "--out", str(tmp_path)]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["covered"]
    bounds = [{loop[0]: loop[1] for loop in (*level["temporal"], *level["spatial"])} for level in row["mapping"]]
    assert {name: math.prod(b.get(name, 1) for b in bounds) for name in "KNMB"} == {"B": 2, "M": 8, "K": 16, "N": 8}
    (path,) = tmp_path.glob("*.yaml")
    assert main(["evaluate", *layer, "--mapping", str(path)]) == 0
    totals = json.loads(capsys.readouterr().out)["stats"]["totals"]
    assert (totals["energy_pJ"], totals["cycles"]) == (row["energy_pj"], row["cycles"])


@pytest.mark.parametrize(
    ("dims", "shape", "message"),
    [
        ({"C": 2, "G": 2}, "cnn", "unknown key 'G'"),
        ({"C": 2, "K": 2}, "matmul", "unknown key 'C'"),
        ({"K": 0}, "matmul", "K must be a positive integer, not 0"),
        ({"K": 2, "Wstride": 2}, "matmul", "unknown key 'Wstride'"),
        ({"C": 2}, "grouping", "shape must be one of .*, not 'grouping'"),
    ],
)
def test_wrong_keys_are_named(dims, shape, message):
    with pytest.raises(InputError, match=message):
        Layer.from_dims(dims, shape=shape)


def test_fields_that_a_shape_lacks_are_refused():
    with pytest.raises(InputError, match="a depthwise layer has G=1, not 2"):
        Layer(C=4, G=2, shape="depthwise")
    with pytest.raises(InputError, match="a matmul layer has Wstride=1, not 2"):
        Layer(C=4, Wstride=2, shape="matmul")
    with pytest.raises(InputError, match="unknown dimension 'C'; use K N M B"):
        evaluate(ARRAY, MATMUL, BitWidths(), [[{"level": "L1", "temporal": [["C", 4]]}]])
