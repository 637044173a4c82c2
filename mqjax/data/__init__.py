"""Image data sets, read through tensorflow-datasets' `data_source` (array_record files, no TensorFlow).

`fashion_mnist` ships inside the package as a class-balanced subset: 2,000 training and 2,000 validation images drawn
from the training set, and all 10,000 test images. Any other data set is a folder that tensorflow-datasets prepared in
the array_record format, or one made from a folder of class folders by `prepare_image_folder`.
"""

from __future__ import annotations

import dataclasses
import logging
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from mqjax.data.preparing import prepare_image_folder as prepare_image_folder
from mqjax.data.preparing import write_prepared as write_prepared
from mqjax.errors import InputError, meant

EMBEDDED = Path(__file__).parent / "prepared"


@dataclasses.dataclass(frozen=True)
class Images:
    """Decoded images of one split: uint8 [N, H, W, channels], and their labels, int32 [N]."""

    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A prepared data set: `source(split)` gives random access to encoded or decoded examples."""

    name: str
    builder: Any
    classes: int
    embedded: bool = False

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(self.builder.info.splits)

    def split(self, purpose: str) -> str:
        """The images for a purpose, "train", "validation" or "test", as tensorflow-datasets names splits and their parts.

        Without a validation split the last tenth of the training images is held out. Where no test split is labelled (as
        in ImageNet), testing uses the validation images.
        """
        held_out = next((split for split in ("validation", "val") if split in self.splits), None)
        if purpose == "train":
            return "train" if held_out else "train[:90%]"
        if purpose == "test" and "test" in self.splits and int(self.source("test")[0]["label"]) >= 0:
            return "test"
        return held_out or "train[90%:]"

    def count(self, split: str) -> int:
        """Number of images of a split or a part of one."""
        return len(self.source(split))

    @property
    def channels(self) -> int:
        """Channels of the images: 1 for grey, 3 for colour."""
        return int(self.builder.info.features["image"].shape[-1])

    def source(self, split: str) -> Any:
        """tensorflow-datasets' random-access source of a split, or of a part as in "train[:90%]"; items are dicts with "image" and "label"."""
        if split.split("[")[0] not in self.splits:
            raise InputError(f"data set {self.name!r} has no split {split!r}; it has {', '.join(self.splits)}")
        if not self.builder.info.splits[split].num_examples:
            raise InputError(f"data set {self.name!r}: split {split!r} has no images; prepare it with more")
        return self.builder.as_data_source(split)

    def load(self, split: str, *, limit: int | None = None, resolution: int | None = None) -> Images:
        """A split in memory, its first `limit` images; with `resolution`, each is resized and cropped as for evaluation
        (see `center_crop`)."""
        source = self.source(split)
        count = len(source) if limit is None else min(limit, len(source))
        if limit is not None and limit > len(source):
            raise InputError(f"data set {self.name!r}: split {split!r} has {len(source)} images, fewer than {limit}")

        def item(i: int) -> tuple[np.ndarray, int]:
            example = source[i]
            image = example["image"]
            return (image if resolution is None else center_crop(image, resolution)), int(example["label"])

        with ThreadPoolExecutor() as pool:
            items = list(pool.map(item, range(count), chunksize=64))
        shapes = {image.shape for image, _ in items}
        if len(shapes) > 1:
            raise InputError(f"data set {self.name!r}: its images differ in size; give a resolution")
        return Images(np.stack([image for image, _ in items]), np.array([label for _, label in items], np.int32))

    def padded(self, resolution: int) -> bool:
        """Whether all images have one known size that fits this resolution, so that they are padded and not cropped."""
        height, width = self.builder.info.features["image"].shape[:2]
        return self.embedded or (height is not None and width is not None and max(height, width) <= resolution)

    def sized(self, split: str, resolution: int, *, limit: int | None = None) -> Images:
        """A split as a network of this resolution takes it: small images of one size get a black border, others are
        resized and cropped."""
        images = self.load(split, limit=limit, resolution=None if self.padded(resolution) else resolution)
        return Images(pad_to(images.images, resolution), images.labels)


def _no_advice(line: logging.LogRecord) -> bool:
    """Whether a log line of tensorflow-datasets is for users: its advice on faster image decoders is not."""
    return "OpenCV" not in str(line.msg)


def load_dataset(name: str, *, data_dir: str | Path | None = None) -> Dataset:
    """The prepared data set `name`, in `data_dir` or, by default, the one inside the package.

    Raises `InputError` at once, without touching the network, where no prepared data is found: it says which folder was
    looked in and how to prepare it.
    """
    import tensorflow_datasets as tfds

    logging.getLogger("absl").addFilter(_no_advice)
    root = EMBEDDED if data_dir is None else Path(data_dir)
    folder = _version_folder(root, name)
    if folder is None:
        where = "inside the package" if data_dir is None else f"in {root / name}"
        raise InputError(
            f"no prepared data set {name!r} {where}: prepare it where there is a network with "
            f"tfds.builder({name!r}, data_dir=DIR, file_format='array_record').download_and_prepare(), or from class "
            f"folders with mqjax.data.prepare_image_folder or `mqjax data prepare`, and pass --data-dir DIR"
            f"{meant(name, prepared_names(root))}"
        )
    try:
        builder = tfds.builder_from_directory(str(folder))
    except Exception as error:  # tfds raises many kinds for a damaged folder
        raise InputError(f"the data set in {folder} cannot be read: {error}") from None
    if (found := builder.info.file_format) != tfds.core.FileFormat.ARRAY_RECORD:
        raise InputError(
            f"the data set in {folder} is in the format {found.value if found else 'unknown'!r}; it must be in array_record: "
            f"tfds.builder({name!r}, data_dir=DIR, file_format='array_record').download_and_prepare()"
        )
    features: Any = builder.info.features
    if features is None or not {"image", "label"} <= set(features):
        raise InputError(f"the data set in {folder} must have the features 'image' and 'label'")
    return Dataset(name, builder, int(features["label"].num_classes), embedded=data_dir is None)


