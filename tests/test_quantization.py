"""Quantization: grids against their definition, one program for all widths, and accuracy close to float at 8 bits."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st

from mqjax import accuracy as accuracy_module
from mqjax.accuracy import default_accuracy
from mqjax.data import load_dataset, normalize
from mqjax.errors import InputError
from mqjax.models.architecture import architecture
from mqjax.models.checkpoint import load_checkpoint
from mqjax.models.mobilenet import MobileNet
from mqjax.models.quantization import Grid, Scheme, calibrate, fold, forward, round_kernels, round_to

CHECKPOINT = "mobilenetv1_025_fashion_mnist"


@pytest.fixture(scope="module")
def judge():
    return default_accuracy(num_images=None)


@pytest.fixture(scope="module")
def trained():
    model, _ = load_checkpoint(CHECKPOINT)
    images = load_dataset("fashion_mnist").sized("train", 32, limit=64).images
    return model, jnp.asarray(normalize(images))


def randomised(name: str) -> MobileNet:
    """A small network whose batch norms have been moved away from the identity."""
    model = MobileNet(architecture(name, width_multiplier=0.1, resolution=16, classes=4, channels=2), rngs=nnx.Rngs(1))
    generator = np.random.default_rng(0)
    for conv in model.architecture.convs:
        if conv.kind != "fc":
            norm = model.blocks[conv.name].norm
            for value in (norm.scale, norm.bias, norm.mean, norm.var):
                value[...] = jnp.asarray(generator.uniform(0.5, 1.5, value.shape), jnp.float32)
    return model


@given(st.integers(2, 8), st.floats(0.01, 2.0), st.integers(0, 10_000))
def test_rounding_equals_its_definition(width, scale, seed):
    x = np.random.default_rng(seed).normal(0, 2, 50).astype(np.float32)
    low, high = -(2 ** (width - 1)) + 1, 2 ** (width - 1) - 1
    grid = Grid(jnp.full(7, scale, jnp.float32), jnp.zeros(7))
    found = np.asarray(round_to(jnp.asarray(x), grid, jnp.int32(width), signed=True))
    wanted = np.clip(np.round(x / np.float32(scale)), low, high) * np.float32(scale)
    assert np.allclose(found, wanted, atol=1e-6) and len(np.unique(found)) <= high - low + 1


def test_gradient_passes_straight_through_inside_the_range():
    grid = Grid(jnp.full(7, 0.5), jnp.zeros(7))
    x = jnp.array([-9.0, -1.1, 0.2, 0.9, 9.0])
    slope = jax.grad(lambda v: round_to(v, grid, jnp.int32(3), signed=True).sum())(x)
    assert np.array_equal(slope, [0, 1, 1, 1, 0])


@pytest.mark.parametrize("name", ["mobilenetv1", "mobilenetv2"])
def test_folding_batch_norms_changes_nothing(name):
    from mqjax.models.quantization import _activations

    model = randomised(name)
    images = jnp.asarray(np.random.default_rng(3).normal(0, 1, (4, 16, 16, 2)), jnp.float32)
    folded = _activations(model.architecture, *fold(model), images)["output"]
    assert np.allclose(folded, nnx.jit(model)(images), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("scheme", [Scheme(), Scheme(per_channel=False), Scheme(symmetric_activations=True),
                                    Scheme(calibration="percentile", percentile=99.9)])  # fmt: skip
def test_grids_serve_their_widths(trained, scheme):
    model, images = trained
    quantizer = calibrate(model, images, scheme)
    for name, grid in quantizer.weights.items():
        columns = quantizer.kernels[name].shape[-1] if scheme.per_channel else 1
        assert grid.scale.shape == (7, columns) and (np.asarray(grid.scale) > 0).all()
        assert not np.asarray(grid.zero).any()
    for grid in quantizer.inputs.values():
        assert grid.scale.shape == (7,) and (np.diff(grid.scale) < 0).all()
        assert np.array_equal(grid.zero, np.round(grid.zero))
        assert not (scheme.symmetric_activations and np.asarray(grid.zero).any())
    full = jnp.full((len(model.architecture.convs), 2), 8)
    compiled = jax.jit(forward, static_argnames=("architecture", "symmetric"))
    quantized = compiled(model.architecture, quantizer, images, full, symmetric=scheme.symmetric_activations)
    agreement = (np.argmax(quantized, 1) == np.argmax(nnx.jit(model)(images), 1)).mean()
    assert agreement >= 0.9


def test_clipping_by_squared_error_beats_no_clipping(trained):
    model, images = trained
    chosen, unclipped = (
        calibrate(model, images),
        calibrate(model, images, Scheme(calibration="percentile", percentile=100)),
    )
    for name, kernel in chosen.kernels.items():
        for width in range(2, 9):
            errors = [
                float(jnp.square(round_to(kernel, q.weights[name], jnp.int32(width), signed=True) - kernel).sum())
                for q in (chosen, unclipped)
            ]
            assert errors[0] <= errors[1] * (1 + 1e-6)


def test_correction_restores_the_mean_of_each_output(trained):
    from mqjax.models.mobilenet import convolve
    from mqjax.models.quantization import _activations

    model, images = trained
    quantizer = calibrate(model, images)
    kernels, biases = fold(model)
    inputs = _activations(model.architecture, kernels, biases, images)
    widths = jnp.full((len(model.architecture.convs), 2), 4)
    rounded = round_kernels(model.architecture, quantizer, widths)
    for conv in (c for c in model.architecture.convs if c.kind in ("conv", "dw", "pw")):
        x, axes = inputs[conv.name], (0, 1, 2)
        wanted = (convolve(x, kernels[conv.name], conv) + biases[conv.name]).mean(axes)
        found = (convolve(x, rounded[conv.name], conv) + quantizer.biases[conv.name][2]).mean(axes)
        assert np.allclose(found, wanted, atol=2e-3 * (1 + np.abs(wanted).max()))


def test_one_program_serves_all_assignments(judge):
    part = judge.on(load_dataset("fashion_mnist").sized("validation", 32, limit=256))
    part(np.full((1, 28, 2), 8))
    before = accuracy_module._correct._cache_size()
    part(np.random.default_rng(0).integers(2, 9, (3, 28, 2)))
    assert accuracy_module._correct._cache_size() == before


def test_shipped_network_reaches_what_its_file_says():
    from mqjax.training import accuracy

    model, about = load_checkpoint(CHECKPOINT)
    test = load_dataset("fashion_mnist").sized("test", 32)
    reached = accuracy(model, test)
    assert len(test) == 10_000 and reached >= 0.9
    assert reached == pytest.approx(about["test_accuracy"], abs=5e-4)  # a tie may fall differently on another machine


def test_eight_bits_lose_little(judge):
    test = judge.on(load_dataset("fashion_mnist").sized("test", 32))
    eight = test(np.full((1, 28, 2), 8))[0]
    assert abs(test.float_accuracy - eight) <= 0.005


def test_fewer_bits_lose_more(judge):
    found = judge(np.stack([np.full((28, 2), width) for width in (8, 4, 2)]))
    assert found[0] > found[1] > found[2]


def test_padding_of_the_last_batch_does_not_count(judge):
    data = load_dataset("fashion_mnist").sized("validation", 32, limit=300)
    genome = np.full((1, 28, 2), 6)
    halves = [type(data)(data.images[part], data.labels[part]) for part in (slice(0, 256), slice(256, 300))]
    whole = judge.on(data)(genome)[0] * 300
    assert whole == pytest.approx(sum(judge.on(half)(genome)[0] * len(half) for half in halves))


def test_cache_key_follows_the_data(judge):
    data = load_dataset("fashion_mnist")
    keys = [judge.on(data.sized("validation", 32, limit=limit)).cache_key for limit in (64, 65, 64)]
    assert keys[0] == keys[2] != keys[1]


@pytest.mark.parametrize(
    ("genomes", "word"),
    [(np.full((1, 27, 2), 8), "shape"), (np.full((1, 28, 2), 9), "2..8"), (np.full((1, 28, 2), 1), "2..8")],
)
def test_bad_genomes_are_refused(judge, genomes, word):
    with pytest.raises(InputError, match=word):
        judge(genomes)


@pytest.mark.parametrize("options", [{"calibration": "guess"}, {"percentile": 101.0}, {"percentile": 0.0}])
def test_bad_schemes_are_refused(options):
    with pytest.raises(InputError):
        Scheme(**options)
