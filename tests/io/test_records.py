"""The evaluator against records of the reference tool: every quantity, integers exactly, others to 1e-12.

Guards: docs/MODEL.md, "5. Packing", "6. Data movement between levels", "8. Energy", "10. Cycles, utilization, area".
"""

from __future__ import annotations

import collections
import gzip
import json

import pytest

import oracle
from check_reference import compare, evaluate_any
from conftest import golden
from mqjax.cli import main
from mqjax.errors import InputError
from mqjax.hw import load_arch
from mqjax.io.records import evaluate_records


@pytest.mark.parametrize("name", ["public", "stress", "authors"])
def test_every_quantity_of_every_record(name):
    records = golden(name)
    differ, seen = collections.Counter(), collections.Counter()
    for record, result in zip(records, evaluate_any(records), strict=True):
        for quantity, equal in compare(record, result):
            seen[quantity] += 1
            differ[quantity] += not equal
    assert not +differ
    assert seen["valid"] == len(records) and seen["totals.energy_pJ"] > len(records) / 2


def test_sample_holds_what_is_rare():
    records = golden("stress") + golden("public")
    stages = collections.Counter(record["fail"]["stage"] for record in records if not record["valid"])
    assert stages["construct"] > 20 and stages["pre_evaluation"] > 20
    nets = [t for r in records if r["valid"] for n in r["stats"]["networks"].values() for t in n["tensors"].values()]
    assert sum(tensor["link_transfers"] > 0 for tensor in nets) > 10
    assert sum(len(tensor["ingress_by_multicast"]) > 1 for tensor in nets) > 10
    assert {record["shape"] for record in records} == {"cnn", "depthwise"}


def test_comparison_notices_a_small_difference():
    record = next(record for record in golden("public") if record["valid"])
    result = evaluate_any([record])[0]
    result["stats"]["totals"]["energy_pJ"] *= 1 + 1e-11
    result["stats"]["levels"]["DRAM"]["tensors"]["Weights"]["reads"] += 1
    assert {quantity for quantity, equal in compare(record, result) if not equal} == {
        "totals.energy_pJ",
        "levels.reads",
    }


@pytest.mark.parametrize("name", ["public", "stress"])
def test_oracle_agrees_with_the_records(name, archs):
    for record in golden(name)[::2]:
        found = oracle.evaluate(archs[record["arch"]], record)
        assert found["valid"] == record["valid"]
        if not record["valid"]:
            failed = [level["level"] for level in record["fail"]["levels"]]
            assert (found["stage"], found["levels"]) == (record["fail"]["stage"], failed)
            continue
        totals = record["stats"]["totals"]
        assert (found["energy_pJ"], found["cycles"]) == (totals["energy_pJ"], totals["cycles"])
        for level, wanted in record["stats"]["levels"].items():
            for tensor, values in found["levels"][level]["tensors"].items():
                for quantity in ("reads", "fills", "updates", "energy_pJ", "tile_size"):
                    assert values[quantity] == wanted["tensors"][tensor][quantity]


def test_command_evaluates_in_order(tmp_path, capsys):
    records = [record for record in golden("public") if record["arch"] == "eyeriss"][:12]
    # Several gzip members in one file, the last line without its end, as concatenated files have.
    parts = ["".join(json.dumps(record) + "\n" for record in records[:7]), json.dumps(records[7])]
    given, out = tmp_path / "in.jsonl.gz", tmp_path / "out.jsonl.gz"
    given.write_bytes(b"".join(gzip.compress(part.encode()) for part in parts))
    assert main(["evaluate", "--arch", "eyeriss", "--records", str(given), "--out", str(out)]) == 0
    with gzip.open(out, "rt") as lines:
        results = [json.loads(line) for line in lines]
    assert len(results) == 8
    for record, result in zip(records, results, strict=False):
        assert result["layer"] == record["layer"] and result["mapping"] == record["mapping"]
        assert all(equal for _, equal in compare(record, result))