@dataclasses.dataclass(frozen=True)
class EncodedImages:
    """A split whose images are decoded and cropped when they are needed: for data that does not fit in memory."""

    source: Any
    resolution: int

    def __len__(self) -> int:
        return len(self.source)

    def view(self, i: int, seed: list[int], *, mirror: bool) -> tuple[np.ndarray, int]:
        """A random view uint8 [resolution, resolution, C] of image i (see `random_crop`), and its label."""
        example = self.source[i]
        image = random_crop(example["image"], self.resolution, np.random.default_rng(seed), mirror=mirror)
        return image, int(example["label"])


def training_images(dataset: Dataset, resolution: int) -> tuple[Images | EncodedImages, Images]:
    """Training and validation images of a prepared data set at this resolution (see `Dataset.split`).

    Of the embedded Fashion-MNIST, where the full set is installed: all its training images but the 5,000 held out, and
    those; else the embedded subset. Images that are cropped stay encoded."""
    from mqjax.data.fashion_mnist import SYSTEM_FOLDER, held_out, read_idx

    if dataset.embedded and dataset.name == "fashion_mnist" and SYSTEM_FOLDER.exists():
        images, labels = read_idx(SYSTEM_FOLDER, "train")
        images, labels = pad_to(images[..., None], resolution), labels.astype(np.int32)
        out = held_out(labels)
        return Images(images[~out], labels[~out]), Images(images[out], labels[out])
    validation = dataset.sized(dataset.split("validation"), resolution)
    if not dataset.padded(resolution):
        return EncodedImages(dataset.source(dataset.split("train")), resolution), validation
    return dataset.sized(dataset.split("train"), resolution), validation


def prepared_names(root: Path) -> list[str]:
    """Names of the data sets that are prepared in a folder."""
    found = [*root.glob("*/*/dataset_info.json"), *root.glob("*/*/*/dataset_info.json")]
    return sorted({path.relative_to(root).parts[0] for path in found})


def _version_folder(root: Path, name: str) -> Path | None:
    """The folder with dataset_info.json: root/name[/config]/version, the latest version."""

    def version(folder: Path) -> list[int]:
        return [int(number) for number in re.findall(r"\d+", folder.name)]

    folders = [info.parent for info in sorted((root / name).glob("**/dataset_info.json"))]
    return max(folders, key=version, default=None)


def center_crop(image: np.ndarray, resolution: int) -> np.ndarray:
    """The usual evaluation view: the shorter side to 8/7 of `resolution`, then the central square. uint8 in and out."""
    from PIL import Image

    channels = image.shape[-1]
    picture = Image.fromarray(image[..., 0] if channels == 1 else image)
    scale = max(resolution, round(resolution * 8 / 7)) / min(picture.size)
    picture = picture.resize((max(1, round(picture.width * scale)), max(1, round(picture.height * scale))), 2)
    left, top = (picture.width - resolution) // 2, (picture.height - resolution) // 2
    array = np.asarray(picture.crop((left, top, left + resolution, top + resolution)))
    return array[..., None] if channels == 1 else array


def random_crop(image: np.ndarray, resolution: int, generator: np.random.Generator, *, mirror: bool) -> np.ndarray:
    """The usual training view: 8 to 100 % of the area at an aspect ratio of 3:4 to 4:3, resized, mirrored half the time.

    uint8 in and out (Szegedy et al. 2015, section 6).
    """
    from PIL import Image

    height, width, channels = image.shape
    for _ in range(10):
        area = generator.uniform(0.08, 1.0) * height * width
        ratio = np.exp(generator.uniform(np.log(3 / 4), np.log(4 / 3)))
        across, down = round(np.sqrt(area * ratio)), round(np.sqrt(area / ratio))
        if 0 < across <= width and 0 < down <= height:
            break
    else:
        across = down = min(height, width)
    left, top = generator.integers(0, width - across + 1), generator.integers(0, height - down + 1)
    picture = Image.fromarray(image[..., 0] if channels == 1 else image)
    box = (left, top, left + across, top + down)
    view = np.asarray(picture.resize((resolution, resolution), Image.Resampling.BILINEAR, box=box, reducing_gap=2.0))
    view = view[..., None] if channels == 1 else view
    return view[:, ::-1] if mirror and generator.random() < 0.5 else view


def pad_to(images: np.ndarray, resolution: int) -> np.ndarray:
    """Images [N, H, W, C] with a black border up to `resolution`; larger images are an error."""
    height, width = images.shape[1:3]
    if height > resolution or width > resolution:
        raise InputError(f"images of {height}x{width} do not fit the resolution {resolution}")
    top, left = (resolution - height) // 2, (resolution - width) // 2
    border = ((0, 0), (top, resolution - height - top), (left, resolution - width - left), (0, 0))
    return np.pad(images, border)


def normalize(images: np.ndarray) -> np.ndarray:
    """uint8 to float32 in -1..1, as MobileNets are trained."""
    return images.astype(np.float32) / np.float32(127.5) - np.float32(1.0)
