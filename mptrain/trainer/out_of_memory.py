"""Out of memory: how to tell it, what was in use, and what this very run could do about it.

Owns: the words of exit 5. Must not: free anything, or go on (`micro_batch.py`).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from mptrain.config.schema import RunConfig
from mptrain.errors import OutOfMemoryError, first_line
from mptrain.interfaces import InMemory
from mptrain.precision.capability import support
from mptrain.telemetry.human import size
from mptrain.trainer.evaluate import evaluate
from mptrain.trainer.memory import peak_memory_bytes

if TYPE_CHECKING:
    from mptrain.trainer.build import Run

_WAYS = 3
_CPU_ALLOCATIONS = ("can't allocate memory", "could not create a memory object", "Storage size calculation overflowed")
"""What torch's own allocator says, and oneDNN's: neither has an exception of its own."""
_HELD_IN_WORDS = {
    "master_weights": "master weights",
    "optimizer_state": "moments",
    "average": "the average",
}


def ran_out_of_memory(error: BaseException) -> bool:
    """Say whether `error` means that the device, or the host, had no memory left."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _CPU_ALLOCATIONS)


def out_of_memory(error: BaseException, run: Run) -> OutOfMemoryError:
    """Return the error that says in one line what was in use, and what would help."""
    parts = [
        f"{_HELD_IN_WORDS.get(field.name, field.name)} {size(held)}"
        for field in fields(run.memory)
        if (held := getattr(run.memory, field.name))
    ]
    ways = [*_ways_out(run, evaluating=_passed_through_evaluation(error)), *_LAST_RESORTS][:_WAYS]
    return OutOfMemoryError(
        f"out of memory ({first_line(error)}); training holds {', '.join(parts)}; {memory_in_use(run.device)}. "
        f"Try {'; or '.join(ways)}"
    )


def memory_in_use(device: torch.device) -> str:
    """Return in words what is in use, and of how much."""
    peak = peak_memory_bytes(device)
    if device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory
        allocated, reserved = torch.cuda.memory_allocated(device), torch.cuda.memory_reserved(device)
        return f"{device}: {size(allocated)} allocated, {size(reserved)} reserved, peak {size(peak)} of {size(total)}"
    found = [f"{size(resident)} resident"] if (resident := _resident_bytes()) else []
    found += [f"peak {size(peak)}"] if peak else []
    found += [f"limit {size(limit)} ({name})" for name, limit in _limits()]
    found += [f"machine {size(machine)}"] if (machine := _machine_bytes()) else []
    return f"this process: {', '.join(found)}" if found else "the system does not tell what is in use"


_LAST_RESORTS = ("a smaller model", "a machine or device with more memory", "ending other programs that use it")
"""What is left where few keys apply."""


def _passed_through_evaluation(error: BaseException) -> bool:
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code is not evaluate.__code__:
        trace = trace.tb_next
    return trace is not None


def _ways_out(run: Run, *, evaluating: bool) -> Iterator[str]:
    """Yield what would help and is not in force, what changes the result least first."""
    config, policy = run.config, run.parts.policy
    batch, at_a_time = config.data.batch_size, config.train.micro_batch
    on_gpu = run.device.type == "cuda"
    evaluated = config.data.eval_batch_size or batch
    if evaluating and evaluated > 1:
        yield f"data.eval_batch_size={evaluated // 2}"
    if not evaluating and batch > 1 and at_a_time is None:
        yield "train.micro_batch=auto (the same training, in pieces that fit)"
    if not evaluating and isinstance(at_a_time, int) and min(at_a_time, batch) > 1:
        yield f"train.micro_batch={min(at_a_time, batch) // 2}, or auto"
    if lower := _lower_precision(run):
        yield f"precision={lower}"
    if not evaluating and batch > 1 and at_a_time is None:
        yield _smaller_batch(config)
    if on_gpu and isinstance(run.splits.train, InMemory) and config.data.cache != "none":
        yield "data.cache=none (data may be held on the device)"
    if not on_gpu and config.data.num_workers:
        yield f"data.num_workers={config.data.num_workers // 2} (each loader process takes memory of its own)"
    if config.ema is not None:
        yield f"ema=null (frees {size(run.memory.average)})"
    if policy.mode.computed in ("bf16", "fp16") and not policy.mode.pure:
        yield f"precision={policy.mode.computed}-pure (weights and moments take two bytes)"
    moments = run.memory.optimizer_state
    if config.optimizer.name == "sgd" and getattr(config.optimizer, "momentum", False):
        yield f"optimizer.momentum=0 (frees {size(moments)})"
    elif moments > 1.5 * run.memory.weights:
        yield f"optimizer=sgd (frees {size(moments // 2)}, one moment of two)"


def _smaller_batch(config: RunConfig) -> str:
    """Return a smaller batch_size with accumulate raised by the same factor."""
    batch = config.data.batch_size
    factor = next(factor for factor in range(2, batch + 1) if batch % factor == 0)
    return f"data.batch_size={batch // factor} with train.accumulate={config.train.accumulate * factor}"


def _lower_precision(run: Run) -> str | None:
    """Return a mode whose activations are smaller; None where there is none."""
    computed = run.parts.policy.mode.computed
    if computed == "fp64":
        return "fp32"
    if computed not in ("fp32", "tf32"):
        return None
    return "bf16" if run.parts.policy.emulated or support("bf16", run.device).level != "no" else None


def _resident_bytes() -> int | None:
    """Return the process's resident set; None where the system has no /proc."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")


def _limits() -> Iterator[tuple[str, int]]:
    """Yield the limits that are set for this process, or for the container it runs in."""
    if sys.platform != "win32":
        import resource

        for name in ("RLIMIT_AS", "RLIMIT_DATA"):
            limit = resource.getrlimit(getattr(resource, name))[0]
            if limit != resource.RLIM_INFINITY:
                yield name, limit
    try:
        yield "cgroup", int(Path("/sys/fs/cgroup/memory.max").read_text())
    except (OSError, ValueError):  # no cgroup, or "max"
        return


def _machine_bytes() -> int | None:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None
