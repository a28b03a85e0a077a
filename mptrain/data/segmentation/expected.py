"""What the segmentation sets are like, and the names of their classes: known before any file is read.

Owns: class names, Cityscapes' ids, `expected_spec`. Must not: read files, or import torch.
"""

from __future__ import annotations

from mptrain.data.detection.expected import VOC_CLASSES as VOC_OBJECTS
from mptrain.data.expected import expected_spec
from mptrain.data.segmentation.configs import (
    BlueMarbleConfig,
    CityscapesConfig,
    SegmentationDataConfig,
    SegmentationFolderConfig,
    VocSegmentationConfig,
)
from mptrain.interfaces import DataSpec

BLUE_MARBLE_CLASSES = ("sea", "land")
VOC_CLASSES = ("background", *VOC_OBJECTS)
# fmt: off
CITYSCAPES_IDS = {
    7: "road", 8: "sidewalk", 11: "building", 12: "wall", 13: "fence", 17: "pole", 19: "traffic light",
    20: "traffic sign", 21: "vegetation", 22: "terrain", 23: "sky", 24: "person", 25: "rider", 26: "car", 27: "truck",
    28: "bus", 31: "train", 32: "motorcycle", 33: "bicycle",
}
"""labelId -> class, in the order of the train ids 0..18; other ids are ignored (cityscapesScripts, labels.py)."""
# fmt: on


def segmentation_spec(config: SegmentationDataConfig, classes: tuple[str, ...]) -> DataSpec:
    """Return the spec of colour images and masks of `classes`."""
    return DataSpec((3, *config.image_size), len(classes), kind="segmentation", class_names=classes)


@expected_spec.register
def _blue_marble(config: BlueMarbleConfig) -> DataSpec | None:
    return segmentation_spec(config, BLUE_MARBLE_CLASSES)


@expected_spec.register
def _folder(config: SegmentationFolderConfig) -> DataSpec | None:
    return segmentation_spec(config, config.classes)


@expected_spec.register
def _voc(config: VocSegmentationConfig) -> DataSpec | None:
    return segmentation_spec(config, VOC_CLASSES)


@expected_spec.register
def _cityscapes(config: CityscapesConfig) -> DataSpec | None:
    return segmentation_spec(config, tuple(CITYSCAPES_IDS.values()))
