"""Which samples make up each micro-batch of each epoch, as a pure function of (seed, epoch), and whose they are.

Owns: seeds, order and sharing out of the data. Must not: touch any global random state, or the samples themselves.
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
class Shard:
    """One of several processes that share out the data."""

    rank: int = 0
    """Which one, from 0."""
    world_size: int = 1
    """How many there are."""

    def part(self, num_samples: int) -> range:
        """Return this rank's samples of an evaluation: the ranks' parts, in order, are all samples, each once."""
        return range(num_samples * self.rank // self.world_size, num_samples * (self.rank + 1) // self.world_size)


WHOLE = Shard()
"""The shard of a process that has the data for itself."""


@dataclass(frozen=True)
class EpochOrder:
    """The training order of one rank: `len()` is micro-batches per epoch, the same number on every rank.

    The ranks deal out the epoch's samples in turn, so that R ranks with micro-batches of B samples train on the same
    samples at each step as one process with micro-batches of R * B. Fewer than R samples at the end are left out.
    """

    num_samples: int
    batch_size: int
    shuffle: bool
    drop_last: bool
    seed: int
    shard: Shard = WHOLE

    def __post_init__(self) -> None:
        if self.num_samples == 0:
            raise DataError("data: the training split is empty; there is nothing to learn from")
        ranks = self.shard.world_size
        if self.num_samples < ranks:
            raise DataError(
                f"data: the training split has {self.num_samples} samples, fewer than the {ranks} processes that share "
                "it; start fewer"
            )
        if self.drop_last and self.batch_size > self.num_per_rank:
            share = f", {self.num_per_rank} for each of {ranks} processes" if ranks > 1 else ""
            raise ConfigError(
                f"data.batch_size: {self.batch_size} is larger than the training split of {self.num_samples} samples"
                f"{share}, and data.drop_last leaves out incomplete batches: lower data.batch_size or set "
                "data.drop_last=false"
            )

    @property
    def num_per_rank(self) -> int:
        """Return the samples that each rank is dealt in an epoch."""
        return self.num_samples // self.shard.world_size

    def __len__(self) -> int:
        whole, rest = divmod(self.num_per_rank, self.batch_size)
        return whole + (rest > 0 and not self.drop_last)

    def ids(self, epoch: int) -> Tensor:
        """Return the rank's sample ids of the epoch in order, int64 on the CPU, without those that are left out."""
        if self.shuffle:
            generator = torch.Generator().manual_seed(derive_seed(self.seed, epoch))
            ids = torch.randperm(self.num_samples, generator=generator)
        else:
            ids = torch.arange(self.num_samples)
        dealt = ids[self.shard.rank :: self.shard.world_size][: self.num_per_rank]
        return dealt[: len(self) * self.batch_size]

    def batch_seed(self, epoch: int, index: int) -> int:
        """Return the seed for the augmentation of micro-batch `index`, another one on every rank."""
        return derive_seed(self.seed, epoch, index * self.shard.world_size + self.shard.rank)
