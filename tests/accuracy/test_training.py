"""Training: it learns, resumes exactly after an interruption, and refuses what is not its own; checkpoints on disk.

Guards: docs/ACCURACY.md, "Quantization-aware training".
"""

from __future__ import annotations

import csv
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from networks import drawn
from pictures import encoded, picture
from recorder import Recorder

from mqjax.accuracy.recipe import TrainConfig
from mqjax.accuracy.training import EpochResult, accuracy, augment, batches, make_optimizer, train
from mqjax.cli import main
from mqjax.data import EncodedImages, Images, load_dataset, normalize, training_images, write_prepared
from mqjax.errors import InputError
from mqjax.models.calibration import calibrate
from mqjax.models.checkpoint import load_checkpoint, load_quantized, save_checkpoint
from mqjax.models.graph import Builder, Graph
from mqjax.models.network import Network
from mqjax.models.networks import architecture
from mqjax.models.ops import Activation, GlobalAvgPool
from mqjax.models.qat import QuantizedNetwork, Step
from mqjax.show.figures import training_curves


def tiny() -> Graph:
    relu6, net = Activation("relu", 6.0), Builder("mobilenetv1", resolution=8, channels=1)
    x = net.depthwise("dw1", net.conv("conv1", "image", 8, 3, stride=2, activation=relu6), 3, activation=relu6)
    net.linear("fc", net.add("pool", GlobalAvgPool(), net.conv("pw1", x, 8, activation=relu6)), 2)
    return net.build()


TINY = tiny()
CONFIG = TrainConfig(epochs=3, batch=16, learning_rate=0.2, shift=1, erase=2)


