"""Quantization: grids against their definition, one program for all widths, and accuracy close to float at 8 bits.

Guards: docs/ACCURACY.md, "How a network is quantized", "Accuracy of an assignment".
"""

from __future__ import annotations

from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st
from networks import drawn, shallow_graph

from mqjax.accuracy.judge import default_accuracy
from mqjax.data import load_dataset, normalize
from mqjax.errors import InputError
from mqjax.models.calibration import Scheme, calibrate, fold, stored_tensors
from mqjax.models.checkpoint import load_checkpoint
from mqjax.models.integer import MOST_SHIFT, FixedPoint, IntegerNetwork
from mqjax.models.network import Network, convolve
from mqjax.models.networks import architecture
from mqjax.models.qat import QuantizedNetwork, reestimate
from mqjax.models.quantization import forward, round_kernels, round_to

CHECKPOINT = "mobilenetv1_025_fashion_mnist"


@pytest.fixture(scope="module")
def judge():
    return default_accuracy(num_images=None)


@pytest.fixture(scope="module")
def trained():
    model, _ = load_checkpoint(CHECKPOINT)
    images = load_dataset("fashion_mnist").sized("train", 32, limit=64).images
    return model, jnp.asarray(normalize(images))


def kernels_of(model: Network) -> dict:
    return {conv.name: model.blocks[conv.name].kernel[...] for conv in model.architecture.kernels}


def randomised(name: str) -> Network:
    """A small network whose batch norms have been moved away from the identity."""
    model = drawn(architecture(name, width_multiplier=0.1, resolution=16, classes=4, channels=2))
    generator = np.random.default_rng(0)
    for conv in model.architecture.kernels:
        if model.blocks[conv.name].normed:
            norm = model.blocks[conv.name].norm
            for value in (norm.scale, norm.bias, norm.mean, norm.var):
                value[...] = jnp.asarray(generator.uniform(0.5, 1.5, value.shape), jnp.float32)
    return model


@given(st.integers(2, 8), st.floats(0.01, 2.0), st.integers(0, 10_000))
def test_rounding_equals_its_definition(width, scale, seed):
    x = np.random.default_rng(seed).normal(0, 2, 50).astype(np.float32)
    low, high = -(2 ** (width - 1)) + 1, 2 ** (width - 1) - 1
    found = np.asarray(round_to(jnp.asarray(x), jnp.float32(scale), 0.0, jnp.int32(width), signed=True))
    wanted = np.clip(np.round(x / np.float32(scale)), low, high) * np.float32(scale)
    assert np.allclose(found, wanted, atol=1e-6) and len(np.unique(found)) <= high - low + 1


def test_gradient_passes_straight_through_inside_the_range():
    x = jnp.array([-9.0, -1.1, 0.2, 0.9, 9.0])
    slope = jax.grad(lambda v: round_to(v, jnp.float32(0.5), 0.0, jnp.int32(3), signed=True).sum())(x)
    assert np.array_equal(slope, [0, 1, 1, 1, 0])


