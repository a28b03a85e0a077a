"""What is done to an image and its mask together: random crops in training, one size in evaluation, then the batch.

Owns: these transforms, all on uint8 images (3, H, W) and uint8 masks (H, W). Must not: read files.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mptrain.data.images.transforms import Normalize
from mptrain.data.segmentation.configs import PairsConfig, SegmentationDataConfig
from mptrain.interfaces import IGNORED_PIXEL, Batch
from mptrain.torchvision_import import import_torchvision

Joint = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""(image, mask) -> (image, mask)."""


class RandomCrops:
    """Scale, crop (padding where the image ends) and mirror at random, drawing from torch's global generator."""

    def __init__(self, config: SegmentationDataConfig) -> None:
        self._size, self._scale, self._flip = list(config.image_size), config.scale, config.flip
        self._fills = _fills(config)

    def __call__(self, image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return a crop of `image_size`."""
        v2 = import_torchvision("transforms.v2")
        scale = torch.empty(()).uniform_(*self._scale).item()
        # Cutting out what will fill the crop and scaling that is the same as scaling all of the image, and cheaper.
        cut = [max(1, round(side / scale)) for side in self._size]
        transform = v2.Compose(
            [
                v2.RandomCrop(cut, pad_if_needed=True, fill=self._fills),
                v2.Resize(self._size, antialias=True),
                v2.RandomHorizontalFlip(0.5 if self._flip else 0.0),
            ]
        )
        return _plain(transform(*_wrapped(image, mask)))


class Fitted:
    """Scale down what is larger than `eval_size`, keeping its shape; pad what is smaller, right and below."""

    def __init__(self, config: PairsConfig) -> None:
        self._size, self._fills = config.eval_size, _fills(config)

    def __call__(self, image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return the whole image in `eval_size`."""
        v2 = import_torchvision("transforms.v2")
        shape = mask.shape
        scale = min(1.0, *(side / found for side, found in zip(self._size, shape, strict=True)))
        fitted = [max(1, round(side * scale)) for side in shape]
        below, right = (side - found for side, found in zip(self._size, fitted, strict=True))
        transform = v2.Compose([v2.Resize(fitted, antialias=True), v2.Pad([0, 0, right, below], fill=self._fills)])
        return _plain(transform(*_wrapped(image, mask)))


class ToModel:
    """Batches of uint8 images and masks -> normalised FP32 images, int64 targets; on the training device."""

    def __init__(self, config: SegmentationDataConfig) -> None:
        self._normalize = Normalize(config.mean, config.std)

    def __call__(self, batch: Batch, generator: torch.Generator | None) -> Batch:
        """Return images (N, 3, H, W) and targets (N, H, W)."""
        return self._normalize(batch, generator)._replace(targets=batch.targets.long())


def _fills(config: SegmentationDataConfig) -> dict[Any, Any]:
    """Return what images and masks are padded with."""
    tv_tensors = import_torchvision("tv_tensors")
    return {tv_tensors.Image: [round(255 * mean) for mean in config.mean], tv_tensors.Mask: IGNORED_PIXEL}


def _wrapped(image: Tensor, mask: Tensor) -> tuple[Any, Any]:
    """Return both as the types by which torchvision tells images (interpolated) from masks (not)."""
    tv_tensors = import_torchvision("tv_tensors")
    return tv_tensors.Image(image), tv_tensors.Mask(mask)


def _plain(pair: tuple[Any, Any]) -> tuple[Tensor, Tensor]:
    image, mask = pair
    return image.as_subclass(Tensor), mask.as_subclass(Tensor)
