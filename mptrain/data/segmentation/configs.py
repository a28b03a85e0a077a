"""Config classes of the segmentation sets: every option, its default, its one-line meaning.

Owns: the defaults. Must not: import torch, or know how anything is built.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, Strict, model_validator

from mptrain.config.schema import DataConfig
from mptrain.config.section import PositiveFloat, PositiveInt
from mptrain.data.images.configs import Colour, ColourStd

Size = Annotated[tuple[PositiveInt, PositiveInt], Strict(False)]


class SegmentationDataConfig(DataConfig):
    """What all segmentation sets share: training images are scaled, cropped and mirrored together with their masks."""

    image_size: Size
    """[height, width] of the crops that training sees, in pixels."""
    scale: Annotated[tuple[PositiveFloat, PositiveFloat], Strict(False)] = (0.5, 2.0)
    """Training images are scaled by a random factor in this range before they are cropped."""
    flip: bool = True
    """Mirror training images left to right with probability one half."""
    mean: Colour = (0.485, 0.456, 0.406)
    """Mean pixel value per channel, after scaling to 0..1; subtracted. Images are padded with it."""
    std: ColourStd = (0.229, 0.224, 0.225)
    """Standard deviation per channel, after scaling to 0..1; divided by."""

    @model_validator(mode="after")
    def _scale_ascends(self) -> SegmentationDataConfig:
        if self.scale[0] > self.scale[1]:
            raise ValueError(f"scale: {list(self.scale)} must be [smallest, largest]")
        return self


class BlueMarbleConfig(SegmentationDataConfig):
    """Crops of NASA's Blue Marble; the test crops tile a band of longitudes that training never sees."""

    image_size: Size = (96, 96)
    """[height, width] of the crops, in pixels; 15 pixels are one degree."""
    scale: Annotated[tuple[PositiveFloat, PositiveFloat], Strict(False)] = (1.0, 1.0)
    """Training crops are scaled by a random factor in this range."""
    crops_per_epoch: PositiveInt = 1024
    """Random training crops that make an epoch."""


class PairsConfig(SegmentationDataConfig):
    """What sets of image and mask files share."""

    root: str
    """Folder of the data; relative to the current folder, not to the config."""
    eval_size: Size
    """[height, width] that images are padded to in evaluation, uncounted; larger ones are scaled down to fit."""


class SegmentationFolderConfig(PairsConfig):
    """Your own images, each with a one-channel mask of class indices; 255 is ignored."""

    root: str
    """Folder with `train/images`, `train/masks` and the same in `val` (or `test`); relative to the current folder."""
    classes: Annotated[tuple[str, ...], Strict(False), Field(min_length=2, max_length=255)]
    """Names of the classes 0, 1, ... in the masks."""
    image_size: Size = (512, 512)
    """[height, width] of the crops that training sees, in pixels."""
    eval_size: Size = (512, 512)
    """[height, width] that images are padded to in evaluation, uncounted; larger ones are scaled down to fit."""


class VocSegmentationConfig(PairsConfig):
    """PASCAL VOC 2012: 20 classes and background; object borders are ignored."""

    root: str = "data/VOCdevkit/VOC2012"
    """Folder with `JPEGImages`, `SegmentationClass` and `ImageSets`; relative to the current folder."""
    train_list: str = "ImageSets/Segmentation/train.txt"
    """List of training samples, in root: one name a line, or `image mask`, two paths in root (as SBD's lists have)."""
    test_list: str = "ImageSets/Segmentation/val.txt"
    """List of test samples, in root, as train_list."""
    mask_folder: str = "SegmentationClass"
    """Folder in root that holds the masks of the samples listed by name (SBD's: SegmentationClassAug)."""
    image_size: Size = (512, 512)
    """[height, width] of the crops that training sees, in pixels."""
    eval_size: Size = (512, 512)
    """[height, width] that images are padded to in evaluation, uncounted; VOC's sides are 500 pixels or less."""


class CityscapesConfig(PairsConfig):
    """Cityscapes, finely annotated: 19 classes of street scenes."""

    root: str = "data/cityscapes"
    """Folder with `leftImg8bit` and `gtFine`; relative to the current folder."""
    image_size: Size = (512, 1024)
    """[height, width] of the crops that training sees, in pixels."""
    eval_size: Size = (1024, 2048)
    """[height, width] that images are padded to in evaluation: their own size."""
