"""Image files in one folder per class, read one by one: your own, or ImageNet's.

Owns: finding them (`streamed` crops and augments). Must not: hold images, or hide a damaged file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils.data import Dataset

from mptrain.data.images.configs import FolderConfig
from mptrain.data.images.decode import load_rgb
from mptrain.data.images.streamed import eval_transform, test_split, train_split, train_transform
from mptrain.errors import DataError, first_line
from mptrain.interfaces import BadFiles, DataSpec, DataSplits
from mptrain.torchvision_import import import_torchvision

IMAGENET_DEVKIT = "ILSVRC2012_devkit_t12.tar.gz"

Files = dict[str, list[str]]
"""The image files of each class, both sorted by name."""


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
    train, test = map(_list_files, roots)
    if train.keys() != test.keys():
        odd = sorted(train.keys() ^ test.keys())
        raise DataError(
            f"data.root: {roots[0]} and {roots[1]} have different classes ({', '.join(odd[:5])}); "
            "give both the same folders"
        )
    bad_files = BadFiles(config.on_error)
    classes = _usable_classes(roots, train, test, bad_files)
    train, test = ({name: files[name] for name in classes} for files in (train, test))
    train_images, test_images = ImageFiles(train, train_transform(config)), ImageFiles(test, eval_transform(config))
    spec = DataSpec((3, config.image_size, config.image_size), len(classes), class_names=classes)
    identity = {"name": config.name, "train": len(train_images), "test": len(test_images), "classes": len(classes)}
    splits = train_split(config, train_images, len(classes)), test_split(config, test_images)
    return DataSplits(spec, *splits, identity, bad_files)


def _extract_imagenet(root: Path) -> None:
    """Unpack ImageNet's archives into train/ and val/ folders, as torchvision does; nothing where that is done."""
    datasets = import_torchvision("datasets")
    try:
        for split in ("train", "val"):
            datasets.ImageNet(str(root), split)
    except Exception as error:  # torchvision has no error of its own: what it raises depends on the damage
        raise DataError(
            f"data.root: the ImageNet archives in {root} cannot be unpacked: {first_line(error)}"
        ) from error


def _list_files(folder: Path) -> Files:
    if not folder.is_dir():
        raise DataError(
            f"data.root: there is no folder {folder.absolute()}; give a folder with train/<class>/* and test/<class>/* "
            "(or val/<class>/*)"
        )
    classes = sorted(child.name for child in folder.iterdir() if child.is_dir() and not child.name.startswith("."))
    if not classes:
        raise DataError(f"data.root: {folder} holds no folders; give it one folder of images per class")
    finding = import_torchvision("datasets.folder")
    indices = {name: index for index, name in enumerate(classes)}
    files: Files = {name: [] for name in classes}
    for path, label in finding.make_dataset(str(folder), indices, finding.IMG_EXTENSIONS, allow_empty=True):
        files[classes[label]].append(path)
    return files


def _usable_classes(roots: tuple[Path, Path], train: Files, test: Files, bad_files: BadFiles) -> tuple[str, ...]:
    """Return the classes that have images in both folders; report those that have none."""
    for root, files in zip(roots, (train, test), strict=True):
        for name, paths in files.items():
            if not paths:
                bad_files.report(
                    DataError(
                        f"data.root: {root / name} holds no images; add some, remove the class's folders, or leave the "
                        "class out with data.on_error=skip"
                    )
                )
    usable = tuple(name for name in train if train[name] and test[name])
    if not usable:
        raise DataError(f"data.root: no class has images in both {roots[0]} and {roots[1]}")
    return usable
