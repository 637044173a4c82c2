"""A run folder of a tiny network, and what is exported from it."""

from __future__ import annotations

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from mqjax.cli import main
from mqjax.models.files import network_name
from mqjax.models.graph import Builder, Graph
from mqjax.models.network import Network
from mqjax.models.onnx.writer import float_model
from mqjax.models.ops import Activation, GlobalAvgPool
from mqjax.study.config import StudyConfig
from mqjax.study.runs import environment

RELU = Activation("relu")
WIDTHS = {"a": (8, 4, 5), "dw": (5, 3, 6), "b": (6, 2, 5), "fc": (5, 7, 8)}


def run_folder(folder: Path) -> Path:
    """Make a run folder as a search of a tiny network from a file leaves it."""
    net = Builder("tiny", resolution=32, channels=1)
    x = net.depthwise("dw", net.conv("a", "image", 4, 5, stride=4, padding=0, activation=RELU), 3, activation=RELU)
    x = net.conv("b", x, 6, 3, padding=0, activation=RELU)
    net.linear("fc", net.add("pool", GlobalAvgPool(), x), 10)
    path = folder / "tiny.onnx"
    path.write_bytes(float_model(drawn(net.build())).SerializeToString())
    mapping = [
        {"level": "DRAM", "temporal": [["C", 4], ["Q", 2]], "spatial": [], "keep": ["Weights", "Inputs", "Outputs"]}
    ]
    layers = [
        {"name": f"{network_name(str(path))}_{name}", "bits": "/".join(map(str, bits)), "energy_pj": 1.0, "cycles": 1,
         "level_pj": {}, "mapped_as": {"C": 4} if name == "a" else {}, "mapping": mapping}
        for name, bits in WIDTHS.items()
    ]  # fmt: skip
    costs = {
        "objectives": {"error": 0.5, "energy": 3.0},
        "test_accuracy": 0.5,
        "memory_bits": 9.0,
        "energy_pj": 3.0,
        "cycles": 3,
    }
    front = {
        "arch": "eyeriss", "objectives": {"error": "share of images", "energy": "pJ"}, "metric": "energy",
        "layers": [layer["name"] for layer in layers], "members": [{"id": 2, **costs, "layers": layers, "generation": 0}],
        "uniform": [], "native": None, "history": [], "evaluations": 1, "seconds": {},
        "mapspace": {"unique_layers": 3, "nominal": 1, "pruned": 1, "evaluated": 1, "covered": True},
    }  # fmt: skip
    settings = StudyConfig(network=str(path), dataset="fashion_mnist").settings()
    (folder / "front.json").write_text(json.dumps(front))
    (folder / "config.json").write_text(json.dumps({"settings": settings, **environment()}))
    return folder


def drawn(graph: Graph) -> Network:
    """A network with random numbers."""
    network = nnx.eval_shape(lambda: Network(graph, rngs=nnx.Rngs(0)))
    state, generator = nnx.state(network, (nnx.Param, nnx.BatchStat)), np.random.default_rng(1)
    nnx.update(network, jax.tree.map(lambda x: jnp.asarray(generator.uniform(-0.4, 1, x.shape) ** 2, x.dtype), state))
    return network


def exported(run: Path, name: str, tmp_path: Path) -> str:
    """What the command writes in a format."""
    out = tmp_path / f"out.{name}"
    assert main(["export", str(run), "--member", "2", "--format", name, "--out", str(out)]) == 0
    return out.read_text()
