"""What the trainer tells the console and the files: plain frozen values, host side.

Owns: the record types and the `Reporter` protocol. Must not: import torch, print, or write.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class RunInfo:
    """What is known before the first step."""

    name: str
    run_id: str
    run_dir: str
    device: str
    """E.g. `cpu (AMD EPYC, 2 threads)`."""
    precision: str
    """One line of what is really in force, e.g. `bf16: weights fp32, compute bf16, loss scale none`."""
    model: str
    """E.g. `resnet18, 11.2 M parameters`."""
    data: str
    """E.g. `fashion_mnist_12k, 10000 train, 2000 test`."""
    total_steps: int
    steps_per_epoch: int
    first_step: int = 0
    """Applied steps already done when this process began (resume)."""
    planted: tuple[str, ...] = ()
    """Planted faults, e.g. `inf_grad at 5`; shown loudly."""
    notices: tuple[str, ...] = ()
    """Warnings to show before the run starts."""
    emulated: bool = False
    """True: no speed may be claimed."""


@dataclass(frozen=True, slots=True)
class GradientHistogram:
    """The elements of all gradients by power of two of their magnitude; those that are not finite are not counted."""

    first_exponent: int
    counts: tuple[int, ...]
    """Element i: those in [2^(first_exponent + i), 2^(first_exponent + i + 1)); empty where every gradient is zero."""
    zeros: int


@dataclass(frozen=True, slots=True)
class Numerics:
    """How the gradients of one sampled step, all parameters together, sat in the format they are computed in."""

    attempted_step: int
    format: str
    loss_scale: float
    grad_norm: float
    """Unscaled, before clipping; as the two below not finite where a gradient was not."""
    amax: float
    """Largest magnitude, unscaled."""
    headroom: float | None
    """Powers of two between the largest scaled magnitude and the format's maximum; None: every gradient is zero."""
    zero_share: float
    """Share of the elements that are zero: truly, or because they underflowed in the backward."""
    below_normal_share: float
    """Share of the non-zero elements that lie, scaled, below the format's smallest normal: they have lost digits."""
    below_subnormal_share: float
    """Share of the non-zero elements that lie, scaled, below the format's smallest subnormal."""
    lost_update_share: float | None
    """Share of the weights with an update that rounding left as they were; None: weights are not stored low."""
    underflow_share: float | None
    """Share of the backward's non-zero products that rounding made zero; None: not counted (only emulation can)."""
    histogram: GradientHistogram
    """Magnitudes as the backward's format holds them: multiplied by the loss scale."""


@dataclass(frozen=True, slots=True)
class Progress:
    """The state of training at one completed point; non-finite floats are allowed here, never in files."""

    attempted_steps: int
    applied_steps: int
    skipped_steps: int
    last_skipped_step: int | None
    """Attempted step (from 1) of the last skip."""
    steps_done: int
    """Steps as the run's length counts them: the applied ones, or the attempted ones where skips count as steps."""
    epoch: int
    """From 0."""
    epoch_step: int
    """Attempted steps done in this epoch."""
    loss: float
    """Mean training loss of the window."""
    lr: float
    grad_norm: float | None
    """Unscaled total norm at the window's last step; None where it is not taken."""
    loss_scale: float | None
    """None where the loss is not scaled."""
    samples_per_s: float | None
    """None: not measured yet, or would mislead (emulated)."""
    step_time_ms: float | None
    data_wait_fraction: float | None
    """Share of the wall time spent waiting for data."""
    peak_memory_bytes: int | None
    wall_s: float
    """Since the start of this process's training."""
    numerics: Numerics | None = None
    """The newest sample; None where there is none yet (log.numerics_every)."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One evaluation on the test split."""

    applied_steps: int
    epoch: int
    metrics: Mapping[str, float]
    main_metric: str
    improved: bool
    seconds: float


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened once: overflow, scale_change, numerics, checkpoint, planted, bad_file, warning..."""

    kind: str
    attempted_step: int
    applied_steps: int
    message: str
    """One line for a person."""
    data: Mapping[str, Any] = field(default_factory=dict)


class Reporter(Protocol):
    """Receives a run's story; the trainer calls every method from one thread."""

    def begin(self, info: RunInfo) -> None: ...
    def progress(self, progress: Progress) -> None:
        """Refresh a live view; called often (several times a second), must be cheap."""

    def window(self, progress: Progress) -> None:
        """Record one logged window (every log.every attempted steps, and the last)."""

    def evaluated(self, evaluation: Evaluation) -> None: ...
    def event(self, event: Event) -> None: ...
    def end(self, result: Mapping[str, Any]) -> None:
        """Close; `result` is result.json's content."""
