"""The batched transforms that several kinds of data share. Must not: augment, or read the device."""

from __future__ import annotations

import torch

from mptrain.interfaces import Batch


def as_float32(batch: Batch, generator: torch.Generator | None) -> Batch:
    """Return the batch with inputs in FP32, unchanged."""
    del generator
    return batch._replace(inputs=batch.inputs.to(torch.float32))


def unit_interval(batch: Batch, generator: torch.Generator | None) -> Batch:
    """Return the batch with uint8 inputs as FP32 in 0..1."""
    del generator
    return batch._replace(inputs=batch.inputs.to(torch.float32).div_(255))
