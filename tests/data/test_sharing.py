"""The data shared out among ranks: in training disjoint and equally many, in evaluation each sample exactly once."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mptrain.data.loading import make_eval_loader, make_train_loader
from mptrain.data.order import EpochOrder, Shard
from mptrain.errors import ConfigError, DataError
from mptrain.interfaces import Batch, InMemory, Streamed
from tests.data.test_loading import CPU, NoisySamples, config, images, same

SPLITS = [
    pytest.param(images(23), {}, id="held"),
    pytest.param(images(23, augments=True), {"cache": "none"}, id="in process, augmented"),
    pytest.param(Streamed(NoisySamples(23)), {"num_workers": 1}, id="streamed, worker"),
]


def ranks(split: InMemory | Streamed, world_size: int, epoch: int = 1, **options: Any) -> list[list[Batch]]:
    """Return each rank's micro-batches of an epoch."""
    return [
        list(
            make_train_loader(split, config(**options), seed=5, device=CPU, shard=Shard(rank, world_size)).epoch(epoch)
        )
        for rank in range(world_size)
    ]


def ids(batches: list[Batch]) -> list[int]:
    return torch.cat([batch.targets for batch in batches]).tolist()


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("drop_last", [True, False])
@pytest.mark.parametrize(("split", "options"), SPLITS)
def test_training_is_disjoint_and_equally_long(
    split: InMemory | Streamed, options: dict[str, Any], world_size: int, drop_last: bool
) -> None:
    of_ranks = ranks(split, world_size, drop_last=drop_last, **options)
    assert len({tuple(len(batch.targets) for batch in batches) for batches in of_ranks}) == 1
    seen = [i for batches in of_ranks for i in ids(batches)]
    assert len(seen) == len(set(seen))
    per_rank = 23 // world_size
    assert len(seen) == world_size * (per_rank // 4 * 4 if drop_last else per_rank)


@pytest.mark.parametrize("world_size", [2, 3])
def test_each_step_takes_the_samples_that_one_process_with_the_whole_batch_takes(world_size: int) -> None:
    of_ranks = ranks(images(96), world_size, batch_size=24 // world_size)
    (whole,) = ranks(images(96), 1, batch_size=24)
    assert len(whole) == 4
    for step, batch in enumerate(whole):
        assert sorted(ids([batch])) == sorted(ids([batches[step] for batches in of_ranks]))


def test_every_rank_augments_in_its_own_way_and_each_epoch_anew() -> None:
    flat = InMemory(torch.zeros(8, 3, 4, 4), torch.arange(8), _noise)
    one, other = ranks(flat, 2)
    assert not torch.equal(one[0].inputs, other[0].inputs)
    assert not torch.equal(one[0].inputs, ranks(flat, 2, epoch=2)[0][0].inputs)
    assert same(one, ranks(flat, 2)[0])


def _noise(batch: Batch, generator: torch.Generator | None) -> Batch:
    return batch._replace(inputs=torch.rand(batch.inputs.shape, generator=generator))


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_enters_an_epoch_anywhere(rank: int) -> None:
    train = make_train_loader(Streamed(NoisySamples(23)), config(), seed=5, device=CPU, shard=Shard(rank, 2))
    whole = list(train.epoch(3))
    assert same(list(train.epoch(3, 1)), whole[1:])


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize(("split", "options"), SPLITS)
def test_evaluation_sees_each_sample_once_in_order(
    split: InMemory | Streamed, options: dict[str, Any], world_size: int
) -> None:
    assert evaluated(split, world_size, **options) == list(range(23))


@pytest.mark.parametrize("cache", ["auto", "none"])
def test_more_ranks_than_test_samples_leave_some_without(cache: str) -> None:
    assert evaluated(images(23), 30, cache=cache) == list(range(23))


def evaluated(split: InMemory | Streamed, world_size: int, **options: Any) -> list[int]:
    """Return what all ranks together evaluate, in the order of the ranks."""
    seen: list[int] = []
    for rank in range(world_size):
        loader = make_eval_loader(split, config(**options), device=CPU, shard=Shard(rank, world_size))
        batches = list(loader)
        assert len(batches) == len(loader)
        seen += [i for batch in batches for i in batch.targets.tolist()]
    return seen


def test_too_little_data_for_the_ranks_is_one_line() -> None:
    with pytest.raises(ConfigError, match=r"8 is larger than .* 22 samples, 7 for each of 3 processes"):
        EpochOrder(22, 8, True, True, 0, Shard(0, 3))
    with pytest.raises(DataError, match=r"2 samples, fewer than the 3 processes"):
        EpochOrder(2, 1, True, False, 0, Shard(2, 3))
