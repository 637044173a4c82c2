"""ONNX files: what they compute is kept, what cannot be kept is refused by name.

Guards: docs/OWN_NETWORK.md, "ONNX".
"""

from __future__ import annotations

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from mqjax.cli import main
from mqjax.errors import InputError
from mqjax.models.files import with_weights
from mqjax.models.graph import Builder, Graph
from mqjax.models.networks import architecture
from mqjax.models.onnx.file import module_of
from mqjax.models.onnx.reader import read_network
from mqjax.models.onnx.writer import float_model
from mqjax.models.ops import Activation, AvgPool, Concat, Flatten, MaxPool
from mqjax.types import Layer
from onnx_models import CONSTANTS, CONV, KEPT, TAIL, between, logits, model, randomised, saved, some

GOLDEN = Path(__file__).parent.parent / "golden" / "onnx"


def of_all_ops() -> Graph:
    """A network with every op that there is."""
    net = Builder("all", resolution=12, channels=2)
    x = net.conv("stem", "image", 6, 3, stride=1, activation=Activation("hardswish"))
    x = net.add("small", MaxPool(3, 2, 1), x)
    left = net.depthwise("left", x, 3, activation=Activation("relu", 6.0))
    right = net.conv("right", x, 4, 3, norm=False, activation=Activation("relu"))
    x = net.add("mean", AvgPool(2, 2, 1), net.add("both", Concat(), left, right))
    y = net.conv("a", x, 10, 1, activation=Activation("none"))
    x = net.sum("sum", (x, net.conv("b", y, 10, 3)), activation=Activation("relu"))
    net.linear("fc2", net.linear("fc1", net.add("flat", Flatten(), x), 7, activation=Activation("relu")), 3)
    return net.build()


def test_a_network_of_all_ops_comes_back(tmp_path):
    network = randomised(of_all_ops())
    document = float_model(network)
    found = read_network(saved(tmp_path / "net.onnx", document))
    images = some(2, 2, 12, 12)
    (wanted,) = ReferenceEvaluator(document).run(None, {"image": images})
    assert np.allclose(logits(found, images), wanted, rtol=1e-4, atol=1e-4)
    assert np.allclose(nnx.jit(network)(jnp.asarray(images.transpose(0, 2, 3, 1))), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["mobilenetv2", "resnet18_narrow", "efficientnet_lite0"])
def test_our_networks_come_back(tmp_path, name):
    graph = architecture(name, width_multiplier=0.1, resolution=32, classes=5, channels=1)
    network = randomised(graph)
    found = read_network(saved(tmp_path / "net.onnx", float_model(network)))
    assert [layer.dims for layer in found.graph.layers()] == [layer.dims for layer in graph.layers()]
    assert [layer.name for layer in found.graph.layers()] == [f"net_{node.name}" for node in graph.kernels]
    assert found.graph.wiring().reads == graph.wiring().reads and found.inexact is None
    for node in graph.kernels:
        block, (kernel, bias) = network.blocks[node.name], found.weights[node.name]
        gain, shift = np.ones(1), np.asarray(block.bias[...] if not block.normed else block.norm.bias[...])
        if block.normed:
            gain = block.norm.scale[...] / np.sqrt(block.norm.var[...] + block.norm.epsilon)
            shift = shift - np.asarray(block.norm.mean[...]) * gain
        assert np.allclose(kernel, np.asarray(block.kernel[...]) * gain, rtol=1e-5) and np.allclose(
            bias, shift, rtol=1e-4, atol=1e-6
        )


@pytest.mark.parametrize("name", ["torch_residual", "torch_residual_unfolded", "torch_plain"])
def test_files_of_pytorch(name):
    """Made by experiments/make_torch_onnx.py with PyTorch's own exporter."""
    found = read_network(GOLDEN / f"{name}.onnx")
    wanted = np.load(GOLDEN / f"{name}.npz")
    ours, theirs = logits(found, wanted["images"]), wanted["logits"]
    if name == "torch_plain":  # a logarithm of a softmax, which is left out
        ours = ours - np.log(np.exp(ours).sum(axis=1, keepdims=True))
    assert np.allclose(ours, theirs, atol=1e-5)
    layers = found.graph.layers()
    assert len(layers) == (5 if name == "torch_plain" else 6)
    assert [layer.shape for layer in layers].count("depthwise") == (0 if name == "torch_plain" else 1)


