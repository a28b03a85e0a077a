"""Which layers a model calls in a forward, in which order, and how many rows each sees.

Owns: the forward on fake tensors that finds out: no device, no memory, no state. Must not: decide anything by it.
"""

from __future__ import annotations

from collections.abc import Collection
from itertools import chain

import torch
from torch import Tensor, nn

from mptrain.errors import first_line
from mptrain.interfaces import Tensors, map_tensors


class UnknownCallsError(Exception):
    """The model's forward decides by tensor values, which fake tensors do not have."""


def calls(model: nn.Module, names: Collection[str], inputs: Tensors, batch_size: int) -> list[tuple[str, int]]:
    """Return (layer, rows) for each call of the layers `names` in one training forward of `batch_size` samples.

    `inputs` (N, ...) is any micro-batch as the model takes it; a row is all but the last dimension. Call under the
    autocast that training uses, if rows depend on it. Raises UnknownCallsError.
    """
    from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode

    seen: list[tuple[str, int]] = []

    def watch(name: str) -> torch.utils.hooks.RemovableHandle:
        def note(layer: nn.Module, args: tuple[Tensor, ...]) -> None:
            seen.append((name, args[0].numel() // args[0].shape[-1] if args else 0))

        return model.get_submodule(name).register_forward_pre_hook(note)

    handles = [watch(name) for name in names]
    try:
        with FakeTensorMode(allow_non_fake_inputs=True) as fake, torch.no_grad():
            # Fakes of the state, or counters such as BatchNorm's num_batches_tracked would really count.
            tensors = chain(model.named_parameters(), model.named_buffers())
            state: dict[str, Tensor] = {name: fake.from_tensor(tensor) for name, tensor in tensors}
            batch = map_tensors(lambda t: t.new_empty((batch_size, *t.shape[1:])), inputs)
            torch.func.functional_call(model, state, batch if isinstance(batch, tuple) else (batch,))
    except (DataDependentOutputException, DynamicOutputShapeException) as error:
        raise UnknownCallsError(first_line(error)) from error
    finally:
        for handle in handles:
            handle.remove()
    return seen
