"""Config classes of the image classification sets: every option, its default, its one-line meaning.

Owns: the defaults. Must not: import torch, or know how anything is built.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, Strict

from mptrain.config.schema import DataConfig
from mptrain.config.section import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, Section

Share = Annotated[float, Field(ge=0, le=1)]
# Of pixels in 0..1: a mean in 0..255, as some publish it, is refused and not subtracted.
Grey = Annotated[tuple[Share], Strict(False)]
GreyStd = Annotated[tuple[PositiveFloat], Strict(False)]
Colour = Annotated[tuple[Share, Share, Share], Strict(False)]
ColourStd = Annotated[tuple[PositiveFloat, PositiveFloat, PositiveFloat], Strict(False)]


class StrongAugmentConfig(Section):
    """Random changes to training images beyond crops and mirror images, through torchvision; all are off by default."""

    rand_augment: NonNegativeInt = 0
    """Operations of RandAugment on each image; 0: none, 2 in torchvision's recipes."""
    rand_augment_magnitude: Annotated[int, Field(ge=0, le=30)] = 9
    """Strength of RandAugment's operations."""
    erase: Share = 0.0
    """Probability that a random rectangle of an image is filled with the mean pixel value (random erasing)."""
    mixup_alpha: NonNegativeFloat = 0.0
    """Mix each image and its target with another's, by a share drawn from Beta(alpha, alpha); 0: never."""
    cutmix_alpha: NonNegativeFloat = 0.0
    """Paste a rectangle of another image, its area drawn likewise; with mixup, a batch gets one or the other."""


class AugmentConfig(StrongAugmentConfig):
    """Random changes to training images, made in batches on the device that holds them."""

    flip: bool = False
    """Mirror left to right with probability one half."""
    crop_padding: NonNegativeInt = 0
    """Shift by up to this many pixels each way, filling with black."""


class InMemoryImageConfig(DataConfig):
    """Base of the image sets that are held in memory."""

    augment: AugmentConfig = AugmentConfig()
    """Augmentation of training images; evaluation never augments."""


class GreyConfig(InMemoryImageConfig):
    """Base of the one-channel image sets."""

    mean: Grey = (0.2860,)
    """Mean pixel value, after scaling to 0..1; subtracted."""
    std: GreyStd = (0.3530,)
    """Standard deviation of pixel values, after scaling to 0..1; divided by."""


class DownloadedConfig(DataConfig):
    """What the sets that torchvision can download share."""

    root: str = "data"
    """Folder that holds the files, or receives them; relative to the current folder, not to the config."""
    download: bool = False
    """Download the files when they are not there."""


class FashionMnistConfig(GreyConfig, DownloadedConfig):
    """Fashion-MNIST through torchvision."""


class MnistConfig(GreyConfig, DownloadedConfig):
    """MNIST through torchvision."""

    mean: Grey = (0.1307,)
    """Mean pixel value, after scaling to 0..1; subtracted."""
    std: GreyStd = (0.3081,)
    """Standard deviation of pixel values, after scaling to 0..1; divided by."""


class Cifar10Config(InMemoryImageConfig, DownloadedConfig):
    """CIFAR-10 through torchvision."""

    mean: Colour = (0.4914, 0.4822, 0.4465)
    """Mean pixel value per channel, after scaling to 0..1; subtracted."""
    std: ColourStd = (0.2470, 0.2435, 0.2616)
    """Standard deviation per channel, after scaling to 0..1; divided by."""


class Cifar100Config(Cifar10Config):
    """CIFAR-100 through torchvision."""

    mean: Colour = (0.5071, 0.4866, 0.4409)
    """Mean pixel value per channel, after scaling to 0..1; subtracted."""
    std: ColourStd = (0.2673, 0.2564, 0.2762)
    """Standard deviation per channel, after scaling to 0..1; divided by."""


class StreamedImageConfig(DataConfig):
    """Base of the image sets that are read one image at a time, cropped at random and mirrored in training."""

    image_size: PositiveInt = 224
    """Side of the square images that the model sees, in pixels."""
    augment: StrongAugmentConfig = StrongAugmentConfig()
    """Further augmentation of training images; evaluation never augments."""
    mean: Colour = (0.485, 0.456, 0.406)
    """Mean pixel value per channel, after scaling to 0..1; subtracted."""
    std: ColourStd = (0.229, 0.224, 0.225)
    """Standard deviation per channel, after scaling to 0..1; divided by."""


class FolderConfig(StreamedImageConfig):
    """Image files in one folder per class."""

    root: str
    """Folder with `train/<class>/*` and `test/<class>/*` (or `val/<class>/*`); relative to the current folder."""


class ShardsConfig(StreamedImageConfig):
    """Images and their classes in tar shards (webdataset's layout): <sample>.jpg beside <sample>.cls or .json."""

    train: str
    """Training shards, e.g. `data/train-{0000..1023}.tar` or `data/train-*.tar`; relative to the current folder."""
    test: str
    """Test shards, likewise."""
    num_classes: PositiveInt
    """Classes; those of the samples are 0 .. num_classes - 1."""
    label_key: str = "label"
    """Key of the class in a sample's .json, where it has no .cls."""
