"""Augmentation by torchvision's transforms.v2: what is asked for, and batches of it on the device.

Owns: which transforms, and their randomness. Must not: normalise, or read the device.

v2 draws from torch's global generator, on the CPU. A batch's draws are seeded by the generator that the loader seeds by
(seed, epoch, micro-batch); its seed is known without reading the device. v2 draws once for a whole batch of images, so
that images are given to it in groups of `GROUP`: each image is changed as the papers say, a group's images alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from mptrain.data.images.configs import StrongAugmentConfig
from mptrain.data.order import derive_seed
from mptrain.data.randomness import random_state_kept, seed_cpu_states
from mptrain.interfaces import Batch, Transform
from mptrain.torchvision_import import import_torchvision

GROUP = 8
"""Neighbouring images of a (shuffled) batch that share their draws."""

Images = Callable[[Any], Any]
"""Maps an image, or a batch of images, to the same shape."""


def rand_augment(config: StrongAugmentConfig) -> list[Images]:
    """Return what changes uint8 images: RandAugment (arXiv 1909.13719), where asked for."""
    if not config.rand_augment:
        return []
    v2 = import_torchvision("transforms.v2")
    return [v2.RandAugment(config.rand_augment, config.rand_augment_magnitude)]


def erasing(config: StrongAugmentConfig, mean: Sequence[float]) -> list[Images]:
    """Return random erasing (arXiv 1708.04896) of uint8 images, filling with `mean` (0..1), where asked for."""
    if not config.erase:
        return []
    v2 = import_torchvision("transforms.v2")
    return [v2.RandomErasing(config.erase, value=[255 * value for value in mean])]


def in_groups(changes: Sequence[Images], images: Tensor, generator: torch.Generator) -> Tensor:
    """Return uint8 images (N, C, H, W), each group of neighbours changed by draws of its own."""
    if not changes:
        return images
    changed = []
    with _drawing(generator, 0):
        for group in images.split(GROUP):
            for change in changes:
                group = change(group)
            changed.append(group)
    return torch.cat(changed)


@contextmanager
def _drawing(generator: torch.Generator, purpose: int) -> Iterator[None]:
    with random_state_kept():
        seed_cpu_states(derive_seed(generator.initial_seed(), purpose))
        yield


class Mixing:
    """A transform, then mixup (arXiv 1710.09412) or cutmix (arXiv 1905.04899): targets become shares of classes."""

    def __init__(self, transform: Transform, config: StrongAugmentConfig, num_classes: int) -> None:
        v2 = import_torchvision("transforms.v2")
        asked = ((v2.MixUp, config.mixup_alpha), (v2.CutMix, config.cutmix_alpha))
        self._transform, self._num_classes = transform, num_classes
        self._mix = v2.RandomChoice([kind(alpha=alpha) for kind, alpha in asked if alpha])

    def __call__(self, batch: Batch, generator: torch.Generator | None) -> Batch:
        """Return FP32 images (N, C, H, W) and, given a generator, FP32 targets (N, classes) for classes (N,)."""
        batch = self._transform(batch, generator)
        if generator is None:
            return batch
        targets = batch.targets
        shares = torch.zeros(len(targets), self._num_classes, device=targets.device).scatter_(
            1, targets.unsqueeze(1), 1
        )
        with _drawing(generator, 1):
            return Batch(*self._mix(batch.inputs, shares))


def with_mixing(transform: Transform, config: StrongAugmentConfig, num_classes: int) -> Transform:
    """Return `transform`, and mixing after it where it is asked for."""
    return Mixing(transform, config, num_classes) if config.mixup_alpha or config.cutmix_alpha else transform