@pytest.mark.parametrize(
    ("name", "depthwise", "modules"),
    [
        ("torch_resnet", 0, ["conv1", "layer1.0.conv1", "layer1.0.conv2", "layer2.0.conv1", "layer2.0.conv2",
                             "layer2.0.downsample.0", "layer2.1.conv1", "layer2.1.conv2", "fc"]),
        ("torch_mobilenet", 2, ["stem.0", "first.0", "first.3", "first.6", "second.0", "second.3", "second.6",
                                "classifier.1"]),
    ],
)  # fmt: skip
def test_files_of_the_newer_exporter(name, depthwise, modules):
    """The same script, with what torch.onnx.export does by default since PyTorch 2.9: its nodes have numbers for names."""
    found = read_network(GOLDEN / f"{name}.onnx")
    wanted = np.load(GOLDEN / f"{name}.npz")
    assert found.inexact is None and np.allclose(logits(found, wanted["images"]), wanted["logits"], atol=1e-5)
    assert [layer.shape for layer in found.graph.layers()].count("depthwise") == depthwise
    assert [found.origins[node.name] for node in found.graph.kernels] == modules
    assert [node.name for node in found.graph.kernels] == [module.replace(".", "_") for module in modules]


def test_norms_before_their_layers_serve_the_mapper_alone():
    """A residual block with pre-activation: the convolution reads the sum's other operand as it is stored."""
    found = read_network(GOLDEN / "torch_preactivation.onnx")
    assert [(layer.C, layer.M, layer.P) for layer in found.graph.layers()] == [(3, 4, 4), (4, 4, 4), (4, 5, 1)]
    wiring = found.graph.wiring()
    assert wiring.reads == (0, 1, 2) and wiring.writes == (1, 2, 3)
    assert {"BatchNormalization", "activation"} <= {entry.op for entry in found.skipped}
    with pytest.raises(
        InputError, match=r"its accuracy cannot be measured, for node .* \(BatchNormalization\) is not supp"
    ):
        with_weights(found)


def test_names_of_modules():
    """Of PyTorch's older exporter, which says where a node is, and renames weights that it folded."""
    for name, weights, module in (
        ("/layer2/layer2.0/downsample/downsample.0/Conv", "onnx::Conv_9", "layer2.0.downsample.0"),
        ("/features/features.3/features.3.1/Conv", "onnx::Conv_9", "features.3.1"),
        ("/fc/Gemm", "fc.weight", "fc"),
        ("node_conv2d_7", "block.0.conv.weight", "block.0.conv"),
        ("Conv_5", "onnx::Conv_9", ""),
        ("/Conv", "w", ""),
        ("a", "x\ny.weight", ""),
    ):
        assert module_of(helper.make_node("Conv", ["x", weights], ["y"], name=name)) == module


@pytest.mark.parametrize("name", KEPT)
def test_what_a_file_computes_is_kept(tmp_path, name):
    document = model(*KEPT[name])
    images = some(2, 3, 8, 8)
    (wanted,) = ReferenceEvaluator(document).run(None, {"x": images})
    assert np.allclose(
        logits(read_network(saved(tmp_path / "net.onnx", document)), images), wanted, rtol=1e-4, atol=1e-4
    )


def test_oblong_images(tmp_path):
    """They serve the mapper; data sets are of square images, so that accuracy is refused in words."""
    document = model([CONV, ("Relu", "c", "r"), *TAIL], CONSTANTS, image=("N", 3, 6, 10))
    images = some(2, 3, 6, 10)
    (wanted,) = ReferenceEvaluator(document).run(None, {"x": images})
    found = read_network(saved(tmp_path / "net.onnx", document))
    assert np.allclose(logits(found, images), wanted, rtol=1e-4, atol=1e-4)
    assert found.graph.layers()[0] == Layer(C=3, M=5, R=3, S=3, P=10, Q=6)
    assert main(["network", "show", str(tmp_path / "net.onnx")]) == 0
    with pytest.raises(InputError, match="'net' takes images of 6x10; accuracy"):
        print(found.graph.resolution)


