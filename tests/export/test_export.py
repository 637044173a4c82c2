"""What is exported says the same as the run: widths by layer in every format, and logits in QONNX.

Guards: docs/OWN_NETWORK.md, "Taking the result away".
"""

from __future__ import annotations

import ast
import json
import re
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import jsonschema
import numpy as np
import onnx
import pytest
from flax import nnx
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from exporting import RELU, WIDTHS, drawn, exported, run_folder
from mqjax.cli import main
from mqjax.data import load_dataset, normalize
from mqjax.export import models
from mqjax.export.member import read_member
from mqjax.export.models import encodings
from mqjax.models.calibration import Scheme, calibrate
from mqjax.models.graph import Builder, Graph
from mqjax.models.onnx.reader import read_network
from mqjax.models.onnx.writer import float_model, quantized_model
from mqjax.models.ops import Activation, AvgPool, Concat, Flatten, MaxPool
from mqjax.models.quantization import forward
from mqjax.types import BitWidths, all_widths

SCHEMA = Path(__file__).parents[2] / "mqjax" / "export" / "widths.schema.json"


class Quant(OpRun):
    """QONNX's quantizer as its specification words it: scale, shift, round to even, cut, and back."""

    op_domain = "qonnx.custom_op.general"

    def _run(self, x, scale, zero, bits, signed=None, narrow=None, rounding_mode=None):
        assert rounding_mode == "ROUND"
        low = -(2.0 ** (bits - 1)) + narrow if signed else 0.0
        high = 2.0 ** (bits - 1) - 1 if signed else 2.0**bits - 1 - narrow
        return (((np.clip(np.round(x / scale + zero), low, high) - zero) * scale).astype(np.float32),)


def all_ops() -> Graph:
    """Means are of odd numbers of values, so that none lies in the middle between two integers, where rounding errors decide."""
    net = Builder("all", resolution=8, channels=1)
    x = net.add("small", MaxPool(2, 2), net.conv("stem", "image", 6, 3, activation=Activation("relu", 6.0)))
    left = net.depthwise("left", x, 3, activation=Activation("hardswish"))
    x = net.add("mean", AvgPool(3, 1, 1), net.add("both", Concat(), left, net.conv("right", x, 2, 1, activation=RELU)))
    x = net.sum("sum", (x, net.conv("b", x, 8, 3)), activation=RELU)
    net.linear("fc", net.add("flat", Flatten(), x), 3)
    return net.build()


@pytest.fixture(scope="module")
def calibrated():
    """A network of all ops, calibrated, at mixed widths; images; its logits."""
    graph = all_ops()
    model = drawn(graph)
    images = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (40, 8, 8, 1)), jnp.float32)
    run = jax.jit(forward, static_argnums=0)
    found = {}
    for signed in (False, True):
        quantizer = calibrate(model, images, Scheme(symmetric_activations=signed, calibration="percentile"))
        genome = jnp.asarray(np.random.default_rng(1).integers(3, 9, graph.wiring().genes), jnp.int32)
        quantized = quantizer.at(genome)
        found[signed] = quantized, np.asarray(run(graph, quantized, images))
    return graph, images, found


@pytest.mark.parametrize("signed", [False, True])
def test_qonnx_gives_the_same_logits(calibrated, signed):
    graph, images, found = calibrated
    quantized, wanted = found[signed]
    document = quantized_model(graph, quantized)
    inputs = {"image": np.asarray(images).transpose(0, 3, 1, 2)}
    (logits,) = ReferenceEvaluator(document, new_ops=[Quant]).run(None, inputs)
    # Where a value lies on the edge between two integers, rounding may differ: by a step of the logits at most.
    step = float(quantized.steps[-1])
    assert np.abs(logits - wanted).max() <= 1.01 * step and (np.abs(logits - wanted) < step / 100).mean() > 0.97


def test_qonnx_is_read_by_its_own_package(calibrated):
    graph, images, found = calibrated
    quantized, wanted = found[False]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from qonnx.core.modelwrapper import ModelWrapper
        from qonnx.core.onnx_exec import execute_onnx
        from qonnx.transformation.infer_shapes import InferShapes

        model = ModelWrapper(quantized_model(graph, quantized))
        model.set_tensor_shape("image", [len(images), 1, 8, 8])
        found = execute_onnx(model.transform(InferShapes()), {"image": np.asarray(images).transpose(0, 3, 1, 2)})
    (logits,) = found.values()
    step = float(quantized.steps[-1])
    assert np.abs(logits - wanted).max() <= 1.01 * step and (np.abs(logits - wanted) < step / 100).mean() > 0.97


