"""How fast this run goes: counts what a timed stretch trained and waited for, and hands it to the meter.

Owns: the counts between two marks. Must not: decide when to mark; the trainer knows when the device has finished.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from mptrain.telemetry.throughput import Speed, ThroughputMeter, WindowSpeed

T = TypeVar("T")


class Pace:
    """Speed over stretches of pure training; times are `time.perf_counter` seconds."""

    def __init__(self) -> None:
        self._meter = ThroughputMeter()
        self._steps = self._samples = 0
        self._data_wait = 0.0
        self.latest: WindowSpeed | None = None
        """Speed of the last stretch that counted."""

    @property
    def is_warming_up(self) -> bool:
        """Whether the steps now taken are still left out of every speed."""
        return self._meter.warmup_left > 0

    def waiting(self, items: Iterable[T]) -> Iterator[T]:
        """Yield `items`, adding up the time spent waiting for each."""
        iterator = iter(items)
        while True:
            before = time.perf_counter()
            try:
                item = next(iterator)
            except StopIteration:
                return
            finally:
                self._data_wait += time.perf_counter() - before
            yield item

    def count(self, samples: int) -> None:
        """Count one attempted step that trained on `samples` (none where it was skipped)."""
        self._steps += 1
        self._samples += samples

    def restart(self) -> None:
        """Begin a timed stretch now; what happened since the last mark is not counted."""
        self._meter.restart(time.perf_counter())

    def mark(self, at: float) -> None:
        """Close the stretch at the time `at`, and begin the next."""
        speed = self._meter.mark(at, steps=self._steps, samples=self._samples, data_wait_s=self._data_wait)
        self.latest = speed or self.latest
        self._steps = self._samples = 0
        self._data_wait = 0.0

    def overall(self) -> Speed:
        """Return the speed of the whole run."""
        return self._meter.overall()