@pytest.mark.parametrize("name", ["mobilenetv1", "mobilenetv2"])
def test_folding_batch_norms_changes_nothing(name):
    model = randomised(name)
    images = jnp.asarray(np.random.default_rng(3).normal(0, 1, (4, 16, 16, 2)), jnp.float32)
    folded = stored_tensors(model.architecture, kernels_of(model), *fold(model), images)["fc"]
    assert np.allclose(folded, nnx.jit(model)(images), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("scheme", [Scheme(), Scheme(per_channel=False), Scheme(symmetric_activations=True),
                                    Scheme(calibration="percentile", percentile=99.9)])  # fmt: skip
def test_grids_serve_their_widths(trained, scheme):
    model, images = trained
    quantizer = calibrate(model, images, scheme)
    for name, grid in quantizer.weights.items():
        columns = quantizer.kernels[name].shape[-1] if scheme.per_channel else 1
        assert grid.step.shape == (7, columns) and (np.asarray(grid.step) > 0).all()
        assert not np.asarray(grid.zero).any()
    assert quantizer.stored.step.shape == (7, len(model.architecture.kernels) + 1)
    assert (np.diff(quantizer.stored.step, axis=0) < 0).all()
    assert np.array_equal(quantizer.stored.zero, np.round(quantizer.stored.zero))
    assert not (scheme.symmetric_activations and np.asarray(quantizer.stored.zero).any())
    full = jnp.full((len(model.architecture.kernels), 2), 8)
    quantized = jax.jit(forward, static_argnames="architecture")(model.architecture, quantizer.at(full), images)
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
                float(
                    jnp.square(
                        round_to(kernel, q.weights[name].step[width - 2], 0.0, width, signed=True) - kernel
                    ).sum()
                )
                for q in (chosen, unclipped)
            ]
            assert errors[0] <= errors[1] * (1 + 1e-6)


def test_correction_restores_the_mean_of_each_output(trained):
    model, images = trained
    quantizer = calibrate(model, images)
    gains, biases = fold(model)
    inputs = stored_tensors(model.architecture, kernels_of(model), gains, biases, images)
    network = quantizer.at(jnp.full((len(model.architecture.kernels), 2), 4))
    kernels = round_kernels(model.architecture, network)
    for conv in model.architecture.kernels:
        x = inputs[conv.inputs[0]]
        if conv.name != "fc":
            axes, kernel = (0, 1, 2), model.blocks[conv.name].kernel[...] * gains[conv.name]
            wanted = (convolve(x, kernel, conv.op) + biases[conv.name]).mean(axes)
            rounded = kernels[conv.name] * network.kernel_steps[conv.name]
            found = (convolve(x, rounded, conv.op) + network.biases[conv.name]).mean(axes)
            assert np.allclose(found, wanted, atol=2e-3 * (1 + np.abs(wanted).max()))


def test_one_program_serves_all_assignments(judge, caplog):
    part = judge.on(load_dataset("fashion_mnist").sized("validation", 32, limit=256))
    part(np.full((1, 28, 2), 8))
    with jax.log_compiles(), caplog.at_level("WARNING"):
        part(np.random.default_rng(0).integers(2, 9, (3, 28, 2)))
    assert "Compiling" not in caplog.text


def test_shipped_network_reaches_what_its_file_says():
    from mqjax.accuracy.training import accuracy

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


# --- integers only ---------------------------------------------------------------------------------------------------


@given(
    factors=st.lists(st.floats(1e-9, 1e6), min_size=1, max_size=2),
    integers=st.lists(st.integers(-(2**31), 2**31 - 1), min_size=2, max_size=2),
    constant=st.floats(-1e15, 1e15),
)
def test_fixed_point_sums_are_rounded_once(factors, integers, constant):
    scaled = FixedPoint.of(*((factor, 2.0**31) for factor in factors), constant=constant)
    found = int(scaled(*(np.array(x, np.int32) for x in integers[: len(factors)])))
    wanted = sum(Fraction(f) * x for f, x in zip(factors, integers, strict=False)) + Fraction(constant)
    assert 1 <= scaled.shift <= MOST_SHIFT
    assert abs(found - wanted) <= 0.5 + sum(map(abs, integers), 1) * 2.0 ** -(scaled.shift + 1)


SHALLOW = shallow_graph()


