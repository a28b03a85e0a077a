"""Batches: order, augmentation and resume are pure functions of seed and position, whoever reads the data."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset

from mptrain.config.schema import DataConfig
from mptrain.data.images.transforms import random_flip
from mptrain.data.loading import TrainLoader, check_labels, make_eval_loader, make_train_loader
from mptrain.errors import ConfigError, DataError
from mptrain.interfaces import Batch, DataSpec, DataSplits, InMemory, Streamed, as_it_is

CPU = torch.device("cpu")


def halve(batch: Batch, generator: torch.Generator | None) -> Batch:
    return batch._replace(inputs=batch.inputs.float() / 2)


def halve_and_flip(batch: Batch, generator: torch.Generator | None) -> Batch:
    if generator is not None:
        batch = batch._replace(inputs=random_flip(batch.inputs, generator))
    return halve(batch, None)


class NoisySamples(Dataset[Any]):
    """Sample i is (i, torch noise, Python noise, NumPy noise); target i."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return torch.tensor([index, float(torch.rand(())), random.random(), np.random.rand()]), index


class BadSamples(NoisySamples):
    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        if index == 3:
            raise DataError(f"picture-{index}.png cannot be decoded")
        return super().__getitem__(index)


class SigintHandlers(NoisySamples):
    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return torch.zeros(1), int(signal.getsignal(signal.SIGINT) is signal.SIG_IGN)


def images(count: int = 22, *, augments: bool = False) -> InMemory:
    inputs = torch.arange(count * 3 * 4 * 4).view(count, 3, 4, 4) % 251
    return InMemory(
        inputs.to(torch.uint8), torch.arange(count), halve_and_flip if augments else halve, augments=augments
    )


def config(**options: Any) -> DataConfig:
    return DataConfig.model_validate({"name": "any", "batch_size": 4, **options})


def loader(split: InMemory | Streamed, *, seed: int = 5, **options: Any) -> TrainLoader:
    return make_train_loader(split, config(**options), seed=seed, device=CPU)


def same(one: list[Batch], other: list[Batch]) -> bool:
    return len(one) == len(other) and all(
        torch.equal(a.inputs, b.inputs) and torch.equal(a.targets, b.targets) for a, b in zip(one, other, strict=True)
    )


@pytest.fixture(autouse=True)
def untouched_random_state() -> Iterator[None]:
    """Every test here also proves that loading leaves the global random state alone."""
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    yield
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    assert np.random.get_state()[1].tolist() == before[2]


KINDS = [
    pytest.param(images(), {}, id="held"),
    pytest.param(images(augments=True), {}, id="held, augmented"),
    pytest.param(images(), {"cache": "none"}, id="in process"),
    pytest.param(images(augments=True), {"cache": "none", "num_workers": 2}, id="workers, augmented"),
    pytest.param(Streamed(NoisySamples(22)), {}, id="streamed"),
    pytest.param(Streamed(NoisySamples(22)), {"num_workers": 2}, id="streamed, workers"),
]


@pytest.mark.parametrize(("split", "options"), KINDS)
def test_an_epoch_can_be_entered_anywhere(split: InMemory | Streamed, options: dict[str, Any]) -> None:
    train = loader(split, **options)
    first, second = list(train.epoch(0)), list(train.epoch(1))
    assert len(first) == len(train) == 5
    assert not same(first, second)
    for start in (0, 1, 4, 5, 6):
        assert same(list(train.epoch(1, start)), second[start:])
    assert same(list(loader(split, **options).epoch(1)), second)
    assert not same(list(loader(split, seed=6, **options).epoch(1)), second)


@pytest.mark.parametrize(("split", "options"), KINDS)
def test_batches_hold_the_samples_of_the_order(split: InMemory | Streamed, options: dict[str, Any]) -> None:
    train = loader(split, drop_last=False, **options)
    batches = list(train.epoch(2))
    assert [len(batch.targets) for batch in batches] == [4, 4, 4, 4, 4, 2]
    assert torch.cat([batch.targets for batch in batches]).tolist() == train.order(2).tolist()
    assert sorted(train.order(2).tolist()) == list(range(22))
    unshuffled = loader(split, shuffle=False, **options)
    assert unshuffled.order(7).tolist() == list(range(20))


@pytest.mark.parametrize(("split", "options"), KINDS)
def test_an_abandoned_epoch_does_not_leak_into_the_next(split: InMemory | Streamed, options: dict[str, Any]) -> None:
    train = loader(split, **options)
    wanted = list(loader(split, **options).epoch(1))
    for _ in zip(train.epoch(0), range(2), strict=False):
        pass
    assert same(list(train.epoch(1)), wanted)


@pytest.mark.parametrize("augments", [False, True])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_held_and_read_data_give_the_same_batches(augments: bool, num_workers: int) -> None:
    split = images(augments=augments)
    held, read = loader(split), loader(split, cache="none", num_workers=num_workers)
    assert same(list(held.epoch(3)), list(read.epoch(3)))


def test_augmentation_changes_training_only() -> None:
    split = images(augments=True)
    plain = {int(t): x for batch in make_eval_loader(split, config(), device=CPU) for x, t in zip(*batch, strict=True)}
    changed = [
        not torch.equal(x, plain[int(t)]) for batch in loader(split).epoch(0) for x, t in zip(*batch, strict=True)
    ]
    assert 0 < sum(changed) < len(changed)
    assert all(torch.equal(plain[i], split.inputs[i].float() / 2) for i in range(22))


