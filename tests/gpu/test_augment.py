"""Augmentation on a GPU: it happens there, and the generator's seed decides it."""

from __future__ import annotations

import pytest
import torch

from mptrain.data.images.augment import with_mixing
from mptrain.data.images.configs import AugmentConfig
from mptrain.data.images.transforms import AugmentedImages
from mptrain.interfaces import Batch

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU that torch can use"),
]

GPU = torch.device("cuda")


def test_batches_are_augmented_where_they_lie() -> None:
    config = AugmentConfig(flip=True, crop_padding=2, rand_augment=2, erase=0.5, mixup_alpha=0.2, cutmix_alpha=1.0)
    transform = with_mixing(AugmentedImages((0.5,), (0.2,), config), config, 10)
    images = torch.randint(256, (64, 1, 28, 28), dtype=torch.uint8, device=GPU)
    batch = Batch(images, torch.arange(64, device=GPU) % 10)
    one, again, other = (transform(batch, torch.Generator(GPU).manual_seed(seed)) for seed in (1, 1, 2))
    assert one.inputs.device.type == one.targets.device.type == "cuda"
    assert torch.equal(one.inputs, again.inputs)
    assert not torch.equal(one.inputs, other.inputs)
    torch.testing.assert_close(one.targets.sum(1), torch.ones(64, device=GPU))
