"""Brings every attempt's outcome vector to the host without ever making the step wait.

Owns: the device-side ring, its pinned copies and their CUDA events. Must not: know what the numbers mean.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Completed:
    """Rows of attempts that the device has finished, oldest first."""

    rows: list[list[float]]
    at: float
    """When the last of them was finished (time.perf_counter seconds)."""


class AttemptLog:
    """For a CPU: the vector is host memory already, each row is complete at once."""

    def __init__(self) -> None:
        self._rows: list[list[float]] = []

    def record(self, values: Tensor) -> None:
        """Keep a copy of this attempt's vector (fields,)."""
        self._rows.append(values.tolist())

    def completed(self) -> Completed | None:
        """Return what has finished since the last call, or None."""
        if not self._rows:
            return None
        rows, self._rows = self._rows, []
        return Completed(rows, time.perf_counter())

    def drain(self) -> list[Completed]:
        """Wait for every recorded attempt and return what had not been returned."""
        done = self.completed()
        return [done] if done else []


class CudaAttemptLog(AttemptLog):
    """For a GPU: rows gather on the device and go to pinned memory every `window` attempts; read after its event."""

    def __init__(
        self,
        fields: int,
        window: int,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        windows_in_flight: int = 8,
    ) -> None:
        super().__init__()
        self._window = window
        shape = (windows_in_flight, window, fields)
        self._device_rows = torch.empty(shape, dtype=dtype, device=device)
        self._pinned = torch.empty(shape, dtype=dtype, pin_memory=True)
        self._views = [[self._device_rows[slot, row] for row in range(window)] for slot in range(windows_in_flight)]
        self._slot = 0
        self._filled = 0
        self._in_flight: deque[tuple[int, int, torch.cuda.Event]] = deque()
        self._set_anchor()

    def record(self, values: Tensor) -> None:
        """Copy this attempt's vector into the ring; one small device-to-device copy."""
        self._views[self._slot][self._filled].copy_(values)
        self._filled += 1
        if self._filled == self._window:
            self._send()

    def completed(self) -> Completed | None:
        """Return the oldest finished window, without waiting."""
        if self._in_flight and self._in_flight[0][2].query():
            return self._take_oldest()
        return None

    def drain(self) -> list[Completed]:
        """Wait for every recorded attempt."""
        if self._filled:
            self._send()
        done = []
        while self._in_flight:
            self._in_flight[0][2].synchronize()
            done.append(self._take_oldest())
        self._set_anchor()
        return done

    def _set_anchor(self) -> None:
        """Read both clocks at one moment, the device being idle: they drift apart."""
        self._anchor = torch.cuda.Event(enable_timing=True)
        self._anchor.record()
        self._anchor.synchronize()
        self._anchor_at = time.perf_counter()

    def _send(self) -> None:
        self._pinned[self._slot].copy_(self._device_rows[self._slot], non_blocking=True)
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        self._in_flight.append((self._slot, self._filled, event))
        self._slot = (self._slot + 1) % len(self._views)
        self._filled = 0
        if len(self._in_flight) == len(self._views):
            # The host is a whole ring ahead of the device: waiting here costs the device nothing.
            self._in_flight[0][2].synchronize()
            oldest = self._take_oldest()
            self._rows += oldest.rows

    def _take_oldest(self) -> Completed:
        slot, filled, event = self._in_flight.popleft()
        rows, self._rows = self._rows + self._pinned[slot, :filled].tolist(), []
        self._anchor_at += self._anchor.elapsed_time(event) / 1000.0
        self._anchor = event
        return Completed(rows, self._anchor_at)


def make_attempt_log(fields: int, window: int, device: torch.device, dtype: torch.dtype = torch.float32) -> AttemptLog:
    """Return the log of vectors (fields,) for `device`; `window` is how many attempts travel in one copy."""
    return CudaAttemptLog(fields, window, device, dtype) if device.type == "cuda" else AttemptLog()
