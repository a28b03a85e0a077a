"""Bytes that the forward of a micro-batch keeps for its backward: what a plan says, without running anything.

Autograd hands every tensor that it saves to a hook (`torch.autograd.graph.saved_tensors_hooks`); each storage counts
once, weights and buffers do not. Under torch.compile less may be kept: its compiler recomputes some of it.

Owns: that sum. Must not: hold memory, or read the device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from mptrain.interfaces import Batch, DataSpec, Task, forward, map_tensors
from mptrain.precision.fakes import fake_state, fake_tensors
from mptrain.precision.policy import PrecisionPolicy
from mptrain.trainer.materials import blank


def activation_bytes(
    model: nn.Module, task: Task, spec: DataSpec, policy: PrecisionPolicy, *, batch_size: int, channels_last: bool
) -> int:
    """Return the bytes that forward and loss of `batch_size` samples save for the backward on the policy's device.

    The model is one that `policy` has prepared, in training mode; it may be on the meta device. Without the loss where
    the task knows no blank targets. Raises NeedsValuesError where forward or loss decide by tensor values.
    """
    with fake_tensors() as fake:
        state = fake_state(fake, model, policy.device)
        inputs = blank(spec, policy, policy.device, batch_size)
        if channels_last:
            inputs = map_tensors(lambda t: t.to(memory_format=torch.channels_last) if t.dim() == 4 else t, inputs)
        batch = Batch(inputs, task.blank_targets(inputs))
        named = {f"model.{name}": tensor for name, tensor in state.items()}
        learner = _Learner(model, task)
        with policy.autocast():
            return saved_bytes(lambda: torch.func.functional_call(learner, named, (batch,)), state.values())


def saved_bytes(run: Callable[[], object], state: Iterable[Tensor]) -> int:
    """Return the bytes of the storages that autograd saves while `run` is called, those of `state` left out."""
    held = {tensor.untyped_storage()._cdata for tensor in state}
    saved: dict[int, torch.UntypedStorage] = {}  # the storages themselves, or a freed one's number would come again

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in held:
            saved[storage._cdata] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        run()
    return sum(storage.nbytes() for storage in saved.values())


class _Learner(nn.Module):
    """Model and loss as one module, so that its state can be exchanged for a call."""

    def __init__(self, model: nn.Module, task: Task) -> None:
        super().__init__()
        self.model, self._task = model, task

    def forward(self, batch: Batch) -> object:
        if batch.targets is None:
            return forward(self.model, batch.inputs)
        return self._task.loss(self.model, batch)
