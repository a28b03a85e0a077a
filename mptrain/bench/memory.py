"""What a mode takes of the memory, and the largest micro-batch that fits.

Owns: both searches. On a GPU real steps find it, and running out is caught; on a CPU nothing is allocated, because the
system would end the process (or another one): there the plan says it, for what is free now.
Must not: time anything.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mptrain.bench.modes import Contestant
from mptrain.bench.stand import Built, Stand, synchronize
from mptrain.errors import OutOfMemoryError, first_line
from mptrain.interfaces import Batch, map_tensors
from mptrain.precision.fakes import NeedsValuesError
from mptrain.trainer.activations import activation_bytes

_SHARE_OF_CPU = 0.9
"""Of the memory that is free, what a plan may fill: it leaves out what kernels take for a moment."""
_MOST_SAMPLES = 2**20
_RESOLUTION = 16
"""The search ends when it knows the size to one part in so many."""


@dataclass(frozen=True)
class Largest:
    """The largest micro-batch that fits."""

    samples: int | None
    how: str
    """How it was found, or why it could not be."""

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON-able data."""
        return {"samples": self.samples, "how": self.how}


def planned_activations(built: Built, batch_size: int) -> int | None:
    """Return the bytes that the forward of so many samples keeps for its backward; None where it cannot be told."""
    parts, config = built.run.parts, built.run.config
    try:
        return activation_bytes(
            parts.model,
            parts.task,
            built.run.spec,
            parts.policy,
            batch_size=batch_size,
            channels_last=config.train.channels_last,
        )
    except (NeedsValuesError, RuntimeError, ValueError, TypeError, AssertionError):
        return None


def largest_micro_batch(stand: Stand, contestant: Contestant, held: int) -> Largest:
    """Return the largest micro-batch of a mode that holds `held` bytes between steps."""
    if contestant.emulated:
        return Largest(None, "emulated: its memory is the emulation's")
    if stand.device.type == "cpu":
        return _by_plan(stand, contestant, held)
    return search(lambda samples: _fits(stand, contestant, samples), stand.batch.size)


def _by_plan(stand: Stand, contestant: Contestant, held: int) -> Largest:
    """Solve held + activations(n) = free; activations are a straight line over n, drawn through two sizes."""
    free = available_bytes()
    if free is None:
        return Largest(None, "this system does not tell how much memory is free")
    size = max(2, stand.batch.size)
    with stand.built(contestant, compiled=False) as built:
        once, twice = planned_activations(built, size), planned_activations(built, 2 * size)
    if once is None or twice is None or twice <= once:
        return Largest(None, "the model decides by tensor values: its activations cannot be planned")
    per_sample = (twice - once) / size
    samples = int((_SHARE_OF_CPU * free - held - (once - per_sample * size)) / per_sample)
    return Largest(max(samples, 0), "by plan, for what is free now; nothing was allocated")


def available_bytes() -> int | None:
    """Return the memory that this process could still take; None where the system does not tell.

    The smaller of Linux's MemAvailable and what the container's limit leaves (cgroup v2).
    """
    found = []
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        found += [1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]
        group = Path("/sys/fs/cgroup")
        found += [int((group / "memory.max").read_text()) - int((group / "memory.current").read_text())]
    except (OSError, ValueError, IndexError):  # no such file, or "max": no limit
        pass
    return min(found, default=None)


def search(fits: Callable[[int], bool | str], start: int, most: int = _MOST_SAMPLES) -> Largest:
    """Return the largest size that `fits`, by doubling from `start` and bisecting, to one part in 16.

    `fits` returns a text where a size fails for another reason than memory; the search ends below it.
    """
    good, bad, size, limit = 0, most + 1, start, ""
    while size <= most:
        answer = fits(size)
        if answer is True:
            good, size = size, 2 * size
            continue
        bad, limit = size, answer or limit
        break
    while bad - good > max(1, good // _RESOLUTION):
        middle = (good + bad) // 2
        answer = fits(middle)
        good, bad, limit = (middle, bad, limit) if answer is True else (good, middle, answer or limit)
    if bad > most:
        return Largest(good, f"more were not tried than {most:,}")
    return Largest(good, f"real steps; larger ones fail: {limit}" if limit else "real steps until memory ran out")


def _fits(stand: Stand, contestant: Contestant, samples: int) -> bool | str:
    """Say whether a mode can take two steps on so many samples, the second with the optimizer's state there."""

    def steps() -> None:
        with stand.built(contestant, compiled=False, batch=repeated(stand.batch, samples)) as built:
            built()
            built()
            synchronize(stand.device)

    try:
        problem = stand.attempt(steps)
    except RuntimeError as error:  # some kernels index with 32 bits
        if isinstance(error, torch.AcceleratorError):
            raise
        stand.tidy_up()
        return first_line(error)
    if problem is None:
        return True
    return False if isinstance(problem, OutOfMemoryError) else str(problem)


def repeated(batch: Batch, samples: int) -> Batch:
    """Return a batch of so many samples, those of `batch` over and over."""

    def rows(tensor: Tensor) -> Tensor:
        ids = torch.arange(samples, device=tensor.device) % len(tensor)
        taken = tensor.index_select(0, ids)
        is_last = tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last)
        return taken.contiguous(memory_format=torch.channels_last) if is_last else taken

    return Batch(*(map_tensors(rows, part) for part in batch))