def test_qonnx_comes_back_with_its_widths(calibrated, tmp_path):
    graph, _, found = calibrated
    quantized, _ = found[False]
    (tmp_path / "q.onnx").write_bytes(quantized_model(graph, quantized).SerializeToString())
    imported = read_network(tmp_path / "q.onnx")
    tensors, wiring = np.asarray(quantized.tensor_widths), graph.wiring()
    assert imported.widths == tuple(
        BitWidths(int(tensors[read]), int(width), int(tensors[written]))
        for read, width, written in zip(wiring.reads, np.asarray(quantized.kernel_widths), wiring.writes, strict=True)
    )


def test_encodings_of_aimet_are_grids_of_the_float_file(calibrated):
    graph, _, found = calibrated
    model = drawn(graph)
    document = float_model(model, folded=True)
    tensors = {name for node in document.graph.node for name in node.output} | {"image"}
    weights = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in document.graph.initializer}
    for signed, (quantized, _) in found.items():
        written = encodings(graph, quantized)
        assert {entry["name"] for entry in written["activation_encodings"]} <= tensors
        for entry in written["param_encodings"]:
            values = weights[entry["name"]]
            assert len(entry["scale"]) == len(values) and entry["offset"][0] == 1 - 2 ** (entry["bw"] - 1)
            # Calibration by percentiles: the largest weight of a channel is its grid's end.
            largest = np.abs(values.reshape(len(values), -1)).max(axis=1)
            assert np.allclose(np.array(entry["scale"]) * -np.array(entry["offset"]), largest, rtol=1e-4)
        assert all(entry["is_sym"] == signed for entry in written["activation_encodings"])


# --- The command ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return run_folder(tmp_path_factory.mktemp("export"))


