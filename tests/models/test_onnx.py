"""ONNX files: what they compute is kept, what cannot be kept is refused by name.

Guards: docs/OWN_NETWORK.md, "ONNX".
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from mqjax.cli import main
from mqjax.commands.map import asked_widths
from mqjax.errors import InputError
from mqjax.models import network_layers
from mqjax.models.files import load_network, with_weights
from mqjax.models.graph import Builder, Graph
from mqjax.models.importing import Imported
from mqjax.models.network import Network
from mqjax.models.networks import architecture
from mqjax.models.onnx.file import module_of
from mqjax.models.onnx.reader import read_network
from mqjax.models.onnx.writer import float_model
from mqjax.models.ops import Activation, AvgPool, Concat, Flatten, GlobalAvgPool, MaxPool
from mqjax.types import BitWidths, Layer
from onnx_models import CONSTANTS, CONV, TAIL, between, model, some

GOLDEN = Path(__file__).parent.parent / "golden" / "onnx"


def saved(path: Path, document) -> Path:
    path.write_bytes(document.SerializeToString())
    return path


def logits(found: Imported, images: np.ndarray) -> np.ndarray:
    """Of our network, for images [N, C, H, W]."""
    return np.asarray(nnx.jit(with_weights(found))(jnp.asarray(images.transpose(0, 2, 3, 1))))


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


def randomised(graph: Graph) -> Network:
    network = nnx.eval_shape(lambda: Network(graph, rngs=nnx.Rngs(0)))
    state, generator = nnx.state(network, (nnx.Param, nnx.BatchStat)), np.random.default_rng(1)
    drawn = jax.tree.map(lambda x: jnp.asarray(generator.uniform(0.5, 1.5, x.shape) * 3 / x.size**0.5, x.dtype), state)
    nnx.update(network, drawn)
    return network


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


def test_norms_before_their_layers_are_refused():
    with pytest.raises(
        InputError, match=r"\(BatchNormalization\): .* \(residual blocks with pre-activation\) are not supp"
    ):
        read_network(GOLDEN / "torch_preactivation.onnx")


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


KEPT = {
    "batch norm": between(
        ("BatchNormalization", "c s b m d", "n", {"epsilon": 0.01}), ("Relu", "n", "r"),
        s=some(5), b=some(5), m=some(5), d=np.abs(some(5)),
    ),
    "arithmetic": between(
        ("Mul", "c k", "p"), ("Sub", "h p", "q"), ("Div", "q t", "s"), ("Add", "s o", "a"), ("Relu", "a", "r"),
        k=some(5, 1, 1), h=some(1, 5, 1, 1), t=np.float32(3), o=np.float32([0.25]),
    ),
    "normalised image": (
        [("Sub", "x mean", "a"), ("Div", "a dev", "b"), ("Conv", "b w", "r"), *TAIL],
        {**CONSTANTS, "mean": some(1, 3, 1, 1), "dev": np.abs(some(1, 3, 1, 1)) + 1},
    ),
    "pad": ([("Pad", "x p", "a"), ("Conv", "a w", "r", {"pads": [1] * 4}), *TAIL],
            {**CONSTANTS, "p": np.array([0, 0, 1, 1, 0, 0, 1, 1])}),
    "same": ([("Conv", "x w", "r", {"auto_pad": "SAME_UPPER"}), *TAIL], CONSTANTS),
    "valid": ([("Conv", "x w", "r", {"auto_pad": "VALID", "strides": [2, 2]}), *TAIL], CONSTANTS),
    "hard sigmoid": between(("HardSigmoid", "c", "h", {"alpha": 1 / 6, "beta": 0.5}), ("Mul", "h c", "r")),
    "hard swish": between(("HardSwish", "c", "r")),
    "clip": between(("Clip", "c z s", "r"), z=np.float32(0), s=np.float32(0.5)),
    "no upper limit": between(("Clip", "c z", "r"), z=np.float32(0)),
    "relu behind a pool": between(("MaxPool", "c", "p", {"kernel_shape": [2, 2], "strides": [2, 2]}), ("Relu", "p", "r")),
    "global maximum": ([CONV, ("GlobalMaxPool", "c", "g"), ("Flatten", "g", "f"), ("Gemm", "f v u", "y")], CONSTANTS),
    "mean of axes": ([CONV, ("ReduceMean", "c", "f", {"axes": [2, 3], "keepdims": 0}), ("MatMul", "f v", "m"),
                      ("Add", "u m", "y")], CONSTANTS),
    "mean of the whole": ([CONV, ("AveragePool", "c", "g", {"kernel_shape": [8, 8]}), ("Squeeze", "g a", "f"),
                           ("Gemm", "f v u", "y")], {**CONSTANTS, "a": np.array([2, 3])}),
    "factors": ([CONV, ("GlobalAveragePool", "c", "g"), ("Reshape", "g s", "f"),
                 ("Gemm", "f t u", "y", {"alpha": 0.5, "beta": 2.0, "transB": 1})],
                {**CONSTANTS, "s": np.array([-1, 5]), "t": some(4, 5)}),
    "classifier as convolution": ([CONV, ("GlobalAveragePool", "c", "g"), ("Conv", "g t u", "z"), ("Flatten", "z", "y")],
                                  {**CONSTANTS, "t": some(4, 5, 1, 1)}),
    "flattened": ([CONV, ("Relu", "c", "r"), ("Flatten", "r", "f"), ("Dropout", "f", "d"), ("Gemm", "d t u", "y")],
                  {**CONSTANTS, "t": some(320, 4)}),
    "flattened, channels last": (
        [CONV, ("Transpose", "c", "l", {"perm": [0, 2, 3, 1]}), ("Reshape", "l s", "f"), ("Gemm", "f t u", "y")],
        {**CONSTANTS, "s": np.array([0, -1]), "t": some(320, 4)},
    ),
    "weights computed": ([("Transpose", "v1", "v2", {"perm": [1, 0]}), ("Mul", "w0 k", "w"), CONV, ("Relu", "c", "r"),
                          ("GlobalAveragePool", "r", "g"), ("Flatten", "g", "f"), ("Gemm", "f v2 u", "y")],
                         {"u": some(4), "v1": some(4, 5), "w0": some(5, 3, 3, 3), "k": some(5, 1, 1, 1)}),
    "grouped and strided": ([("Conv", "x w", "r", {"group": 3, "strides": [2, 2], "dilations": [2, 2], "pads": [2] * 4}),
                             *TAIL], {**CONSTANTS, "w": some(6, 1, 3, 3), "v": some(6, 4)}),
    "sum and concatenation": between(("Relu", "c", "a"), ("Conv", "a p", "b"), ("Add", "a b", "s"), ("Conv", "s p", "t"),
                                     ("Conv", "s p2", "t2"), ("Concat", "t t2", "r", {"axis": 1}),
                                     p=some(5, 5, 1, 1), p2=some(3, 5, 1, 1), v=some(8, 4)),
    "oblong kernels": between(("Conv", "c k", "a", {"pads": [0, 3, 0, 3]}), ("Conv", "a l", "r", {"pads": [3, 0, 3, 0]}),
                              k=some(5, 5, 1, 7), l=some(5, 5, 7, 1)),
    "sides that differ": between(("Conv", "c k", "r", {"strides": [1, 2], "dilations": [2, 1], "pads": [0, 1, 2, 0]}),
                                 k=some(5, 5, 3, 2)),
    "depthwise, sides that differ": between(("Conv", "c k", "r", {"strides": [2, 1], "group": 5, "pads": [0, 1, 2, 0]}),
                                            k=some(5, 1, 3, 2)),
    "same, strided": ([("Conv", "x w", "r", {"auto_pad": "SAME_UPPER", "strides": [2, 2]}), *TAIL], CONSTANTS),
    "oblong pools": between(("MaxPool", "c", "p", {"kernel_shape": [3, 1], "strides": [2, 1], "pads": [0, 0, 1, 0]}),
                            ("AveragePool", "p", "r", {"kernel_shape": [1, 2], "strides": [1, 2]})),
    "identity": between(("Identity", "c", "i"), ("Cast", "i", "j", {"to": 1}), ("Relu", "j", "r")),
}  # fmt: skip


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
    "norm without a layer": (
        between(("Relu", "c", "a"), ("BatchNormalization", "a s s s s", "r"), s=np.ones(5, np.float32)),
        "'n_r' .BatchNormalization.: constants can be added",
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
        "layers: []": "list of layers",
        "[[1, 2]]": "11 numbers",
        "[{name: a}, {name: a}]": "'a' is given twice",
    }.items():
        (tmp_path / "bad.yaml").write_text(text)
        with pytest.raises(InputError, match=words):
            load_network(str(tmp_path / "bad.yaml"))


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
