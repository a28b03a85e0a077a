"""Strong augmentation: torchvision's changes, decided by the generator's seed; targets stay shares."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import mptrain.data
from mptrain.config.schema import DataConfig
from mptrain.data.images.augment import GROUP, erasing, in_groups, rand_augment, with_mixing
from mptrain.data.images.configs import AugmentConfig, StrongAugmentConfig
from mptrain.data.images.transforms import AugmentedImages
from mptrain.data.loading import make_train_loader
from mptrain.interfaces import Batch, InMemory, as_it_is
from mptrain.registry import DATASETS

assert mptrain.data  # registers the entries

CPU = torch.device("cpu")
EVERYTHING = {"flip": True, "crop_padding": 2, "rand_augment": 2, "erase": 0.5, "mixup_alpha": 0.2, "cutmix_alpha": 1.0}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pictures(count: int, channels: int = 3) -> Tensor:
    return torch.randint(256, (count, channels, 16, 16), dtype=torch.uint8, generator=generator(9))


def mixed(images: Tensor, seed: int = 0, num_classes: int = 10, **options: Any) -> Batch:
    batch = Batch(images, torch.arange(len(images)) % num_classes)
    return with_mixing(as_it_is, StrongAugmentConfig(**options), num_classes)(batch, generator(seed))


def test_nothing_is_changed_by_default() -> None:
    config = StrongAugmentConfig()
    assert rand_augment(config) == erasing(config, (0.5,)) == []
    assert with_mixing(as_it_is, config, 10) is as_it_is


@pytest.mark.parametrize("channels", [1, 3])
def test_rand_augment_changes_each_group_by_its_own_draws(channels: int) -> None:
    images = pictures(1, channels).expand(8 * GROUP, -1, -1, -1)
    changed = in_groups(rand_augment(StrongAugmentConfig(rand_augment=2)), images, generator())
    assert (changed.shape, changed.dtype) == (images.shape, torch.uint8)
    groups = changed.split(GROUP)
    assert all(torch.equal(group, group[:1].expand_as(group)) for group in groups)
    assert len({group[0].numpy().tobytes() for group in groups}) > 5


def test_erasing_fills_rectangles_with_the_mean_as_often_as_asked() -> None:
    images = torch.zeros(500 * GROUP, 1, 16, 16, dtype=torch.uint8)
    changed = in_groups(erasing(StrongAugmentConfig(erase=0.25), (0.5,)), images, generator())
    erased = (changed[::GROUP] == 127).flatten(1)
    assert set(changed.unique().tolist()) == {0, 127}
    assert 0.25 - 0.08 < float(erased.any(1).float().mean()) < 0.25 + 0.08  # four standard errors of 500 draws
    assert 0.02 < float(erased.float().sum() / erased.any(1).sum() / 256) < 0.33  # torchvision's range of areas


def test_mixup_mixes_images_and_targets_by_the_same_share() -> None:
    images = torch.eye(6).view(6, 6, 1, 1) * 100
    inputs, targets = mixed(images, num_classes=6, mixup_alpha=1.0)
    torch.testing.assert_close(inputs.view(6, 6) / 100, targets)
    torch.testing.assert_close(targets.sum(1), torch.ones(6))
    assert targets.dtype is torch.float32
    assert 0 < float(targets[0, 0]) < 1


def test_cutmix_pastes_a_rectangle_and_counts_its_pixels() -> None:
    images = torch.arange(4.0).view(4, 1, 1, 1).expand(4, 1, 10, 10)
    seen = set()
    for seed in range(20):
        inputs, targets = mixed(images, seed, num_classes=4, cutmix_alpha=1.0)
        kept = (inputs == images).flatten(1).float().mean(1)
        torch.testing.assert_close(targets.diagonal(), kept)
        torch.testing.assert_close(targets.sum(1), torch.ones(4))
        seen.add(round(float(kept[0]), 4))
    assert len(seen) > 10


def test_mixup_and_cutmix_take_turns() -> None:
    images = torch.rand(8, 1, 16, 16, generator=generator(9))
    pasted = [
        bool((mixed(images, seed, mixup_alpha=1.0, cutmix_alpha=1.0).inputs == images).any()) for seed in range(40)
    ]
    assert 8 < sum(pasted) < 32


def test_the_seed_decides_everything_and_global_states_are_left_alone() -> None:
    transform = with_mixing(
        AugmentedImages((0.5,), (0.2,), AugmentConfig(**EVERYTHING)), AugmentConfig(**EVERYTHING), 10
    )
    batch = Batch(pictures(20, 1), torch.arange(20) % 10)
    state = torch.get_rng_state()
    one, again, other = (transform(batch, generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(one.inputs, again.inputs)
    assert torch.equal(one.targets, again.targets)
    assert not torch.equal(one.inputs, other.inputs)
    plain = transform(batch, None)
    assert torch.equal(plain.targets, batch.targets)
    assert torch.equal(plain.inputs, AugmentedImages((0.5,), (0.2,), AugmentConfig())(batch, None).inputs)


@pytest.mark.parametrize("cache", ["auto", "none"])
def test_an_epoch_resumed_in_the_middle_goes_on_the_same(cache: str) -> None:
    section = {"name": "fashion_mnist_12k", "batch_size": 2048, "augment": EVERYTHING, "cache": cache}
    config: DataConfig = DATASETS.config_type("fashion_mnist_12k").model_validate(section)
    train = DATASETS.build(config, 0).train
    assert isinstance(train, InMemory)
    assert train.augments
    whole = list(make_train_loader(train, config, seed=5, device=CPU).epoch(2))
    rest = list(make_train_loader(train, config, seed=5, device=CPU).epoch(2, start=2))
    assert len(rest) == len(whole) - 2
    for one, other in zip(whole[2:], rest, strict=True):
        assert torch.equal(one.inputs, other.inputs)
        assert torch.equal(one.targets, other.targets)
    assert whole[0].targets.shape == (2048, 10)