def test_neutral_json_keeps_its_schema(run, tmp_path):
    document, schema = json.loads(exported(run, "json", tmp_path)), json.loads(SCHEMA.read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(document, schema)
    assert document["layers"] == {
        name: dict(zip(("input", "weight", "output"), bits, strict=True)) for name, bits in WIDTHS.items()
    }
    document["layers"]["a"]["weight"] = 0
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(document, schema)


def test_settings_of_other_tools(run, tmp_path):
    brevitas = json.loads(exported(run, "brevitas", tmp_path))
    assert brevitas["dw"] == {"weight_bit_width": 3, "input_bit_width": 5, "output_bit_width": 6}
    torchao = json.loads(exported(run, "torchao", tmp_path))
    assert torchao["_type"] == "FqnToConfig"
    configs = torchao["_data"]["fqn_to_config"]
    assert configs["a"] is None and configs["dw"] is None  # kernels of one input channel
    assert configs["b"]["_data"]["weight_dtype"]["_data"] == "int2"
    config = configs["fc"]
    assert config["_type"] == "IntxWeightOnlyConfig"
    assert config["_data"]["weight_dtype"] == {"_type": "torch.dtype", "_data": "int7"}
    qkeras = json.loads(exported(run, "qkeras", tmp_path))
    assert list(qkeras["dw"]) == ["depthwise_quantizer"] and list(qkeras["a"]) == ["kernel_quantizer"]
    assert "fc_relu" not in qkeras  # logits have no activation
    for name, (_, weight, output) in WIDTHS.items():
        texts = [(*qkeras[name].values(), "quantized_bits", weight)]
        texts += [(qkeras[f"{name}_relu"], "quantized_relu", output)] if name != "fc" else []
        for text, function, bits in texts:
            call = ast.parse(text, mode="eval").body  # QKeras evaluates these texts
            assert isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == function
            assert ast.literal_eval(call.args[0]) == bits
    nncf = json.loads(exported(run, "nncf", tmp_path))
    scopes = nncf["compression"]["scope_overrides"]["weights"]
    assert scopes == {
        "{re}^[^/]+/NNCFConv2d\\[a\\]/conv2d_0$": {"bits": 4},
        "{re}^[^/]+/NNCFConv2d\\[dw\\]/conv2d_0$": {"bits": 3},
        "{re}^[^/]+/NNCFConv2d\\[b\\]/conv2d_0$": {"bits": 2},
        "{re}^[^/]+/NNCFLinear\\[fc\\]/linear_0$": {"bits": 7},
    }
    first = next(iter(scopes)).removeprefix("{re}")
    assert re.search(first, "Network/NNCFConv2d[a]/conv2d_0") and not re.search(
        first, "Net/Block[b]/NNCFConv2d[a]/conv2d_0"
    )
    manual = nncf["compression"]["initializer"]["precision"]
    assert manual == {"type": "manual", "bitwidth_per_scope": [[8, "/nncf_model_input_0|OUTPUT"]]}
    assert nncf["target_device"] == "TRIAL"  # others take 8 bits alone
    assert nncf["input_info"] == {"sample_size": [1, 1, 32, 32]}


def test_modules_are_called_as_in_pytorch(run, tmp_path):
    from mqjax.export.member import _modules

    golden = Path(__file__).parent.parent / "golden" / "onnx" / "torch_residual.onnx"
    named = _modules(str(golden))
    assert set(named.values()) == {"stem.0", "depthwise", "first", "second", "down", "fc"}


def test_mappings_are_read_back(run, tmp_path):
    from mqjax.io.timeloop import read_mapping

    out = tmp_path / "maps"
    assert main(["export", str(run), "--member", "2", "--format", "timeloop", "--out", str(out)]) == 0
    files = sorted(path.name for path in out.iterdir())
    assert files == ["01_a.yaml", "02_dw.yaml", "03_b.yaml", "04_fc.yaml"]
    (level,) = read_mapping(out / "01_a.yaml", ["DRAM"])
    assert {dim: bound for dim, bound in level["temporal"] if bound > 1} == {"C": 4, "Q": 2}
    assert "C mapped as 4" in (out / "01_a.yaml").read_text()


def test_networks_of_a_member(run, tmp_path):
    out = tmp_path / "qonnx.onnx"
    assert main(["export", str(run), "--member", "2", "--format", "qonnx", "--out", str(out)]) == 0
    member = read_member(run, 2)
    (tmp_path / "onnx.onnx").write_bytes(models.onnx(member))
    assert json.loads(models.aimet(member))["version"] == "1.0.0"
    images = normalize(load_dataset("fashion_mnist").sized("test", 32, limit=20).images)
    network, quantized = member.trained
    inputs = {"image": images.transpose(0, 3, 1, 2)}
    (logits,) = ReferenceEvaluator(str(tmp_path / "onnx.onnx")).run(None, inputs)
    assert np.allclose(logits, nnx.jit(network)(jnp.asarray(images)), atol=1e-4)
    (logits,) = ReferenceEvaluator(str(tmp_path / "qonnx.onnx"), new_ops=[Quant]).run(None, inputs)
    wanted = np.asarray(forward(network.architecture, quantized, jnp.asarray(images)))
    assert np.abs(logits - wanted).max() <= 1.01 * float(quantized.steps[-1])
    assert read_network(tmp_path / "qonnx.onnx").widths == tuple(BitWidths(*bits) for bits in WIDTHS.values())


def test_what_is_not_there(run, tmp_path, capsys):
    assert main(["export", str(run), "--member", "7"]) == 2
    assert "no member 7; its members are 2" in capsys.readouterr().err
    assert main(["export", str(tmp_path), "--member", "0"]) == 2
    assert "no front.json" in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_columns_of_a_table(tmp_path):
    import csv

    import pyarrow.parquet

    from mqjax.mapper.columns import columns_of, write_csv, write_parquet
    from mqjax.mapper.optima import Optima
    from mqjax.mapper.table import CostTable, entry_of
    from mqjax.types import Layer

    generator = np.random.default_rng(0)
    index = generator.integers(-1, 3, (3, 344))
    entries = Optima(
        bits=(*all_widths(), BitWidths()),
        energy_pj=np.where(index < 0, np.inf, generator.uniform(1, 9, (3, 344))),
        cycles=generator.integers(1, 2**40, (3, 344)), index=index, valid=generator.integers(0, 9, 344), mappings=[],
        nominal_size=9, pruned_size=9, evaluated=9, covered=True,
    )  # fmt: skip
    layers = tuple(Layer(C=c, M=4, name=name) for c, name in ((4, "one"), (8, "two"), (4, "again")))
    table = CostTable("some", layers, layers[:2], np.array([0, 1, 0]), {}, (entries, entries))
    write_csv(tmp_path / "t.csv", table)
    write_parquet(tmp_path / "t.parquet", table)
    rows = list(csv.DictReader((tmp_path / "t.csv").read_text().splitlines()))
    parquet = pyarrow.parquet.read_table(tmp_path / "t.parquet").to_pylist()
    assert len(rows) == len(parquet) == len(columns_of(table)["layer"]) == 2 * 3 * 344
    for row, other in zip(rows, parquet, strict=True):
        assert str(row) == str({name: str(value) for name, value in other.items()})
    at = {
        tuple(row[key] for key in ("layer", "metric", "input_bits", "weight_bits", "output_bits")): row for row in rows
    }
    for bits in (BitWidths(8, 4, 6), BitWidths(2, 7, 3), BitWidths()):
        row = at["two", "edp", *(str(width or 0) for width in (bits.inputs, bits.weights, bits.outputs))]
        place = entry_of(bits)
        fits = index[1, place] >= 0
        assert int(row["cycles"]) == (entries.cycles[1, place] if fits else -1)
        assert not fits or float(row["edp"]) == entries.value("edp")[place]
        assert row["times"] == "1" and row["proven"] == "True" and int(row["valid_mappings"]) == entries.valid[place]
    assert at["one", "energy", "0", "0", "0"]["times"] == "2"
