"""Prepared data sets from encoded images, and from folders of images by split and class."""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mqjax.errors import InputError

SUFFIXES = (".png", ".jpg", ".jpeg")


def prepare_image_folder(source: str | Path, name: str, data_dir: str | Path, *, channels: int | None = None) -> Path:
    """Prepare source/SPLIT/CLASS/*.png|jpg as the data set `name` under `data_dir`. Returns its folder.

    Images get 3 `channels`, or 1 where all are grey, unless it is given; what is stored otherwise (grey among colour, a
    palette, transparency, 16 bits) is converted; the others keep their encoded bytes. Images that all have
    one size are not cropped later where that size fits a network's resolution.
    Raises `InputError` where no such images are found, or one cannot be decoded.
    """
    splits: dict[str, list[Path]] = {}
    for path in sorted(Path(source).glob("*/*/*")):
        if path.suffix.lower() in SUFFIXES:
            splits.setdefault(path.parts[-3], []).append(path)
    if not splits:
        raise InputError(f"no images in {source}: expected SPLIT/CLASS/*.png or *.jpg below it")
    paths = [path for part in splits.values() for path in part]
    pictures = {path: _opened(path) for path in paths}
    if channels is None:
        channels = 1 if all(mode[0] in "1LI" for mode, _, _ in pictures.values()) else 3
    sizes = {size for _, size, _ in pictures.values()}
    classes = sorted({path.parent.name for path in paths})
    examples = {
        split: [
            (_with_channels(pictures[path][0], pictures[path][2], channels), classes.index(path.parent.name))
            for path in part
        ]
        for split, part in splits.items()
    }
    return write_prepared(name, examples, classes, data_dir, channels, sizes.pop() if len(sizes) == 1 else (None, None))


def write_prepared(
    name: str,
    examples: dict[str, list[tuple[bytes, int]]],
    classes: list[str],
    data_dir: str | Path,
    channels: int = 3,
    size: tuple[int | None, int | None] = (None, None),
) -> Path:
    """Write encoded images with labels as a prepared data set, one array_record file per split. Returns its folder.

    size: height and width of all images; None where they differ or nobody knows."""
    import tensorflow_datasets as tfds

    features = tfds.features.FeaturesDict(
        {"image": tfds.features.Image(shape=(*size, channels)), "label": tfds.features.ClassLabel(names=classes)}
    )

    def generate(items: list[tuple[bytes, int]]) -> Iterator[tuple[int, dict[str, Any]]]:
        for i, (image, label) in enumerate(items):
            yield i, {"image": io.BytesIO(image), "label": label}

    class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # several may be made in one process
        VERSION = tfds.core.Version("1.0.0")
        name = "prepared"

        def _info(self):
            return self.dataset_info_from_configs(features=features)

        def _split_generators(self, dl_manager):
            return {split: generate(items) for split, items in examples.items()}

        def _generate_examples(self):
            raise AssertionError("splits are given as generators")

    Builder.name = name
    builder = Builder(data_dir=str(data_dir), file_format="array_record")
    tfds.disable_progress_bar()
    # It says that it downloads, which it does not, and makes a folder for that.
    with tempfile.TemporaryDirectory() as nowhere, contextlib.redirect_stdout(io.StringIO()):
        builder.download_and_prepare(download_dir=nowhere)
    return Path(builder.data_dir)


def _opened(path: Path) -> tuple[str, tuple[int, int], bytes]:
    """Pillow's mode of an image, its height and width, and its encoded bytes."""
    from PIL import Image

    content = path.read_bytes()
    try:
        with Image.open(io.BytesIO(content), formats=("PNG", "JPEG")) as picture:
            picture.load()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        raise InputError(f"{path} cannot be read as a PNG or JPEG image") from None
    return picture.mode, (picture.height, picture.width), content


def _with_channels(mode: str, content: bytes, channels: int) -> bytes:
    """The encoded image, encoded anew as PNG where it is not stored with so many channels of 8 bits."""
    from PIL import Image

    wanted = {1: "L", 3: "RGB"}[channels]
    if mode == wanted:
        return content
    picture = Image.open(io.BytesIO(content))
    if mode.startswith("I"):  # 16 bits, which Pillow would clip
        picture = Image.fromarray((np.asarray(picture) // 257).astype(np.uint8))
    buffer = io.BytesIO()
    picture.convert(wanted).save(buffer, "PNG")
    return buffer.getvalue()
