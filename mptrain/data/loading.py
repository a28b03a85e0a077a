"""How a split becomes batches on the training device: held there, or read by loader processes.

Owns: that choice, and the checks that do not depend on it. Must not: know any particular dataset.
"""

from __future__ import annotations

from collections.abc import Iterator, Set
from typing import Protocol

import torch
from torch import Tensor

from mptrain.config.schema import DataConfig
from mptrain.data.cached import CachedEvalLoader, CachedTrainLoader, tensor_list
from mptrain.data.order import WHOLE, EpochOrder, Shard
from mptrain.data.workers import WorkerEvalLoader, WorkerTrainLoader
from mptrain.errors import CapabilityError, ConfigError, DataError
from mptrain.interfaces import BadFiles, Batch, DataSplits, InMemory, Streamed

AUTO_CACHE_SHARE = 0.25
"""Share of a GPU's free memory that `cache: auto` may take."""


class TrainLoader(Protocol):
    """Training micro-batches of any epoch, resumable at any of them."""

    def __len__(self) -> int:
        """Return micro-batches per epoch."""

    def order(self, epoch: int) -> Tensor:
        """Return the sample ids of the epoch in order, int64 on the CPU."""

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yield the epoch's micro-batches on the device, from micro-batch index `start`."""


class EvalLoader(Protocol):
    """Evaluation batches, in order, all samples (of this rank); may be iterated again."""

    left_out: Set[int]
    """The samples of this pass, as far as it has come, that could not be read and are in no batch."""

    def __len__(self) -> int:
        """Return the number of batches."""

    def __iter__(self) -> Iterator[Batch]:
        """Yield the batches on the device."""


def make_train_loader(
    split: InMemory | Streamed,
    config: DataConfig,
    *,
    seed: int,
    device: torch.device,
    channels_last: bool = False,
    shard: Shard = WHOLE,
    bad_files: BadFiles | None = None,
) -> TrainLoader:
    """Return the training loader; order and augmentation depend on (seed, epoch) and the position only.

    What cannot be read goes to `bad_files`, by default new ones that do as `data.on_error` says. Raises ConfigError
    when a batch is larger than the split or the cache mode does not suit it, DataError when the split is empty,
    CapabilityError when it does not fit on the device.
    """
    order = EpochOrder(len(split), config.batch_size, config.shuffle, config.drop_last, seed, shard)
    if isinstance(split, InMemory) and _is_held(split, config, device):
        return CachedTrainLoader(split, order, device, channels_last=channels_last)
    _check_readable(split, config)
    return WorkerTrainLoader(
        split,
        order,
        device,
        num_workers=config.num_workers,
        channels_last=channels_last,
        bad_files=bad_files or BadFiles(config.on_error),
        read_timeout=config.read_timeout,
    )


def make_eval_loader(
    split: InMemory | Streamed,
    config: DataConfig,
    *,
    device: torch.device,
    channels_last: bool = False,
    shard: Shard = WHOLE,
    bad_files: BadFiles | None = None,
) -> EvalLoader:
    """Return the evaluation loader: over all ranks, each sample once; raise as make_train_loader does."""
    if len(split) == 0:
        raise DataError("data: the test split is empty; there is nothing to evaluate on")
    batch_size, samples = config.eval_batch_size or config.batch_size, shard.part(len(split))
    if isinstance(split, InMemory) and _is_held(split, config, device):
        return CachedEvalLoader(split, samples, batch_size, device, channels_last=channels_last)
    _check_readable(split, config)
    return WorkerEvalLoader(
        split,
        samples,
        batch_size,
        device,
        num_workers=config.num_workers,
        channels_last=channels_last,
        bad_files=bad_files or BadFiles(config.on_error),
        read_timeout=config.read_timeout,
    )


def _is_held(split: InMemory, config: DataConfig, device: torch.device) -> bool:
    """Say whether the split is kept on the device: it always is on a CPU, where it already lies in memory."""
    if config.cache == "none" or device.type != "cuda":
        return config.cache != "none"
    free, _total = torch.cuda.mem_get_info(device)
    needed = sum(tensor.nbytes for part in (split.inputs, split.targets) for tensor in tensor_list(part))
    if config.cache == "device" and needed > free:
        raise CapabilityError(
            f"data.cache: the data take {needed / 1e9:.1f} GB, {device} has {free / 1e9:.1f} GB free; "
            "set data.cache=none to read them from host memory"
        )
    return config.cache == "device" or needed < AUTO_CACHE_SHARE * free


def _check_readable(split: InMemory | Streamed, config: DataConfig) -> None:
    if isinstance(split, Streamed) and config.cache == "device":
        raise ConfigError(
            f"data.cache: '{config.name}' is read file by file and cannot be kept on the device; "
            "set data.cache=auto and data.num_workers"
        )


def check_labels(splits: DataSplits, num_outputs: int) -> None:
    """Raise ConfigError when a class label of either split is outside 0 .. num_outputs - 1; regression passes."""
    if splits.spec.kind != "classification":
        return
    for word, split in (("training", splits.train), ("test", splits.test)):
        if isinstance(split, InMemory):
            if len(split) == 0:
                continue
            smallest, largest = int(split.targets.min()), int(split.targets.max())
        else:
            smallest, largest = 0, splits.spec.num_outputs - 1
        if smallest < 0:
            raise ConfigError(f"data: the smallest {word} label is {smallest}; labels must begin at 0")
        if largest >= num_outputs:
            raise ConfigError(
                f"model.num_classes: {num_outputs} outputs, but the largest {word} label is {largest}; "
                f"set model.num_classes to {largest + 1} or more, or to null"
            )
