"""Batches of a split that is held on the training device: gathered by index, transformed there.

Owns: the hot path of in-memory data. Must not: loop over samples, or read the device.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from mptrain.data.order import EpochOrder, derive_seed
from mptrain.interfaces import Batch, InMemory, Transform

TRANSFORM_ONCE_BYTES = 256 * 2**20
"""A pure transform is applied once, before training, when its FP32 result is no larger than this."""
BLOCK_BYTES = 2**20
"""Micro-batches are gathered together up to this size: one gather then serves many small ones."""


def image_layout(inputs: Tensor, channels_last: bool) -> Tensor:
    """Return 4-d inputs in channels-last memory format where asked; others as they are."""
    return inputs.contiguous(memory_format=torch.channels_last) if channels_last and inputs.dim() == 4 else inputs


class _Held:
    """The split's tensors on the device, already transformed where that needs no randomness and little memory."""

    def __init__(self, split: InMemory, device: torch.device, *, pure: bool) -> None:
        self.inputs, self.targets = split.inputs.to(device), split.targets.to(device)
        self.transform: Transform | None = split.transform
        if pure and self.inputs.numel() * 4 <= TRANSFORM_ONCE_BYTES:
            self.inputs, self.transform = split.transform(self.inputs, None), None


class CachedTrainLoader:
    """Training micro-batches; augmentation is a pure function of (seed, epoch, micro-batch index)."""

    def __init__(self, split: InMemory, order: EpochOrder, device: torch.device, *, channels_last: bool) -> None:
        self._held = _Held(split, device, pure=not split.augments)
        self._order, self._device, self._channels_last = order, device, channels_last
        self._generator = torch.Generator(device) if split.augments else None
        batch_bytes = self._held.inputs[0].numel() * self._held.inputs.element_size() * order.batch_size
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
        held = self._held
        for index, block in enumerate(torch.split(ids, size * self._batches_per_block), start):
            inputs = held.inputs.index_select(0, block)
            targets = held.targets.index_select(0, block)
            if self._generator is not None:
                self._generator.manual_seed(derive_seed(self._order.seed, epoch, index))
            if held.transform is not None:
                inputs = held.transform(inputs, self._generator)
            inputs = image_layout(inputs, self._channels_last)
            yield from map(Batch, torch.split(inputs, size), torch.split(targets, size))


class CachedEvalLoader:
    """Evaluation batches in order, never augmented, nothing dropped."""

    def __init__(self, split: InMemory, batch_size: int, device: torch.device, *, channels_last: bool) -> None:
        self._held = _Held(split, device, pure=True)
        self._batch_size, self._channels_last = batch_size, channels_last

    def __len__(self) -> int:
        return -(-len(self._held.inputs) // self._batch_size)

    def __iter__(self) -> Iterator[Batch]:
        held = self._held
        size = self._batch_size
        for inputs, targets in zip(torch.split(held.inputs, size), torch.split(held.targets, size), strict=True):
            if held.transform is not None:
                inputs = held.transform(inputs, None)
            yield Batch(image_layout(inputs, self._channels_last), targets)
