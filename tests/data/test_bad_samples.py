"""Samples that cannot be read: the run ends naming the file, or goes on without them, the same in any loader."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from mptrain.data.loading import make_eval_loader, make_train_loader
from mptrain.errors import DataError
from mptrain.interfaces import BadFiles, Batch, Streamed
from tests.data.test_loading import CPU, NoisySamples, config, same

WORKERS = pytest.mark.parametrize("num_workers", [0, 2])


class Damaged(NoisySamples):
    """22 samples of which some cannot be read."""

    def __init__(self, *bad: int) -> None:
        super().__init__(22)
        self.bad = bad

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        if index in self.bad:
            raise DataError(f"{index}.png: cannot be decoded")
        return super().__getitem__(index)


def train(bad: Sequence[int], bad_files: BadFiles, **options: Any) -> list[Batch]:
    loader = make_train_loader(Streamed(Damaged(*bad)), config(**options), seed=5, device=CPU, bad_files=bad_files)
    return [*loader.epoch(0), *loader.epoch(1)]


@WORKERS
def test_raise_names_the_first_bad_file(num_workers: int) -> None:
    with pytest.raises(DataError) as caught:
        train([3], BadFiles("raise"), num_workers=num_workers)
    assert str(caught.value) == "3.png: cannot be decoded"


@WORKERS
def test_skip_leaves_the_samples_out_and_changes_nothing_else(num_workers: int) -> None:
    bad_files = BadFiles("skip")
    found = train([3, 4, 17], bad_files, num_workers=num_workers, drop_last=False)
    kept = [
        Batch(batch.inputs[good], batch.targets[good])
        for batch in train([], BadFiles(), drop_last=False)
        for good in [~torch.isin(batch.targets, torch.tensor([3, 4, 17]))]
    ]
    assert same(found, kept)
    # Once for each file, though every epoch meets them all.
    assert sorted(bad_files.reasons) == [f"{i}.png: cannot be decoded" for i in (17, 3, 4)]


@WORKERS
def test_an_epoch_with_bad_files_can_be_entered_anywhere(num_workers: int) -> None:
    options = config(num_workers=num_workers, on_error="skip")
    loader = make_train_loader(Streamed(Damaged(3, 4, 17)), options, seed=5, device=CPU)
    whole = list(loader.epoch(2))
    assert same(list(loader.epoch(2, 3)), whole[3:])


@WORKERS
def test_evaluation_tells_which_samples_it_left_out(num_workers: int) -> None:
    options = config(num_workers=num_workers, on_error="skip", batch_size=4)
    loader = make_eval_loader(Streamed(Damaged(0, 8, 9, 10, 11)), options, device=CPU)
    for _ in range(2):
        batches = list(loader)
        # A batch of which nothing is left is no batch.
        assert [len(batch.targets) for batch in batches] == [3, 4, 4, 4, 2]
        assert sorted({*torch.cat([batch.targets for batch in batches]).tolist(), *loader.left_out}) == list(range(22))


def test_nothing_left_is_an_error() -> None:
    with pytest.raises(DataError, match=r"none of the 1 samples of a training batch .* raise data\.batch_size"):
        train([3], BadFiles("skip"), batch_size=1)
    with pytest.raises(DataError, match="none of the test samples can be read"):
        list(make_eval_loader(Streamed(Damaged(*range(22))), config(on_error="skip"), device=CPU))


def uneven(samples: list[Any]) -> tuple[Tensor, Tensor]:
    raise DataError("7.txt: too long to be put into a batch")


@pytest.mark.parametrize("on_error", ["raise", "skip"])
@WORKERS
def test_a_batch_that_cannot_be_made_is_an_error_in_one_line(num_workers: int, on_error: str) -> None:
    options = config(num_workers=num_workers, on_error=on_error)
    with pytest.raises(DataError, match=r"^7\.txt: too long"):
        list(make_eval_loader(Streamed(NoisySamples(8), uneven), options, device=CPU))
