"""Tensors without memory, on which a model's forward shows its shapes: no device is used, no state changed.

Owns: their making, of real tensors and of those on the meta device. Must not: run a model, or decide anything.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorMode,
    UnsupportedFakeTensorException,
    UnsupportedOperatorException,
)

from mptrain.errors import first_line


class NeedsValuesError(Exception):
    """What was run decides by tensor values, or uses an operator that has no form without them."""


@contextmanager
def fake_tensors() -> Iterator[FakeTensorMode]:
    """Make every tensor that the body creates a fake one; raises NeedsValuesError where the body asks for values."""
    try:
        with FakeTensorMode(allow_non_fake_inputs=True) as mode:
            yield mode
    except (
        DataDependentOutputException,
        DynamicOutputShapeException,
        UnsupportedFakeTensorException,
        UnsupportedOperatorException,
    ) as error:
        raise NeedsValuesError(first_line(error)) from error


def fake_state(mode: FakeTensorMode, model: nn.Module, device: torch.device) -> dict[str, Tensor]:
    """Return name -> a fake on `device` of each parameter and buffer, for `torch.func.functional_call`.

    Fakes of the state too, or counters such as BatchNorm's num_batches_tracked would really count.
    """
    tensors: Iterable[tuple[str, Tensor]] = chain(model.named_parameters(), model.named_buffers())
    return {name: _fake(mode, tensor, device) for name, tensor in tensors}


def _fake(mode: FakeTensorMode, tensor: Tensor, device: torch.device) -> Tensor:
    made: Tensor = FakeTensor(mode, tensor.detach().to("meta"), device)
    return made.requires_grad_(tensor.requires_grad)
