"""Config classes of the detection datasets: every option, its default, its one-line meaning.

Owns: the defaults. Must not: import torch, or know how anything is built.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from mptrain.config.schema import DataConfig
from mptrain.config.section import NonNegativeFloat, PositiveInt
from mptrain.data.images.configs import Colour, ColourStd, Grey, GreyStd


class FashionScenesConfig(DataConfig):
    """Scenes composed on the fly from the bundled Fashion-MNIST garments: grey, square, new ones in every epoch."""

    num_train: PositiveInt = 2000
    """Training scenes per epoch; each is a pure function of (seed, epoch, scene)."""
    num_test: PositiveInt = 500
    """Test scenes, of the garments of the test set; always the same."""
    image_size: Annotated[int, Field(ge=48)] = 96
    """Side of a scene, in pixels; a garment is 17 to 36 pixels large before its border is cut off."""
    max_items: PositiveInt = 4
    """Garments in a scene, at most; at least one."""
    noise: NonNegativeFloat = 6.0
    """Standard deviation of the noise on the pixels, which are 0..255."""
    mean: Grey = (0.064,)
    """Mean pixel value, after scaling to 0..1; subtracted."""
    std: GreyStd = (0.187,)
    """Standard deviation of pixel values, after scaling to 0..1; divided by."""


class DetectionFilesConfig(DataConfig):
    """What the sets of image files with boxes share: images are resized in proportion, and padded in the batch."""

    root: str
    """Folder of the data; relative to the current folder, not to the config."""
    min_size: PositiveInt = 800
    """The shorter side of a resized image, in pixels, unless the longer one would exceed max_size."""
    max_size: PositiveInt = 1333
    """The longer side of a resized image, in pixels, at most."""
    pad_multiple: PositiveInt = 32
    """A batch is padded to its largest image, rounded up to this; max_size or more gives every batch the same shape."""
    mean: Colour = (0.485, 0.456, 0.406)
    """Mean pixel value per channel, after scaling to 0..1; subtracted."""
    std: ColourStd = (0.229, 0.224, 0.225)
    """Standard deviation per channel, after scaling to 0..1; divided by."""

    @property
    def canvas(self) -> int:
        """Return the side of the largest square that a batch is ever padded to, in pixels."""
        return -(-self.max_size // self.pad_multiple) * self.pad_multiple

    @model_validator(mode="after")
    def _sizes_agree(self) -> DetectionFilesConfig:
        if self.min_size > self.max_size:
            raise ValueError(f"min_size ({self.min_size}) is above max_size ({self.max_size}); lower it")
        return self


class CocoConfig(DetectionFilesConfig):
    """Boxes in COCO's instances json; crowds are left out in training and ignored in evaluation."""

    train_annotations: str = "annotations/instances_train2017.json"
    """Annotation file of the training split, relative to root."""
    train_images: str = "train2017"
    """Folder of the training images, relative to root."""
    test_annotations: str = "annotations/instances_val2017.json"
    """Annotation file of the test split, relative to root."""
    test_images: str = "val2017"
    """Folder of the test images, relative to root."""
    train_without_boxes: bool = False
    """Also train on images without a box; torchvision's reference training leaves them out."""


class VocConfig(DetectionFilesConfig):
    """Pascal VOC: JPEGImages/, Annotations/*.xml, ImageSets/Main/*.txt; `difficult` objects count as COCO's crowds."""

    train_list: str = "train"
    """ImageSets/Main/<name>.txt lists the training images."""
    test_list: str = "val"
    """ImageSets/Main/<name>.txt lists the test images."""
