"""Batches of several inputs and targets, of samples of different lengths, and transformed streams, in every loader."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from mptrain.data.loading import make_eval_loader, make_train_loader
from mptrain.interfaces import Batch, InMemory, Streamed
from tests.data.test_loading import CPU, config

COUNT = 22


def plus_half(batch: Batch, generator: torch.Generator | None) -> Batch:
    """Add one half to the first input; in training, draw a shift for the second target too."""
    first, second = batch.inputs
    shift = 0 if generator is None else torch.randint(1, 100, (1,), generator=generator)
    return Batch((first + 0.5, second), (batch.targets[0], batch.targets[1] + shift))


class Pairs(Dataset[Any]):
    """Sample i is ((i, i + 1), (i, 2 i)) as tensors of different shapes and types."""

    def __len__(self) -> int:
        return COUNT

    def __getitem__(self, index: int) -> Any:
        return (torch.full((3,), float(index)), torch.tensor(index + 1)), (
            torch.tensor(index),
            torch.tensor(2.0 * index),
        )


def held(augments: bool) -> InMemory:
    ids = torch.arange(COUNT)
    return InMemory((ids.float().view(-1, 1).repeat(1, 3), ids + 1), (ids, 2.0 * ids), plus_half, augments=augments)


KINDS = [
    pytest.param(held(False), {}, id="held"),
    pytest.param(held(True), {}, id="held, augmented"),
    pytest.param(held(True), {"cache": "none", "num_workers": 2}, id="workers, augmented"),
    pytest.param(Streamed(Pairs(), transform=plus_half), {}, id="streamed"),
    pytest.param(Streamed(Pairs(), transform=plus_half, augments=True), {"num_workers": 2}, id="streamed, augmented"),
]


def check(batch: Batch, ids: Tensor) -> None:
    """Check everything of a batch but the shift."""
    assert isinstance(batch.inputs, tuple)
    assert isinstance(batch.targets, tuple)
    assert batch.size == len(ids)
    assert torch.equal(batch.inputs[0], ids.float().view(-1, 1).repeat(1, 3) + 0.5)
    assert torch.equal(batch.inputs[1], ids + 1)
    assert torch.equal(batch.targets[0], ids)


@pytest.mark.parametrize(("split", "options"), KINDS)
def test_training_takes_them_by_the_order(split: InMemory | Streamed, options: dict[str, Any]) -> None:
    loader = make_train_loader(split, config(drop_last=False, **options), seed=3, device=CPU)
    batches = list(loader.epoch(1))
    shifts = []
    for batch, ids in zip(batches, loader.order(1).split(4), strict=True):
        check(batch, ids)
        shifts.append((batch.targets[1] - 2 * ids).unique().tolist())
    if split.augments:
        assert all(shift != [0] for shift in shifts)
        assert len({tuple(shift) for shift in shifts}) > 1
    else:
        assert shifts == [[0]] * 6
    again = list(loader.epoch(1, 4))
    assert all(torch.equal(a.targets[1], b.targets[1]) for a, b in zip(again, batches[4:], strict=True))


@pytest.mark.parametrize(("split", "options"), KINDS)
def test_evaluation_takes_them_in_order_and_never_augments(split: InMemory | Streamed, options: dict[str, Any]) -> None:
    loader = make_eval_loader(split, config(eval_batch_size=5, **options), device=CPU)
    for batch, ids in zip(loader, torch.arange(COUNT).split(5), strict=True):
        check(batch, ids)
        assert torch.equal(batch.targets[1], 2.0 * ids)


def test_augmentation_of_held_and_streamed_data_is_the_same() -> None:
    def shifts(split: InMemory | Streamed, **options: Any) -> list[Tensor]:
        loader = make_train_loader(split, config(**options), seed=3, device=CPU)
        return [batch.targets[1] for batch in loader.epoch(0)]

    one = shifts(held(True))
    for other in (shifts(held(True), cache="none"), shifts(Streamed(Pairs(), transform=plus_half, augments=True))):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


class Words(Dataset[Any]):
    """Sample i is i + 1 random numbers, and their count."""

    def __len__(self) -> int:
        return COUNT

    def __getitem__(self, index: int) -> Any:
        return torch.rand(index + 1), index + 1


def padded(samples: list[Any]) -> tuple[Any, Tensor]:
    inputs, counts = zip(*samples, strict=True)
    return (pad_sequence(list(inputs), batch_first=True), torch.tensor(counts)), torch.tensor(counts)


@pytest.mark.parametrize("start", [0, 1, 4])
def test_samples_of_different_lengths_resume_in_mid_epoch_with_any_number_of_workers(start: int) -> None:
    def batches(num_workers: int, start: int) -> list[Batch]:
        split = Streamed(Words(), collate=padded)
        options = config(num_workers=num_workers, drop_last=False)
        return list(make_train_loader(split, options, seed=3, device=CPU).epoch(2, start))

    whole = batches(0, 0)
    assert len(whole) == 6
    assert [batch.inputs[0].shape[1] for batch in whole] == [int(batch.targets.max()) for batch in whole]
    for num_workers in (0, 1, 2):
        for one, other in zip(batches(num_workers, start), whole[start:], strict=True):
            assert torch.equal(one.inputs[0], other.inputs[0])
            assert torch.equal(one.inputs[1], other.inputs[1])
            assert torch.equal(one.targets, other.targets)
