"""The networks: published sizes, the reference's layer lists, and the convolutions against independent ones.

Guards: README.md, "Data and networks"; docs/MODEL.md, "9. Networks".
"""

from __future__ import annotations

import subprocess
import sys
from functools import partial

import jax
import numpy as np
import pytest
from flax import nnx
from jax import lax

from mqjax.cli import main
from mqjax.errors import InputError
from mqjax.models import MobileNetV1, MobileNetV2, architecture, network_layers
from mqjax.models.network import ConvBlock, depthwise, parameter_count
from mqjax.models.ops import Add, Conv
from mqjax.study.config import StudyConfig

# The reference's layers at 224x224, depthwise ones written dense: C-M-R-P-Wstride (S = R, Q = P, N = 1, no dilation).
REFERENCE = {
    "mobilenetv1": """
        3-32-3-112-2 32-32-3-112-1 32-64-1-112-1 64-64-3-56-2 64-128-1-56-1 128-128-3-56-1 128-128-1-56-1 128-128-3-28-2
        128-256-1-28-1 256-256-3-28-1 256-256-1-28-1 256-256-3-14-2 256-512-1-14-1 512-512-3-14-1 512-512-1-14-1
        512-512-3-14-1 512-512-1-14-1 512-512-3-14-1 512-512-1-14-1 512-512-3-14-1 512-512-1-14-1 512-512-3-14-1
        512-512-1-14-1 512-512-3-7-2 512-1024-1-7-1 1024-1024-3-7-1 1024-1024-1-7-1 1024-100-1-1-1""",
    "mobilenetv2": """
        3-32-3-112-2 32-32-3-112-1 32-16-1-112-1 16-96-1-112-1 96-96-3-56-2 96-24-1-56-1 24-144-1-56-1 144-144-3-56-1
        144-24-1-56-1 24-144-1-56-1 144-144-3-28-2 144-32-1-28-1 32-192-1-28-1 192-192-3-28-1 192-32-1-28-1
        32-192-1-28-1 192-192-3-28-1 192-32-1-28-1 32-192-1-28-1 192-192-3-14-2 192-64-1-14-1 64-384-1-14-1
        384-384-3-14-1 384-64-1-14-1 64-384-1-14-1 384-384-3-14-1 384-64-1-14-1 64-384-1-14-1 384-384-3-14-1
        384-64-1-14-1 64-384-1-14-1 384-384-3-14-1 384-96-1-14-1 96-576-1-14-1 576-576-3-14-1 576-96-1-14-1
        96-576-1-14-1 576-576-3-14-1 576-96-1-14-1 96-576-1-14-1 576-576-3-7-2 576-160-1-7-1 160-960-1-7-1
        960-960-3-7-1 960-160-1-7-1 160-960-1-7-1 960-960-3-7-1 960-160-1-7-1 160-960-1-7-1 960-960-3-7-1
        960-320-1-7-1 320-1280-1-7-1 1280-1000-1-1-1""",
}
REFERENCE_CLASSES = {"mobilenetv1": 100, "mobilenetv2": 1000}


@pytest.mark.parametrize("name", REFERENCE)
def test_layers_equal_the_reference(name):
    layers = network_layers(name, classes=REFERENCE_CLASSES[name], depthwise="dense")
    written = [f"{x.C}-{x.M}-{x.R}-{x.P}-{x.Wstride}" for x in layers]
    assert written == REFERENCE[name].split()
    for layer in layers:
        assert (layer.S, layer.Q, layer.Hstride) == (layer.R, layer.P, layer.Wstride)
        assert (layer.N, layer.Wdilation, layer.Hdilation, layer.shape) == (1, 1, 1, "cnn")


@pytest.mark.parametrize("name", REFERENCE)
def test_depthwise_layers_have_one_filter_per_channel(name):
    layers = network_layers(name)
    dense = network_layers(name, depthwise="dense")
    assert sum(layer.shape == "depthwise" for layer in layers) == {"mobilenetv1": 13, "mobilenetv2": 17}[name]
    for one, other in zip(layers, dense, strict=True):
        if one.shape == "depthwise":
            assert one.M == 1 and one.C == other.C == other.M
            assert other.macs == one.macs * one.C
            assert one.elements("Outputs") == other.elements("Outputs")
        else:
            assert one == other


def test_views_of_depthwise_layers_are_known_by_former_names(capsys):
    """What used to be called native, as the width of unpacked operands still is."""
    assert network_layers("mobilenetv1", depthwise="native") == network_layers("mobilenetv1", depthwise="channelwise")
    assert StudyConfig(depthwise="native") == StudyConfig(depthwise="channelwise") == StudyConfig()
    shown = []
    for view in ("native", "channelwise", "dense"):
        assert main(["network", "show", "mobilenetv1", "--depthwise", view, "--json"]) == 0
        shown.append(capsys.readouterr().out)
    assert shown[0] == shown[1] != shown[2]
    with pytest.raises(InputError, match="'channelwise' or 'dense', not 'sideways'"):
        network_layers("mobilenetv1", depthwise="sideways")
    with pytest.raises(SystemExit, match="2"):
        main(["map", "--arch", "eyeriss", "--network", "mobilenetv1", "--depthwise", "sideways"])
    assert "--depthwise" in capsys.readouterr().err


