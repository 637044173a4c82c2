"""Weights of Keras and PyTorch: files with their names and layouts give the network that they describe.

Guards: docs/ACCURACY.md, "Weights from elsewhere".
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from networks import drawn
from safetensors.numpy import save_file

from mqjax.errors import InputError
from mqjax.models.imported import DEVIATION, MEAN, load_weights
from mqjax.models.network import Network
from mqjax.models.networks import architecture

# Names as the frameworks print them, written out for the layers whose names follow no pattern and for one that does.
KERAS = {
    "mobilenetv1": {
        "conv1": ("conv1/kernel", "conv1_bn/gamma"),
        "dw3": ("conv_dw_3/kernel", "conv_dw_3_bn/gamma"),
        "pw13": ("conv_pw_13/kernel", "conv_pw_13_bn/gamma"),
        "fc": ("conv_preds/kernel", "conv_preds/bias"),
    },
    "mobilenetv2": {
        "conv1": ("Conv1/kernel", "bn_Conv1/gamma"),
        "dw1": ("expanded_conv_depthwise/kernel", "expanded_conv_depthwise_BN/gamma"),
        "project1": ("expanded_conv_project/kernel", "expanded_conv_project_BN/gamma"),
        "expand2": ("block_1_expand/kernel", "block_1_expand_BN/gamma"),
        "dw17": ("block_16_depthwise/kernel", "block_16_depthwise_BN/gamma"),
        "conv_last": ("Conv_1/kernel", "Conv_1_bn/gamma"),
        "fc": ("predictions/kernel", "predictions/bias"),
    },
}
TORCH = {
    "mobilenetv1": {
        "conv1": ("model.0.0.weight", "model.0.1.weight"),
        "dw3": ("model.3.0.weight", "model.3.1.weight"),
        "pw13": ("model.13.3.weight", "model.13.4.weight"),
        "fc": ("fc.weight", "fc.bias"),
    },
    "mobilenetv2": {
        "conv1": ("features.0.0.weight", "features.0.1.weight"),
        "dw1": ("features.1.conv.0.0.weight", "features.1.conv.0.1.weight"),
        "project1": ("features.1.conv.1.weight", "features.1.conv.2.weight"),
        "expand2": ("features.2.conv.0.0.weight", "features.2.conv.0.1.weight"),
        "dw2": ("features.2.conv.1.0.weight", "features.2.conv.1.1.weight"),
        "project2": ("features.2.conv.2.weight", "features.2.conv.3.weight"),
        "conv_last": ("features.18.0.weight", "features.18.1.weight"),
        "fc": ("classifier.1.weight", "classifier.1.bias"),
    },
}
NORMS = {
    "keras": {"scale": "gamma", "bias": "beta", "mean": "moving_mean", "var": "moving_variance"},
    "torch": {"scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"},
}


def network(name: str, channels: int = 1) -> Network:
    """A small network whose every number is different from its neighbours'."""
    size = architecture(name, width_multiplier=0.1, resolution=32, classes=5, channels=channels)
    model = drawn(size)
    generator = np.random.default_rng(0)
    for conv in size.kernels:
        block = model.blocks[conv.name]
        for value in [block.bias] if not block.normed else [getattr(block.norm, part) for part in NORMS["keras"]]:
            value[...] = jnp.asarray(generator.uniform(0.5, 1.5, value.shape), jnp.float32)
    return model


def exported(model: Network, source: str) -> dict[str, np.ndarray]:
    """The arrays of `model` under a framework's names and in its layouts."""
    from mqjax.models.imported import _names

    arrays, separator = {}, "/" if source == "keras" else "."
    for conv, (layer, norm) in zip(model.architecture.kernels, _names(source, model.architecture), strict=True):
        block = model.blocks[conv.name]
        kernel = np.asarray(block.kernel[...])
        if source == "keras":
            arrays[f"{layer}/kernel"] = kernel.transpose(0, 1, 3, 2) if model.architecture.depthwise(conv) else kernel
        else:
            turned = kernel.transpose(3, 2, 0, 1)
            arrays[f"{layer}.weight"] = turned[:, :, 0, 0] if conv.name == "fc" else turned
        if conv.name == "fc":
            arrays[f"{layer}{separator}bias"] = np.asarray(block.bias[...])
            continue
        for ours, theirs in NORMS[source].items():
            arrays[f"{norm}{separator}{theirs}"] = np.asarray(getattr(block.norm, ours)[...])
    return {name: np.ascontiguousarray(value) for name, value in arrays.items()}


