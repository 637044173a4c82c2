"""Data sets: the embedded one, tiny ones in the real formats, and what is said when there is none.

Guards: docs/ACCURACY.md, "Data".
"""

from __future__ import annotations

import io
import shutil
import socket
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pictures import encoded, picture
from PIL import Image

from mqjax.data import (
    center_crop,
    load_dataset,
    normalize,
    pad_to,
    prepare_image_folder,
    random_crop,
    training_images,
    write_prepared,
)
from mqjax.data.fashion_mnist import CLASSES, SYSTEM_FOLDER, held_out, read_idx
from mqjax.errors import InputError


def labelled(images: np.ndarray, labels: np.ndarray) -> set[tuple[bytes, int]]:
    return {(image.tobytes(), int(label)) for image, label in zip(images, labels, strict=True)}


@pytest.fixture(scope="module")
def embedded():
    dataset = load_dataset("fashion_mnist")
    return {split: dataset.load(split) for split in ("train", "validation", "test")}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Twelve PNG images of 6x5 in three classes, as tensorflow-datasets would prepare them."""
    folder = tmp_path_factory.mktemp("prepared")
    items = [(encoded(picture(i, 6, 5)), i % 3) for i in range(12)]
    write_prepared("tiny", {"train": items[:8], "test": items[8:]}, ["a", "b", "c"], folder)
    return folder


def test_embedded_splits_are_balanced(embedded):
    assert {split: len(part) for split, part in embedded.items()} == {"train": 2000, "validation": 2000, "test": 10_000}
    for part in embedded.values():
        assert part.images.shape[1:] == (28, 28, 1) and part.images.dtype == np.uint8
        assert part.labels.dtype == np.int32
        assert np.array_equal(np.bincount(part.labels), np.full(10, len(part) // 10))
        assert part.images.min() == 0 and part.images.max() == 255


def test_embedded_splits_share_no_image(embedded):
    sets = {split: {image.tobytes() for image in part.images} for split, part in embedded.items()}
    assert not sets["train"] & sets["validation"]
    assert not sets["validation"] & sets["test"]


def test_class_names_ship():
    dataset = load_dataset("fashion_mnist")
    assert dataset.classes == 10
    assert dataset.builder.info.features["label"].names == CLASSES


@pytest.mark.skipif(not SYSTEM_FOLDER.exists(), reason="the full Fashion-MNIST is not installed")
def test_embedded_images_come_from_the_full_set_and_validation_is_held_out(embedded):
    test_images, test_labels = read_idx(SYSTEM_FOLDER, "t10k")
    sources = {
        (image.tobytes(), int(label))
        for image, label in zip(embedded["test"].images, embedded["test"].labels, strict=True)
    }
    assert sources == {(image.tobytes(), int(label)) for image, label in zip(test_images, test_labels, strict=True)}
    images, labels = read_idx(SYSTEM_FOLDER, "train")
    out = held_out(labels)
    assert np.array_equal(np.bincount(labels[out]), np.full(10, 500))
    kept = {image.tobytes() for image in images[~out]}
    withheld = {image.tobytes() for image in images[out]}
    assert {image.tobytes() for image in embedded["train"].images} <= kept
    assert {image.tobytes() for image in embedded["validation"].images} <= withheld
    assert not kept & {image.tobytes() for image in embedded["validation"].images}


def test_prepared_folder_by_name_and_directory_keeps_every_pixel(prepared):
    dataset = load_dataset("tiny", data_dir=prepared)
    assert set(dataset.splits) == {"test", "train"} and dataset.classes == 3
    parts = [dataset.load(split) for split in dataset.splits]
    found = set.union(*(labelled(part.images, part.labels) for part in parts))
    assert found == {(picture(i, 6, 5).tobytes(), i % 3) for i in range(12)}


def test_limit_takes_the_first_images_and_refuses_too_many(prepared):
    dataset = load_dataset("tiny", data_dir=prepared)
    assert np.array_equal(dataset.load("train", limit=3).images, dataset.load("train").images[:3])
    with pytest.raises(InputError, match="'train' has 8 images, fewer than 9"):
        dataset.load("train", limit=9)
    with pytest.raises(InputError, match="no split 'validation'"):
        dataset.load("validation")


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_image_folder_keeps_the_encoded_bytes(tmp_path, kind):
    suffix = {"PNG": "png", "JPEG": "jpg"}[kind]
    written = {}
    for i, label in enumerate(["cat", "dog", "cat"]):
        folder = tmp_path / "photos" / "train" / label
        folder.mkdir(parents=True, exist_ok=True)
        content = encoded(picture(i, 40 + 8 * i, 50), kind)
        (folder / f"{i}.{suffix}").write_bytes(content)
        written[np.asarray(Image.open(io.BytesIO(content))).tobytes()] = ["cat", "dog"].index(label)
    (tmp_path / "photos" / "train" / "cat" / "notes.txt").write_text("not an image")
    prepare_image_folder(tmp_path / "photos", "pets", tmp_path / "prepared")
    dataset = load_dataset("pets", data_dir=tmp_path / "prepared")
    assert dataset.builder.info.features["label"].names == ["cat", "dog"]
    source = dataset.source("train")
    assert {item["image"].tobytes(): int(item["label"]) for item in (source[i] for i in range(3))} == written
    assert dataset.load("train", resolution=16).images.shape == (3, 16, 16, 3)
    with pytest.raises(InputError, match="differ in size"):
        dataset.load("train")


def test_image_folder_converts_what_is_stored_otherwise(tmp_path):
    """Grey images, palettes and transparency among colour ones are decoded to three channels, as the colour ones are."""
    folder = tmp_path / "photos" / "train" / "cat"
    folder.mkdir(parents=True)
    colour = Image.fromarray(picture(0, 30, 20))
    modes = {"RGB": colour, "L": colour.convert("L"), "P": colour.convert("P"), "RGBA": colour.convert("RGBA")}
    for name, image in modes.items():
        image.save(folder / f"{name}.png")
    Image.fromarray(np.full((30, 20), 40_000, np.uint16)).save(folder / "I.png")
    prepare_image_folder(tmp_path / "photos", "pets", tmp_path / "prepared")
    dataset = load_dataset("pets", data_dir=tmp_path / "prepared")
    found = {image.tobytes() for image in dataset.load("train").images}
    deep = np.full((30, 20, 3), 40_000 // 257, np.uint8)
    assert found == {np.asarray(image.convert("RGB")).tobytes() for image in modes.values()} | {deep.tobytes()}
    assert [path.name for path in (tmp_path / "prepared").iterdir()] == ["pets"]  # and nothing else is left


@pytest.mark.parametrize("channels, expected", [(None, 1), (3, 3)])
def test_grey_image_folder_has_one_channel_unless_told(tmp_path, channels, expected, capfd):
    """Where all images have one size they are padded up to a network's resolution, and cropped only beyond it."""
    folder = tmp_path / "photos" / "train" / "cat"
    folder.mkdir(parents=True)
    for i in range(2):
        Image.fromarray(picture(i, 12, 12)).convert("L").save(folder / f"{i}.png")
    prepare_image_folder(tmp_path / "photos", "pets", tmp_path / "prepared", channels=channels)
    assert capfd.readouterr() == ("", "")  # tensorflow-datasets would tell of a download
    dataset = load_dataset("pets", data_dir=tmp_path / "prepared")
    assert dataset.channels == expected
    whole, padded, cropped = dataset.load("train"), dataset.sized("train", 16), dataset.sized("train", 8)
    assert np.array_equal(padded.images[:, 2:14, 2:14], whole.images)
    assert cropped.images.shape == (2, 8, 8, expected)


