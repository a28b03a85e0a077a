"""Images and their classes in tar shards of webdataset's layout, read in place.

Owns: which members are image and class, and the index of where they lie. Must not: read images before they are asked
for, or hide a sample that cannot be used.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset

from mptrain.data.images.configs import ShardsConfig
from mptrain.data.images.decode import decode_image
from mptrain.data.images.streamed import eval_transform, test_split, train_split, train_transform
from mptrain.data.overlap import check_apart
from mptrain.data.tar_shards import Extent, TarSample, read_member, shard_paths, tar_samples
from mptrain.errors import DataError, first_line
from mptrain.interfaces import BadFiles, DataSpec, DataSplits

IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp", "bmp", "ppm", "tif", "tiff")
MAX_LABEL_BYTES = 2**20
"""A class and what is said of it take less."""


class _Image(NamedTuple):
    """Where an image lies, and its class."""

    shard: int
    offset: int
    size: int
    label: int


class ShardImages(Dataset[tuple[Tensor, int]]):
    """dataset[i] -> (uint8 image (3, size, size), class)."""

    def __init__(self, paths: list[Path], images: list[_Image], names: list[str], transform: Any) -> None:
        self._paths, self._transform = paths, transform
        # Arrays: a million tuples would be copied into every loader process as their reference counts change.
        self.index = np.array(images, dtype=np.int64).reshape(-1, len(_Image._fields))
        # For messages only. A name that is no UTF-8 comes from tarfile with surrogates in it.
        self._names = np.array([name.encode(errors="backslashreplace") for name in names])

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """Read, decode and transform one image; raise DataError naming shard and member of one that is damaged."""
        place = _Image(*self.index[index].tolist())
        path = self._paths[place.shard]
        content = read_member(path, Extent(place.offset, place.size))
        image: Tensor = self._transform(decode_image(io.BytesIO(content), f"{path}: {self._names[index].decode()}"))
        return image, place.label


def image_shards(config: ShardsConfig) -> DataSplits:
    """Return the training and test shards.

    Raises DataError for shards that are missing, damaged or empty, and for samples without an image or a class of
    0 .. num_classes - 1 (which data.on_error=skip leaves out), ConfigError for a test shard that is also for training.
    """
    bad_files = BadFiles(config.on_error)
    train_paths, test_paths = shard_paths("data.train", config.train), shard_paths("data.test", config.test)
    check_apart(train_paths, test_paths)
    train = _indexed("data.train", train_paths, config, train_transform(config), bad_files)
    test = _indexed("data.test", test_paths, config, eval_transform(config), bad_files)
    digest = hashlib.sha256(train.index.tobytes() + test.index.tobytes()).hexdigest()
    identity = {"name": config.name, "train": len(train), "test": len(test), "index_sha256": digest}
    spec = DataSpec((3, config.image_size, config.image_size), config.num_classes)
    splits = train_split(config, train, config.num_classes), test_split(config, test)
    return DataSplits(spec, *splits, identity, bad_files)


def _indexed(key: str, paths: list[Path], config: ShardsConfig, transform: Any, bad_files: BadFiles) -> ShardImages:
    images: list[_Image] = []
    names: list[str] = []
    for number, path in enumerate(paths):
        try:
            found = list(_images_of(number, path, config, bad_files))
        except DataError as error:
            bad_files.report(error)  # with a damaged shard go all of its samples
            continue
        images += [image for image, _ in found]
        names += [name for _, name in found]
    if not images:
        raise DataError(
            f"{key}: no sample of {len(paths)} shard(s) from {paths[0]} on can be used; give shards of images with "
            "their classes"
        )
    return ShardImages(paths, images, names, transform)


def _images_of(shard: int, path: Path, config: ShardsConfig, bad_files: BadFiles) -> Iterator[tuple[_Image, str]]:
    for sample in tar_samples(path):
        extension = next((e for e in IMAGE_EXTENSIONS if e in sample.members), None)
        try:
            if extension is None:
                raise DataError(f"{path}: {sample.key} has no image (.{', .'.join(IMAGE_EXTENSIONS)})")
            label = _label(path, sample, config)
        except DataError as error:
            bad_files.report(error)
        else:
            yield _Image(shard, *sample.members[extension], label), f"{sample.key}.{extension}"


def _label(path: Path, sample: TarSample, config: ShardsConfig) -> int:
    extension = next((e for e in ("cls", "json") if e in sample.members), None)
    if extension is None:
        raise DataError(f"{path}: {sample.key} has no class: neither .cls nor .json")
    where, extent = f"{path}: {sample.key}.{extension}", sample.members[extension]
    if extent.size > MAX_LABEL_BYTES:
        raise DataError(f"{where}: holds {extent.size:,} bytes; a class takes less than {MAX_LABEL_BYTES:,}")
    content = read_member(path, extent)
    try:
        label = int(content) if extension == "cls" else json.loads(content)[config.label_key]
    except KeyError:
        raise DataError(f"{where}: has no '{config.label_key}'; set data.label_key") from None
    except (ValueError, TypeError, RecursionError) as error:
        raise DataError(f"{where}: holds no class ({first_line(error)})") from error
    if type(label) is not int or not 0 <= label < config.num_classes:
        raise DataError(
            f"{where}: the class is {label!r:.40}; classes are whole numbers from 0 to {config.num_classes - 1} "
            "(data.num_classes)"
        )
    return label