@pytest.mark.parametrize(("network", "count"), [(MobileNetV1, 4_231_976), (MobileNetV2, 3_504_872)])
def test_parameter_counts_are_the_published_ones(network, count):
    model = nnx.eval_shape(lambda: network(classes=1000))
    assert parameter_count(model) == count


@pytest.mark.parametrize("network", [MobileNetV1, MobileNetV2])
@pytest.mark.parametrize(("multiplier", "resolution", "channels", "classes"), [(0.25, 32, 1, 10), (0.35, 33, 3, 7)])
def test_model_runs_with_the_shapes_that_it_declares(network, multiplier, resolution, channels, classes):
    model = nnx.eval_shape(
        lambda: network(width_multiplier=multiplier, resolution=resolution, channels=channels, classes=classes)
    )
    images = jax.ShapeDtypeStruct((2, resolution, resolution, channels), np.float32)
    logits = nnx.eval_shape(lambda model, x: model(x), model, images)
    assert logits.shape == (2, classes) and logits.dtype == np.float32
    layers = network_layers(model)
    kernels = [model.blocks[conv.name].kernel.get_raw_value().size for conv in model.architecture.kernels]
    assert [layer.elements("Weights") for layer in layers] == kernels


def test_final_extent_follows_the_strides():
    assert [network_layers("mobilenetv1", resolution=size)[-2].P for size in (32, 33, 64, 224)] == [1, 2, 2, 7]


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("extent", [(8, 6), (5, 1)])
def test_depthwise_by_shifts_equals_grouped_convolution(stride, extent):
    """Also under differentiation, which is where training uses it."""
    keys = jax.random.split(jax.random.key(0), 2)
    x = jax.random.normal(keys[0], (3, *extent, 4), "float32")
    kernel = jax.random.normal(keys[1], (3, 3, 1, 4), "float32")

    def grouped(x, kernel):
        return lax.conv_general_dilated(
            x,
            kernel,
            (stride, stride),
            [(1, 1), (1, 1)],
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=4,
        )

    @partial(jax.jit, static_argnums=0)
    def value_and_pullback(function, x, kernel):
        value, pull = jax.vjp(function, x, kernel)
        return value, *pull(value)

    expected = value_and_pullback(grouped, x, kernel)
    found = value_and_pullback(lambda x, kernel: depthwise(x, kernel, Conv(4, 3, stride, 1, groups=4)), x, kernel)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


def test_residual_connections_join_equal_tensors_of_mobilenet_v2():
    graph = architecture("mobilenetv2")
    residuals = [node for node in graph.nodes if isinstance(node.op, Add)]
    assert len(residuals) == 10  # blocks 3, 5, 6, 8, 9, 10, 12, 13, 15 and 16 of the paper's table
    for node in residuals:
        # linear bottlenecks: sums and projections, without activations
        assert all(isinstance(graph[name].op, Add | Conv) for name in node.inputs)


def test_batch_norm_statistics_move_in_training_only():
    conv = Conv(32, 3, 2, 1)
    block = ConvBlock(conv, (3, 3, 2, 32), rngs=nnx.Rngs(0))
    images = jax.random.normal(jax.random.key(0), (4, 8, 8, 2), "float32")

    def statistics():
        return [np.asarray(leaf) for leaf in jax.tree.leaves(nnx.state(block, nnx.BatchStat))]

    before = statistics()
    block(images, conv, train=False)
    assert all(np.array_equal(a, b) for a, b in zip(before, statistics(), strict=True))
    block(images, conv, train=True)
    assert not any(np.array_equal(a, b) for a, b in zip(before, statistics(), strict=True))


def test_layer_shapes_need_no_jax():
    code = "import sys, mqjax.models as m; m.network_layers('mobilenetv2'); sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"name_": "resnet51"}, "resnet51"),
        ({"width_multiplier": 0}, "width multiplier"),
        ({"width_multiplier": float("nan")}, "width multiplier"),
        ({"resolution": 0}, "resolution"),
        ({"classes": -1}, "classes"),
        ({"channels": 0}, "channels"),
        ({"depthwise": "sparse"}, "depthwise"),
    ],
)
def test_bad_options_are_named(options, word):
    name = options.pop("name_", "mobilenetv1")
    with pytest.raises(InputError, match=word):
        network_layers(name, **options)
