"""Accuracies of many assignments: one by one and mapped give the same, after calibration and after short training.

Guards: docs/ACCURACY.md, "Accuracy of an assignment".
"""

from __future__ import annotations

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from networks import shallow_graph

from mqjax.accuracy.judge import QuantizedAccuracy, default_accuracy, parse_method
from mqjax.accuracy.trained import Trained
from mqjax.data import Images, load_dataset, normalize
from mqjax.errors import InputError
from mqjax.models.calibration import calibrate
from mqjax.models.network import Network
from mqjax.models.qat import QuantizedNetwork

SHALLOW = shallow_graph()


@pytest.fixture(scope="module")
def judge():
    return default_accuracy(num_images=None)


@pytest.fixture(scope="module")
def small():
    """A shallow network with random weights and images to judge it on."""
    model = Network(SHALLOW, rngs=nnx.Rngs(1))
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (160, 9, 9, 3), dtype=np.uint8)
    images = Images(pixels, generator.integers(0, 5, 160).astype(np.int32))
    quantizer = calibrate(model, jnp.asarray(normalize(pixels)))
    return Trained("small", model, quantizer, images, {}, load_dataset("fashion_mnist")), images


@pytest.mark.parametrize("steps", [None, 0, 3])
def test_loop_and_map_agree(small, steps):
    genomes = np.random.default_rng(4).integers(5, 9, (5, 6, 2))
    loop, mapped = (QuantizedAccuracy(*small, finetune_steps=steps, at_once=at_once)(genomes) for at_once in (1, 3))
    # Sums of integers are exact in any order. Statistics and gradients are not, and move single values across the middle
    # between two levels: a few images of 160.
    assert np.abs(loop - mapped).max() <= (0 if steps is None else 0.05) and len(set(loop)) > 1


def test_loop_and_map_agree_on_real_images(judge):
    """Also where an 8-bit grid has every pixel in the middle between two levels."""
    data = load_dataset("fashion_mnist").sized("validation", 32, limit=256)
    genomes = np.random.default_rng(0).integers(2, 9, (3, 28, 2))
    genomes[0, 0, 0] = 8
    loop, mapped = (QuantizedAccuracy(judge.trained, data, at_once=at_once)(genomes) for at_once in (1, 3))
    assert np.array_equal(loop, mapped)


@pytest.mark.parametrize("at_once", [1, 3])
def test_widths_go_to_their_layers_in_compiled_programs(small, at_once):
    """Every layer has its own widths: a program that took layers in another order would mix them up."""
    trained, images = small
    genomes = np.random.default_rng(7).permuted(np.tile(np.arange(2, 8), (at_once, 2, 1)), axis=2).swapaxes(1, 2)
    calibrated = QuantizedAccuracy(trained, images, at_once=at_once).networks(genomes)
    tuned = QuantizedAccuracy(trained, images, finetune_steps=0, at_once=at_once).networks(genomes)
    for number, genome in enumerate(genomes):
        wanted = trained.quantizer.at(jnp.asarray(genome))
        found = jax.tree.map(lambda leaf, number=number: leaf[number], calibrated)
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-7), found, wanted)
        model = QuantizedNetwork(nnx.clone(trained.model), trained.quantizer, jnp.asarray(genome))
        np.testing.assert_allclose(tuned.steps[number], model.quantized().steps, rtol=1e-5)
        for conv, (_, width) in zip(SHALLOW.kernels, genome, strict=True):
            step = trained.quantizer.weights[conv.name].step[width - 2]
            np.testing.assert_allclose(jnp.exp2(model.kernel_steps[conv.name][...]), step, rtol=1e-5)
            # The gain of a batch norm scales the steps; between two channels of a layer the ratio to the gain is that of steps.
            gain = tuned.kernels[conv.name][number] / trained.quantizer.kernels[conv.name]
            ratio = tuned.kernel_steps[conv.name][number] / jnp.abs(gain[0, 0, 0])
            np.testing.assert_allclose(ratio, step, rtol=1e-3)


def test_short_training_changes_the_network_and_is_repeatable(small):
    genome = np.full((1, 6, 2), 3)
    none, first, again = (QuantizedAccuracy(*small, finetune_steps=k, at_once=1).networks(genome) for k in (0, 3, 3))
    assert not np.array_equal(none.kernels["dw2"], first.kernels["dw2"])
    assert not np.array_equal(none.steps, first.steps)
    assert all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(again), strict=True))


def test_methods_have_their_own_cache_keys(small):
    keys = [QuantizedAccuracy(*small, finetune_steps=k).cache_key for k in (None, 0, 2, 3, 3)]
    assert len(set(keys)) == 4 and keys[3] == keys[4]


def test_only_short_training_keys_on_what_is_folded_away(small):
    trained, images = small
    model = nnx.clone(trained.model)
    model.blocks["dw2"].norm.mean[...] += 1
    other = dataclasses.replace(trained, model=model)
    for steps, same in ((None, True), (0, False)):
        keys = {QuantizedAccuracy(one, images, finetune_steps=steps).cache_key for one in (trained, other)}
        assert (len(keys) == 1) == same


def test_statistics_estimated_anew_help_at_few_bits(judge):
    data = load_dataset("fashion_mnist").sized("validation", 32, limit=500)
    genome = np.full((1, 28, 2), 4)
    calibrated, estimated = (QuantizedAccuracy(judge.trained, data, finetune_steps=k)(genome)[0] for k in (None, 0))
    assert estimated > calibrated + 0.05


@pytest.mark.parametrize(("text", "steps"), [("ptq", None), ("finetune:0", 0), ("finetune:250", 250)])
def test_methods_are_read(text, steps):
    assert parse_method(text) == steps


@pytest.mark.parametrize("text", ["finetune", "finetune:-1", "finetune:1.5", "PTQ", ""])
def test_other_methods_are_refused(text):
    with pytest.raises(InputError, match="finetune:K"):
        parse_method(text)