def test_oblong_layers_by_hand(tmp_path):
    """P, R and Wstride go with the width, Q, S and Hstride with the height (docs/MODEL.md, section 1)."""
    conv = ("Conv", "x w", "r", {"strides": [2, 1], "pads": [0, 0, 1, 2], "dilations": [1, 3]})
    document = model([conv, *TAIL], {**CONSTANTS, "w": some(5, 3, 5, 2)}, image=(1, 3, 9, 12))
    layer = read_network(saved(tmp_path / "net.onnx", document)).graph.layers()[0]
    assert layer == Layer(C=3, M=5, R=2, S=5, P=11, Q=3, Hstride=2, Wdilation=3)


def test_images_with_channels_last(tmp_path):
    nodes = [("Transpose", "x", "t", {"perm": [0, 3, 1, 2]}), ("Conv", "t w", "r"), *TAIL]
    document = model(nodes, CONSTANTS, image=("N", 8, 8, 3))
    images = some(2, 3, 8, 8)
    (wanted,) = ReferenceEvaluator(document).run(None, {"x": images.transpose(0, 2, 3, 1)})
    assert np.allclose(logits(read_network(saved(tmp_path / "net.onnx", document)), images), wanted, atol=1e-4)


def test_pixels_of_other_networks(tmp_path):
    """Metadata says how the network's images were normalised; without padding the first layer takes that up exactly."""
    document = model([("Conv", "x w", "r"), *TAIL], CONSTANTS,
                     metadata={"image_mean": "0.485,0.456,0.406", "image_deviation": "0.2"})  # fmt: skip
    pixels = np.random.default_rng(0).uniform(0, 1, (2, 3, 8, 8)).astype(np.float32)
    theirs = ((pixels - np.array([0.485, 0.456, 0.406])[:, None, None]) / 0.2).astype(np.float32)
    (wanted,) = ReferenceEvaluator(document).run(None, {"x": theirs})
    found = read_network(saved(tmp_path / "net.onnx", document))
    assert np.allclose(logits(found, 2 * pixels - 1), wanted, rtol=1e-4, atol=1e-4)


