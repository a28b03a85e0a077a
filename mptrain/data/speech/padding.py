"""Batches of recordings and transcripts of unequal lengths. Must not: know where they come from."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

Pair = tuple[Tensor, Tensor]


def padded_batch(samples: list[Pair]) -> tuple[Pair, Pair]:
    """Return (raw (N, longest, ...), lengths (N,)) and (tokens (N, longest), lengths (N,)), padded with zeros."""
    inputs, targets = zip(*samples, strict=True)
    return _padded(inputs), _padded(targets)


def _padded(parts: tuple[Tensor, ...]) -> Pair:
    return pad_sequence(list(parts), batch_first=True), torch.tensor([len(part) for part in parts])
