"""Image files in one folder per class, read one by one: your own, or ImageNet's.

Owns: finding them (`streamed` crops and augments). Must not: hold images, or hide a damaged file.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils.data import Dataset

from mptrain.data.class_folders import Files, class_files, identity_of
from mptrain.data.images.configs import FolderConfig
from mptrain.data.images.decode import load_rgb
from mptrain.data.images.streamed import eval_transform, test_split, train_split, train_transform
from mptrain.errors import DataError, first_line
from mptrain.interfaces import BadFiles, DataSpec, DataSplits
from mptrain.torchvision_import import import_torchvision

IMAGENET_DEVKIT = "ILSVRC2012_devkit_t12.tar.gz"


class ImageFiles(Dataset[tuple[Tensor, int]]):
    """dataset[i] -> (uint8 image (3, size, size), class)."""

    def __init__(self, files: Files, transform: Any) -> None:
        self._samples = [(path, label) for label, paths in enumerate(files.values()) for path in paths]
        self._transform = transform

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """Decode and transform one file; raise DataError naming a file that is damaged."""
        path, label = self._samples[index]
        image: Tensor = self._transform(load_rgb(path))
        return image, label


def image_folder(config: FolderConfig) -> DataSplits:
    """Return the training and test folders.

    Raises DataError when one is missing or of other classes, or when a class has no images (which data.on_error=skip
    leaves out of both instead).
    """
    root = Path(config.root).expanduser()
    if config.name == "imagenet" and (root / IMAGENET_DEVKIT).exists():
        _extract_imagenet(root)
    roots = root / "train", root / "test" if (root / "test").is_dir() and config.name != "imagenet" else root / "val"
    bad_files = BadFiles(config.on_error)
    train, test = class_files(roots, "images", _images_in, bad_files)
    classes = tuple(train)
    train_images, test_images = ImageFiles(train, train_transform(config)), ImageFiles(test, eval_transform(config))
    spec = DataSpec((3, config.image_size, config.image_size), len(classes), class_names=classes)
    identity = identity_of(config.name, roots, train, test)
    splits = train_split(config, train_images, len(classes)), test_split(config, test_images)
    return DataSplits(spec, *splits, identity, bad_files)


def _extract_imagenet(root: Path) -> None:
    """Unpack ImageNet's archives into train/ and val/ folders, as torchvision does; nothing where that is done."""
    datasets = import_torchvision("datasets")
    try:
        with _unpacking_safely():
            for split in ("train", "val"):
                datasets.ImageNet(str(root), split)
    except Exception as error:  # torchvision has no error of its own: what it raises depends on the damage
        raise DataError(
            f"data.root: the ImageNet archives in {root} cannot be unpacked: {first_line(error)}"
        ) from error


@contextmanager
def _unpacking_safely() -> Iterator[None]:
    """Let tarfile refuse members that would be written outside; before Python 3.14 it does not by itself."""
    before = tarfile.TarFile.extraction_filter
    tarfile.TarFile.extraction_filter = staticmethod(tarfile.data_filter)
    try:
        yield
    finally:
        tarfile.TarFile.extraction_filter = before


def _images_in(folder: Path) -> list[str]:
    """Return the image files in a class's folder and those below it."""
    finding = import_torchvision("datasets.folder")
    found = finding.make_dataset(str(folder.parent), {folder.name: 0}, finding.IMG_EXTENSIONS, allow_empty=True)
    return [path for path, _ in found]
