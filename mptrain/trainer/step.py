"""One optimizer step: the hot path, on one screen.

    for each micro-batch, or piece of one:  forward + loss (autocast) -> scale -> backward (outside autocast)
    unscale and check -> clip -> step unless not finite -> give buffers back -> learning rate, average -> scale

Owns: the order of these. Must not: read the device (no .item(), float(), bool(), .cpu() of a device tensor), count, or
log. What happened is in `outcome`, on the device; the caller records it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from mptrain.config.schema import TrainConfig
from mptrain.errors import ConfigError
from mptrain.interfaces import Batch, SkippingOptimizer, Task
from mptrain.optim.ema import WeightAverage
from mptrain.optim.progress import AppliedSteps
from mptrain.precision.loss_scaler import LossScaler
from mptrain.precision.overflow_census import OverflowCensus
from mptrain.precision.policy import PrecisionPolicy
from mptrain.precision.weights import WeightStore
from mptrain.trainer.buffers import BufferGuard
from mptrain.trainer.faults import NoFaults
from mptrain.trainer.micro_batch import MicroBatch
from mptrain.trainer.numerics import NoNumerics

MicroLoss = Callable[[Batch, Batch | None], Tensor]


@dataclass(frozen=True)
class StepParts:
    """Everything a step works on."""

    model: nn.Module
    task: Task
    policy: PrecisionPolicy
    weights: WeightStore
    scaler: LossScaler
    optimizer: SkippingOptimizer
    applied: AppliedSteps
    average: WeightAverage | None
    buffers: BufferGuard
    faults: NoFaults
    census: OverflowCensus
    numerics: NoNumerics
    config: TrainConfig
    summed_loss: bool
    """The gradient is the sum over the window's samples, not their mean."""

    def evaluated_weights(self) -> AbstractContextManager[None]:
        """Return the context in which the model holds the weights to evaluate: their average, where one is kept."""
        return self.average.in_place_of_weights() if self.average else nullcontext()


class TrainStep:
    """Runs one attempted step over a window of micro-batches."""

    def __init__(
        self,
        parts: StepParts,
        compile_loss: Callable[[MicroLoss], MicroLoss],
        micro_batch: MicroBatch | None = None,
    ) -> None:
        self._parts = parts
        self._micro_batch = micro_batch or MicroBatch()
        self._params = [p for p in parts.model.parameters() if p.requires_grad]
        self._loss = compile_loss(self._loss_of_part)
        self._part_of_loss = part_of_loss(parts.task)
        self._outcome = parts.scaler.outcome
        self.attempts = 0
        """Attempts so far; a resumed run goes on counting, so that it looks at the same gradients."""

    def __call__(self, window: Sequence[Batch]) -> int:
        """Attempt one step and return its number of samples; the gradient is their mean, or sum (task.reduction)."""
        parts, scaler, outcome = self._parts, self._parts.scaler, self._outcome
        total = sum(batch.size for batch in window)
        self.attempts += 1
        parts.buffers.keep()
        self._micro_batch.within_memory(window, lambda: self._backward(window, total), self._forget)
        gradients = [g for param in self._params if (g := parts.weights.gradient(param)) is not None]
        self._require_connection(bool(gradients))
        parts.faults.on_gradients(gradients)
        self._look_at_one_of(gradients)

        scaler.unscale_()
        parts.census.record()
        parts.numerics.after_unscale()
        if parts.config.clip_norm is not None:
            scaler.clip_norm_(parts.config.clip_norm)
        if parts.config.clip_value is not None:
            scaler.clip_value_(parts.config.clip_value)
        parts.optimizer.step()
        parts.buffers.give_back_if(outcome.skipped)
        parts.applied.advance(outcome.skipped)
        if parts.average is not None:
            parts.average.update(parts.applied.count, outcome.skipped)
        scaler.update()
        return total

    def _backward(self, window: Sequence[Batch], total: int) -> None:
        """Compute the gradients of the window, micro-batch by micro-batch, or piece by piece where these are cut."""
        parts, scaler, outcome = self._parts, self._parts.scaler, self._outcome
        for param in self._params:
            param.grad = None
        is_first = True
        for batch in window:
            batch = parts.faults.on_batch(batch)
            pieces = self._micro_batch.pieces(batch)
            if len(pieces) > 1:
                parts.weights.sum_gradients()
            for piece in pieces:
                with parts.policy.arithmetic():
                    loss = parts.faults.on_loss(_checked(self._loss(piece, None if piece is batch else batch)))
                    size = batch.size
                    share = loss * (size / total) if len(window) > 1 else loss  # true also in a short last window
                    outcome.loss.copy_(share.detach()) if is_first else outcome.loss.add_(share.detach())
                    self._require_connection(loss.requires_grad)
                    with parts.numerics.counting():
                        scaler.scale(loss * size if parts.summed_loss else share).backward()
                parts.weights.collect_gradients(first=is_first)
                is_first = False

    def _forget(self) -> None:
        """Undo what an attempt began that ran out of memory on the way to its gradients."""
        for param in self._params:
            param.grad = None
        self._parts.buffers.give_back_if(torch.ones((), device=self._outcome.values.device))
        self._parts.numerics.start_over()

    def _look_at_one_of(self, gradients: Sequence[Tensor]) -> None:
        """Publish how large one parameter's gradient is, another one's each time: all of them would be a pass more.

        Where all are 0, every look sees that; the ledger counts looks.
        """
        if self._parts.config.max_zero_gradients is not None:
            gradient = gradients[self.attempts % len(gradients)]
            self._outcome.witness.copy_(torch.linalg.vector_norm(gradient, 1))

    def _require_connection(self, connected: bool) -> None:
        if not connected:
            raise ConfigError(
                f"loss is not connected to any of the {len(self._params)} trainable parameters; "
                "check the task's loss for detach() or a tensor built anew"
            )

    def _loss_of_part(self, part: Batch, whole: Batch | None) -> Tensor:
        """Return the mean loss of a micro-batch, or what a part of the micro-batch `whole` adds to it."""
        # Autocast is entered inside what is compiled: entered outside, the compiled backward would inherit it.
        parts = self._parts
        part = Batch(parts.policy.convert_input(part.inputs), part.targets)
        with parts.policy.autocast():
            if whole is None:
                return parts.task.loss(parts.model, part)
            return self._part_of_loss(parts.model, part, whole)


def part_of_loss(task: Task) -> Callable[[nn.Module, Batch, Batch], Tensor]:
    """Return the task's own way to compute a part of its loss.

    A task derived from another with a loss of its own and nothing said of parts has the mean over samples that `loss`
    promises: the parts of the other's loss are not its.
    """
    defines = next(owner for owner in type(task).__mro__ if {"loss", "part_of_loss"} & vars(owner).keys())
    return task.part_of_loss if "part_of_loss" in vars(defines) else partial(Task.part_of_loss, task)


def _checked(loss: Any) -> Tensor:
    """Return `loss`; raise ConfigError for what a task may not return."""
    if isinstance(loss, Tensor) and loss.dim() == 0:
        return loss
    found = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else f"a {type(loss).__name__}"
    raise ConfigError(f"task: its loss must be one number, a 0-d tensor, and is {found}; return its mean")