@pytest.mark.parametrize("width", [8, 5, 3])
@pytest.mark.parametrize("scheme", [Scheme(), Scheme(per_channel=False, symmetric_activations=True)])
def test_integers_give_the_logits_of_fake_quantization(width, scheme):
    model = Network(SHALLOW, rngs=nnx.Rngs(1))
    # Channels that training switched off: by the gain, and by all weights.
    model.blocks["dw2"].norm.scale[...] = model.blocks["dw2"].norm.scale[...].at[3].set(0)
    model.blocks["expand2"].kernel[...] = model.blocks["expand2"].kernel[...].at[..., 5].set(0)
    pixels = np.random.default_rng(0).integers(0, 256, (40, 9, 9, 3), dtype=np.uint8)
    images = jnp.asarray(normalize(pixels))
    network = calibrate(model, images, scheme).at(jnp.full((6, 2), width))
    wanted = np.asarray(jax.jit(forward, static_argnames="architecture")(SHALLOW, network, images))
    found = IntegerNetwork(SHALLOW, network)(pixels)
    levels = np.round(wanted / np.asarray(network.steps)[-1] + np.asarray(network.zeros)[-1])
    # Only a value in the middle between two levels, within float32, may fall either way.
    assert levels.std() > 20 and (found == levels).mean() > 0.8


@pytest.mark.parametrize("network", ["mobilenetv1", "mobilenetv2", "resnet18_narrow"])
def test_integer_accuracy_is_that_of_fake_quantization(network):
    """At 8 and 4 bits, and with layers of different widths."""
    judge = default_accuracy(network, num_images=None)
    data = load_dataset("fashion_mnist").sized("validation", 32)
    shape = 1, judge.architecture.wiring().genes
    for genome in (np.full(shape, 8), np.full(shape, 4), np.random.default_rng(0).integers(4, 9, shape)):
        integers = IntegerNetwork(judge.architecture, judge.trained.quantizer.at(jnp.asarray(genome[0])))
        parts = [integers(data.images[start : start + 250]) for start in range(0, len(data), 250)]
        found = (np.concatenate(parts).argmax(axis=1) == data.labels).mean()
        assert abs(found - judge(genome)[0]) <= 0.002


# --- quantization-aware training -------------------------------------------------------------------------------------


def at_width(trained, width: int) -> tuple[QuantizedNetwork, jax.Array]:
    model, images = trained
    widths = jnp.full((len(model.architecture.kernels), 2), width)
    return QuantizedNetwork(nnx.clone(model), calibrate(model, images), widths), images


def test_folded_network_computes_what_was_trained(trained):
    model, images = at_width(trained, 8)
    folded = jax.jit(forward, static_argnames="architecture")(model.architecture, model.quantized(), images)
    unfolded = nnx.jit(lambda m, x: m(x))(model, images)
    assert np.abs(folded - unfolded).mean() <= 0.1 * np.abs(unfolded).mean()
    assert (np.argmax(folded, 1) == np.argmax(unfolded, 1)).mean() >= 0.95


def test_steps_and_weights_get_gradients_and_widths_do_not(trained):
    model, images = at_width(trained, 3)
    gradients = nnx.jit(nnx.grad(lambda m, x: jnp.square(m(x, train=True)).mean()))(model, images)
    found = nnx.to_pure_dict(gradients)
    assert set(found) == {"network", "kernel_steps", "steps"}
    assert np.abs(found["steps"]).min() > 0
    assert all(np.abs(found["kernel_steps"][conv.name]).max() > 0 for conv in model.architecture.kernels)


def test_estimated_statistics_are_those_of_the_images(trained):
    model, images = at_width(trained, 4)
    reestimate(model, [images])
    first = model.architecture.kernels[0].name
    norm = model.network.blocks[first].norm
    network = model.quantized()
    x = round_to(images, network.steps[0], network.zeros[0], jnp.int32(4), signed=False)
    kernel = round_to(
        model.network.blocks[first].kernel[...],
        jnp.exp2(model.kernel_steps[first][...]),
        0.0,
        jnp.int32(4),
        signed=True,
    )
    sums = np.asarray(convolve(x, kernel, model.architecture.kernels[0].op))
    np.testing.assert_allclose(norm.mean[...], sums.mean((0, 1, 2)), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(norm.var[...], sums.var((0, 1, 2)), rtol=1e-3, atol=1e-4)
