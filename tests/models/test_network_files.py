"""Networks from files in commands, at the widths of their quantizers, as judges and checkpoints have them; lists of layers.

Guards: docs/OWN_NETWORK.md, "ONNX".
"""

from __future__ import annotations

import argparse
import json

import jax.numpy as jnp
import numpy as np
import pytest
from onnx.reference import ReferenceEvaluator

from mqjax.cli import main
from mqjax.commands.map import asked_widths
from mqjax.errors import InputError
from mqjax.models import network_layers
from mqjax.models.files import load_network, with_weights
from mqjax.models.graph import Builder
from mqjax.models.onnx.reader import read_network
from mqjax.models.onnx.writer import float_model
from mqjax.models.ops import Activation, GlobalAvgPool
from mqjax.types import BitWidths
from onnx_models import CONSTANTS, CONV, KEPT, TAIL, model, randomised, saved, some


def test_widths_of_quantizers(tmp_path):
    """QuantizeLinear by the type of its zero point, QONNX's Quant by its bit-width; both leave the values alone."""
    step, zero = np.float32(0.1), np.int8(0)
    nodes = [
        ("QuantizeLinear", "x s z", "xq"), ("DequantizeLinear", "xq s z", "xd"),
        ("DequantizeLinear", "wq s z", "w"),
        ("Conv", "xd w", "c"), ("Relu", "c", "a"),
        ("qonnx.custom_op.general:Quant", "a s o b4", "r", {"signed": 0, "narrow": 0, "rounding_mode": "ROUND"}),
        ("qonnx.custom_op.general:Quant", "v o o b3", "v3", {"signed": 1, "narrow": 1, "rounding_mode": "ROUND"}),
        ("GlobalAveragePool", "r", "g"), ("Flatten", "g", "f"), ("Gemm", "f v3 u", "y"),
    ]  # fmt: skip
    constants = {
        "s": step, "z": zero, "o": np.float32(1), "b4": np.float32(4), "b3": np.float32(3),
        "wq": np.random.default_rng(0).integers(-9, 9, (5, 3, 3, 3)).astype(np.int8), "v": some(5, 4), "u": some(4),
    }  # fmt: skip
    found = read_network(saved(tmp_path / "net.onnx", model(nodes, constants)))
    assert found.widths == (BitWidths(8, 8, 4), BitWidths(4, 3, None))
    assert np.allclose(found.weights["n_c"][0], step * constants["wq"].transpose(2, 3, 1, 0))
    assert {"QuantizeLinear", "Quant"} <= {entry.op for entry in found.skipped}


def test_layers_are_mapped_at_the_widths_of_their_file(tmp_path, capsys):
    quant = ("qonnx.custom_op.general:Quant", "v o o b3", "v3", {"signed": 1, "narrow": 1, "rounding_mode": "ROUND"})
    nodes = [quant, ("GlobalAveragePool", "x", "g"), ("Flatten", "g", "f"), ("Gemm", "f v3 u", "y")]
    constants = {"o": np.float32(1), "b3": np.float32(3), "v": some(3, 4), "u": some(4)}
    path = saved(tmp_path / "net.onnx", model(nodes, constants))
    asked = asked_widths(argparse.Namespace(bits="file", network=str(path)), network_layers(str(path)))
    assert [[str(bits) for bits in triples] for triples in asked] == [["native/3/native"]]
    assert main(["map", "--arch", "eyeriss", "--network", "mobilenetv1", "--bits", "file"]) == 2
    assert "--bits file needs" in capsys.readouterr().err


