"""How many samples of a micro-batch are computed on at a time, and how an attempt that ran out of memory begins anew.

Owns: the size, which `train.micro_batch` sets or memory does, and when to try a smaller one. Must not: compute, or know
what an attempt has begun: `step.py` says how to forget it.

Memory that runs out in the optimizer is none of this: weights may be half updated, so such a run ends.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Sequence
from typing import Literal

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from mptrain.config.schema import RunConfig
from mptrain.data.cached import split_batch
from mptrain.interfaces import Batch
from mptrain.trainer.out_of_memory import ran_out_of_memory
from mptrain.trainer.randomness import random_state, restore_random_state

OnSmaller = Callable[[int, int], None]
"""Told of the samples that did not fit, and of those tried next."""


class MicroBatch:
    """Cuts micro-batches into pieces of at most `size` samples; None leaves them whole."""

    def __init__(self, size: int | None = None) -> None:
        self.size = size
        self.multiple = 1
        """What a size that is found is a multiple of: see `PrecisionPolicy.batch_multiple`."""

    def pieces(self, batch: Batch) -> Sequence[Batch]:
        """Return the pieces of a micro-batch."""
        if self.size is None or batch.size <= self.size:
            return (batch,)
        return tuple(split_batch(batch, self._even(batch.size, self.size)))

    def within_memory(self, window: Sequence[Batch], compute: Callable[[], None], forget: Callable[[], None]) -> None:
        """Call `compute`, which computes the gradients of `window`; `forget` undoes what it began."""
        del window, forget
        compute()

    def take_over(self, size: int | None) -> None:
        """Go on with what an earlier process found; a number in the config stands."""

    def _even(self, batch: int, at_most: int) -> int:
        return even_size(batch, at_most)


class FittingMicroBatch(MicroBatch):
    """Begins with whole micro-batches and halves their size whenever memory runs out."""

    def __init__(self, device: torch.device, on_smaller: OnSmaller) -> None:
        super().__init__()
        self._device, self._on_smaller = device, on_smaller

    def within_memory(self, window: Sequence[Batch], compute: Callable[[], None], forget: Callable[[], None]) -> None:
        """See MicroBatch; raise the error of the smallest size where even that does not fit."""
        while True:
            random = random_state(self._device)
            try:
                return compute()
            except ValueError as error:
                if self.size is None or not norm_needs_more(error) or any(batch.size == 1 for batch in window):
                    raise
                raise torch.OutOfMemoryError(
                    f"pieces of more than {self.size} samples do not fit, and of one BatchNorm has no statistics"
                ) from error
            except (RuntimeError, MemoryError) as error:
                if not ran_out_of_memory(error):
                    raise
                size, smaller = self._smaller(window)
                if smaller >= size:
                    raise
            # Out of the handler: an exception holds the frames it passed, and they the tensors that filled the memory.
            forget()
            gc.collect()
            if self._device.type == "cuda":
                torch.cuda.empty_cache()
            restore_random_state(random, self._device)
            self.size = smaller
            self._on_smaller(size, smaller)

    def take_over(self, size: int | None) -> None:
        """See MicroBatch."""
        self.size = size

    def _even(self, batch: int, at_most: int) -> int:
        return even_size(batch, at_most, self.multiple)

    def _smaller(self, window: Sequence[Batch]) -> tuple[int, int]:
        largest = max(batch.size for batch in window)
        size = largest if self.size is None else min(self.size, largest)
        return size, even_size(size, -(-size // 2), self.multiple)


def norm_needs_more(error: ValueError) -> bool:
    """Say whether torch refused to normalise over a single value."""
    return "Expected more than 1 value per channel" in str(error)


def even_size(batch: int, at_most: int, multiple: int = 1) -> int:
    """Return the size of the pieces of `batch` samples: as even as can be, for a norm over a rest of one is none.

    A size that is no multiple of `multiple` is raised to one.
    """
    count = -(-batch // at_most)
    return -(-batch // count // multiple) * multiple


def make_micro_batch(config: RunConfig, device: torch.device, on_smaller: OnSmaller) -> MicroBatch:
    """Return what `train.micro_batch` asks for."""
    wanted = config.train.micro_batch
    return FittingMicroBatch(device, on_smaller) if wanted == "auto" else MicroBatch(wanted)


def piece_sizes(batches: Iterable[int], wanted: int | Literal["auto"] | None) -> set[int]:
    """Return the sizes of the pieces of micro-batches of these sizes, as far as `train.micro_batch` tells."""
    sizes = set()
    for batch in batches:
        size = even_size(batch, min(wanted, batch)) if isinstance(wanted, int) else batch
        sizes |= {size, batch % size or size}
    return sizes


def norm_notices(config: RunConfig, model: nn.Module) -> list[str]:
    """Return what pieces mean for a model that normalises over its batch."""
    norms = sum(isinstance(module, _BatchNorm) for module in model.modules())
    wanted, batch = config.train.micro_batch, config.data.batch_size
    if not norms or wanted is None or (isinstance(wanted, int) and wanted >= batch):
        return []
    when = "where memory runs out, " if wanted == "auto" else ""
    size = "a piece" if wanted == "auto" else f"a piece of at most {wanted} samples"
    return [
        f"train.micro_batch: {when}BatchNorm ({norms} in this model) normalises over {size} at a time, not over the "
        f"whole batch of {batch}: the result is another one"
    ]
