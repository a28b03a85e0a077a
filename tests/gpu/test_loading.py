"""Loading on a GPU: batches arrive there whole, from a cache or one ahead from pinned memory, and are the same ones."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from mptrain.data.loading import make_eval_loader, make_train_loader
from mptrain.errors import CapabilityError
from mptrain.interfaces import Batch, InMemory, Streamed, as_it_is, map_tensors
from tests.data.test_bad_samples import Damaged
from tests.data.test_loading import NoisySamples, config, images
from tests.data.test_several_inputs import KINDS, check

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU that torch can use"),
]

GPU, CPU = torch.device("cuda"), torch.device("cpu")


def epoch(split: InMemory | Streamed, device: torch.device, **options: Any) -> list[Batch]:
    loader = make_train_loader(split, config(**options), seed=5, device=device, channels_last=True)
    return [Batch(batch.inputs.clone(), batch.targets.clone()) for batch in loader.epoch(1)]


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("split", [images(), Streamed(NoisySamples(22))], ids=["in memory", "streamed"])
def test_batches_are_those_of_the_cpu(split: InMemory | Streamed, num_workers: int) -> None:
    for cache in ("auto", "none"):
        there = epoch(split, GPU, cache=cache, num_workers=num_workers)
        for one, other in zip(there, epoch(split, CPU), strict=True):
            assert one.inputs.device.type == one.targets.device.type == "cuda"
            assert torch.equal(one.inputs.cpu(), other.inputs)
            assert torch.equal(one.targets.cpu(), other.targets)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_augmentation_on_the_device_does_not_depend_on_the_reader(num_workers: int) -> None:
    split = images(augments=True)
    held, read = epoch(split, GPU), epoch(split, GPU, cache="none", num_workers=num_workers)
    assert all(torch.equal(a.inputs, b.inputs) for a, b in zip(held, read, strict=True))


@pytest.mark.parametrize(("split", "options"), KINDS)
def test_several_inputs_and_targets_arrive_as_tuples(split: InMemory | Streamed, options: dict[str, Any]) -> None:
    loader = make_train_loader(split, config(drop_last=False, **options), seed=3, device=GPU)
    for batch, ids in zip(loader.epoch(1), loader.order(1).split(4), strict=True):
        check(Batch(*(map_tensors(Tensor.cpu, part) for part in batch)), ids)


def test_bad_samples_are_left_out() -> None:
    options = config(on_error="skip", num_workers=1)
    loader = make_eval_loader(Streamed(Damaged(0, 8, 9, 10, 11)), options, device=GPU)
    assert [len(batch.targets) for batch in loader] == [3, 4, 4, 4, 2]


def test_evaluation_is_whole() -> None:
    for cache in ("device", "none"):
        batches = list(make_eval_loader(images(), config(cache=cache), device=GPU))
        assert torch.cat([batch.targets for batch in batches]).tolist() == list(range(22))


def test_data_larger_than_the_device_are_refused_with_the_remedy() -> None:
    free, _ = torch.cuda.mem_get_info(GPU)
    count = 2 * free // 100 + 100
    huge = torch.zeros(1, dtype=torch.uint8).expand(count, 100)  # one byte of real memory
    split = InMemory(huge, torch.zeros(1, dtype=torch.int64).expand(count), as_it_is, augments=False)
    with pytest.raises(CapabilityError, match=r"data\.cache=none"):
        make_train_loader(split, config(cache="device"), seed=0, device=GPU)


def test_global_generators_are_left_alone() -> None:
    torch.cuda.manual_seed(3)
    before = torch.cuda.get_rng_state()
    epoch(images(augments=True), GPU)
    epoch(Streamed(NoisySamples(22)), GPU)
    assert torch.equal(torch.cuda.get_rng_state(), before)
