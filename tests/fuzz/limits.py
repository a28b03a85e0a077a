"""Limits on one case: how long it may take, and how much memory it may ask for.

Owns: both limits, and that the process is afterwards as it was before. Must not: judge.
"""

from __future__ import annotations

import contextlib
import resource
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

SECONDS = 5.0
_PATIENCE = 6
_MEMORY = 2 * 2**30
"""Bytes that a case may ask for; more fails as on a machine without them, in place of filling this one's."""


class TookTooLong(BaseException):
    """The watchdog's; no `except Exception` on the way may take it for its own."""


class Watch:
    """Whether the time was up."""

    barked = False


@contextlib.contextmanager
def watchdog(seconds: float) -> Iterator[Watch]:
    """Interrupt the body with TookTooLong after `seconds`, and note it; a test's own timer goes on.

    Seconds of this process's own work: others may be at work on the machine. Where it waits, it is given _PATIENCE
    times as long.
    """
    watch = Watch()
    began, worked = time.monotonic(), time.process_time()

    def bark(number: int, frame: FrameType | None) -> None:
        is_slow = time.process_time() - worked >= seconds or time.monotonic() - began >= _PATIENCE * seconds
        if not is_slow or (frame is not None and frame.f_code.co_name == "gc_callback"):  # where nothing can be raised
            signal.setitimer(signal.ITIMER_REAL, min(seconds / 4, 1.0))
            return
        watch.barked = True
        raise TookTooLong(f"more than {seconds} s")

    handler = signal.signal(signal.SIGALRM, bark)
    outer, _ = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield watch
    finally:
        left = max(outer - (time.monotonic() - began), 0.001) if outer else 0
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, left)


@contextlib.contextmanager
def bounded_memory() -> Iterator[None]:
    """Let the body ask for no more than _MEMORY; does nothing where a system does not tell a process's size."""
    size = Path("/proc/self/statm")
    if not size.exists():
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    now = int(size.read_text().split()[0]) * resource.getpagesize()
    limit = now + _MEMORY if soft == resource.RLIM_INFINITY else min(soft, now + _MEMORY)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
