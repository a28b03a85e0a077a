"""Image files with mask files, read one by one.

Owns: decoding a pair, and the checks that need its pixels. Must not: look for files (see `layouts`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from mptrain.data.images.decode import load_image, load_rgb
from mptrain.data.segmentation.joint import Joint
from mptrain.errors import DataError
from mptrain.interfaces import IGNORED_PIXEL

MASK_MODES = ("L", "P", "1")
"""Pillow's names of what a mask may be: grey or palette indices of 8 bits, or 1 bit."""


class PairFiles(NamedTuple):
    """The files of one sample."""

    image: Path
    mask: Path


class Pairs(Dataset[tuple[Tensor, Tensor]]):
    """dataset[i] -> (uint8 image (3, H, W), uint8 mask (H, W)), as `joint` makes them."""

    def __init__(
        self, files: Sequence[PairFiles], num_classes: int, joint: Joint, class_of_id: Tensor | None = None
    ) -> None:
        """`class_of_id` (256,) uint8 turns what the masks hold into classes; None: they hold classes."""
        self._files, self._num_classes, self._joint, self._class_of_id = files, num_classes, joint, class_of_id

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Decode and transform one pair; raise DataError naming a file that is damaged or does not fit."""
        files = self._files[index]
        image = _tensor(np.asarray(load_rgb(files.image))).permute(2, 0, 1)
        mask = self._read_mask(files.mask)
        if mask.shape != image.shape[1:]:
            raise DataError(
                f"data.root: {files.mask} is {_size(mask)} pixels, its image {files.image.name} {_size(image)}; a mask "
                "must have its image's size"
            )
        return self._joint(image, mask)

    def _read_mask(self, path: Path) -> Tensor:
        decoded = load_image(path)
        if decoded.mode not in MASK_MODES:
            raise DataError(
                f"data.root: {path} has mode {decoded.mode}; a mask must hold one class index per pixel: save it as "
                "8-bit grey or palette"
            )
        mask = _tensor(np.asarray(decoded, dtype=np.uint8))
        if self._class_of_id is not None:
            return self._class_of_id[mask.long()]
        largest = int(torch.where(mask == IGNORED_PIXEL, 0, mask).max())
        if largest >= self._num_classes:
            raise DataError(
                f"data.root: {path} holds the label {largest}; labels must be 0 to {self._num_classes - 1}, or "
                f"{IGNORED_PIXEL} for pixels that do not count"
            )
        return mask


def _tensor(pixels: np.ndarray) -> Tensor:
    return torch.from_numpy(pixels.copy())  # Pillow's own memory is read-only


def _size(pixels: Tensor) -> str:
    return f"{pixels.shape[-1]}x{pixels.shape[-2]}"