def test_image_folder_with_a_damaged_image_names_it(tmp_path):
    folder = tmp_path / "photos" / "train" / "cat"
    folder.mkdir(parents=True)
    (folder / "good.png").write_bytes(encoded(picture(0, 6, 5)))
    (folder / "torn.png").write_bytes(encoded(picture(0, 60, 50))[:200])
    with pytest.raises(InputError, match=r"torn\.png cannot be read"):
        prepare_image_folder(tmp_path / "photos", "pets", tmp_path / "prepared")
    assert not (tmp_path / "prepared").exists()


def test_image_folder_without_images_says_what_was_expected(tmp_path):
    with pytest.raises(InputError, match="SPLIT/CLASS"):
        prepare_image_folder(tmp_path, "none", tmp_path / "prepared")


@pytest.mark.parametrize("name", ["imagenet2012", "cifar10", "no_such_data"])
def test_missing_data_is_named_without_asking_the_network(tmp_path, name, monkeypatch):
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("the network was asked"))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: pytest.fail("the network was asked"))
    with pytest.raises(InputError) as caught:
        load_dataset(name, data_dir=tmp_path)
    message = str(caught.value)
    assert str(tmp_path / name) in message and "download_and_prepare" in message and "\n" not in message
    with pytest.raises(InputError, match=name):
        load_dataset(name)


def test_damaged_folder_is_named(tmp_path):
    folder = tmp_path / "broken" / "1.0.0"
    folder.mkdir(parents=True)
    (folder / "dataset_info.json").write_text("{")
    with pytest.raises(InputError, match="broken"):
        load_dataset("broken", data_dir=tmp_path)


def test_padding_centres_and_refuses_larger_images():
    images = np.full((2, 3, 3, 1), 7, np.uint8)
    padded = pad_to(images, 5)
    assert padded.shape == (2, 5, 5, 1) and padded.sum() == images.sum()
    assert np.array_equal(padded[:, 1:4, 1:4], images)
    with pytest.raises(InputError, match="3x3"):
        pad_to(images, 2)