def write(path, arrays) -> None:
    np.savez(path, **arrays) if path.suffix == ".npz" else save_file(arrays, path)


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
@pytest.mark.parametrize("source", ["keras", "torch"])
@pytest.mark.parametrize("name", ["mobilenetv1", "mobilenetv2"])
def test_round_trip(tmp_path, name, source, suffix):
    model = network(name)
    arrays = exported(model, source)
    for layer, names in (KERAS if source == "keras" else TORCH)[name].items():
        assert set(names) <= set(arrays), layer
    write(tmp_path / f"weights{suffix}", arrays)
    loaded = load_weights(tmp_path / f"weights{suffix}", model.architecture)
    images = jnp.asarray(np.random.default_rng(2).normal(size=(3, 32, 32, 1)), jnp.float32)
    for conv in model.architecture.kernels:
        assert np.array_equal(loaded.blocks[conv.name].kernel[...], model.blocks[conv.name].kernel[...])
    if source == "keras":
        assert np.array_equal(nnx.jit(loaded)(images), nnx.jit(model)(images))
    else:
        # PyTorch's batch norms add another epsilon.
        block, theirs = loaded.blocks["conv1"].norm, model.blocks["conv1"].norm
        gain = np.asarray(theirs.scale[...]) / np.sqrt(np.asarray(theirs.var[...]) + 1e-5)
        assert np.allclose(block.scale[...] / np.sqrt(block.var[...] + block.epsilon), gain, rtol=1e-6)


def test_normalisation_of_torch_goes_into_the_first_layer(tmp_path):
    from mqjax.models.network import convolve

    model = network("mobilenetv2", channels=3)
    write(tmp_path / "weights.npz", exported(model, "torch"))
    loaded = load_weights(tmp_path / "weights.npz", model.architecture)
    pixels = np.random.default_rng(3).uniform(0, 1, (2, 32, 32, 3))
    theirs, ours = ((pixels - MEAN) / DEVIATION).astype(np.float32), (2 * pixels - 1).astype(np.float32)
    conv = model.architecture.kernels[0]
    wanted = convolve(theirs, model.blocks["conv1"].kernel[...], conv.op) - model.blocks["conv1"].norm.mean[...]
    found = convolve(ours, loaded.blocks["conv1"].kernel[...], conv.op) - loaded.blocks["conv1"].norm.mean[...]
    assert np.allclose(found[:, 1:-1, 1:-1], wanted[:, 1:-1, 1:-1], atol=1e-4)


def test_what_does_not_fit_is_named(tmp_path):
    model = network("mobilenetv1")
    arrays = exported(model, "keras")
    path = tmp_path / "weights.npz"
    write(path, {name: value for name, value in arrays.items() if name != "conv_pw_2_bn/beta"})
    with pytest.raises(InputError, match="weights.npz.*conv_pw_2_bn/beta.*missing"):
        load_weights(path, model.architecture)
    write(path, arrays | {"conv_pw_2/kernel": np.zeros((1, 1, 3, 3), np.float32)})
    with pytest.raises(InputError, match="conv_pw_2/kernel.*shape"):
        load_weights(path, model.architecture)
    with pytest.raises(InputError, match="does not exist"):
        load_weights(tmp_path / "none.npz", model.architecture)
    path.write_bytes(b"torn")
    with pytest.raises(InputError, match="cannot be read"):
        load_weights(path, model.architecture)
    (tmp_path / "weights.h5").write_bytes(b"")
    with pytest.raises(InputError, match=".npz or a .safetensors"):
        load_weights(tmp_path / "weights.h5", model.architecture)
