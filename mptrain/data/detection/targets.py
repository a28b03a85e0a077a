"""The targets of a detection batch: boxes padded to a fixed number per image, and where the image lies in its canvas.

    objects  FP32 (N, boxes, 6): class (-1: padding), x1, y1, x2, y2 in pixels of the model's image, crowd (0 or 1)
    frames   FP32 (N, 4): height and width of the image inside the padded canvas, and of the file it came from

Owns: this layout. Must not: know a file format or a loss.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

OBJECT_FIELDS = 6
PADDING_CLASS = -1.0


def objects_table(boxes: NDArray[Any], classes: NDArray[Any], crowd: NDArray[Any] | None = None) -> Tensor:
    """Return boxes (n, 4) xyxy, classes (n,) and crowd flags (n,) as one FP32 table (n, 6)."""
    flags = np.zeros(len(boxes)) if crowd is None else crowd
    columns = (classes.reshape(-1, 1), boxes.reshape(-1, 4), flags.reshape(-1, 1))
    return torch.from_numpy(np.concatenate(columns, axis=1).astype(np.float32))


def pad_objects(objects: Tensor, count: int) -> Tensor:
    """Return the table (n, 6) with rows of padding after it, (count, 6)."""
    return functional.pad(objects, (0, 0, 0, count - len(objects)), value=PADDING_CLASS)


class PaddedBatch:
    """Collates images of differing sizes: each lies in the upper left of the batch's canvas, the rest is `fill`."""

    def __init__(self, fill: tuple[int, ...], pad_multiple: int) -> None:
        self._fill, self._multiple = torch.tensor(fill, dtype=torch.uint8).view(-1, 1, 1), pad_multiple

    def __call__(self, samples: list[Any]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Return uint8 images (N, C, H, W), objects and frames; H and W are the largest, rounded up."""
        images = [image for image, _ in samples]
        height, width = (self._rounded(max(image.shape[side] for image in images)) for side in (1, 2))
        canvas = self._fill.repeat(len(images), 1, height, width)
        for place, image in zip(canvas, images, strict=True):
            place[:, : image.shape[1], : image.shape[2]] = image
        objects, frames = (torch.stack(part) for part in zip(*(targets for _, targets in samples), strict=True))
        return canvas, (objects, frames)

    def _rounded(self, size: int) -> int:
        return -(-size // self._multiple) * self._multiple