@pytest.mark.parametrize("shape", [(30, 20, 3), (20, 31, 1), (9, 9, 3)])
def test_center_crop_is_a_square_of_the_middle(shape):
    image = np.zeros(shape, np.uint8)
    image[shape[0] // 2 - 1 : shape[0] // 2 + 2, shape[1] // 2 - 1 : shape[1] // 2 + 2] = 255
    cropped = center_crop(image, 14)
    assert cropped.shape == (14, 14, shape[2]) and cropped.dtype == np.uint8
    assert cropped[5:9, 5:9].mean() > cropped.mean()  # the bright middle stays in the middle


def test_random_views_are_of_the_usual_area_and_aspect():
    """Pixels tell where they come from: red grows to the right, green downwards, 1 a pixel."""
    size, resolution = 240, 60
    rows, columns = np.indices((size, size))
    image = np.stack([columns, rows, np.zeros_like(rows)], axis=2).astype(np.uint8)
    mirrored = areas = 0
    for seed in range(200):
        view = random_crop(image, resolution, np.random.default_rng(seed), mirror=True)
        red, green = view[resolution // 2, :, 0].astype(int), view[:, resolution // 2, 1].astype(int)
        mirrored += red[0] > red[-1]
        # Between the middles of the outermost pixels there are 59/60 of the crop.
        across, down = (abs(line[-1] - line[0]) * resolution / (resolution - 1) for line in (red, green))
        area = across * down / size**2
        areas += area
        assert 0.07 < area < 1.03 and 0.72 < across / down < 1.39
        assert green[0] < green[-1]
    assert 70 < mirrored < 130 and 0.4 < areas / 200 < 0.6


@given(
    height=st.integers(1, 40), width=st.integers(1, 40), channels=st.sampled_from([1, 3]), seed=st.integers(0, 2**32)
)
def test_random_views_of_any_image_have_the_size_asked_for(height, width, channels, seed):
    image = np.full((height, width, channels), 9, np.uint8)
    view = random_crop(image, 16, np.random.default_rng(seed), mirror=True)
    assert view.shape == (16, 16, channels) and view.dtype == np.uint8 and (view == 9).all()


def test_normalized_images_span_minus_one_to_one():
    found = normalize(np.array([0, 51, 255], np.uint8))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, [-1.0, -0.6, 1.0], atol=1e-6)


@pytest.mark.parametrize(
    "labels, purposes",
    [
        ({"train": 1, "validation": 1, "test": 1}, ("train", "validation", "test")),
        ({"train": 1, "val": 1}, ("train", "val", "val")),
        ({"train": 1, "validation": 1, "test": -1}, ("train", "validation", "validation")),
        ({"train": 1, "test": 1}, ("train[:90%]", "train[90%:]", "test")),
        ({"train": 1}, ("train[:90%]", "train[90%:]", "train[90%:]")),
    ],
)
def test_every_purpose_finds_labelled_images(tmp_path, labels, purposes):
    items = [encoded(picture(i, 6, 5)) for i in range(20)]
    # As in ImageNet, where the test images' labels are withheld and stored as -1.
    examples = {split: [(item, label) for item in items] for split, label in labels.items()}
    write_prepared("parts", examples, ["a", "b"], tmp_path)
    dataset = load_dataset("parts", data_dir=tmp_path)
    splits = tuple(dataset.split(purpose) for purpose in ("train", "validation", "test"))
    assert splits == purposes
    seen = {split: {image.tobytes() for image in dataset.load(split).images} for split in splits}
    if "train[90%:]" in splits:
        assert not seen["train[:90%]"] & seen["train[90%:]"]
        assert dataset.count("train[:90%]") == 18 and dataset.count("train[90%:]") == 2


def test_too_few_images_to_hold_a_tenth_out_are_refused(tmp_path):
    items = [(encoded(picture(i, 6, 5)), 0) for i in range(4)]
    write_prepared("tiny", {"train": items}, ["a"], tmp_path)
    with pytest.raises(InputError, match=r"'train\[90%:\]' has no images"):
        training_images(load_dataset("tiny", data_dir=tmp_path), 8)


def test_the_latest_version_is_read(tmp_path):
    folder = write_prepared("tiny", {"train": [(encoded(picture(0, 4, 4)), 0)]}, ["a"], tmp_path)
    for version in ("9.0.0", "10.0.0"):
        shutil.copytree(folder, folder.parent / version)
    assert str(load_dataset("tiny", data_dir=tmp_path).builder.data_path).endswith("10.0.0")


def test_other_formats_than_array_record_are_refused(tmp_path):
    folder = write_prepared("tiny", {"train": [(encoded(picture(0, 4, 4)), 0)]}, ["a"], tmp_path)
    info = folder / "dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    with pytest.raises(InputError, match="'tfrecord'; it must be in array_record"):
        load_dataset("tiny", data_dir=tmp_path)


def test_images_are_read_without_log_lines():
    """In a process of its own, since tensorflow-datasets gives its advice on decoders once."""
    program = "from mqjax.data import load_dataset; load_dataset('fashion_mnist').sized('test', 32, limit=2)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == done.stderr == ""
