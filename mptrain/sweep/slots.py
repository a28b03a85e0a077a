"""The places in which runs run: how many at a time, with how many threads, on which GPU.

Owns: sharing this machine out. Must not: start anything.
"""

from __future__ import annotations

import os

from mptrain.environment import child_environment
from mptrain.errors import ConfigError
from mptrain.sweep.runner import Slot


def make_slots(jobs: int | None, gpus: str | None) -> list[Slot]:
    """Return `jobs` slots (default: one for each GPU, else one) that share the cores and take the GPUs in turn.

    A single slot leaves threads as an ordinary `mptrain run` has them. Raises ConfigError for a list of GPUs that is
    none.
    """
    names = None if gpus is None else [name.strip() for name in gpus.split(",")]
    if names is not None and (not all(names) or len(set(names)) < len(names)):
        raise ConfigError(f"--gpus: {gpus!r} must list different GPUs, e.g. 0,1 (as CUDA_VISIBLE_DEVICES names them)")
    count = jobs or (len(names) if names else 1)
    threads = max(1, num_cores() // count) if count > 1 else None
    return [
        Slot(child_environment(threads=threads, gpu=names[place % len(names)] if names else None))
        for place in range(count)
    ]


def num_cores() -> int:
    """Return the CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
