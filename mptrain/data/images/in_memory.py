"""Image sets that are small enough to be held in memory: the bundled one, and torchvision's MNISTs and CIFARs.

Owns: reading them and checking that they are whole. Must not: train-time work (see `transforms`, `cached`).
"""

from __future__ import annotations

import contextlib
import sys
from typing import Any

import torch
from torch import Tensor

from mptrain.data.bundled_files import SHA256, read_bundled_arrays
from mptrain.data.images.augment import with_mixing
from mptrain.data.images.configs import Cifar10Config, FashionMnistConfig, GreyConfig, MnistConfig
from mptrain.data.images.transforms import AugmentedImages
from mptrain.errors import DataError, first_line
from mptrain.interfaces import DataSpec, DataSplits, InMemory
from mptrain.torchvision_import import import_torchvision

FASHION_MNIST = "fashion_mnist_12k.npz.xz"
TORCHVISION_CLASSES = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST", "cifar10": "CIFAR10", "cifar100": "CIFAR100"}

ImageConfig = GreyConfig | Cifar10Config
Images = tuple[Tensor, Tensor]
"""uint8 images (N, C, H, W) and int64 labels (N,)."""


def fashion_mnist_12k(config: GreyConfig) -> DataSplits:
    """Return the bundled Fashion-MNIST subset; raise DataError when the file is missing or damaged."""
    content = read_bundled_arrays(FASHION_MNIST)
    train, test = (
        (torch.from_numpy(content[f"{split}_images"]).unsqueeze(1), torch.from_numpy(content[f"{split}_labels"]))
        for split in ("train", "test")
    )
    classes = tuple(map(str, content["classes"]))
    return in_memory_splits(config, train, test, classes, {"sha256": SHA256[FASHION_MNIST]})


def downloaded(config: MnistConfig | FashionMnistConfig | Cifar10Config) -> DataSplits:
    """Return one of torchvision's sets; raise DataError when its files are missing, damaged or cannot be fetched."""
    dataset_class = getattr(import_torchvision("datasets"), TORCHVISION_CLASSES[config.name])
    try:
        # torchvision prints its progress; standard output belongs to the run's result.
        with contextlib.redirect_stdout(sys.stderr):
            train, test = (
                dataset_class(config.root, train=is_train, download=config.download) for is_train in (True, False)
            )
    except Exception as error:  # torchvision has no error of its own: what it raises on bad files depends on the damage
        remedy = "check the network, or copy the files there" if config.download else "set data.download=true"
        raise DataError(
            f"data.root: {config.name} cannot be read from '{config.root}' ({first_line(error)}); {remedy}"
        ) from error
    return in_memory_splits(config, _images(train), _images(test), tuple(train.classes), {})


def _images(dataset: Any) -> Images:
    """Return a torchvision set's images and labels, channels first."""
    images = torch.as_tensor(dataset.data)
    images = images.unsqueeze(1) if images.dim() == 3 else images.permute(0, 3, 1, 2).contiguous()
    return images, torch.as_tensor(dataset.targets)


def in_memory_splits(
    config: ImageConfig, train: Images, test: Images, class_names: tuple[str, ...], identity: dict[str, str]
) -> DataSplits:
    """Return splits of images that are normalised, and augmented in training, as `config` says.

    Raises DataError for a label that is none of the classes.
    """
    for split, (_, labels) in (("training", train), ("test", test)):
        _check_labels(config, split, labels, len(class_names))
    augment = config.augment
    transform = AugmentedImages(config.mean, config.std, augment)
    spec = DataSpec(tuple(train[0].shape[1:]), len(class_names), class_names=class_names)
    return DataSplits(
        spec,
        InMemory(
            train[0],
            train[1].long(),
            with_mixing(transform, augment, len(class_names)),
            augments=augment != type(augment)(),
        ),
        InMemory(test[0], test[1].long(), transform, augments=False),
        {"name": config.name, "train": len(train[0]), "test": len(test[0]), **identity},
    )


def _check_labels(config: ImageConfig, split: str, labels: Tensor, num_classes: int) -> None:
    wrong = torch.nonzero((labels < 0) | (labels >= num_classes)).flatten()
    if len(wrong):
        first = int(wrong[0])
        raise DataError(
            f"data: {split} image {first} of {config.name} has label {int(labels[first])}; labels are 0 to "
            f"{num_classes - 1}: the files are damaged, remove them and get them again"
        )
