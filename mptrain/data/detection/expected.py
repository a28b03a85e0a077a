"""What the detection sets will be like before their files are there. Must not: read files, or import torch."""

from __future__ import annotations

from mptrain.data.detection.configs import CocoConfig, FashionScenesConfig, VocConfig
from mptrain.data.expected import expected_spec
from mptrain.interfaces import DataSpec

COCO_CLASSES = 80
"""Categories that COCO 2017 annotates."""

# fmt: off
VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)
# fmt: on
"""The classes of Pascal VOC 2007 to 2012, in the alphabetical order of its devkit."""


@expected_spec.register
def fashion_scenes_spec(config: FashionScenesConfig) -> DataSpec:
    """Return what the scenes are."""
    return DataSpec((1, config.image_size, config.image_size), 10, kind="detection")


@expected_spec.register
def coco_spec(config: CocoConfig) -> DataSpec:
    """Return what COCO 2017 is; another annotation file may hold another number of categories."""
    return DataSpec((3, config.canvas, config.canvas), COCO_CLASSES, kind="detection")


@expected_spec.register
def voc_spec(config: VocConfig) -> DataSpec:
    """Return what Pascal VOC is."""
    return DataSpec((3, config.canvas, config.canvas), len(VOC_CLASSES), kind="detection", class_names=VOC_CLASSES)
