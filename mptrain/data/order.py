"""Which samples make up each micro-batch of each epoch, as a pure function of (seed, epoch).

Owns: seeds and order of the data. Must not: touch any global random state, or the samples themselves.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor

from mptrain.errors import ConfigError, DataError


def derive_seed(*parts: int) -> int:
    """Return a 63-bit seed that depends on every part, so that neighbouring parts give unrelated streams."""
    digest = hashlib.blake2b(",".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


@dataclass(frozen=True)
class EpochOrder:
    """The training order: `len()` is micro-batches per epoch."""

    num_samples: int
    batch_size: int
    shuffle: bool
    drop_last: bool
    seed: int

    def __post_init__(self) -> None:
        if self.num_samples == 0:
            raise DataError("data: the training split is empty; there is nothing to learn from")
        if self.drop_last and self.batch_size > self.num_samples:
            raise ConfigError(
                f"data.batch_size: {self.batch_size} is larger than the training split of {self.num_samples} samples, "
                "and data.drop_last leaves out incomplete batches: lower data.batch_size or set data.drop_last=false"
            )

    def __len__(self) -> int:
        whole, rest = divmod(self.num_samples, self.batch_size)
        return whole + (rest > 0 and not self.drop_last)

    def ids(self, epoch: int) -> Tensor:
        """Return the sample ids of the epoch in order, int64 on the CPU, without those that drop_last leaves out."""
        if self.shuffle:
            generator = torch.Generator().manual_seed(derive_seed(self.seed, epoch))
            ids = torch.randperm(self.num_samples, generator=generator)
        else:
            ids = torch.arange(self.num_samples)
        return ids[: len(self) * self.batch_size]