def test_dialects_differ_in_first_fills_only():
    record = next(r for r in golden("authors") if r["variant"] == "16bit_int" and r["arch"] == "eyeriss")
    old = evaluate_records(load_arch("eyeriss", dialect="2023"), [record])[0]["stats"]["levels"]
    new = evaluate_records(load_arch("eyeriss", dialect="2024"), [record])[0]["stats"]["levels"]
    differing = {
        (tensor, key)
        for level in old
        for tensor, values in old[level]["tensors"].items()
        for key, value in values.items()
        if value != new[level]["tensors"][tensor][key] and key in ("reads", "fills", "updates")
    }
    assert differing == {("Outputs", "fills")}


def small_record() -> dict:
    """A layer C=4 M=2 on eyeriss, everything looped at the DRAM."""
    names = ("psum_spad", "weights_spad", "ifmap_spad", "DummyBuffer", "shared_glb", "DRAM")
    keep = (["Outputs"], ["Weights"], ["Inputs"], [], ["Inputs", "Outputs"], ["Weights", "Inputs", "Outputs"])
    mapping = [{"level": n, "temporal": [], "spatial": [], "keep": k} for n, k in zip(names, keep, strict=True)]
    mapping[-1]["temporal"] = [["C", 4], ["M", 2]]
    return {"dims": {"C": 4, "M": 2}, "shape": "cnn", "bitwidths": None, "mapping": mapping}


def broken(change) -> dict:
    record = small_record()
    change(record)
    return record


BAD_RECORDS = {
    "factors": (lambda r: r["mapping"][5]["temporal"].pop(), "M"),
    "level": (lambda r: r["mapping"][2].update(level="L7"), "L7"),
    "missing level": (lambda r: r["mapping"].pop(), "DRAM"),
    "width 0": (lambda r: r.update(bitwidths={"Weights": 0}), "Weights|weights"),
    "width 17": (lambda r: r.update(bitwidths={"Weights": 17}), "17"),
    "width 2.5": (lambda r: r.update(bitwidths={"Inputs": 2.5}), "2.5"),
    "width x": (lambda r: r.update(bitwidths={"Outputs": "x"}), "x"),
    "tensor": (lambda r: r.update(bitwidths={"Psums": 8}), "Psums"),
    "bound 0": (lambda r: r["dims"].update(C=0), "C"),
    "bound -1": (lambda r: r["dims"].update(P=-1), "P"),
    "key": (lambda r: r["dims"].update(K=3), "K"),
    "shape": (lambda r: r.update(shape="rnn"), "rnn"),
    "no mapping": (lambda r: r.pop("mapping"), "mapping"),
    "dimension": (lambda r: r["mapping"][5]["temporal"].append(["Z", 1]), "Z"),
    "axis": (lambda r: r["mapping"][4]["spatial"].append(["C", 1, "W"]), "W"),
    "bound text": (lambda r: r["mapping"][5]["temporal"].append(["N", "two"]), "two"),
    "kept tensor": (lambda r: r["mapping"][5]["keep"].append("Psums"), "Psums"),
}


@pytest.mark.parametrize("case", BAD_RECORDS)
def test_bad_records_are_named(case, tmp_path, capsys):
    change, word = BAD_RECORDS[case]
    given, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    given.write_text(json.dumps(small_record()) + "\n" + json.dumps(broken(change)) + "\n")
    assert main(["evaluate", "--arch", "eyeriss", "--records", str(given), "--out", str(out)]) == 2
    message = capsys.readouterr().err
    assert f"{given}, line 2" in message and message.count("\n") == 1
    assert any(part in message for part in word.split("|"))
    assert not out.exists()


def test_broken_json_is_named_by_line(tmp_path, capsys):
    given, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    given.write_text(json.dumps(small_record()) + "\n\n{broken\n")
    assert main(["evaluate", "--arch", "eyeriss", "--records", str(given), "--out", str(out)]) == 2
    assert f"{given}, line 3" in capsys.readouterr().err and not out.exists()
    given.write_bytes(gzip.compress(b"{}")[:-6])
    assert main(["evaluate", "--arch", "eyeriss", "--records", str(given), "--out", str(out)]) == 2
    assert main(["evaluate", "--arch", "eyeriss", "--records", str(tmp_path / "no"), "--out", str(out)]) == 2


def test_records_may_be_empty_or_unknown_accelerators():
    assert evaluate_records(load_arch("eyeriss"), []) == []
    with pytest.raises(InputError, match="abacus"):
        load_arch("abacus")
