"""The commands map, table and mapspace: what they print, write and refuse.

Guards: README.md, "From the command line".
"""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import yaml

import oracle
from mqjax.cli import COMMANDS, main
from mqjax.hw import load_arch
from mqjax.io.timeloop import mapping_document, read_mapping
from mqjax.mapspace.space import Mapspace
from mqjax.types import BitWidths, Layer

LAYER = "C=8,M=16,R=3,S=3,P=6,Q=6"


def test_map_as_json(capsys):
    assert main(["map", "--arch", "eyeriss", "--layer", LAYER, "--bits", "8/4/8", "--metric", "edp", "--json"]) == 0
    captured = capsys.readouterr()
    (row,) = json.loads(captured.out)
    assert {"layer", "bits", "energy_pj", "cycles", "edp", "nominal_size", "pruned_size"} <= set(row)
    assert row["covered"] is True and row["bits"] == "8/4/8" and row["edp"] == row["energy_pj"] * row["cycles"]
    record = {"dims": dict(C=8, M=16, R=3, S=3, P=6, Q=6), "shape": "cnn", "mapping": row["mapping"]}
    found = oracle.evaluate(load_arch("eyeriss"), record | {"bitwidths": {"Inputs": 8, "Weights": 4, "Outputs": 8}})
    assert (found["energy_pJ"], found["cycles"]) == (row["energy_pj"], row["cycles"])
    assert "all covered" in captured.err


def test_map_writes_timeloop_mappings(tmp_path, capsys):
    arguments = ["map", "--arch", "simba", "--layer", LAYER, "--out", str(tmp_path / "maps"), "--json"]
    assert main(arguments) == 0
    (row,) = json.loads(capsys.readouterr().out)
    (path,) = (tmp_path / "maps").glob("*.yaml")
    back = read_mapping(path, load_arch("simba").level_names)

    def loops(mapping):
        return [[loop for kind in ("temporal", "spatial") for loop in s[kind] if loop[1] > 1] for s in mapping]

    assert loops(back) == loops(row["mapping"])
    document = yaml.safe_load(path.read_text())["mapping"]
    assert [target["target"] for target in document if target["type"] == "bypass"][0] == "DRAM"


def test_map_document_follows_timeloops_conventions():
    """Permutations list the innermost loop first; loops before the split lie on X."""
    mapping = [
        {
            "level": "buf",
            "temporal": [["M", 2], ["C", 3]],
            "spatial": [["Q", 4, "Y"], ["P", 5, "X"]],
            "keep": ["Inputs"],
        },
    ]
    bypass, temporal, spatial = mapping_document(mapping)["mapping"]
    assert bypass["keep"] == ["Inputs"] and bypass["bypass"] == ["Weights", "Outputs"]
    assert temporal["permutation"].startswith("CM") and "M=2" in temporal["factors"]
    assert spatial["permutation"].startswith("PQ") and spatial["split"] == 1 and "P=5" in spatial["factors"]


