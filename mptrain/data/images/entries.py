"""Names and descriptions of the built-in image classification sets.

Owns: their registration. Must not: import torch or numpy at module level; each build names its module.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mptrain.data.images import expected as expected
from mptrain.data.images.configs import (
    Cifar10Config,
    Cifar100Config,
    FashionMnistConfig,
    FolderConfig,
    GreyConfig,
    MnistConfig,
    ShardsConfig,
)
from mptrain.registry import DATASETS

if TYPE_CHECKING:
    from mptrain.interfaces import DataSplits


@DATASETS.register("fashion_mnist_12k", config=GreyConfig, description="Fashion-MNIST, 10,000 + 2,000 images, bundled")
def _fashion_mnist_12k(config: GreyConfig, seed: int) -> DataSplits:
    from mptrain.data.images import in_memory

    return in_memory.fashion_mnist_12k(config)


@DATASETS.register("mnist", config=MnistConfig, description="MNIST, 28x28 grey digits, torchvision")
@DATASETS.register("fashion_mnist", config=FashionMnistConfig, description="Fashion-MNIST, 28x28 grey, torchvision")
@DATASETS.register("cifar10", config=Cifar10Config, description="CIFAR-10, 32x32 colour, torchvision")
@DATASETS.register("cifar100", config=Cifar100Config, description="CIFAR-100, 32x32 colour, torchvision")
def _downloaded(config: MnistConfig | FashionMnistConfig | Cifar10Config, seed: int) -> DataSplits:
    from mptrain.data.images import in_memory

    return in_memory.downloaded(config)


@DATASETS.register("image_folder", config=FolderConfig, description="Image files in train/<class>/ and test/<class>/")
@DATASETS.register("imagenet", config=FolderConfig, description="ImageNet: train/ and val/ folders, or its archives")
def _folder(config: FolderConfig, seed: int) -> DataSplits:
    from mptrain.data.images import folders

    return folders.image_folder(config)


@DATASETS.register("image_shards", config=ShardsConfig, description="Images and classes in webdataset's tar shards")
def _shards(config: ShardsConfig, seed: int) -> DataSplits:
    from mptrain.data.images import shards

    return shards.image_shards(config)