REFUSED = {
    "sigmoid gate": (between(("Sigmoid", "c", "s"), ("Mul", "c s", "r")), "'n_r' .Mul.: Mul of two tensors"),
    "resize": (between(("Upsample", "c k", "r"), k=np.float32([1, 1, 2, 2])), "Upsample"),
    "transposed": (
        between(("ConvTranspose", "c k", "r"), k=some(5, 5, 2, 2)),
        "'n_r' .ConvTranspose.: this op is not supp",
    ),
    "space to depth": (between(("SpaceToDepth", "c", "r", {"blocksize": 2}), v=some(20, 4)), "'n_r' .SpaceToDepth."),
    "dilated pool": (
        between(("MaxPool", "c", "r", {"kernel_shape": [2, 2], "dilations": [1, 2]})),
        "pools with dilation are not",
    ),
    "negative clip": (between(("Clip", "c a b", "r"), a=np.float32(-1), b=np.float32(1)), "Clip from 0"),
    "reshape": (
        between(("Reshape", "c s", "t"), ("Reshape", "t s2", "r"), s=np.array([0, 5, 64]), s2=np.array([0, 5, 8, 8])),
        "'n_t' .Reshape.: it changes shapes from 1x5x8x8 to 1x5x64",
    ),
    "rounded up": (
        between(("MaxPool", "c", "r", {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1})),
        "'n_r' .MaxPool.",
    ),
    "mean without padding": (
        between(("AveragePool", "c", "r", {"kernel_shape": [3, 3], "pads": [1] * 4})),
        "count_include_pad=0",
    ),
    "softmax inside": (between(("Softmax", "c", "r")), "'n_r' .Softmax."),
    "types that do not fit": (between(("MatMulInteger", "c k", "r"), k=some(8, 8)), "type"),
    "mean of channels": (between(("ReduceMean", "c", "r", {"axes": [1]}), v=some(1, 4)), "axes .1."),
    "foreign": (between(("my.domain:Magic", "c", "r")), "my.domain"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_kept_is_refused_by_name(tmp_path, name):
    (nodes, constants), words = REFUSED[name]
    path = saved(tmp_path / "net.onnx", model(nodes, constants))
    with pytest.raises(InputError, match=words) as caught:
        read_network(path)
    assert str(path) in str(caught.value) and str(caught.value).isprintable()


def test_ops_that_change_no_shape_serve_the_mapper_alone(tmp_path):
    found = read_network(saved(tmp_path / "net.onnx", model(*between(("LeakyRelu", "c", "r")))))
    assert len(found.graph.layers()) == 2 and "LeakyRelu" in {entry.op for entry in found.skipped}
    with pytest.raises(InputError, match="n_r.*LeakyRelu"):
        with_weights(found)


def test_norms_behind_activations_and_activations_of_shared_values_serve_the_mapper_alone(tmp_path):
    norm = between(("Relu", "c", "a"), ("BatchNormalization", "a s s s s", "r"), s=np.ones(5, np.float32))
    found = read_network(saved(tmp_path / "net.onnx", model(*norm)))
    assert "constants can be added" in found.skipped[0].reason
    with pytest.raises(InputError, match="n_r.*BatchNormalization"):
        with_weights(found)
    shared = between(("Relu", "c", "a"), ("Conv", "a k", "d"), ("Add", "d c", "r"), k=some(5, 5, 1, 1))
    found = read_network(saved(tmp_path / "net.onnx", model(*shared)))
    assert len(found.graph.layers()) == 3 and found.graph.wiring().reads[1] == 1
    with pytest.raises(InputError, match="an activation of a tensor that others read as it is"):
        with_weights(found)


def test_files_that_are_no_network_in_one_file(tmp_path):
    path = tmp_path / "net.onnx"
    document = model([CONV, ("Relu", "c", "r"), *TAIL], CONSTANTS)
    outside = document.graph.initializer[0]
    outside.ClearField("raw_data")
    outside.data_location = TensorProto.EXTERNAL
    outside.external_data.add(key="location", value="../../etc/passwd")
    with pytest.raises(InputError, match="'w'.*another file"):
        read_network(saved(path, document))
    document = model([CONV, ("Relu", "c", "r"), *TAIL], CONSTANTS)
    document.graph.initializer[0].dims[0] = 2**40
    with pytest.raises(InputError, match="'w' has .* elements"):
        read_network(saved(path, document))
    document = model([CONV, ("Relu", "c", "r"), *TAIL], CONSTANTS)
    document.graph.node[1].input[0] = "y"  # reads what comes of it
    with pytest.raises(InputError, match="net.onnx"):
        read_network(saved(path, document))
    with pytest.raises(InputError, match="no ONNX file"):
        path.write_bytes(b"\xff" * 100)
        read_network(path)
    with pytest.raises(InputError, match="no such file"):
        read_network(tmp_path / "none.onnx")


def test_constants_that_are_given_as_numbers(tmp_path):
    document = model(
        [("Constant", "", "k", {"value_float": 2.0}), ("Conv", "x w", "c"), ("Mul", "c k", "r"), *TAIL], CONSTANTS
    )
    images = some(1, 3, 8, 8)
    (wanted,) = ReferenceEvaluator(document).run(None, {"x": images})
    assert np.allclose(logits(read_network(saved(tmp_path / "n.onnx", document)), images), wanted, atol=1e-4)
    document.graph.node[0].attribute[0].CopyFrom(helper.make_attribute("value_string", "two"))
    with pytest.raises(InputError, match="'n_k' .Constant.: a constant must be"):
        read_network(saved(tmp_path / "n.onnx", document))
    assert numpy_helper.to_array(document.graph.initializer[0]).shape == (5, 3, 3, 3)
