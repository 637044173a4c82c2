"""Valid files with something wrong: every one ends in one sentence that names it, and nothing is written.

Accelerator and map files are in test_bad_input.py; here are records, networks, run folders, checkpoints and what is imported.

Guards: README.md, "From the command line".
"""

from __future__ import annotations

import copy
import gzip
import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from conftest import golden
from mqjax.cli import main
from mqjax.errors import InputError
from mqjax.io.records import parse, read_records
from mqjax.mapspace.mapping import encode
from mqjax.models.checkpoint import SHIPPED, load_checkpoint
from mqjax.models.files import load_network
from mqjax.models.onnx.reader import read_network

FILES = Path(__file__).parent.parent / "golden" / "onnx"

ODD: list[Any] = [
    None, True, False, 0, -1, 1.5, 2**53, 2**63, -(2**64), 10**400, float("nan"), float("inf"), 1e308, "", "8", "C", "x" * 500,
    "\udcff", "a\nb", [], [[]], {}, {"a": 1}, [None], [-1, 0], ["C", 2], "Weights", "native", "../../etc/passwd",
]  # fmt: skip
"""Values that hardly anything is meant to be."""


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths of keys and indices to everything in a document."""
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        yield (*path, key)
        yield from places(child, (*path, key))


def mutated(document: Any, count: int, seed: int) -> Iterator[tuple[str, Any]]:
    """So many copies of a document, each with one thing wrong, and what was done: an odd value, a key that is missing, one
    that is too many, one entry twice."""
    generator = np.random.default_rng(seed)
    known = list(places(document))
    for number in range(count):
        changed = copy.deepcopy(document)
        place = known[generator.integers(len(known))]
        parent = changed
        for key in place[:-1]:
            parent = parent[key]
        kind = ("odd", "odd", "odd", "missing", "extra", "twice", "swapped")[generator.integers(7)]
        odd = ODD[generator.integers(len(ODD))]
        if kind == "odd":
            parent[place[-1]] = odd
        elif kind == "missing":
            del parent[place[-1]]
        elif kind == "extra":
            parent.insert(0, odd) if isinstance(parent, list) else parent.update({f"{place[-1]}s": odd})
        elif kind == "twice":
            parent.append(parent[0]) if isinstance(parent, list) else parent.update(
                {place[-1]: [parent[place[-1]]] * 2}
            )
        else:
            other = known[generator.integers(len(known))]
            value = document
            for key in other:
                value = value[key]
            parent[place[-1]] = copy.deepcopy(value)
        yield f"{number}: {kind} at {place} ({odd!r:.40})", changed


def refused(read: Callable[[], Any], *names: str) -> bool:
    """Whether `read` refuses with a sentence that contains these names; it may raise nothing else."""
    try:
        read()
    except InputError as error:
        message = str(error)
        assert message.isprintable() and len(message) < 700, message
        assert all(name in message for name in names), message
        return True
    return False


def test_records(archs, tmp_path):
    record = {key: golden("best")[0][key] for key in ("arch", "dims", "shape", "bitwidths", "mapping")}
    eyeriss, path, count = archs[record["arch"]], tmp_path / "r.jsonl", 0

    def read() -> None:
        for _, found in read_records(path):
            layer, widths = parse(found)
            eyeriss.check_widths(widths, layer)
            encode(eyeriss, [layer], [found["mapping"]])

    for _, changed in mutated(record, 400, seed=1):
        path.write_text(json.dumps(changed) + "\n")
        count += refused(read)
    assert count > 250


@pytest.mark.parametrize(
    "content",
    [
        b"{", b"[1]", b"\xff\xfe", b'{"dims": ' + b"9" * 5000 + b"}", b"[" * 100_000, b"{}", b'{"dims": 1, "mapping": []}',
        b'{"dims": {}, "mapping": {}}', b'{"dims": {}, "mapping": [3]}', b'{"dims": {}, "mapping": [], "bitwidths": 8}',
        b'{"dims": {"C": 1e3}, "mapping": []}', b'{"dims": {}, "mapping": [{"level": ["DRAM"]}]}',
    ],
)  # fmt: skip
def test_records_by_command(tmp_path, capsys, content):
    path, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    path.write_bytes(content)
    assert main(["evaluate", "--arch", "eyeriss", "--records", str(path), "--out", str(out)]) == 2
    message = capsys.readouterr().err.strip()
    assert str(path) in message and "\n" not in message and "Traceback" not in message and not out.exists()


def test_torn_and_endless_archives(tmp_path, monkeypatch):
    path = tmp_path / "r.jsonl.gz"
    whole = gzip.compress(json.dumps(golden("best")[0]).encode() * 3)
    for size in (3, 20, len(whole) // 2, len(whole) - 3):
        path.write_bytes(whole[:size])
        assert refused(lambda: list(read_records(path)), str(path))
    path.write_bytes(whole[:40] + b"\xff" * 30 + whole[70:])
    assert refused(lambda: list(read_records(path)), str(path))
    monkeypatch.setattr("mqjax.io.records.LINE_MOST", 1000)
    path.write_bytes(gzip.compress(b" " * 10**6))
    assert refused(lambda: list(read_records(path)), "line 1", "1000 characters")


def test_layer_lists(tmp_path):
    document = {
        "layers": [
            {"name": "one", "C": 3, "M": 8, "R": 3, "S": 3, "P": 8, "Q": 8},
            [8, 8, 8, 1, 16, 3, 3, 1, 1, 2, 2],
            {"name": "two", "shape": "depthwise", "C": 16, "P": 4, "Q": 4},
        ]
    }
    problem = {"problem": {"shape": "cnn-layer", "instance": {"C": 3, "M": 8, "P": 8, "Wstride": 2}}}
    path, count = tmp_path / "net.yaml", 0
    for whole, seed in ((document, 2), (problem, 3)):
        for _, changed in mutated(whole, 150, seed=seed):
            text = yaml.safe_dump(changed, allow_unicode=True, sort_keys=False)
            path.write_bytes(text.encode("utf-8", "replace"))
            count += refused(lambda: load_network(str(path)).layers(), str(path))
    assert count > 150
    rows = ["name,C,M,R,S,P,Q", "a,3,8,3,3,8,8", "b,8,8,1,1,8,8"]
    path = tmp_path / "net.csv"
    for bad in ("", "name", ",", "a,b\n1,2", "C\n-1", "C\n1e3", "C\n\u0663", "C,C\n1,2", "C\n" + "9" * 30, '"C\n1', "C,M\n1",
                "shape\nrnn", "name\na\na", "\n".join([*rows, "c,1"]), "name,C\na/b,1", "C\n1\0"):  # fmt: skip
        path.write_text(bad)
        assert refused(lambda: load_network(str(path)).layers(), str(path)), bad
    path.write_text("\n".join(rows))
    assert len(load_network(str(path)).layers()) == 2


TORCH = (FILES / "torch_residual.onnx").read_bytes()


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.integers(0, len(TORCH)), stop=st.integers(0, len(TORCH)), between=st.binary(max_size=4))
def test_torn_onnx_files(tmp_path, at, stop, between):
    path = tmp_path / "net.onnx"
    for content in (TORCH[:at], TORCH[:at] + between + TORCH[at + len(between) :], TORCH[:at] + between + TORCH[stop:]):
        path.write_bytes(content)
        refused(lambda: read_network(path), str(path))


def spoiled(document: Any, generator: np.random.Generator) -> None:
    """Change one thing in the graph of an ONNX model."""
    graph = document.graph
    node = graph.node[generator.integers(len(graph.node))]
    tensor = graph.initializer[generator.integers(len(graph.initializer))]
    other = graph.node[generator.integers(len(graph.node))]
    numbers = [-1, 0, 2, 3, 7, 2**31 - 1, 2**62]
    number = numbers[generator.integers(len(numbers))]
    attribute = node.attribute[generator.integers(len(node.attribute))] if node.attribute else None

    def stretch() -> None:
        if attribute is not None:
            attribute.i = number
            attribute.ints[:] = [number] * generator.integers(5)

    def turn() -> None:
        tensor.dims[:] = tensor.dims[::-1]

    def resize() -> None:
        tensor.dims[0] = number

    def drop() -> None:
        del node.input[generator.integers(len(node.input) + 1) :]

    def loop() -> None:
        if node.input:
            node.input[0] = other.output[0]

    def rename() -> None:
        node.op_type = ("Conv", "Gemm", "Add", "Relu", "Reshape", "Pad", "If", "Loop", "Resize", "", "\0")[
            generator.integers(11)
        ]

    def image() -> None:
        graph.input[0].type.tensor_type.shape.dim[generator.integers(4)].dim_value = number

    def type_() -> None:
        tensor.data_type = int(generator.integers(-1, 25))

    def shorten() -> None:
        tensor.raw_data = tensor.raw_data[: generator.integers(len(tensor.raw_data) + 1)]

    def outside() -> None:
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="/etc/passwd")

    def outputs() -> None:
        graph.output.add().CopyFrom(graph.output[0])

    def twice() -> None:
        graph.node.add().CopyFrom(node)

    actions = (stretch, turn, resize, drop, loop, rename, image, type_, shorten, outside, outputs, twice)
    actions[generator.integers(len(actions))]()


def test_spoiled_onnx_graphs(tmp_path):
    generator, path, count = np.random.default_rng(4), tmp_path / "net.onnx", 0
    for _ in range(300):
        document = onnx.ModelProto.FromString(TORCH)
        spoiled(document, generator)
        path.write_bytes(document.SerializeToString())
        count += refused(lambda: read_network(path), str(path))
    assert count > 200


def test_networks_by_command(tmp_path, capsys):
    path = tmp_path / "net.onnx"
    path.write_bytes(TORCH[:5000])
    for command in (
        ["network", "show", str(path)],
        ["map", "--arch", "eyeriss", "--network", str(path), "--out", str(tmp_path / "out")],
        ["table", "--arch", "eyeriss", "--network", str(path), "--out", str(tmp_path / "out")],
        ["search", "--network", str(path), "--out", str(tmp_path / "out")],
        ["train", "--network", str(path), "--out", str(tmp_path / "out")],
        ["network", "show", str(tmp_path / "none.csv")],
        ["network", "show", str(tmp_path)],
    ):
        assert main(command) == 2, command
        message = capsys.readouterr().err.strip()
        assert str(tmp_path) in message and "\n" not in message and not (tmp_path / "out").exists()


# --- Run folders ------------------------------------------------------------------------------------------------------

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


# --- Accelerators of Timeloop -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["0.3", "0.4"])
def test_accelerators_of_timeloop(tmp_path, version):
    """What is read is an accelerator or refused, with the file's name; v0.4's tags are written by hand."""
    import test_import_timeloop as timeloop

    from mqjax.io.documents import TAG, read_document
    from mqjax.io.timeloop_arch import import_accelerator

    files = dict(timeloop.FILES)
    if version == "0.4":
        files["arch.yaml"] = timeloop.V04
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    count = 0
    for name in ("arch.yaml", "ERT.yaml", "arch_constraints.yaml"):
        whole = read_document(tmp_path / name, tagged=True).value
        for _, changed in mutated(whole, 60, seed=10):
            text = json.dumps(changed, default=str)
            text = re.sub(rf'{{"{TAG}": "(\w+)"(, )?', r"!\1 {", text)
            (tmp_path / name).write_text(text)
            count += refused(lambda: import_accelerator("mine", tmp_path, tmp_path), str(tmp_path))
        (tmp_path / name).write_text(files[name])
    assert count > 70


def test_torn_checkpoints_by_command(tmp_path, capsys):
    folder = tmp_path / "kept"
    shutil.copytree(SHIPPED / "mobilenetv1_025_fashion_mnist", folder)
    (folder / "weights" / "manifest.ocdbt").write_bytes(b"")
    assert main(["search", "--checkpoint", str(folder), "--out", str(tmp_path / "out")]) == 2
    message = capsys.readouterr().err.strip()
    assert str(folder) in message and "\n" not in message and not (tmp_path / "out").exists()
