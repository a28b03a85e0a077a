"""Batched transforms of images that run on the data's own device: what the model sees of raw pixels.

Owns: normalising, crops and mirror images. Must not: use any random state but the generator it is given.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from mptrain.data.images.augment import erasing, in_groups, rand_augment
from mptrain.data.images.configs import AugmentConfig
from mptrain.interfaces import Batch


class Normalize:
    """uint8 images (N, C, H, W) -> FP32, (value / 255 - mean) / std per channel."""

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        # value / 255 and the normalisation in one multiply and one add.
        self._scale = torch.tensor([1 / (255 * s) for s in std]).view(-1, 1, 1)
        self._shift = torch.tensor([-m / s for m, s in zip(mean, std, strict=True)]).view(-1, 1, 1)

    def __call__(self, batch: Batch, generator: torch.Generator | None) -> Batch:
        """Return images of the same size in FP32."""
        del generator
        inputs: Tensor = batch.inputs
        if self._scale.device != inputs.device:
            self._scale, self._shift = self._scale.to(inputs.device), self._shift.to(inputs.device)
        return batch._replace(inputs=(inputs * self._scale).add_(self._shift))


class AugmentedImages:
    """uint8 images (N, C, H, W) -> FP32 and normalised; given a generator, cropped, mirrored and changed before."""

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...], augment: AugmentConfig) -> None:
        self._normalize, self._augment = Normalize(mean, std), augment
        self._changes = [*rand_augment(augment), *erasing(augment, mean)]

    def __call__(self, batch: Batch, generator: torch.Generator | None) -> Batch:
        """Return images of the same size in FP32."""
        if generator is not None:
            images: Tensor = batch.inputs
            if self._augment.crop_padding:
                images = random_crop(images, self._augment.crop_padding, generator)
            if self._augment.flip:
                images = random_flip(images, generator)
            batch = batch._replace(inputs=in_groups(self._changes, images, generator))
        return self._normalize(batch, None)


def random_flip(images: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror each image (N, C, H, W) left to right with probability one half."""
    flipped = torch.rand(len(images), 1, 1, 1, generator=generator, device=images.device) < 0.5
    return torch.where(flipped, images.flip(-1), images)


def random_crop(images: Tensor, padding: int, generator: torch.Generator) -> Tensor:
    """Shift each image (N, C, H, W) by up to `padding` pixels each way, filling with zeros."""
    count, _, height, width = images.shape
    padded = functional.pad(images, (padding,) * 4)
    offsets = torch.randint(2 * padding + 1, (2, count, 1), generator=generator, device=images.device)
    rows = offsets[0] + torch.arange(height, device=images.device)
    columns = offsets[1] + torch.arange(width, device=images.device)
    sample = torch.arange(count, device=images.device).view(-1, 1, 1)
    return padded.permute(0, 2, 3, 1)[sample, rows.unsqueeze(2), columns.unsqueeze(1)].permute(0, 3, 1, 2).contiguous()
