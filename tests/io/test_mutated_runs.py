"""Run folders and checkpoints with something wrong: one sentence names the file, and nothing is written.

Guards: README.md, "From the command line".
"""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from mqjax.cli import main
from mqjax.models.checkpoint import SHIPPED, load_checkpoint
from mqjax.models.onnx.reader import read_network
from mutations import mutated, refused

FILES = Path(__file__).parent.parent / "golden" / "onnx"

LAYER = {
    "name": "net_a", "bits": "8/4/8", "energy_pj": 10.5, "cycles": 7, "level_pj": {"mac": 1.5, "DRAM": 9.0}, "mapped_as": {},
    "mapping": [{"level": "DRAM", "temporal": [["C", 4]], "spatial": [], "keep": ["Weights", "Inputs", "Outputs"]}],
}  # fmt: skip
ENTRY = {"objectives": {"error": 0.25, "energy": 21.0}, "test_accuracy": 0.7, "memory_bits": 64.0, "energy_pj": 21.0,
         "cycles": 14, "layers": [LAYER, {**LAYER, "name": "net_b"}]}  # fmt: skip
FRONT = {
    "arch": "eyeriss", "objectives": {"error": "share of images", "energy": "pJ"}, "metric": "energy",
    "layers": ["net_a", "net_b"], "members": [{"id": 0, **ENTRY, "generation": 1}, {"id": 1, **ENTRY, "generation": 0}],
    "uniform": [{"width": 8, **ENTRY}], "native": {key: ENTRY[key] for key in ("energy_pj", "cycles", "layers")},
    "history": [{"generation": 0, "evaluations": 2, "hypervolume": 0.5}], "evaluations": 2, "seconds": {"table": 1.5},
    "mapspace": {"unique_layers": 2, "nominal": 9, "pruned": 9, "evaluated": 9, "covered": True, "padded": {}},
    "test": {"split": "test", "images": 100, "float": 0.9},
}  # fmt: skip
EVALUATED = "generation,error,energy,genome\n0,0.25,21.0,8484\n1,0.5,20.0,8284\n"


def run_folder(folder: Path) -> Path:
    """A finished run, as small as it can be."""
    from mqjax.study.config import StudyConfig
    from mqjax.study.runs import environment

    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"settings": StudyConfig().settings(), **environment()}))
    (folder / "front.json").write_text(json.dumps(FRONT))
    (folder / "evaluated.csv").write_text(EVALUATED)
    return folder


def test_fronts_and_settings(tmp_path):
    from mqjax.study.config import StudyConfig
    from mqjax.study.stored import read_config, read_front

    run = run_folder(tmp_path / "run")
    assert read_front(run) == FRONT
    count = 0
    for _, changed in mutated(FRONT, 400, seed=5):
        (run / "front.json").write_text(json.dumps(changed))
        count += refused(lambda: read_front(run), str(run / "front.json"))
    assert count > 150
    config = json.loads((run / "config.json").read_text())
    count = 0
    for _, changed in mutated(config, 200, seed=6):
        (run / "config.json").write_text(json.dumps(changed))
        count += refused(lambda: StudyConfig.from_settings(read_config(run)["settings"], run / "config.json"))
    assert count > 80


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("front.json", "{"), ("front.json", "[]"), ("front.json", "9" * 5000), ("front.json", "\udcff"), ("config.json", "{}"),
        ("config.json", "[" * 100_000), ("evaluated.csv", ""), ("evaluated.csv", "generation,error\n0"),
        ("evaluated.csv", "generation,error\n0,x"), ("front.json", None), ("config.json", None), ("evaluated.csv", None),
    ],
)  # fmt: skip
def test_run_folders_by_command(tmp_path, capsys, name, content):
    run = run_folder(tmp_path / "run")
    (run / name).unlink() if content is None else (run / name).write_bytes(content.encode("utf-8", "surrogateescape"))
    assert main(["report", str(run)]) == 2
    message = capsys.readouterr().err.strip()
    assert str(run) in message and name in message and "\n" not in message and not (run / "report.html").exists()


def test_runs_to_resume_by_command(tmp_path, capsys):
    run = run_folder(tmp_path / "run")
    config = json.loads((run / "config.json").read_text())
    for key, value in (("population", "64"), ("seed", None), ("network", 3), ("seconds", "long"), ("pad", 1.5)):
        changed = copy.deepcopy(config)
        changed["settings"][key] = value
        (run / "config.json").write_text(json.dumps(changed))
        assert main(["search", "--resume", str(run)]) == 2
        message = capsys.readouterr().err.strip()
        assert str(run / "config.json") in message and key in message and "\n" not in message


# --- Checkpoints ------------------------------------------------------------------------------------------------------


def test_checkpoints(tmp_path):
    source = SHIPPED / "mobilenetv1_025_fashion_mnist"
    folder = tmp_path / "kept"
    shutil.copytree(source, folder)
    about = json.loads((source / "model.json").read_text())
    keys = ("network", "width_multiplier", "resolution", "classes", "channels", "dataset")
    count = 0
    for _, changed in mutated({key: about[key] for key in keys}, 16, seed=7):
        (folder / "model.json").write_text(json.dumps(changed))
        count += refused(lambda: load_checkpoint(folder), str(folder))
    assert count > 6


def test_graphs_of_checkpoints(tmp_path):
    from mqjax.models.graph_json import graph_from_json, graph_to_json

    graph = read_network(FILES / "torch_residual.onnx").graph
    whole = graph_to_json(graph)
    assert graph_from_json(graph.name, json.loads(json.dumps(whole))) == graph
    count = 0
    for _, changed in mutated(whole, 300, seed=8):
        count += refused(lambda changed=changed: graph_from_json("net", changed))
    assert count > 200


def test_weights_of_other_frameworks(tmp_path, monkeypatch):
    """Torn files, files of other kinds, pickles, and archives that unpack to more than there is."""
    from mqjax.models.imported import read_arrays

    path = tmp_path / "weights.npz"
    np.savez_compressed(path, a=np.arange(1000.0), b=np.ones((3, 4)))
    whole = path.read_bytes()
    generator = np.random.default_rng(9)
    for stop in generator.integers(0, len(whole) - 30, 20):
        path.write_bytes(whole[:stop])
        assert refused(lambda: read_arrays(path), str(path))
    np.savez(path, a=np.array([{"pickled": "object"}], dtype=object))
    assert refused(lambda: read_arrays(path), str(path))
    monkeypatch.setattr("mqjax.models.imported.ARRAYS_MOST", 2**20)
    np.savez_compressed(path, a=np.zeros(2**18))
    assert path.stat().st_size < 2**14 and refused(lambda: read_arrays(path), str(path), "larger than 1048576")
    other = tmp_path / "weights.safetensors"
    for content in (b"", b"\xff" * 100, b"\x08" + bytes(7) + b'{"a": {}}'):
        other.write_bytes(content)
        assert refused(lambda: read_arrays(other), str(other))


def test_torn_checkpoints_by_command(tmp_path, capsys):
    folder = tmp_path / "kept"
    shutil.copytree(SHIPPED / "mobilenetv1_025_fashion_mnist", folder)
    (folder / "weights" / "manifest.ocdbt").write_bytes(b"")
    assert main(["search", "--checkpoint", str(folder), "--out", str(tmp_path / "out")]) == 2
    message = capsys.readouterr().err.strip()
    assert str(folder) in message and "\n" not in message and not (tmp_path / "out").exists()
