"""Modules of Flax NNX become graphs that compute the same, and what cannot is refused by name ("bring your network").

Guards: docs/OWN_NETWORK.md, "Your own network".
"""

from __future__ import annotations

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import mqjax
from mqjax.cli import main
from mqjax.errors import InputError
from mqjax.models.files import with_weights
from mqjax.models.importing import Imported
from mqjax.models.network import Network
from mqjax.models.networks import architecture
from mqjax.models.ops import Activation, AvgPool, Conv, MaxPool
from mqjax.models.storage import Storage
from mqjax.types import Layer


class Residual(nnx.Module):
    """A block with batch norms, whose sum follows the projection."""

    def __init__(self, channels: int, rngs: nnx.Rngs) -> None:
        self.expand = nnx.Conv(channels, 12, (1, 1), use_bias=False, rngs=rngs)
        self.depthwise = nnx.Conv(12, 12, (3, 3), feature_group_count=12, padding=((1, 1), (1, 1)), rngs=rngs)
        self.project = nnx.Linear(12, channels, rngs=rngs)
        self.norms = nnx.List([nnx.BatchNorm(size, rngs=rngs) for size in (12, 12, channels)])

    def __call__(self, x):
        y = nnx.relu6(self.norms[0](self.expand(x)))
        y = nnx.hard_swish(self.norms[1](self.depthwise(y)))
        return x + self.norms[2](self.project(y))


class Small(nnx.Module):
    """All that is read: strides, lopsided padding, dilation, groups, pools, sums, concatenations, dropout, a softmax."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.stem = nnx.Conv(3, 8, (3, 3), strides=2, rngs=rngs)
        self.norm = nnx.BatchNorm(8, rngs=rngs)
        self.block = Residual(8, rngs)
        self.wide = nnx.Conv(8, 4, (1, 5), kernel_dilation=(1, 2), rngs=rngs)
        self.grouped = nnx.Conv(8, 6, (3, 2), feature_group_count=2, padding="SAME", rngs=rngs)
        self.hidden = nnx.Linear(10, 7, rngs=rngs)
        self.dropout = nnx.Dropout(0.5)
        self.classifier = nnx.Linear(7, 5, rngs=rngs)

    def __call__(self, x):
        x = nnx.max_pool(nnx.relu(self.norm(self.stem(x))), (2, 2), (2, 2), padding="SAME")
        x = self.block(x)
        left, right = jnp.clip(self.wide(x), 0, 1.5), jax.nn.relu(self.grouped(x))
        x = nnx.avg_pool(jnp.concatenate([left, right], axis=-1), (2, 2), (1, 1))
        x = nnx.relu(self.hidden(x.mean((1, 2))))
        return nnx.log_softmax(self.classifier(self.dropout(x)))


def drawn(make) -> nnx.Module:
    """The module that a function makes, with random variables, batch norms' statistics included."""
    module, generator = nnx.eval_shape(make), np.random.default_rng(1)

    def random(path, x):
        values = generator.uniform(-1, 2, x.shape) * 2 / x.size**0.5
        return jnp.asarray(np.abs(values) + 0.1 if "var" in jax.tree_util.keystr(path) else values, x.dtype)

    nnx.update(module, jax.tree.map_with_path(random, nnx.state(module, (nnx.Param, nnx.BatchStat))))
    return module


def compared(module: nnx.Module, found: Imported, shape: tuple[int, ...], *, after=lambda x: x) -> None:
    """Our network gives what the module gives at inference, on random images."""
    images = jnp.asarray(np.random.default_rng(0).normal(size=(3, *shape)), jnp.float32)
    ours = after(with_weights(found)(images))
    inference = nnx.clone(module)
    inference.eval()
    theirs = inference(images)
    assert np.std(theirs) > 1e-3
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)


def test_a_module_with_all_ops_computes_the_same():
    module = drawn(lambda: Small(nnx.Rngs(0)))
    source = mqjax.load_network(module, (15, 15, 3))
    compared(module, source.imported, (15, 15, 3), after=jax.nn.log_softmax)
    names = [node.name for node in source.graph.kernels]
    assert names == [
        "stem", "block_expand", "block_depthwise", "block_project", "wide", "grouped", "hidden", "classifier"
    ]  # fmt: skip
    assert source.imported.inexact is None and source.imported.origins["block_project"] == "block.project"
    assert source.layers()[0] == Layer(C=3, M=8, R=3, S=3, P=8, Q=8, Wstride=2, Hstride=2)
    assert [layer.shape for layer in source.layers()].count("depthwise") == 1
    assert module.norm.use_running_average is not True and module.dropout.deterministic is not True  # not changed


