"""The places in which runs run: how many at a time, with how many threads, on which GPU.

Owns: sharing this machine out, and whether the GPUs asked for are there. Must not: start runs, or import torch.
"""

from __future__ import annotations

import os
import subprocess
import sys

from mptrain.environment import child_environment
from mptrain.errors import CapabilityError, ConfigError
from mptrain.sweep.runner import Slot


def make_slots(jobs: int | None, gpus: str | None) -> list[Slot]:
    """Return `jobs` slots (default: one for each GPU, else one) that share the cores and take the GPUs in turn.

    A single slot leaves threads as an ordinary `mptrain run` has them. Raises ConfigError for a list of GPUs that is
    none.
    """
    names = None if gpus is None else _listed(gpus)
    count = jobs or (len(names) if names else 1)
    threads = max(1, num_cores() // count) if count > 1 else None
    return [
        Slot(child_environment(threads=threads, gpu=names[place % len(names)] if names else None))
        for place in range(count)
    ]


def check_gpus(gpus: str) -> None:
    """Raise CapabilityError unless torch sees every GPU listed: a run with `device: auto` would train on the CPU."""
    names = _listed(gpus)
    code = "import torch; print(torch.cuda.device_count())"
    command = [sys.executable, "-P", "-c", code]
    done = subprocess.run(  # noqa: S603
        command, env=child_environment(gpu=",".join(names)), stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    seen = done.stdout.strip()
    if seen != str(len(names)):
        raise CapabilityError(f"--gpus: torch sees {seen or 0} of the {len(names)} in {gpus!r} here; see `mptrain env`")


def _listed(gpus: str) -> list[str]:
    names = [name.strip() for name in gpus.split(",")]
    if not all(names) or len(set(names)) < len(names):
        raise ConfigError(f"--gpus: {gpus!r} must list different GPUs, e.g. 0,1 (as CUDA_VISIBLE_DEVICES names them)")
    return names


def num_cores() -> int:
    """Return the CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