def test_a_streamed_sample_depends_on_seed_epoch_and_id_alone() -> None:
    split = Streamed(NoisySamples(22))

    def samples(train: TrainLoader, epoch: int) -> dict[int, list[float]]:
        return {int(x[0]): x.tolist() for batch in train.epoch(epoch) for x in batch.inputs}

    one = samples(loader(split, batch_size=22), 0)
    assert one == samples(loader(split, batch_size=11, shuffle=False, num_workers=2), 0)
    other = samples(loader(split, batch_size=22), 1)
    assert all(a != b for i in range(22) for a, b in zip(one[i][1:], other[i][1:], strict=True))


@pytest.mark.parametrize("cache", ["auto", "none"])
def test_many_small_batches_are_those_of_the_order(cache: str) -> None:
    inputs = torch.randn(5000, 64, generator=torch.Generator().manual_seed(1))
    split = InMemory(inputs, torch.arange(5000), as_it_is, augments=False)
    train = loader(split, batch_size=8, cache=cache)
    for batch, ids in zip(train.epoch(0), train.order(0).split(8), strict=True):
        assert torch.equal(batch.inputs, inputs[ids])


@pytest.mark.parametrize(("split", "options"), KINDS)
def test_evaluation_is_in_order_and_whole(split: InMemory | Streamed, options: dict[str, Any]) -> None:
    evaluation = make_eval_loader(split, config(eval_batch_size=5, **options), device=CPU)
    for _ in range(2):
        batches = list(evaluation)
        assert len(batches) == len(evaluation) == 5
        assert torch.cat([batch.targets for batch in batches]).tolist() == list(range(22))


@pytest.mark.parametrize("cache", ["auto", "none"])
@pytest.mark.parametrize("augments", [False, True])
def test_channels_last(cache: str, augments: bool) -> None:
    split = images(augments=augments)
    train = make_train_loader(split, config(cache=cache), seed=0, device=CPU, channels_last=True)
    test = make_eval_loader(split, config(cache=cache), device=CPU, channels_last=True)
    for batch in [*train.epoch(0), *test]:
        assert batch.inputs.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_damaged_sample_arrives_as_its_own_one_line_error(num_workers: int) -> None:
    with pytest.raises(DataError) as caught:
        list(loader(Streamed(BadSamples(8)), num_workers=num_workers).epoch(0))
    assert str(caught.value) == "picture-3.png cannot be decoded"


def test_workers_leave_ctrl_c_to_the_main_process() -> None:
    batches = list(loader(Streamed(SigintHandlers(8)), num_workers=1).epoch(0))
    assert torch.cat([batch.targets for batch in batches]).tolist() == [1] * 8


def test_workers_start_under_spawn() -> None:
    code = (
        "import multiprocessing, torch\n"
        "from tests.data.test_loading import KINDS, NoisySamples, Streamed, images, loader, same\n"
        "if __name__ == '__main__':\n"
        "    multiprocessing.set_start_method('spawn')\n"
        "    for split, cache in ((Streamed(NoisySamples(22)), 'auto'), (images(augments=True), 'none')):\n"
        "        here, there = loader(split, cache=cache), loader(split, cache=cache, num_workers=1)\n"
        "        assert same(list(here.epoch(0)), list(there.epoch(0)))\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


def test_a_batch_larger_than_the_data_names_both_and_the_remedy() -> None:
    with pytest.raises(ConfigError, match=r"32 is larger .* 22 samples.*data.drop_last=false"):
        loader(images(), batch_size=32)
    assert len(list(loader(images(), batch_size=32, drop_last=False).epoch(0))) == 1


def test_empty_splits_are_refused() -> None:
    with pytest.raises(DataError, match="training split is empty"):
        loader(images(0))
    with pytest.raises(DataError, match="test split is empty"):
        make_eval_loader(images(0), config(), device=CPU)


def test_streamed_data_cannot_be_held() -> None:
    with pytest.raises(ConfigError, match=r"data\.cache=auto"):
        loader(Streamed(NoisySamples(22)), cache="device")


def test_labels_outside_the_model_are_named() -> None:
    split = images()
    check_labels(DataSplits(DataSpec((3, 4, 4), 22), split, split), 22)
    with pytest.raises(ConfigError, match=r"10 outputs, but the largest training label is 21"):
        check_labels(DataSplits(DataSpec((3, 4, 4), 22), split, split), 10)
    with pytest.raises(ConfigError, match=r"largest training label is 21"):
        check_labels(DataSplits(DataSpec((3, 4, 4), 22), Streamed(NoisySamples(22)), split), 10)
    negative = InMemory(split.inputs, split.targets - 1, halve)
    with pytest.raises(ConfigError, match="smallest test label is -1"):
        check_labels(DataSplits(DataSpec((3, 4, 4), 22), split, negative), 22)
    targets = InMemory(split.inputs, torch.full((22, 1), 99.0), halve)
    check_labels(DataSplits(DataSpec((3, 4, 4), 1, kind="regression"), targets, targets), 1)