def stripes(count: int, seed: int) -> Images:
    """Noisy stripes, across (label 0) or along (label 1)."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 2, count).astype(np.int32)
    across = np.indices((8, 8))[0] % 2 * 200
    images = np.where(labels[:, None, None] == 0, across, across.T) + generator.integers(0, 50, (count, 8, 8))
    return Images(images[..., None].astype(np.uint8), labels)


def weights(model: Network) -> list[np.ndarray]:
    return [np.asarray(leaf) for leaf in jax.tree.leaves(nnx.state(model))]


def fresh() -> Network:
    return Network(TINY, rngs=nnx.Rngs(0))


def quantized(width: int) -> QuantizedNetwork:
    model = fresh()
    widths = jnp.full((len(TINY.kernels), 2), width)
    return QuantizedNetwork(model, calibrate(model, jnp.asarray(normalize(stripes(160, 0).images))), widths)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "a"
    model = fresh()
    train(model, stripes(160, 0), stripes(64, 1), folder, config=CONFIG)
    return model, folder


def test_training_learns_and_keeps_its_metrics(finished):
    model, folder = finished
    with open(folder / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["epoch"]) for row in rows] == [1, 2, 3]
    assert float(rows[-1]["loss"]) < float(rows[0]["loss"])
    assert float(rows[-1]["accuracy"]) == accuracy(model, stripes(64, 1))
    assert accuracy(model, stripes(200, 2)) > 0.9


@pytest.mark.parametrize("stop", [14, 20])  # in the middle of the second epoch, at its last step
def test_interrupted_run_resumes_to_the_identical_weights(finished, tmp_path, stop):
    data, validation = stripes(160, 0), stripes(64, 1)
    with pytest.raises(KeyboardInterrupt):
        train(fresh(), data, validation, tmp_path / "b", config=CONFIG, progress=Recorder(stop))
    seen, model = Recorder(), fresh()
    train(model, data, validation, tmp_path / "b", config=CONFIG, progress=seen)
    assert seen.advances == list(range(10, 31))  # goes on from the checkpoint of the first epoch, not from the start
    assert all(np.array_equal(a, b) for a, b in zip(weights(model), weights(finished[0]), strict=True))


def test_torn_last_checkpoint_falls_back_to_the_one_before(finished, tmp_path):
    shutil.copytree(finished[1], tmp_path / "c")
    last = max((tmp_path / "c" / "checkpoints").glob("[0-9]*"), key=lambda path: int(path.name))
    for path in (last / "arrays").rglob("*"):
        if path.is_file():
            path.write_bytes(b"")
    seen = Recorder()
    train(fresh(), stripes(160, 0), stripes(64, 1), tmp_path / "c", config=CONFIG, progress=seen)
    assert seen.advances == list(range(20, 31)) and len(seen.notes) == 10


def test_folder_of_another_run_is_refused(finished, tmp_path):
    with pytest.raises(InputError, match="other settings"):
        train(fresh(), stripes(160, 0), stripes(64, 1), finished[1], config=TrainConfig(epochs=4, batch=16))
    (tmp_path / "letter.txt").write_text("keep me")
    with pytest.raises(InputError, match="not empty"):
        train(fresh(), stripes(160, 0), stripes(64, 1), tmp_path, config=CONFIG)
    assert (tmp_path / "letter.txt").read_text() == "keep me"
    with pytest.raises(InputError, match="fewer than one batch"):
        train(fresh(), stripes(8, 0), stripes(8, 1), tmp_path / "d", config=CONFIG)


def test_quantized_network_learns_resumes_and_is_kept(tmp_path):
    data, validation = stripes(160, 0), stripes(64, 1)

    whole, broken = quantized(4), quantized(4)
    before = accuracy(whole, stripes(200, 2))
    train(whole, data, validation, tmp_path / "a", config=CONFIG)
    assert accuracy(whole, stripes(200, 2)) > max(0.9, before)
    with pytest.raises(KeyboardInterrupt):
        train(broken, data, validation, tmp_path / "b", config=CONFIG, progress=Recorder(14))
    train(again := quantized(4), data, validation, tmp_path / "b", config=CONFIG)
    assert all(np.array_equal(a, b) for a, b in zip(weights(again), weights(whole), strict=True))
    with pytest.raises(InputError, match="other settings"):
        train(quantized(3), data, validation, tmp_path / "a", config=CONFIG)


def test_long_gradients_of_weights_are_cut():
    params = nnx.state(quantized(4), nnx.Param)

    def updates(factor: float, clip_norm: float | None) -> dict[bool, np.ndarray]:
        optimizer = make_optimizer(TrainConfig(weight_decay=0.0, clip_norm=clip_norm), 100)
        gradients = jax.tree.map(lambda leaf: factor * jnp.ones_like(leaf), params)
        # The first step is that of the warm-up from zero.
        _, state = optimizer.update(gradients, optimizer.init(params), params)
        found, _ = optimizer.update(gradients, state, params)
        parts: dict[bool, list[np.ndarray]] = {True: [], False: []}
        for leaf in jax.tree.leaves(found, is_leaf=lambda leaf: isinstance(leaf, nnx.Variable)):
            parts[isinstance(leaf, Step)].append(np.ravel(leaf[...]))
        return {kind: np.concatenate(values) for kind, values in parts.items()}

    long, longer, short, free = updates(1.0, 0.5), updates(2.0, 0.5), updates(1e-3, 0.5), updates(1e-3, None)
    np.testing.assert_allclose(long[False], longer[False], rtol=1e-5)
    assert np.abs(long[False]).min() > np.abs(short[False]).max() > 0
    for kind in (True, False):
        np.testing.assert_array_equal(short[kind], free[kind])


def test_quantized_checkpoint_round_trip(tmp_path):
    size = architecture("mobilenetv1", width_multiplier=0.1, resolution=8, classes=3, channels=1)
    model = drawn(size)
    images = jnp.asarray(normalize(stripes(20, 0).images))
    model = QuantizedNetwork(model, calibrate(model, images), jnp.full((len(size.kernels), 2), 5))
    save_checkpoint(tmp_path / "net", model, {"width_multiplier": 0.1, "dataset": "none"})
    network, loaded, _ = load_quantized(tmp_path / "net")
    saved, found = jax.tree.leaves(model.quantized()), jax.tree.leaves(network)
    assert all(np.array_equal(a, b) for a, b in zip(saved, found, strict=True))
    assert all(np.array_equal(a, b) for a, b in zip(weights(loaded), weights(model.network), strict=True))


def test_float_checkpoint_has_no_grids(checkpoint):
    with pytest.raises(InputError, match="float network"):
        load_quantized(checkpoint[1])


def test_training_curves_are_drawn():
    runs = {name: [EpochResult(i, 1 / i, 0.9, 1.0) for i in (1, 2, 3)] for name in ("a", "b")}
    assert training_curves(runs).startswith(b"\x89PNG")


def test_encoded_images_give_the_same_views_in_any_thread(tmp_path):
    items = [(encoded(picture(i, 30 + i, 40)), i % 2) for i in range(12)]
    write_prepared("photos", {"train": items, "test": items[:2]}, ["a", "b"], tmp_path)
    data, validation = training_images(load_dataset("photos", data_dir=tmp_path), 16)
    # no validation split: the last tenth of the training images is held out for it
    assert isinstance(data, EncodedImages) and len(data) == 11 and validation.images.shape == (1, 16, 16, 3)
    config = TrainConfig(batch=5)
    first, again = list(batches(data, config, 1)), list(batches(data, config, 1))
    assert [len(labels) for _, labels in first] == [5, 5]
    for one, other in zip(first, again, strict=True):
        assert one[0].shape == (5, 16, 16, 3) and one[0].dtype == np.float32
        assert np.array_equal(one[0], other[0]) and np.array_equal(one[1], other[1])
    assert not np.array_equal(first[0][0], next(batches(data, config, 2))[0])


def test_batches_depend_on_seed_and_epoch_alone():
    data = stripes(40, 0)
    first, again = list(batches(data, CONFIG, 1)), list(batches(data, CONFIG, 1))
    assert len(first) == 2
    for one, other in zip(first, again, strict=True):
        assert np.array_equal(one[0], other[0]) and np.array_equal(one[1], other[1])
    assert not np.array_equal(first[0][0], list(batches(data, CONFIG, 2))[0][0])


def test_augmentation_moves_mirrors_and_erases_within_its_limits():
    images = np.zeros((400, 9, 9, 1), np.uint8)
    images[:, 4, 4] = 255
    generator = np.random.default_rng(0)
    moved = augment(images, TrainConfig(shift=2, erase=0), generator)
    places = {tuple(np.argwhere(image[..., 0])[0]) for image in moved}
    assert places == {(row, column) for row in range(2, 7) for column in range(2, 7)}
    erased = augment(np.full_like(images, 255), TrainConfig(shift=0, erase=3, mirror=False), generator)
    blanked = (erased == 0).sum((1, 2, 3))
    assert blanked.max() == 9 and 0.3 < (blanked == 0).mean() < 0.7
    ramp = np.broadcast_to(np.arange(9, dtype=np.uint8)[:, None], (400, 9, 9, 1))
    mirrored = augment(ramp, TrainConfig(shift=0, erase=0), generator)[:, 0, 0, 0]
    assert set(mirrored) == {0, 8} and 0.4 < (mirrored == 8).mean() < 0.6


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    model = drawn(architecture("mobilenetv1", width_multiplier=0.1, resolution=8, classes=3, channels=1))
    folder = tmp_path_factory.mktemp("checkpoint") / "net"
    save_checkpoint(folder, model, {"width_multiplier": 0.1, "dataset": "none"})
    return model, folder


def test_checkpoint_round_trip(checkpoint):
    model, folder = checkpoint
    loaded, about = load_checkpoint(folder)
    assert loaded.architecture == model.architecture and about["dataset"] == "none"
    assert all(np.array_equal(a, b) for a, b in zip(weights(loaded), weights(model), strict=True))


def test_missing_checkpoint_is_named(tmp_path):
    with pytest.raises(InputError, match=str(tmp_path / "nothing")):
        load_checkpoint(tmp_path / "nothing")


def test_torn_checkpoints_are_named(checkpoint, tmp_path):
    files = [path.relative_to(checkpoint[1]) for path in checkpoint[1].rglob("*") if path.is_file()]
    data = max(files, key=lambda path: (checkpoint[1] / path).stat().st_size)
    for number, torn in enumerate({data, next(path for path in files if path.name == "model.json")}):
        folder = tmp_path / f"torn{number}"
        shutil.copytree(checkpoint[1], folder)
        (folder / torn).write_bytes((checkpoint[1] / torn).read_bytes()[:20])
        with pytest.raises(InputError, match=f"torn{number}") as caught:
            load_checkpoint(folder)
        assert "\n" not in str(caught.value)


def test_checkpoint_of_another_size_is_refused(checkpoint, tmp_path):
    folder = tmp_path / "other"
    shutil.copytree(checkpoint[1], folder)
    about = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps(about | {"classes": 4}))
    with pytest.raises(InputError, match="blocks/fc/bias has another shape"):
        load_checkpoint(folder)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (["--network", "resnet"], "resnet"),
        (["--dataset", "no_such_data"], "no_such_data"),
        (["--epochs", "0"], "epochs"),
        (["--batch", "-1"], "batch"),
        (["--width-multiplier", "0"], "width multiplier"),
        (["--resolution", "20"], "28x28"),
        (["--bits", "9"], "2..8"),
        (["--bits", "8/4/8"], "inputs/weights"),
        (["--bits", "nowhere:3"], "front.json"),
        (["--bits", "4", "--resolution", "64"], "resolution"),
        (["--bits", "4", "--init", "no_such_checkpoint"], "no_such_checkpoint"),
        (["--init", "mobilenetv1_025_fashion_mnist"], "--bits"),
        (["--learning-rate", "0"], "learning-rate"),
        (["--seed", "-1"], "--seed"),
    ],
)
def test_bad_options_of_the_command(tmp_path, capsys, options, word):
    assert main(["train", *options, "--out", str(tmp_path / "run")]) == 2
    message = capsys.readouterr().err
    assert word in message and "Traceback" not in message
    assert not (tmp_path / "run").exists()
