"""What a worker is asked to do. Owns: that, and the sizes that the judges know too. Must not: import torch."""

from __future__ import annotations

from dataclasses import dataclass

NUM_SAMPLES, BATCH_SIZE = 96, 8
STEPS_PER_EPOCH = NUM_SAMPLES // BATCH_SIZE


@dataclass(frozen=True)
class Job:
    """One process: train, or resume from the latest checkpoint, as the library's documentation shows."""

    folder: str
    steps: int
    """Train until this many steps are done, those before a resumption included."""
    save_every: int
    resume: bool = False
    precision: str = "fp32"
    option: str = ""
    """What of the library's own is switched on beyond its defaults."""
    ballast: int = 0
    """Idle parameters, so that a save takes time."""
    die_at: int | None = None
    """SIGKILL when this process's n-th training step begins."""
    nan_at: int | None = None
    nan_steps: int = 1
    """From this process's n-th training step on, so many losses are NaN."""
