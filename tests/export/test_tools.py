"""Settings for other tools, taken by the tools themselves. Each test skips where its tool is not installed: all need PyTorch or
TensorFlow, which are too heavy for every run. What their documentation asks for is checked in test_export.py, everywhere.

Guards: docs/OWN_NETWORK.md, "Taking the result away".
"""

from __future__ import annotations

import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import onnx
import pytest

from exporting import WIDTHS, exported, run_folder
from mqjax.export import models
from mqjax.export.member import read_member
from mqjax.models.quantization import forward

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return run_folder(tmp_path_factory.mktemp("tools"))


def tiny(torch):
    """The network of the run, in PyTorch."""

    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.a = torch.nn.Conv2d(1, 4, 5, 4)
            self.dw = torch.nn.Conv2d(4, 4, 3, padding=1, groups=4)
            self.b = torch.nn.Conv2d(4, 6, 3)
            self.fc = torch.nn.Linear(6, 10)

        def forward(self, x):
            x = torch.relu(self.b(torch.relu(self.dw(torch.relu(self.a(x))))))
            return self.fc(x.mean((2, 3)))

    return Network()


def test_torchao(run, tmp_path):
    torch = pytest.importorskip("torch")
    pytest.importorskip("torchao")
    from torchao.core.config import config_from_dict
    from torchao.quantization import quantize_

    model = tiny(torch)
    quantize_(model, config_from_dict(json.loads(exported(run, "torchao", tmp_path))), filter_fn=None)
    for name, (_, weight, _) in WIDTHS.items():
        tensor = getattr(model, name).weight
        if tensor.shape[1] == 1:
            assert tensor.dtype == torch.float32 and not hasattr(tensor, "qdata"), name
        else:
            assert str(tensor.target_dtype) == f"torch.int{weight}"
            assert tensor.qdata.min() >= -(2 ** (weight - 1)) and tensor.qdata.max() < 2 ** (weight - 1)
    assert model(torch.zeros(1, 1, 32, 32)).shape == (1, 10)


def test_brevitas(run, tmp_path):
    torch = pytest.importorskip("torch")
    layers = pytest.importorskip("brevitas.nn")
    from brevitas.quant import Int8ActPerTensorFloat

    settings = json.loads(exported(run, "brevitas", tmp_path))
    model = tiny(torch)
    for name, bits in WIDTHS.items():
        old, own = getattr(model, name), settings[name]
        grids = {"input_quant": Int8ActPerTensorFloat, "output_quant": Int8ActPerTensorFloat}
        if isinstance(old, torch.nn.Linear):
            layer = layers.QuantLinear(old.in_features, old.out_features, bias=True, **grids, **own)
        else:
            shape = (old.in_channels, old.out_channels, old.kernel_size, old.stride, old.padding)
            layer = layers.QuantConv2d(*shape, groups=old.groups, **grids, **own)
        widths = (layer.input_quant.bit_width(), layer.weight_quant.bit_width(), layer.output_quant.bit_width())
        assert tuple(map(int, widths)) == bits
        setattr(model, name, layer)
    assert model(torch.zeros(1, 1, 32, 32)).shape == (1, 10)


def test_qkeras(run, tmp_path, monkeypatch):
    """QKeras 0.9 wants Keras 2 (tf-keras). Its model_quantize fails on networks of Keras 2.13 and later, so that its parser of
    quantizers alone is asked."""
    monkeypatch.setenv("TF_USE_LEGACY_KERAS", "1")
    qkeras = pytest.importorskip("qkeras")
    settings = json.loads(exported(run, "qkeras", tmp_path))
    for name, (_, weight, output) in WIDTHS.items():
        (kernel,) = settings[name].values()
        kernel = qkeras.get_quantizer(kernel)
        assert (type(kernel).__name__, kernel.bits, kernel.alpha) == ("quantized_bits", weight, "auto")
        if name != "fc":
            activation = qkeras.get_quantizer(settings[f"{name}_relu"])
            assert (type(activation).__name__, activation.bits) == ("quantized_relu", output)


def test_aimet(run, tmp_path):
    quantsim = pytest.importorskip("aimet_onnx.quantsim")
    member = read_member(run, 2)
    network, quantized = member.trained
    model = onnx.load_from_string(models.onnx(member))
    # The file is the float network. Ours adds what rounded weights miss on average to the biases.
    for tensor in model.graph.initializer:
        if tensor.name.endswith(".bias"):
            bias = np.asarray(quantized.biases[tensor.name.removesuffix(".bias")])
            tensor.CopyFrom(onnx.numpy_helper.from_array(bias, tensor.name))
    sim = quantsim.QuantizationSimModel(model)
    encodings = tmp_path / "encodings.json"
    encodings.write_text(models.aimet(member))
    quantsim.load_encodings_to_sim(sim, str(encodings), strict=False)
    quantizers = sim.qc_quantize_op_dict
    for name, (_, weight, _) in WIDTHS.items():
        assert quantizers[f"{name}.weight"].bitwidth == weight and quantizers[f"{name}.weight"].enabled
    for name, bits in {"image": 8, "a_act": 5, "dw_act": 6, "fc": 8}.items():
        assert quantizers[name].bitwidth == bits and quantizers[name].enabled
    images = np.random.default_rng(0).uniform(-1, 1, (20, 32, 32, 1)).astype(np.float32)
    logits = np.concatenate(
        [sim.session.run(None, {"image": image[None].transpose(0, 3, 1, 2)})[0] for image in images]
    )
    wanted = np.asarray(forward(network.architecture, quantized, jnp.asarray(images)))
    # Where a value lies on the edge between two integers, rounding may differ.
    assert (np.abs(logits - wanted) < float(quantized.steps[-1]) / 100).mean() >= 0.9


def test_nncf(run, tmp_path, monkeypatch):
    """Last, since NNCF wraps PyTorch's functions. It compiles an extension when it runs for the first time."""
    monkeypatch.setenv("NNCF_TORCH_LEGACY_TRACING", "1")
    monkeypatch.setenv("NNCF_EXTENSION_LOAD_TIMEOUT", "0")
    monkeypatch.chdir(tmp_path)  # where it writes graphs
    torch, nncf = pytest.importorskip("torch"), pytest.importorskip("nncf")
    compressed = pytest.importorskip("nncf.torch").create_compressed_model
    settings = json.loads(exported(run, "nncf", tmp_path))
    settings["compression"]["initializer"]["range"] = {"num_init_samples": 0}  # no data here
    _, model = compressed(tiny(torch), nncf.NNCFConfig.from_dict(settings))
    for name, (_, weight, _) in WIDTHS.items():
        (operation,) = getattr(model, name).pre_ops.values()
        assert operation.op.num_bits == weight
    assert {quantizer.num_bits for quantizer in model.nncf.external_quantizers.values()} == {8}
