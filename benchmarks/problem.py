"""The one training problem that every contestant solves: data, model, optimizer, and the clock inside the model.

Owns: what is the same for all (seed, initial weights, data, loss, step counts, the measured interval).
Must not: know any contestant or framework.
"""

from __future__ import annotations

import math
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

SEED = 0
NUM_FEATURES, NUM_HIDDEN, NUM_CLASSES = 64, 64, 10
NUM_SAMPLES = 8192
BATCH_SIZE = 32
LR, WEIGHT_DECAY, MOMENTUM = 1e-3, 0.01, 0.9
LOW_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass
class Clock:
    """Reads the time when chosen training steps begin; the model ticks it once per training forward pass.

    A tick in the model is the one hook that all contestants have in common: it leaves their loops as they are, costs
    the same for each (0.1 us), and counts steps rather than batches that a loader has fetched ahead.
    """

    skip: int
    steps: int
    begun: int = 0
    compute_dtype: torch.dtype | None = None
    marks: dict[int, tuple[float, float]] = field(init=False)
    """Step -> (system-wide monotonic time, CPU time of this process) in seconds when it begins."""

    def __post_init__(self) -> None:
        self.marks = dict.fromkeys((2, self.skip + 1, self.skip + self.steps + 1), (math.nan, math.nan))

    def tick(self, dtype: torch.dtype) -> None:
        """Count one training step, whose first layer gave `dtype`."""
        self.begun += 1
        if self.begun in self.marks:
            self.marks[self.begun] = time.monotonic(), time.process_time()
            self.compute_dtype = dtype

    @property
    def first_step_done(self) -> tuple[float, float]:
        """(System-wide monotonic time, CPU time of this process) in seconds at which the second step began."""
        return self.marks[2]

    def us_per_step(self) -> tuple[float, float]:
        """Return (wall, CPU) microseconds per step over the measured interval; raise RuntimeError on a short run."""
        if self.begun <= self.skip + self.steps:
            raise RuntimeError(f"only {self.begun} training steps begun, {self.skip + self.steps + 1} needed")
        start, end = self.marks[self.skip + 1], self.marks[self.skip + self.steps + 1]
        return (end[0] - start[0]) / self.steps * 1e6, (end[1] - start[1]) / self.steps * 1e6


class TickingMLP(nn.Module):
    """64-64-10 with a ReLU; ticks `clock` on each training forward pass."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.clock = clock
        self.hidden = nn.Linear(NUM_FEATURES, NUM_HIDDEN)
        self.head = nn.Linear(NUM_HIDDEN, NUM_CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        """Map inputs (N, 64) to logits (N, 10)."""
        hidden = self.hidden(inputs)
        if self.training:
            self.clock.tick(hidden.dtype)
        return self.head(torch.relu(hidden))


def make_data() -> tuple[Tensor, Tensor]:
    """Return inputs (8192, 64) FP32 and int64 labels (8192,): noisy class centroids, learnable but not trivial."""
    generator = torch.Generator().manual_seed(SEED)
    labels = torch.randint(NUM_CLASSES, (NUM_SAMPLES,), generator=generator)
    centroids = torch.randn(NUM_CLASSES, NUM_FEATURES, generator=generator)
    noise = torch.randn(NUM_SAMPLES, NUM_FEATURES, generator=generator)
    return centroids[labels] + 4.0 * noise, labels


class Problem:
    """What a contestant is given; `folder` is an empty directory of its own."""

    def __init__(self, precision: str, optimizer: str, skip: int, steps: int, folder: Path) -> None:
        self.precision, self.optimizer_name, self.folder = precision, optimizer, folder
        self.clock = Clock(skip, steps)
        self.num_steps = skip + steps + 1  # the interval closes when the step after the last measured one begins
        self.inputs, self.labels = make_data()

    def model(self) -> TickingMLP:
        """Return the model with the same initial weights for every contestant."""
        torch.manual_seed(SEED)
        return TickingMLP(self.clock)

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """Return the fused optimizer over the parameters of `model`."""
        if self.optimizer_name == "sgd":
            return torch.optim.SGD(model.parameters(), lr=LR, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY, fused=True)
        return torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=WEIGHT_DECAY, fused=True)

    def loader(self) -> DataLoader[tuple[Tensor, ...]]:
        """Return the loader that a plain PyTorch script would use."""
        return DataLoader(TensorDataset(self.inputs, self.labels), batch_size=BATCH_SIZE, shuffle=True)

    def autocast(self) -> AbstractContextManager[object]:
        """Return a fresh autocast context in the asked precision; none at all in FP32, like a plain script."""
        if self.precision == "fp32":
            return nullcontext()
        return torch.autocast("cpu", dtype=LOW_DTYPES[self.precision])

    @property
    def num_epochs(self) -> int:
        """Epochs that hold at least `num_steps` steps."""
        return -(-self.num_steps // (NUM_SAMPLES // BATCH_SIZE))

    def final_loss(self, model: nn.Module) -> float:
        """Return the mean cross-entropy of `model` over all samples in FP32, evaluation mode."""
        model.eval()
        with torch.no_grad():
            return float(nn.functional.cross_entropy(model(self.inputs).float(), self.labels))