class Plain(nnx.Module):
    """A convolution, something between, and a classifier."""

    def __init__(self, between, channels: int = 6, *, features: int | None = None) -> None:
        rngs = nnx.Rngs(0)
        self.conv = nnx.Conv(3, 6, (3, 3), rngs=rngs)
        self.other = nnx.Conv(6, 6, (1, 1), rngs=rngs)
        self.fc = nnx.Linear(features or channels, 4, rngs=rngs)
        self.between = between

    def __call__(self, x):
        x = self.between(self, self.conv(x))
        return self.fc(x.mean((1, 2)) if x.ndim == 4 else x)


KEPT = {
    "hard swish written out": lambda m, x: x * nnx.relu6(x + 3) / 6,
    "hard swish by its gate": lambda m, x: (jnp.clip(x + 3, 0, 6) / 6) * x,
    "maximum": lambda m, x: jnp.maximum(x, 0),
    "limits of both sides": lambda m, x: jnp.minimum(jnp.maximum(x, 0), 1.0),
    "relu behind a pool": lambda m, x: nnx.relu(nnx.max_pool(x, (2, 2), (2, 2))),
    "padded": lambda m, x: nnx.relu(m.other(jnp.pad(nnx.relu(x), ((0, 0), (1, 0), (2, 1), (0, 0))))),
    "padded pool": lambda m, x: nnx.avg_pool(x, (3, 3), (2, 2), padding="SAME"),
    "kept dimensions": lambda m, x: m.other(nnx.relu(x).mean((1, 2), keepdims=True)).reshape(1 * len(x), -1),
    "largest of all": lambda m, x: nnx.relu(x).max((1, 2)),
    "flattened": (lambda m, x: nnx.relu(x).reshape(len(x), -1), {"features": 6 * 64}),
    "constants": lambda m, x: nnx.relu((x - jnp.arange(6.0)) * 2 / 3 + jnp.ones((1, 1, 1, 6))),
    "half precision": lambda m, x: nnx.relu(x.astype(jnp.bfloat16).astype(jnp.float32)),
}


@pytest.mark.parametrize("name", KEPT)
def test_what_a_module_computes_is_kept(name):
    between, options = KEPT[name] if isinstance(KEPT[name], tuple) else (KEPT[name], {})
    module = drawn(lambda: Plain(between, **options))
    found = mqjax.load_network(module, (8, 8, 3)).imported
    assert found.inexact is None
    if name != "half precision":  # which rounds
        compared(module, found, (8, 8, 3))


