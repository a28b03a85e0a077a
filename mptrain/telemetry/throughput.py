"""How fast training is: samples per second, step time and data wait over the stretches that count.

Owns: which time counts. Must not: read a clock (times are handed in), know torch, or decide what is shown.

Time runs from `restart` to `mark` and from `mark` to `mark`. Whatever happens between a `mark` and the next `restart`
(evaluation, a save) is not training and is never counted; neither are the first steps of the run (warm-up, compile).
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass

LOADER_BOUND = 0.30
"""Above this share of data wait, the loader sets the pace."""


@dataclass(frozen=True, slots=True)
class WindowSpeed:
    """The speed of one window."""

    samples_per_s: float
    """Samples of applied steps over the window's wall time."""
    step_time_ms: float
    """Mean over the window's attempted steps."""
    data_wait_fraction: float


@dataclass(frozen=True, slots=True)
class Speed:
    """The speed of the whole run; every field is None where nothing was measured."""

    samples_per_s: float | None
    step_time_median_ms: float | None
    step_time_p90_ms: float | None
    data_wait_fraction: float | None


UNKNOWN = Speed(None, None, None, None)


class ThroughputMeter:
    """Adds up timed windows; all times are in seconds of one monotonic clock."""

    def __init__(self, warmup_steps: int = 3) -> None:
        self._warmup_left = warmup_steps
        self._since: float | None = None
        self._seconds = self._data_wait = 0.0
        self._samples = 0
        # One entry a window; arrays because a run of days closes a million of them.
        self._step_ms = array("d")
        self._steps = array("q")

    @property
    def warmup_left(self) -> int:
        """Steps still to be excluded; mark when they are done, so that no later step is lost with them."""
        return self._warmup_left

    def restart(self, now: float) -> None:
        """Begin a timed stretch; what happened since the last mark is not counted."""
        self._since = now

    def mark(self, now: float, *, steps: int, samples: int, data_wait_s: float) -> WindowSpeed | None:
        """Close the window since the last restart or mark, and begin the next.

        `steps` are attempted steps, `samples` those of applied steps only. Returns None, and counts nothing, for a
        window that began before the warm-up was over or in which no step or no time passed.
        """
        if self._since is None:
            raise RuntimeError("mark() needs a restart() first")
        if steps == 0:
            return None
        seconds = now - self._since
        self._since = now
        if self._warmup_left > 0:
            self._warmup_left = max(0, self._warmup_left - steps)
            return None
        # A window may be timed by the device at one end and by the host at the other, and their clocks drift apart
        # by milliseconds over hours: a very short one can seem to end before it began.
        if seconds <= 0:
            return None
        # The host counts the wait while the device ends the window, so the two can disagree by a little.
        data_wait_s = min(data_wait_s, seconds)
        self._seconds += seconds
        self._data_wait += data_wait_s
        self._samples += samples
        self._step_ms.append(1e3 * seconds / steps)
        self._steps.append(steps)
        return WindowSpeed(samples / seconds, 1e3 * seconds / steps, data_wait_s / seconds)

    def overall(self) -> Speed:
        """Return the speed over all windows counted so far."""
        if not self._steps:
            return Speed(None, None, None, None)
        return Speed(
            self._samples / self._seconds,
            self._step_time_quantile(0.5),
            self._step_time_quantile(0.9),
            self._data_wait / self._seconds,
        )

    def _step_time_quantile(self, q: float) -> float:
        """Return the step time (ms) not exceeded by a share `q` of all steps, each counted as its window's mean."""
        wanted = q * sum(self._steps)
        reached = 0
        for step_ms, steps in sorted(zip(self._step_ms, self._steps, strict=True)):
            reached += steps
            if reached >= wanted:
                return step_ms
        raise AssertionError("unreachable: all steps together reach any share of themselves")
