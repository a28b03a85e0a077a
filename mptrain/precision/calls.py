"""Which layers a model calls in a forward, in which order, and how many rows each sees.

Owns: the forward on fake tensors that finds out: no device, no memory, no state. Must not: decide anything by it.
"""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor, nn

from mptrain.interfaces import Tensors, map_tensors
from mptrain.precision.fakes import fake_state, fake_tensors


def calls(model: nn.Module, names: Collection[str], inputs: Tensors, batch_size: int) -> list[tuple[str, int]]:
    """Return (layer, rows) for each call of the layers `names` in one training forward of `batch_size` samples.

    `inputs` (N, ...) is any micro-batch as the model takes it; a row is all but the last dimension. Call under the
    autocast that training uses, if rows depend on it. The model may be on the meta device. Raises NeedsValuesError.
    """
    seen: list[tuple[str, int]] = []

    def watch(name: str) -> torch.utils.hooks.RemovableHandle:
        def note(layer: nn.Module, args: tuple[Tensor, ...]) -> None:
            seen.append((name, args[0].numel() // args[0].shape[-1] if args else 0))

        return model.get_submodule(name).register_forward_pre_hook(note)

    handles = [watch(name) for name in names]
    try:
        with fake_tensors() as fake, torch.no_grad():
            batch = map_tensors(lambda t: t.new_empty((batch_size, *t.shape[1:])), inputs)
            arguments = batch if isinstance(batch, tuple) else (batch,)
            torch.func.functional_call(model, fake_state(fake, model, arguments[0].device), arguments)
    finally:
        for handle in handles:
            handle.remove()
    return seen
