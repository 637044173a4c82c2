"""Networks as graphs: published sizes, and stored tensors, genes and layers worked out by hand ("A network is a graph").

Guards: docs/OWN_NETWORK.md, "Your own network".
"""

from __future__ import annotations

import numpy as np
import pytest

from mqjax.errors import InputError
from mqjax.models import architecture
from mqjax.models.graph import Builder, Graph, Node
from mqjax.models.ops import Activation, Add, Concat, Conv, GlobalAvgPool, Image, Linear, MaxPool
from mqjax.network.wiring import Wiring
from mqjax.types import Layer

RELU = Activation("relu")
PUBLISHED = {
    "mobilenetv1": 4_231_976,
    "mobilenetv2": 3_504_872,
    "resnet18": 11_689_512,
    "resnet50": 25_557_032,
    "vgg16": 138_357_544,
    "alexnet": 61_100_840,
    "efficientnet_lite0": 4_652_008,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameter_counts_are_the_published_ones(name):
    assert architecture(name).parameters == PUBLISHED[name]


def test_the_narrow_residual_network_is_small():
    graph = architecture("resnet18_narrow", resolution=32, classes=10, channels=1)
    assert graph.parameters < 1_500_000 and len(graph.kernels) == 21
    assert graph.shapes["layer4_1_add_act"] == (4, 4, 128)


@pytest.mark.parametrize(
    ("network", "layer"),
    [
        ("resnet18", Layer(C=3, M=64, R=7, S=7, P=112, Q=112, Wstride=2, Hstride=2, name="resnet18_conv1")),
        ("resnet50", Layer(C=256, M=512, P=28, Q=28, Wstride=2, Hstride=2, name="resnet50_layer2_0_downsample")),
        ("vgg16", Layer(C=25088, M=4096, name="vgg16_fc1")),
        ("alexnet", Layer(C=3, M=64, R=11, S=11, P=55, Q=55, Wstride=4, Hstride=4, name="alexnet_conv1")),
        ("alexnet", Layer(C=64, M=192, R=5, S=5, P=27, Q=27, name="alexnet_conv2")),
        (
            "efficientnet_lite0",
            Layer(C=144, R=5, S=5, P=28, Q=28, Wstride=2, Hstride=2, shape="depthwise", name="efficientnet_lite0_dw4"),
        ),
    ],
)
def test_layers_by_hand(network, layer):
    found = {one.name: one for one in architecture(network).layers()}
    assert found[layer.name] == layer


@pytest.mark.parametrize("name", ["mobilenetv1", "mobilenetv2", "vgg16", "alexnet", "efficientnet_lite0"])
def test_genomes_without_projections_are_those_of_a_chain(name):
    """Residual sums of MobileNetV2 add what the block's first layer has read before, so they bring no gene."""
    graph = architecture(name)
    found, chain = graph.wiring(), Wiring.chain(graph.layers())
    for field in ("layers", "tensors", "reads", "writes", "first"):
        assert getattr(found, field) == getattr(chain, field)
    assert found.pairs and not architecture("resnet18").wiring().pairs


def block() -> Graph:
    """A max-pool, then a residual block with projection."""
    net = Builder("net", resolution=8, channels=1)
    x = net.add("maxpool", MaxPool(2, 2), net.conv("conv1", "image", 4, 3, activation=RELU))
    skip = net.conv("down", x, 6, stride=2)
    x = net.conv("a", x, 6, 3, stride=2, activation=RELU)
    x = net.sum("add", (net.conv("b", x, 6, 3), skip), activation=RELU)
    net.linear("fc", net.add("pool", GlobalAvgPool(), x), 3)
    return net.build()


def test_residual_block_with_projection_and_max_pool_by_hand():
    graph = block()
    wiring = graph.wiring()
    assert [node.name for node in graph.kernels] == ["conv1", "down", "a", "b", "fc"]
    # Image 0; what conv1 wrote, with its pool, 1; a's output 2; the projection 3, read by b for the first time; the sum 4.
    assert wiring.tensors == ("net_conv1_input", "net_down_input", "net_b_input", "net_down_output", "net_fc_input")
    assert wiring.reads == (0, 1, 1, 2, 4) and wiring.writes == (1, 3, 2, 4, 5)
    assert wiring.first == (0, 1, 3, 3, 4) and wiring.genes == 10
    assert wiring.tensor_genes.tolist() == [0, 2, 5, 6, 8] and wiring.kernel_genes.tolist() == [1, 3, 4, 7, 9]
    assert wiring.live == (
        (64, 256, 0, 0, 0, 0),
        (0, 64, 0, 24, 0, 0),  # pooled: 4 x 4 x 4
        (0, 64, 24, 24, 0, 0),
        (0, 0, 24, 24, 24, 0),
        (0, 0, 0, 0, 6, 3),
    )
    with pytest.raises(InputError, match=r"\[N, 10\]"):
        wiring.flat(np.full((1, 5, 2), 8))


def test_concatenation_by_hand():
    """Two branches that are read together share a gene; layers then outnumber the stored tensors."""
    net = Builder("net", resolution=4, channels=2)
    x = net.conv("stem", "image", 3, activation=RELU)
    left, right = net.conv("left", x, 2, activation=RELU), net.conv("right", x, 5, 3, activation=RELU)
    x = net.conv("join", net.add("both", Concat(), left, right), 4, activation=RELU)
    net.linear("fc", net.add("pool", GlobalAvgPool(), x), 3)
    graph = net.build()
    wiring = graph.wiring()
    assert wiring.reads == (0, 1, 1, 2, 3) and wiring.writes == (1, 2, 2, 3, 4)
    assert wiring.first == (0, 1, 3, 4) and wiring.genes == 9
    assert graph.layers()[3] == Layer(C=7, M=4, P=4, Q=4)
    assert [row[2] for row in wiring.live] == [0, 32, 112, 112, 0]


def graph(*nodes: Node) -> Graph:
    return Graph("net", (Node("image", Image(4, 2)), *nodes))


@pytest.mark.parametrize(
    ("nodes", "words"),
    [
        ([Node("a", Conv(2), ("other",))], "'a' reads 'other', which is no node"),
        ([Node("a", Conv(2), ("b",)), Node("b", Conv(2), ("a",))], "'a' reads 'b'.*cycles"),
        ([Node("a", Conv(3), ("image",)), Node("b", Add(), ("a", "image"))], "'b'.*equal shapes, not 4x4x3 and 4x4x2"),
        (
            [Node("a", Conv(3, stride=2), ("image",)), Node("b", Concat(), ("a", "image")), Node("c", Conv(1), ("b",))],
            "'b'.*equal heights and widths",
        ),
        ([Node("a", Linear(3), ("image",))], "'a'.*flatten"),
        ([Node("a", Conv(3, groups=2), ("image",))], "'a'.*2 groups"),
        ([Node("a", Conv(3, 7), ("image",))], "'a'.*window"),
        (
            [Node("a", MaxPool(2, 2), ("image",)), Node("b", RELU, ("a",)), Node("c", Conv(1), ("b",))],
            "'b'.*activation",
        ),
        ([Node("a", Conv(2), ("image",)), Node("a", Conv(2), ("a",))], "'a'.*twice"),
        ([Node("a", Conv(2), ("image",)), Node("b", Conv(2), ("image",))], "'a' is read by no other"),
    ],
)
def test_what_is_no_network_is_refused(nodes, words):
    with pytest.raises(InputError, match=words):
        graph(*nodes)


def test_grouped_convolutions_are_grouped_layers():
    """Also depthwise ones of several filters per channel."""
    net = graph(Node("a", Conv(4, 3, 1, 1), ("image",)), Node("b", Conv(6, 3, 1, 1, groups=2), ("a",)))
    assert net.layers()[1] == Layer(C=2, M=3, R=3, S=3, P=4, Q=4, G=2, shape="grouped")
    net = graph(Node("a", Conv(4, 3, 1, 1, groups=2), ("image",)))
    assert net.layers() == [Layer(C=1, M=2, R=3, S=3, P=4, Q=4, G=2, shape="grouped")]


def test_too_small_images_are_refused():
    with pytest.raises(InputError, match="window"):
        architecture("alexnet", resolution=16)
