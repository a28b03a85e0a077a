"""Image files in one folder per class, read one by one: your own, or ImageNet's.

Owns: finding, decoding and transforming them. Must not: hold images, or hide a damaged file.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from mptrain.data.images.configs import FolderConfig
from mptrain.errors import DataError, first_line
from mptrain.interfaces import DataSpec, DataSplits, Streamed
from mptrain.torchvision_import import import_torchvision

if TYPE_CHECKING:
    from PIL import Image

IMAGENET_DEVKIT = "ILSVRC2012_devkit_t12.tar.gz"


def image_folder(config: FolderConfig) -> DataSplits:
    """Return the training and test folders; raise DataError when one is missing, empty, or of other classes."""
    root = Path(config.root).expanduser()
    if config.name == "imagenet" and (root / IMAGENET_DEVKIT).exists():
        _extract_imagenet(root)
    test_root = root / "test" if (root / "test").is_dir() and config.name != "imagenet" else root / "val"
    train = _folder(root / "train", _train_transform(config))
    test = _folder(test_root, _eval_transform(config))
    if train.classes != test.classes:
        odd = sorted(set(train.classes) ^ set(test.classes))
        raise DataError(
            f"data.root: {root / 'train'} and {test_root} have different classes ({', '.join(odd[:5])}); "
            "give both the same folders"
        )
    spec = DataSpec((3, config.image_size, config.image_size), len(train.classes), class_names=tuple(train.classes))
    identity = {"name": config.name, "train": len(train), "test": len(test), "classes": len(train.classes)}
    return DataSplits(spec, Streamed(train), Streamed(test), identity)


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


def _folder(folder: Path, transform: Any) -> Any:
    if not folder.is_dir():
        raise DataError(
            f"data.root: there is no folder {folder.absolute()}; give a folder with train/<class>/* and test/<class>/* "
            "(or val/<class>/*)"
        )
    try:
        return import_torchvision("datasets").ImageFolder(str(folder), transform=transform, loader=load_rgb)
    except FileNotFoundError as error:
        raise DataError(f"data.root: {folder} needs one folder of images per class: {first_line(error)}") from error


def load_rgb(path: str) -> Image.Image:
    """Decode one image file as RGB; raise DataError naming a file that is damaged."""
    from PIL import Image

    try:
        with open(path, "rb") as file:
            return Image.open(file).convert("RGB")
    # What Pillow raises on damaged bytes, and on images so large that they look like an attack.
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise DataError(f"data.root: {path} cannot be decoded as an image; repair or remove it") from error


def _train_transform(config: FolderConfig) -> Any:
    v2 = import_torchvision("transforms.v2")
    return v2.Compose(
        [v2.RandomResizedCrop(config.image_size, antialias=True), v2.RandomHorizontalFlip(), *_to_tensor(config)]
    )


def _eval_transform(config: FolderConfig) -> Any:
    v2 = import_torchvision("transforms.v2")
    # The field's convention: resize to 256 for a crop of 224, and in proportion.
    resized = round(config.image_size * 256 / 224)
    return v2.Compose([v2.Resize(resized, antialias=True), v2.CenterCrop(config.image_size), *_to_tensor(config)])


def _to_tensor(config: FolderConfig) -> list[Any]:
    v2 = import_torchvision("transforms.v2")
    return [v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(list(config.mean), list(config.std))]