REFUSED = {
    "gate of another tensor": (lambda m, x: x * m.other(x), "op 'mul'.*of two tensors"),
    "attention": (lambda m, x: jnp.einsum("bhwc,bhwc->bc", x, x), "op '(dot_general|mul)'"),
    "transposed": (lambda m, x: x.transpose(0, 3, 1, 2).mean((2, 3)), "op 'transpose': this op is not supported"),
    "resized": (lambda m, x: jax.image.resize(x, (1, 16, 16, 6), "nearest"), "op '.*not supported"),
    "loop": (lambda m, x: jax.lax.fori_loop(0, 3, lambda i, y: y * 2, x), "op 'scan'.*not supported"),
    "sum without a mean": (lambda m, x: nnx.relu(m.other(x.sum((1, 2), keepdims=True))), "divided by their number"),
    "another mean": (lambda m, x: x.sum((1, 2)) / 7, "64 pixels must be divided"),
    "hard sigmoid alone": (lambda m, x: m.other(nnx.hard_sigmoid(x)) + x, "hard swish"),
    "normalised features": (lambda m, x: nnx.softmax(x.mean((1, 2))), "an op before it is not supported"),
    "rows alone": (lambda m, x: x.mean(1).mean(1), "op 'reduce_sum': this op is not supported"),
    "batch": (lambda m, x: x.mean((1, 2)).sum(0, keepdims=True), "op 'reduce_sum'|not supported"),
    "strided slice": (lambda m, x: x[:, ::2, ::2], "op '.*slice.*not supported|op 'gather'"),
    "raises": (lambda m, x: x @ jnp.ones((7, 7)), "cannot be called on an image of 8x8x3: TypeError: dot_general"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_kept_is_refused_by_name(name):
    between, words = REFUSED[name]
    with pytest.raises(InputError, match=words) as caught:
        mqjax.load_network(drawn(lambda: Plain(between)), (8, 8, 3))
    assert str(caught.value).startswith("Plain")


class Separable(nnx.Module):
    """A depthwise-separable block with a residual sum, as nnx.Conv's own options have it, compiled and checkpointed inside."""

    def __init__(self, size=(3, 3), outputs=8, **options):
        rngs = nnx.Rngs(0)
        self.stem = nnx.Conv(2, 8, (3, 3), strides=2, use_bias=False, rngs=rngs)
        depthwise = nnx.Conv(8, outputs, size, feature_group_count=8, rngs=rngs, **options)
        self.block = nnx.Sequential(
            depthwise, nnx.BatchNorm(outputs, rngs=rngs), nnx.relu6, nnx.Conv(outputs, 8, (1, 1), rngs=rngs)
        )
        self.fc = nnx.Linear(8, 5, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.stem(x))
        y = nnx.jit(nnx.remat(lambda block, x: block(x)))(self.block, x)
        return self.fc((x + y if x.shape == y.shape else y).mean((1, 2)))


@pytest.mark.parametrize(
    ("options", "shape"),
    [({}, "depthwise"), ({"padding": "VALID"}, "depthwise"), ({"padding": ((1, 0), (2, 1))}, "depthwise"),
     ({"strides": 2}, "depthwise"), ({"kernel_dilation": 2}, "depthwise"), ({"size": (5, 3)}, "depthwise"),
     ({"use_bias": False}, "depthwise"), ({"outputs": 16}, "grouped")],
)  # fmt: skip
def test_depthwise_convolutions_in_all_forms(options, shape):
    module = Separable(**options)
    module.eval()
    found = mqjax.load_network(module, (12, 12, 2))
    assert [layer.shape for layer in found.layers()] == ["cnn", shape, "cnn", "cnn"]
    images = np.random.default_rng(0).uniform(-1, 1, (3, 12, 12, 2)).astype(np.float32)
    assert np.allclose(nnx.jit(with_weights(found.imported))(images), module(images), atol=1e-5)


@pytest.mark.parametrize("padding", ["CIRCULAR", "REFLECT"])
def test_borders_that_are_no_zeros_are_refused(padding):
    with pytest.raises(InputError, match="Separable: op .* in _pad: this op is not supported"):
        mqjax.load_network(Separable(padding=padding), (12, 12, 2))


@pytest.mark.parametrize("act", [nnx.silu, nnx.gelu, nnx.leaky_relu, nnx.sigmoid, jnp.tanh])
def test_ops_that_change_no_shape_serve_the_mapper_alone(act):
    source = mqjax.load_network(drawn(lambda: Plain(lambda m, x: m.other(act(x)))), (8, 8, 3))
    assert len(source.layers()) == 3 and source.imported.skipped
    with pytest.raises(InputError, match="Plain: its accuracy cannot be measured, for op"):
        with_weights(source.imported)


def test_a_shift_goes_into_no_layer_that_others_read():
    """Folding it would change what the others read: through a conversion, too."""

    def between(m, x):
        y = x.astype(jnp.bfloat16).astype(jnp.float32)
        return m.other(y * 2) + y

    source = mqjax.load_network(drawn(lambda: Plain(between)), (8, 8, 3))
    assert source.imported.inexact is not None and "op 'mul'" in source.imported.inexact


@pytest.mark.parametrize("name", ["resnet18_narrow", "efficientnet_lite0"])
def test_our_networks_come_back(name, monkeypatch):
    """As modules like any other. On a GPU depthwise convolutions are those of XLA; on CPU they are slices."""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    graph = architecture(name, width_multiplier=0.1, resolution=32, classes=5, channels=1)
    module = drawn(lambda: Network(graph, rngs=nnx.Rngs(0)))
    found = mqjax.load_network(module, (32, 32, 1))
    assert [layer.dims for layer in found.layers()] == [layer.dims for layer in graph.layers()]
    assert found.wiring().reads == graph.wiring().reads and found.wiring().writes == graph.wiring().writes
    for node in graph.kernels:
        block, (kernel, bias) = module.blocks[node.name], found.imported.weights[f"blocks_{node.name}"]
        gain = 1.0
        if block.normed:
            gain = np.asarray(block.norm.scale[...]) / np.sqrt(np.asarray(block.norm.var[...]) + block.norm.epsilon)
        np.testing.assert_allclose(kernel, np.asarray(block.kernel[...]) * gain, rtol=1e-5)
        assert bias.shape == kernel.shape[-1:]


def test_a_module_needs_images_of_a_known_shape():
    module = drawn(lambda: Plain(lambda m, x: x))
    for shape in (None, (8, 8), (8, 8, 0), "8x8x3"):
        with pytest.raises(InputError, match=r"input_shape must be \(height, width, channels\)"):
            mqjax.load_network(module, shape)
    with pytest.raises(InputError, match="Plain: its variables have no values"):
        mqjax.load_network(nnx.eval_shape(lambda: Plain(lambda m, x: x)), (8, 8, 3))
    with pytest.raises(InputError, match="int must be a module"):
        mqjax.load_network(3, (8, 8, 3))
    with pytest.raises(InputError, match="modules alone"):
        mqjax.load_network("mobilenetv1", (8, 8, 3))


MODULE = """
import jax.numpy as jnp
from flax import nnx

class Tiny(nnx.Module):
    def __init__(self):
        rngs = nnx.Rngs(0)
        self.conv = nnx.Conv(1, 4, (3, 3), strides=2, rngs=rngs)
        self.fc = nnx.Linear(4, 10, rngs=rngs)

    def __call__(self, x):
        return self.fc(nnx.relu(self.conv(x)).mean((1, 2)))
"""


def test_commands_take_modules(tmp_path, monkeypatch, capsys):
    (tmp_path / "my_tiny_nets.py").write_text(MODULE + "\n\ndef broken():\n    return 1 / 0\n")
    (tmp_path / "my_broken_nets.py").write_text("nothing")
    monkeypatch.chdir(tmp_path)
    assert main(["network", "show", "my_tiny_nets:Tiny@28x28x1"]) == 0
    out = capsys.readouterr().out
    assert "Tiny_conv" in out and "the weights come along" in out
    for spec, words in {
        "my_tiny_nets:Tiny": "such as my_tiny_nets:Tiny@32x32x3",
        "my_tiny_nets:Tinny@8x8x1": "has no 'Tinny'; did you mean 'Tiny'?",
        "no_such_nets:Tiny@8x8x1": "cannot be imported",
        "my_tiny_nets:Tiny@8x8x2": "cannot be called on an image of 8x8x2",
        "my_tiny_nets:nnx@8x8x1": "must be a module of flax.nnx",
        "my_tiny_nets:broken@8x8x1": "cannot be called without arguments: ZeroDivisionError",
        "my_broken_nets:Tiny@8x8x1": "cannot be imported: NameError: name 'nothing' is not defined",
    }.items():
        assert main(["network", "show", spec]) == 2
        assert words in capsys.readouterr().err, spec
    sys.modules.pop("my_tiny_nets")


def test_a_module_is_judged_with_its_weights(tmp_path, monkeypatch):
    """The accuracy in float is that of the module itself, on the same images."""
    from mqjax.accuracy.judge import default_accuracy
    from mqjax.data import load_dataset, normalize

    (tmp_path / "my_judged_nets.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    accuracy = default_accuracy("my_judged_nets:Tiny@28x28x1", "fashion_mnist", num_images=200)
    images = load_dataset("fashion_mnist").sized("validation", 28, limit=200)
    theirs = sys.modules["my_judged_nets"].Tiny()(normalize(images.images))
    assert accuracy.float_accuracy == np.mean(np.argmax(np.asarray(theirs), axis=1) == images.labels)
    sys.modules.pop("my_judged_nets")


def test_the_graph_of_a_module_by_hand():
    nodes = mqjax.load_network(drawn(lambda: Small(nnx.Rngs(0))), (15, 15, 3)).graph.nodes
    ops = {node.name: node.op for node in nodes}
    assert ops["stem"] == Conv(8, 3, 2, 1, norm=False) and ops["maxpool"] == MaxPool(2, 2)
    assert ops["grouped"] == Conv(6, (3, 2), 1, (1, 0, 1, 1), groups=2, norm=False)
    assert ops["clip"] == Activation("relu", 1.5) and ops["avgpool"] == AvgPool(2, 1)
    assert isinstance(Storage.of(nodes), Storage)
