"""What image sets share that are read one image at a time: how an image is cropped, augmented and normalised.

Owns: these transforms and the splits made with them. Must not: find or read images.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.utils.data import Dataset

from mptrain.data.images.augment import erasing, rand_augment, with_mixing
from mptrain.data.images.configs import StreamedImageConfig
from mptrain.data.images.transforms import Normalize
from mptrain.interfaces import Streamed
from mptrain.torchvision_import import import_torchvision

Images = Dataset[tuple[Tensor, int]]
"""dataset[i] -> (uint8 image (3, size, size), class)."""


def train_split(config: StreamedImageConfig, dataset: Images, num_classes: int) -> Streamed:
    """Return the training split of images made by `train_transform`, mixed and normalised in batches."""
    normalize = Normalize(config.mean, config.std)
    mixes = with_mixing(normalize, config.augment, num_classes)
    return Streamed(dataset, transform=mixes, augments=mixes is not normalize)


def test_split(config: StreamedImageConfig, dataset: Images) -> Streamed:
    """Return the test split of images made by `eval_transform`, normalised in batches."""
    return Streamed(dataset, transform=Normalize(config.mean, config.std))


def train_transform(config: StreamedImageConfig) -> Any:
    """Return what makes a training sample of a decoded image: crop, mirror, augment, erase."""
    v2 = import_torchvision("transforms.v2")
    return v2.Compose(
        [
            v2.RandomResizedCrop(config.image_size, antialias=True),
            v2.RandomHorizontalFlip(),
            *rand_augment(config.augment),
            v2.PILToTensor(),
            *erasing(config.augment, config.mean),
        ]
    )


def eval_transform(config: StreamedImageConfig) -> Any:
    """Return what makes a test sample of a decoded image: resize, crop the middle."""
    v2 = import_torchvision("transforms.v2")
    # The field's convention: resize to 256 for a crop of 224, and in proportion.
    resized = round(config.image_size * 256 / 224)
    return v2.Compose([v2.Resize(resized, antialias=True), v2.CenterCrop(config.image_size), v2.PILToTensor()])
