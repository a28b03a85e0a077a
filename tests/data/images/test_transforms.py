"""In-memory image transforms: values as torchvision's, randomness from the given generator alone."""

from __future__ import annotations

import pytest
import torch

from mptrain.data.images.configs import AugmentConfig
from mptrain.data.images.transforms import AugmentedImages, random_crop, random_flip
from mptrain.data.transforms import unit_interval
from mptrain.interfaces import Batch


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pictures(count: int = 64, channels: int = 3) -> torch.Tensor:
    return torch.randint(256, (count, channels, 8, 6), dtype=torch.uint8, generator=generator(9))


def batch_of(images: torch.Tensor) -> Batch:
    return Batch(images, torch.arange(len(images)) % 10)


@pytest.mark.parametrize("channels", [1, 3])
def test_normalisation_agrees_with_torchvision(channels: int) -> None:
    v2 = pytest.importorskip("torchvision.transforms.v2")
    mean, std = (0.5, 0.4, 0.3)[:channels], (0.2, 0.3, 0.1)[:channels]
    ours = AugmentedImages(mean, std, AugmentConfig())(batch_of(pictures(channels=channels)), None).inputs
    theirs = v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize(list(mean), list(std))])
    assert ours.dtype is torch.float32
    torch.testing.assert_close(ours, theirs(pictures(channels=channels)), rtol=1e-5, atol=1e-5)


def test_flip_mirrors_about_half() -> None:
    images = pictures()
    flipped = random_flip(images, generator())
    same = (flipped == images).flatten(1).all(1)
    mirrored = (flipped == images.flip(-1)).flatten(1).all(1)
    assert (same | mirrored).all()
    assert 16 < int(same.sum()) < 48


def test_crop_shifts_each_image_alone_and_fills_with_black() -> None:
    images = pictures() | 1  # no pixel is black of itself
    shifted = random_crop(images, 2, generator())
    padded = torch.nn.functional.pad(images, (2, 2, 2, 2))
    seen = set()
    for image, result in zip(padded, shifted, strict=True):
        offsets = [(y, x) for y in range(5) for x in range(5) if torch.equal(image[:, y : y + 8, x : x + 6], result)]
        assert len(offsets) == 1
        seen.add(offsets[0])
    assert len(seen) > 15


def test_the_generator_decides_everything() -> None:
    transform = AugmentedImages((0.5,), (0.2,), AugmentConfig(flip=True, crop_padding=2))
    one, again, other = (transform(batch_of(pictures(channels=1)), generator(seed)).inputs for seed in (1, 1, 2))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def test_unit_interval() -> None:
    batch = Batch(torch.tensor([[0, 51, 255]], dtype=torch.uint8), torch.tensor([1]))
    assert unit_interval(batch, None).inputs.tolist() == [[0, pytest.approx(0.2), 1]]
