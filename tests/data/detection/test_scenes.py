"""Composed scenes: tight boxes, new ones every epoch, the same ones in every test."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mptrain.data.detection.scenes import GARMENT, MAX_OVERLAP
from mptrain.data.loading import make_eval_loader, make_train_loader
from mptrain.interfaces import Batch, DataSplits
from mptrain.registry import DATASETS

CPU = torch.device("cpu")


def config(**options: Any) -> Any:
    section = {"name": "fashion_scenes", "num_train": 24, "num_test": 10, "batch_size": 8, **options}
    return DATASETS.config_type("fashion_scenes").model_validate(section)


@pytest.fixture(scope="module")
def splits() -> DataSplits:
    return DATASETS.build(config(noise=0.0), 0)


def epoch(splits: DataSplits, number: int, *, seed: int = 0, num_workers: int = 0) -> list[Batch]:
    options = config(num_workers=num_workers)
    return list(make_train_loader(splits.train, options, seed=seed, device=CPU).epoch(number))


def same(one: list[Batch], other: list[Batch]) -> bool:
    return all(
        torch.equal(a.inputs, b.inputs) and all(map(torch.equal, a.targets, b.targets))
        for a, b in zip(one, other, strict=True)
    )


def test_what_a_batch_is(splits: DataSplits) -> None:
    assert (splits.spec.kind, splits.spec.input_shape, splits.spec.num_outputs) == ("detection", (1, 96, 96), 10)
    for batch in epoch(splits, 0):
        objects, frames = batch.targets
        assert (batch.inputs.shape, batch.inputs.dtype) == ((8, 1, 96, 96), torch.float32)
        assert (objects.shape, frames.tolist()) == ((8, 4, 6), [[96.0] * 4] * 8)
        real = objects[..., 0] >= 0
        assert real[:, 0].all()
        assert (objects[~real] == -1).all()
        assert (objects[real][:, 5] == 0).all()


def test_boxes_are_tight_and_hardly_overlap(splits: DataSplits) -> None:
    for index in range(len(splits.test)):
        image, (objects, _) = splits.test.dataset[index]  # type: ignore[union-attr]
        boxes = objects[objects[:, 0] >= 0, 1:5].long()
        shown = torch.zeros(96, 96, dtype=torch.bool)
        for number, (x1, y1, x2, y2) in enumerate(boxes.tolist()):
            shown[y1:y2, x1:x2] = True
            others = torch.cat((boxes[:number], boxes[number + 1 :]))
            inside = image[0, y1:y2, x1:x2] > GARMENT
            if not any(overlap(boxes[number], other) for other in others):
                assert inside[0].any()
                assert inside[-1].any()
                assert inside[:, 0].any()
                assert inside[:, -1].any()
            assert all(overlap(boxes[number], other) <= MAX_OVERLAP for other in others)
        assert (image[0][~shown] == 0).all()


def overlap(a: Tensor, b: Tensor) -> float:
    low, high = torch.maximum(a[:2], b[:2]), torch.minimum(a[2:], b[2:])
    areas = [(box[2:] - box[:2]).prod() for box in (a, b)]
    return float((high - low).clamp(min=0).prod() / min(areas))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_scene_is_a_function_of_seed_and_epoch(splits: DataSplits, num_workers: int) -> None:
    first = epoch(splits, 0)
    assert same(epoch(splits, 0, num_workers=num_workers), first)
    assert not same(epoch(splits, 1, num_workers=num_workers), first)
    assert not same(epoch(splits, 0, seed=1, num_workers=num_workers), first)


def test_test_scenes_are_always_the_same(splits: DataSplits) -> None:
    def read(split: DataSplits) -> list[Batch]:
        return list(make_eval_loader(split.test, config(), device=CPU))

    np.random.seed(5)
    assert same(read(splits), read(DATASETS.build(config(noise=0.0), 7)))


def test_scenes_can_be_larger_and_fuller() -> None:
    splits = DATASETS.build(config(image_size=128, max_items=9), 0)
    assert splits.spec.input_shape == (1, 128, 128)
    counts = [int((splits.test.dataset[i][1][0][:, 0] >= 0).sum()) for i in range(10)]  # type: ignore[union-attr]
    assert max(counts) > 4
    assert min(counts) >= 1