def test_map_of_a_network_lists_every_layer(capsys):
    options = ["--network", "mobilenetv1", "--width-multiplier", "0.25", "--resolution", "32", "--classes", "10"]
    assert main(["map", "--arch", "eyeriss", *options, "--channels", "1", "--bits", "4/4/4", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert len(rows) == 28 and rows[0]["layer"] == "mobilenetv1_conv1" and all(row["covered"] for row in rows)


def test_map_of_all_widths_says_what_does_not_fit(capsys):
    # A kernel row of 40 weights fits the 12 words of the Inputs scratchpad only when four share a word.
    assert main(["map", "--arch", "eyeriss", "--layer", "R=40,P=2", "--bits", "all", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert len(rows) == 343
    for row in rows:
        fits = int(row["bits"].split("/")[0]) <= 4
        assert (row["mapping"] is not None) == (row["energy_pj"] is not None) == (row["valid_mappings"] > 0) == fits


@pytest.mark.parametrize("command", ["map", "mapspace"])
@pytest.mark.parametrize(
    ("options", "word"),
    [
        (["--layer", "C=0"], "C=0"),
        (["--layer", "C=-4"], "C=-4"),
        (["--layer", "C=4,C=5"], "twice"),
        (["--layer", "K=4"], "K"),
        (["--layer", "C"], "KEY=VALUE"),
        (["--layer", "C=2.5"], "C=2.5"),
        (["--layer", "C=4,M=4", "--shape", "depthwise"], "M=1"),
        (["--layer", "C=4", "--bits", "0/8/8"], "0"),
        (["--layer", "C=4", "--bits", "17/8/8"], "17"),
        (["--layer", "C=4", "--bits", "2.5/8/8"], "2.5"),
        (["--layer", "C=4", "--bits", "x"], "x"),
        (["--network", "resnet"], "resnet"),
        (["--network", "mobilenetv1", "--width-multiplier", "-1"], "width multiplier"),
        (["--network", "mobilenetv1", "--resolution", "0"], "resolution"),
    ],
)
def test_bad_options_are_named(command, options, word, capsys):
    assert main([command, "--arch", "eyeriss", *options]) == 2
    message = capsys.readouterr().err
    assert word in message and message.count("\n") == 1


@pytest.mark.parametrize(
    "options", [["--metric", "beauty", "--layer", "C=4"], ["--dialect", "1999", "--layer", "C=4"], []]
)
def test_bad_usage_has_status_2(options, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["map", "--arch", "eyeriss", *options])
    assert stopped.value.code == 2


def test_every_command_explains_itself(capsys):
    for command in COMMANDS:
        with pytest.raises(SystemExit) as stopped:
            main([command, "--help"])
        assert stopped.value.code == 0 and "--" in capsys.readouterr().out


def test_unforeseen_error_is_one_sentence_and_a_traceback_on_request(monkeypatch, capsys):
    """Two optima that contradict each other, which `mqjax.network.lifting` would find: status 1, not 2."""
    monkeypatch.delenv("MQJAX_TRACEBACK", raising=False)

    def contradict(*_args, **_options):
        raise RuntimeError("all lifted: proven optima\nare above those of none lifted")

    monkeypatch.setattr("mqjax.network.lifting.lift_constraints", contradict)
    asked = ["constraints", "--arch", "eyeriss", "--layer", "C=4"]
    assert main(asked) == 1
    told = capsys.readouterr().err
    assert told.startswith("mqjax constraints: an error that should not happen") and told.count("\n") == 1
    assert "please report it" in told and "proven optima are above those" in told
    monkeypatch.setenv("MQJAX_TRACEBACK", "1")
    with pytest.raises(RuntimeError, match="are above"):
        main(asked)


def test_output_below_a_file_is_bad_input(tmp_path, capsys):
    (tmp_path / "file").write_text("kept")
    assert main(["arch", "new", str(tmp_path / "file" / "mine.yaml")]) == 2
    assert "there is a file where a folder is needed" in capsys.readouterr().err
    assert (tmp_path / "file").read_text() == "kept"


def test_help_does_not_wait_for_jax():
    code = "import sys, mqjax.cli\ntry: mqjax.cli.main(['search', '--help'])\nexcept SystemExit: assert 'jax' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_mapspace_numbers_and_figure(tmp_path, capsys):
    figure = tmp_path / "space.png"
    arguments = [
        "mapspace",
        "--arch",
        "eyeriss",
        "--layer",
        "C=4,M=6,R=3,S=3,P=2,Q=2",
        "--json",
        "--bits",
        "native,4/4/4",
        "--out",
        str(figure),
    ]
    assert main(arguments) == 0
    rows = json.loads(capsys.readouterr().out)
    layer = Layer(C=4, M=6, R=3, S=3, P=2, Q=2)
    mappings = list(oracle.pruned_mappings(load_arch("eyeriss"), layer, "paper"))
    for row, bits in zip(rows, ({}, dict.fromkeys(oracle.TENSORS, 4)), strict=True):
        record = {"dims": layer.dims, "shape": "cnn", "bitwidths": bits}
        found = [oracle.evaluate(load_arch("eyeriss"), record | {"mapping": m}) for m in mappings]
        assert row["pruned_size"] == len(found)
        assert row["valid_mappings"] == sum(f["valid"] for f in found)
        assert row["invalid_fanout"] == sum(f.get("stage") == "construct" for f in found)
        assert row["invalid_capacity"] == sum(f.get("stage") == "pre_evaluation" for f in found)
        assert row["energy_best"] == min(f["energy_pJ"] for f in found if f["valid"])
    assert figure.read_bytes().startswith(b"\x89PNG")


def test_distribution_holds_every_distinct_mapping(archs):
    from mqjax.mapper.distribution import distributions

    layer = Layer(C=4, M=6, R=3, S=3, P=2, Q=2)
    space = Mapspace(archs["eyeriss"], layer)
    (spread,) = distributions(space, [BitWidths(4, 4, 4)])
    costs = set()
    record = {"dims": layer.dims, "shape": "cnn", "bitwidths": dict.fromkeys(oracle.TENSORS, 4)}
    for mapping in oracle.pruned_mappings(archs["eyeriss"], layer, "paper"):
        found = oracle.evaluate(archs["eyeriss"], record | {"mapping": mapping})
        if found["valid"]:
            costs.add(found["energy_pJ"])
    energy = spread["energy"]
    used = [bool(n) for n in energy.counts]
    for cost in costs:
        bin_ = next(i for i in range(len(used)) if energy.edges[i] <= cost < energy.edges[i + 1])
        assert used[bin_]
    assert min(costs) <= energy.quantile(0.5) <= max(costs) * 1.05


def test_table_is_kept_and_written(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MQJAX_CACHE", str(tmp_path / "cache"))
    options = ["--network", "mobilenetv1", "--width-multiplier", "0.05", "--resolution", "32", "--classes", "8"]
    arguments = ["table", "--arch", "eyeriss", *options, "--out", str(tmp_path / "table.json.gz")]
    assert main(arguments) == 0
    first = capsys.readouterr()
    files = list((tmp_path / "cache" / "tables").glob("*.json.gz"))
    assert main(arguments) == 0
    assert capsys.readouterr().out == first.out and "optima proven" in first.err
    assert len(list((tmp_path / "cache" / "tables").glob("*.json.gz"))) == len(files) > 5
    import gzip

    written = json.loads(gzip.decompress((tmp_path / "table.json.gz").read_bytes()))
    assert len(written["layers"]) == len(files) and len(written["bits"]) == 344
