"""What image sets of a fixed kind are like before their files are there. Must not: read files, or import torch."""

from __future__ import annotations

from mptrain.data.expected import expected_spec
from mptrain.data.images.configs import Cifar10Config, Cifar100Config, FolderConfig, GreyConfig, ShardsConfig
from mptrain.interfaces import DataSpec

IMAGENET_CLASSES = 1000
"""Classes of ILSVRC 2012."""


@expected_spec.register
def _grey(config: GreyConfig) -> DataSpec:
    return DataSpec((1, 28, 28), 10)


@expected_spec.register
def _cifar10(config: Cifar10Config) -> DataSpec:
    return DataSpec((3, 32, 32), 10)


@expected_spec.register
def _cifar100(config: Cifar100Config) -> DataSpec:
    return DataSpec((3, 32, 32), 100)


@expected_spec.register
def _folder(config: FolderConfig) -> DataSpec | None:
    # The classes of other folders are what they hold.
    size = config.image_size
    return DataSpec((3, size, size), IMAGENET_CLASSES) if config.name == "imagenet" else None


@expected_spec.register
def _shards(config: ShardsConfig) -> DataSpec:
    return DataSpec((3, config.image_size, config.image_size), config.num_classes)
