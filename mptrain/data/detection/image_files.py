"""Image files with boxes, read one by one, resized in proportion and mirrored in training.

Owns: checking boxes, and reading. Must not: know how a set stores its annotations (see `coco`, `voc`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from mptrain.data.detection.configs import DetectionFilesConfig
from mptrain.data.detection.targets import OBJECT_FIELDS, PaddedBatch, pad_objects
from mptrain.data.images.decode import load_rgb
from mptrain.data.images.transforms import Normalize
from mptrain.errors import DataError
from mptrain.interfaces import BadFiles, DataSpec, DataSplits, Streamed
from mptrain.torchvision_import import import_torchvision

SLACK = 1.0
"""Pixels by which a box may exceed its image, from rounding; it is cut to the image."""


@dataclass(frozen=True)
class BoxedImage:
    """One image file and what is in it."""

    path: Path
    width: int
    height: int
    objects: Tensor
    """FP32 (n, 6) as `targets` has them, in pixels of the file."""


def checked_box(box: Sequence[float], width: int, height: int, where: str) -> tuple[float, ...]:
    """Return the box (x1, y1, x2, y2) cut to its image; raise DataError, naming `where` it is, for an unusable one."""
    x1, y1, x2, y2 = box
    if not all(map(math.isfinite, box)):
        raise DataError(f"{where}: the box {list(box)} must be 4 finite numbers; correct it")
    if min(x1, y1) < -SLACK or x2 > width + SLACK or y2 > height + SLACK:
        raise DataError(
            f"{where}: the box x {x1:g} to {x2:g}, y {y1:g} to {y2:g} leaves its image of {width}x{height}; "
            "correct it, or set data.on_error=skip to leave it out"
        )
    cut = (max(x1, 0.0), max(y1, 0.0), min(x2, float(width)), min(y2, float(height)))
    if cut[2] <= cut[0] or cut[3] <= cut[1]:
        raise DataError(
            f"{where}: the box x {x1:g} to {x2:g}, y {y1:g} to {y2:g} has no area; correct it, or set "
            "data.on_error=skip to leave it out"
        )
    return cut


def image_splits(
    config: DetectionFilesConfig,
    class_names: tuple[str, ...],
    train: Sequence[BoxedImage],
    test: Sequence[BoxedImage],
    identity: dict[str, Any],
    bad_files: BadFiles,
) -> DataSplits:
    """Return the splits; a batch of images (N, 3, H, W) is padded with the mean colour."""
    fill = tuple(round(255 * mean) for mean in config.mean)
    collate, normalize = PaddedBatch(fill, config.pad_multiple), Normalize(config.mean, config.std)
    train_split, test_split = (
        Streamed(BoxedImages(images, config, mirror=images is train), collate, normalize) for images in (train, test)
    )
    spec = DataSpec((3, config.canvas, config.canvas), len(class_names), kind="detection", class_names=class_names)
    counts = {"name": config.name, "train": len(train), "test": len(test), "classes": len(class_names)}
    return DataSplits(spec, train_split, test_split, counts | identity, bad_files)


class BoxedImages(Dataset[Any]):
    """One split: dataset[i] -> uint8 image (3, H, W), (objects (most in any image, 6), frame (4,))."""

    def __init__(self, images: Sequence[BoxedImage], config: DetectionFilesConfig, *, mirror: bool) -> None:
        v2 = import_torchvision("transforms.v2")
        self._images = images
        self._count = max((len(image.objects) for image in images), default=0) or 1
        steps = [v2.RandomHorizontalFlip()] if mirror else []
        # torchvision wants min_size below max_size; where they are equal, the longer side alone decides.
        shorter = config.min_size if config.min_size < config.max_size else None
        self._transform = v2.Compose([*steps, v2.Resize(shorter, max_size=config.max_size, antialias=True)])

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        v2, tv_tensors = import_torchvision("transforms.v2.functional"), import_torchvision("tv_tensors")
        image = self._images[index]
        pixels = tv_tensors.Image(v2.pil_to_tensor(load_rgb(image.path)))
        height, width = pixels.shape[1:]
        if (width, height) != (image.width, image.height):
            raise DataError(
                f"data.root: {image.path} is {width}x{height}, its annotation says {image.width}x{image.height}; "
                "its boxes are of another image"
            )
        boxes = tv_tensors.BoundingBoxes(image.objects[:, 1:5], format="XYXY", canvas_size=(height, width))
        resized, boxes = self._transform(pixels, boxes)
        objects = image.objects.clone()
        objects[:, 1:5] = boxes.as_subclass(Tensor)
        frame = torch.tensor([*resized.shape[1:], height, width], dtype=torch.float32)
        return resized.as_subclass(Tensor), (pad_objects(objects, self._count), frame)


def no_objects() -> Tensor:
    """Return the table of an image in which there is nothing."""
    return torch.empty(0, OBJECT_FIELDS)
