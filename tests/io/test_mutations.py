"""Valid files with something wrong: every one ends in one sentence that names it, and nothing is written.

Accelerator and map files are in test_bad_input.py; run folders and checkpoints in test_mutated_runs.py; here
are records, networks and what is imported.

Guards: README.md, "From the command line".
"""

from __future__ import annotations

import gzip
import json
import re
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
from mqjax.io.records import parse, read_records
from mqjax.mapspace.mapping import encode
from mqjax.models.files import load_network
from mqjax.models.onnx.reader import read_network
from mutations import mutated, refused

FILES = Path(__file__).parent.parent / "golden" / "onnx"


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


@pytest.mark.parametrize("version", ["0.3", "0.4"])
def test_accelerators_of_timeloop(tmp_path, version):
    """What is read is an accelerator or refused, with the file's name; v0.4's tags are written by hand."""
    import timeloop_imports as timeloop
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
