"""Fault drills: plants the faults of `debug.plant` at their attempted steps.

Owns: what each fault does. The base class is the null case: no faults, every method a no-op.
"""

from __future__ import annotations

import os
import signal
from collections import defaultdict
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from mptrain.config.schema import DebugConfig, FaultKind
from mptrain.errors import ConfigError
from mptrain.interfaces import Batch, map_tensors


class NoFaults:
    """Plants nothing."""

    planned: tuple[str, ...] = ()

    def begin(self, attempt: int) -> tuple[FaultKind, ...]:
        """Start attempted step `attempt` (from 1); return what happens in it."""
        return ()

    def on_batch(self, batch: Batch) -> Batch:
        """Return the micro-batch to train on."""
        return batch

    def on_loss(self, loss: Tensor) -> Tensor:
        """Return the loss to call backward on."""
        return loss

    def on_gradients(self, gradients: Iterable[Tensor]) -> None:
        """Change the window's gradients, still scaled."""


class PlantedFaults(NoFaults):
    """Plants what the config asks for."""

    def __init__(self, plan: Sequence[tuple[FaultKind, int]]) -> None:
        self._at: dict[int, list[FaultKind]] = defaultdict(list)
        for what, attempt in plan:
            self._at[attempt].append(what)
        self.planned = tuple(f"{what} at {attempt}" for what, attempt in sorted(plan, key=lambda p: p[1]))
        self._now: tuple[FaultKind, ...] = ()
        self._oom_left = 0

    def begin(self, attempt: int) -> tuple[FaultKind, ...]:
        """Start an attempt; `sigterm` happens here."""
        self._now = tuple(self._at.get(attempt, ()))
        self._oom_left = self._now.count("oom")
        if "sigterm" in self._now:
            os.kill(os.getpid(), signal.SIGTERM)
        return self._now

    def on_batch(self, batch: Batch) -> Batch:
        """Fill the inputs with NaN."""
        if "nan_input" not in self._now:
            return batch
        tensors = batch.inputs if isinstance(batch.inputs, tuple) else (batch.inputs,)
        if not any(tensor.is_floating_point() for tensor in tensors):
            raise ConfigError("debug.plant: nan_input needs floating-point inputs; plant nan_loss instead")
        return batch._replace(inputs=map_tensors(_nan_like, batch.inputs))

    def on_loss(self, loss: Tensor) -> Tensor:
        """Make the loss NaN; run out of memory, once for each time it is planted: the attempt may be made again."""
        if self._oom_left:
            self._oom_left -= 1
            raise torch.OutOfMemoryError("planted by debug.plant")
        return loss * float("nan") if "nan_loss" in self._now else loss

    def on_gradients(self, gradients: Iterable[Tensor]) -> None:
        """Put one infinity into the first gradient that has an element."""
        if "inf_grad" in self._now:
            gradient = next(each for each in gradients if each.numel())
            gradient[(0,) * gradient.dim()] = float("inf")


def _nan_like(tensor: Tensor) -> Tensor:
    return torch.full_like(tensor, float("nan")) if tensor.is_floating_point() else tensor


def make_faults(config: DebugConfig) -> NoFaults:
    """Return the drill that `config` asks for."""
    return PlantedFaults([(p.what, p.at) for p in config.plant]) if config.plant else NoFaults()
