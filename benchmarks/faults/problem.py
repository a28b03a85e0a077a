"""The training problem that every contestant solves, and the witness that says on stdout what it is doing.

Owns: the job that a worker is given, data, model, and the lines `@@{...}` that the driver reads. Must not: import a
framework. All that is seen is seen from inside the model and the optimizer, so it means the same for every contestant.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from benchmarks.faults.job import NUM_SAMPLES, Job

NUM_FEATURES, NUM_HIDDEN, NUM_CLASSES = 16, 32, 4
SEED, LR = 0, 1e-3
INIT_SCALE, GROWTH_INTERVAL = 1024.0, 5
"""An FP16 run of 11 steps ends at 4096; at 2048 where the growth counter, at 1024 where both were lost at step 7."""


def make_data() -> tuple[Tensor, Tensor]:
    """Return inputs (96, 17) FP32, the sample's id in the first column, and int64 labels (96,)."""
    generator = torch.Generator().manual_seed(SEED)
    labels = torch.randint(NUM_CLASSES, (NUM_SAMPLES,), generator=generator)
    features = torch.randn(NUM_SAMPLES, NUM_FEATURES, generator=generator) + labels[:, None]
    return torch.cat([torch.arange(float(NUM_SAMPLES))[:, None], features], dim=1), labels


class MLP(nn.Module):
    """16-32-4 on all columns but the first, with as many idle parameters as make a save take time."""

    def __init__(self, ballast: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(NUM_FEATURES, NUM_HIDDEN)
        self.head = nn.Linear(NUM_HIDDEN, NUM_CLASSES)
        self.ballast = nn.Parameter(torch.zeros(ballast)) if ballast else None

    def forward(self, inputs: Tensor) -> Tensor:
        """Map inputs (N, 17) to logits (N, 4)."""
        logits: Tensor = self.head(torch.relu(self.hidden(inputs[:, 1:])))
        return logits if self.ballast is None else logits + 0 * self.ballast.sum()


def tell(event: str, **what: Any) -> None:
    """Say what happened, in one write that a kill cannot cut."""
    os.write(1, f"\n@@{json.dumps({'event': event, **what})}\n".encode())


class Witness:
    """Reports a model's training steps, and plants the job's faults in them."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.resumed_at: Callable[[], int | None] = lambda: None
        """Set by the contestant: the step after which training was resumed."""
        self._forwards = 0
        self._dtype = ""
        register_optimizer_step_post_hook(lambda *_: self._stepped())

    def watch(
        self, model: nn.Module, inner: nn.Module, ids_of: Callable[[Sequence[Any], Mapping[str, Any]], Tensor]
    ) -> None:
        """Watch `model`; `inner` is a linear layer of it, `ids_of` finds the sample ids among its arguments."""
        model.register_forward_pre_hook(
            lambda module, args, kwargs: self._before(module, ids_of(args, kwargs)), with_kwargs=True
        )
        model.register_forward_hook(self._after)
        inner.register_forward_hook(self._note_dtype)

    def watch_mlp(self, model: MLP) -> MLP:
        """Watch the shared model."""
        self.watch(model, model.hidden, lambda args, kwargs: args[0][:, 0])
        return model

    def end(self, model: nn.Module, *, scale: float | None) -> None:
        """Report how a training that was not cut short ended."""
        tell("end", finite=_is_finite(model), scale=scale, dtype=self._dtype)

    def _before(self, model: nn.Module, ids: Tensor) -> None:
        if not model.training:
            return
        self._forwards += 1
        if self._forwards == self.job.die_at:
            os.kill(os.getpid(), signal.SIGKILL)
        more = {"resumed_at": self.resumed_at()} if self._forwards == 1 else {}
        tell("step", ids=[int(i) for i in ids], finite=_is_finite(model), **more)

    def _stepped(self) -> None:
        if self._forwards:  # before the first one, an empty step may have made the optimizer's state
            tell("stepped")

    def _after(self, model: nn.Module, _: Any, output: Tensor) -> Tensor:
        job = self.job
        planted = job.nan_at is not None and job.nan_at <= self._forwards < job.nan_at + job.nan_steps
        return output * float("nan") if model.training and planted else output

    def _note_dtype(self, _module: nn.Module, _args: Any, output: Tensor) -> None:
        self._dtype = str(output.dtype).removeprefix("torch.")


def _is_finite(model: nn.Module) -> bool:
    return all(bool(parameter.isfinite().all()) for parameter in model.parameters())


def as_dataset() -> torch.utils.data.TensorDataset:
    """Return the data as PyTorch's tutorials hold them."""
    return torch.utils.data.TensorDataset(*make_data())


def folder_of(job: Job) -> Path:
    """Return the folder that the job's contestant may write into."""
    return Path(job.folder)
