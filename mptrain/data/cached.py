"""Batches of a split that is held on the training device: gathered by index, transformed there.

Owns: the hot path of in-memory data. Must not: loop over samples, or read the device.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Set

import torch
from torch import Tensor

from mptrain.data.order import EpochOrder
from mptrain.interfaces import Batch, InMemory, Tensors, Transform, as_it_is, map_tensors

TRANSFORM_ONCE_BYTES = 256 * 2**20
"""A pure transform is applied once, before training, when its FP32 result is no larger than this."""
BLOCK_BYTES = 2**20
"""Micro-batches are gathered together up to this size: one gather then serves many small ones."""


def image_layout(batch: Batch, channels_last: bool) -> Batch:
    """Return the batch with 4-d inputs in channels-last memory format where asked."""
    if not channels_last:
        return batch
    return batch._replace(inputs=map_tensors(_channels_last, batch.inputs))


def _channels_last(tensor: Tensor) -> Tensor:
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor


def split_batch(batch: Batch, size: int) -> Iterator[Batch]:
    """Yield the batch in parts of `size` samples, the last one maybe smaller; nothing is copied."""
    return map(Batch, _parts(batch.inputs, size), _parts(batch.targets, size))


def _parts(tensors: Tensors, size: int) -> Iterable[Tensors]:
    if isinstance(tensors, tuple):
        return zip(*(torch.split(tensor, size) for tensor in tensors), strict=True)
    return torch.split(tensors, size)


def tensor_list(tensors: Tensors) -> list[Tensor]:
    """Return the one tensor, or those of the tuple, as a list."""
    return list(tensors) if isinstance(tensors, tuple) else [tensors]


class _Held:
    """The split's tensors on the device, already transformed where that needs no randomness and little memory."""

    def __init__(self, split: InMemory, samples: range, device: torch.device, *, pure: bool) -> None:
        own = slice(samples.start, samples.stop)
        self.batch = Batch(*(map_tensors(lambda t: t[own].to(device), part) for part in (split.inputs, split.targets)))
        self.transform: Transform = split.transform
        if pure and 4 * sum(t.numel() for t in tensor_list(self.batch.inputs)) <= TRANSFORM_ONCE_BYTES:
            self.batch, self.transform = split.transform(self.batch, None), as_it_is

    def rows(self, ids: Tensor) -> Batch:
        """Return the raw samples `ids`."""
        return Batch(*(map_tensors(lambda t: t.index_select(0, ids), part) for part in self.batch))

    def bytes_per_sample(self) -> int:
        """Return the bytes of one sample's raw inputs."""
        return sum(t[0].numel() * t.element_size() for t in tensor_list(self.batch.inputs))


class CachedTrainLoader:
    """Training micro-batches; augmentation is a pure function of (seed, epoch, micro-batch index)."""

    def __init__(self, split: InMemory, order: EpochOrder, device: torch.device, *, channels_last: bool) -> None:
        self._held = _Held(split, range(len(split)), device, pure=not split.augments)
        self._order, self._device, self._channels_last = order, device, channels_last
        self._generator = torch.Generator(device) if split.augments else None
        batch_bytes = self._held.bytes_per_sample() * order.batch_size
        # An augmented micro-batch has its own seed, so it is a block of its own.
        self._batches_per_block = 1 if split.augments else max(1, BLOCK_BYTES // max(1, batch_bytes))

    def __len__(self) -> int:
        return len(self._order)

    def order(self, epoch: int) -> Tensor:
        """Return the sample ids of the epoch in order, int64 on the CPU."""
        return self._order.ids(epoch)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yield the epoch's micro-batches on the device, from micro-batch index `start`."""
        if start >= len(self):
            return
        size = self._order.batch_size
        ids = self.order(epoch)[start * size :].to(self._device)
        for index, block in enumerate(torch.split(ids, size * self._batches_per_block), start):
            if self._generator is not None:
                self._generator.manual_seed(self._order.batch_seed(epoch, index))
            batch = self._held.transform(self._held.rows(block), self._generator)
            yield from split_batch(image_layout(batch, self._channels_last), size)


class CachedEvalLoader:
    """Evaluation batches in order, never augmented, nothing dropped."""

    left_out: Set[int] = frozenset()

    def __init__(
        self, split: InMemory, samples: range, batch_size: int, device: torch.device, *, channels_last: bool
    ) -> None:
        self._held = _Held(split, samples, device, pure=True)
        self._batch_size, self._channels_last = batch_size, channels_last

    def __len__(self) -> int:
        return -(-self._held.batch.size // self._batch_size)

    def __iter__(self) -> Iterator[Batch]:
        for batch, _ in zip(split_batch(self._held.batch, self._batch_size), range(len(self)), strict=False):
            yield image_layout(self._held.transform(batch, None), self._channels_last)