def test_commands_take_files(tmp_path, capsys):
    path = saved(tmp_path / "mine.onnx", model([CONV, ("Relu", "c", "r"), *TAIL], CONSTANTS))
    assert main(["network", "show", str(path), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert [layer["name"] for layer in shown["layers"]] == ["mine_n_c", "mine_n_y"]
    assert shown["macs"] == 5 * 3 * 9 * 64 + 20 and shown["parameters"] == 5 * 28 + 24 and shown["genes"] == 4
    assert shown["tensors"][1] == {"name": "mine_n_y_input", "elements": 320}
    assert main(["network", "show", str(path)]) == 0 and "n_y" in capsys.readouterr().out
    assert [layer.name for layer in network_layers(str(path))] == ["mine_n_c", "mine_n_y"]
    assert main(["map", "--arch", "eyeriss", "--network", str(path), "--resolution", "32"]) == 2
    assert "--resolution" in capsys.readouterr().err


def test_a_network_from_a_file_is_judged_as_in_its_own_framework(tmp_path):
    from mqjax.accuracy.judge import default_accuracy
    from mqjax.data import load_dataset, normalize

    net = Builder("tiny", resolution=32, channels=1)
    x = net.conv("a", "image", 4, 3, stride=4, activation=Activation("relu"))
    net.linear("fc", net.add("pool", GlobalAvgPool(), x), 10)
    network = randomised(net.build())
    document = float_model(network)
    path = saved(tmp_path / "tiny.onnx", document)
    found = default_accuracy(str(path), "fashion_mnist", num_images=40)
    images = load_dataset("fashion_mnist").sized("validation", 32, limit=40)
    (wanted,) = ReferenceEvaluator(document).run(None, {"image": normalize(images.images).transpose(0, 3, 1, 2)})
    assert found.float_accuracy == np.mean(wanted.argmax(axis=1) == images.labels)
    assert found.architecture.wiring().genes == 4 and found.describe()["checkpoint"] == str(path)
    with pytest.raises(InputError, match="4 classes"):
        other = model([("Conv", "x w", "r"), *TAIL], {**CONSTANTS, "w": some(5, 1, 3, 3)}, image=("N", 1, 32, 32))
        default_accuracy(str(saved(tmp_path / "other.onnx", other)), "fashion_mnist")


@pytest.mark.parametrize("name", ["sum and concatenation", "sides that differ"])
def test_checkpoints_of_networks_without_a_name(tmp_path, name):
    from mqjax.models.checkpoint import load_checkpoint, save_checkpoint

    network = with_weights(read_network(saved(tmp_path / "mine.onnx", model(*KEPT[name]))))
    save_checkpoint(tmp_path / "kept", network, {"dataset": "some"})
    again, about = load_checkpoint(tmp_path / "kept")
    assert again.architecture == network.architecture and about["dataset"] == "some"
    images = jnp.asarray(some(2, 8, 8, 3))
    assert np.array_equal(again(images), network(images))


def test_layer_lists(tmp_path):
    rows = "[8, 8, 3, 1, 16, 3, 3, 1, 1, 2, 2]"
    texts = {
        "a.yaml": f"layers:\n- {{name: one, C: 3, M: 16, R: 3, S: 3, P: 4, Q: 4, Wstride: 2, Hstride: 2}}\n- {rows}\n",
        "a.csv": "name,C,M,R,S,P,Q,Wstride,Hstride\none,3,16,3,3,4,4,2,2\ntwo,3,16,3,3,4,4,2,2\n",
        "p.yaml": "problem:\n  shape: cnn-layer\n  C: 3\n  M: 16\n  R: 3\n  S: 3\n  P: 4\n  Q: 4\n  Wstride: 2\n  Hstride: 2\n",
        "q.yaml": """problem:
  version: 0.4
  shape:
    name: mine
    dimensions: [C, M, R, S, N, P, Q]
    data_spaces:
    - {name: Weights, projection: [[[C]], [[M]], [[R]], [[S]]]}
    - {name: Inputs, projection: [[[N]], [[C]], [[R, Wdilation], [P, Wstride]], [[S, Hdilation], [Q, Hstride]]]}
    - {name: Outputs, projection: [[[N]], [[M]], [[Q]], [[P]]], read_write: true}
  instance: {C: 3, M: 16, R: 3, S: 3, P: 4, Q: 4, Wstride: 2, Hstride: 2}
""",
        "built-in.yaml": "problem: {shape: cnn-layer, C: 3, K: 16, R: 3, S: 3, P: 4, Q: 4, N: 1, Wstride: 2, Hstride: 2}\n",
        "example.yaml": """problem:
  version: '0.4'
  shape:
    name: conv2D
    dimensions: [C, M, R, S, N, P, Q]
    coefficients: [{name: Wstride, default: 1}, {name: Hstride, default: 2}, {name: Wdilation, default: 1}]
    data_spaces:
    - {name: Weights, projection: [[[C]], [[M]], [[R]], [[S]]]}
    - {name: Inputs, projection: [[[N]], [[C]], [[R, Wdilation], [P, Wstride]], [[S, Hdilation], [Q, Hstride]]]}
    - {name: Outputs, projection: [[[N]], [[M]], [[Q]], [[P]]], read_write: true}
  instance: {C: 3, M: 16, R: 3, S: 3, P: 4, Q: 4, Wstride: 2, H: 8, W: 8, Hpad: 1, Wpad: 1, densities: {}}
""",
    }
    wanted = {"C": 3, "M": 16, "R": 3, "S": 3, "P": 4, "Q": 4, "Wstride": 2, "Hstride": 2}
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
        layers = load_network(str(tmp_path / name)).layers()
        assert len(layers) == (2 if name[0] == "a" else 1)
        assert all({k: v for k, v in layer.dims.items() if v > 1} == wanted for layer in layers), name
    for text, words in {
        "layers: [{C: 3, Z: 4}]": "line 1: layers.0..Z: unknown key",
        "layers: [{C: 0}]": "C: must be a whole number",
        "problem: {shape: rnn, C: 3}": "unknown shape 'rnn'",
        "problem: {C: 3, K: 4, M: 4}": "unknown key 'K'",
        "problem: {C: 3, densities: {Weights: 0.5}}": "sparse tensors are not modelled",
        "layers: []": "list of layers",
        "[[1, 2]]": "11 numbers",
        "[{name: a}, {name: a}]": "'a' is given twice",
    }.items():
        (tmp_path / "bad.yaml").write_text(text)
        with pytest.raises(InputError, match=words):
            load_network(str(tmp_path / "bad.yaml"))
