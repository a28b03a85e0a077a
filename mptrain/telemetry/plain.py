"""The run as plain lines (a log, a pipe, CI), and the run in silence (--quiet, --json).

Owns: how often a line is printed. Must not: use colours or cursor codes, cut a line, or stop the training because
its reader went away.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, TextIO

from mptrain.telemetry import story
from mptrain.telemetry.records import Evaluation, Event, Progress, RunInfo

MIN_INTERVAL_S = 1.0
"""Windows and events of one kind are printed at most this often."""
MAX_SILENCE_S = 30.0
"""A line appears at least this often while steps complete, however long a window is."""


class LineWriter:
    """Writes whole lines at once; once the reader has gone (head, a closed ssh session) it writes no more."""

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream  # Python itself says None where there is no stdout at all

    def line(self, text: str = "") -> None:
        """Write one line and flush it: a batch system's log is read while the run goes on."""
        if self._stream is None:
            return
        encoding = self._stream.encoding or "utf-8"
        try:
            self._stream.write(text.encode(encoding, "backslashreplace").decode(encoding) + "\n")
            self._stream.flush()
        except OSError:
            # Nobody reads any more, which is no reason to lose the training. The files record everything.
            discard(self._stream)
            self._stream = None

    def rows(self, rows: list[story.Row], indent: str = "") -> None:
        """Write label and text pairs as aligned lines."""
        width = max((len(label) for label, _ in rows), default=0)
        for label, text in rows:
            self.line(f"{indent}{label:<{width}}  {text}")


def discard(stream: TextIO) -> None:
    """Point a broken stream nowhere, so that no later write to it fails (the command line's, Python's own at exit)."""
    with contextlib.suppress(OSError):  # a stream in memory has no file descriptor
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


class PlainConsole:
    """The reporter for a stdout that is no terminal; `clock` returns monotonic seconds."""

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._out = LineWriter(stream)
        self._clock = clock
        self._info: RunInfo | None = None
        self._last_line = 0.0
        self._shown: Progress | None = None
        self._waiting: Progress | None = None
        self._last: Progress | None = None
        self._main_metric: str | None = None
        self._event_times: dict[str, float] = {}
        self._unprinted_events: Counter[str] = Counter()

    def begin(self, info: RunInfo) -> None:
        """Print what is known before the first step."""
        self._info = info
        self._time_left = story.TimeLeft(info.total_steps)
        self._out.rows(story.banner(info))
        for label, text in story.alarms(info):
            self._out.line(f"!! {label}: {text}")
        self._out.line()
        self._last_line = self._clock() - MIN_INTERVAL_S  # the first window may follow at once

    def progress(self, progress: Progress) -> None:
        """Print a line only where windows are so long that the run would look dead."""
        self._last = progress
        if self._clock() - self._last_line >= MAX_SILENCE_S:
            self._print(progress)

    def window(self, progress: Progress) -> None:
        """Print the window, unless another was printed a moment ago."""
        self._last = self._waiting = progress
        if self._clock() - self._last_line >= MIN_INTERVAL_S:
            self._print(progress)

    def evaluated(self, evaluation: Evaluation) -> None:
        """Print the last window, if it was held back, and the evaluation."""
        self._print_waiting()
        self._main_metric = evaluation.main_metric
        self._out.line(f"eval  {story.evaluated(evaluation)}")

    def event(self, event: Event) -> None:
        """Print the event, unless one of its kind was printed a moment ago; those are counted."""
        if event.kind in story.FILE_ONLY_EVENTS:
            return
        now = self._clock()
        if now - self._event_times.get(event.kind, float("-inf")) < MIN_INTERVAL_S:
            self._unprinted_events[event.kind] += 1
            return
        self._event_times[event.kind] = now
        before = self._unprinted_events.pop(event.kind, 0)
        more = f"  (and {before} more since the last such line)" if before else ""
        mark = "! " if event.kind in story.LOUD_EVENTS else "  "
        self._out.line(f"{mark}{story.event(event)}{more}")

    def end(self, result: Mapping[str, Any]) -> None:
        """Print how it ended; a run that ended before it began has nothing to add to its error."""
        if self._info is None:
            return
        self._print_waiting()
        for kind, count in self._unprinted_events.items():
            self._out.line(f"  and {count} more {kind} (see events.jsonl)")
        self._out.line()
        self._out.rows(story.summary(self._info, result, self._last, self._main_metric))

    def leave(self, words: str) -> None:
        """Stop while the run goes on, with a last line."""
        self._print_waiting()
        self._out.line(words)

    def _print_waiting(self) -> None:
        if self._waiting is not None:
            self._print(self._waiting)

    def _print(self, progress: Progress) -> None:
        assert self._info is not None
        self._waiting = None
        self._last_line = self._clock()
        self._out.line(story.window(self._info, progress, self._time_left.seconds(progress)))


class SilentConsole:
    """The reporter of --quiet and --json: nothing but alarms and warnings (hand in stderr)."""

    def __init__(self, stream: TextIO | None) -> None:
        self._out = LineWriter(stream)

    def begin(self, info: RunInfo) -> None:
        """Print planted faults and notices."""
        for label, text in story.alarms(info):
            self._out.line(f"!! {label}: {text}")

    def progress(self, progress: Progress) -> None:
        """Print nothing."""

    def window(self, progress: Progress) -> None:
        """Print nothing."""

    def evaluated(self, evaluation: Evaluation) -> None:
        """Print nothing."""

    def event(self, event: Event) -> None:
        """Print what is wrong, but for skipped steps: those are counted in the result."""
        if event.kind in story.LOUD_EVENTS - {"overflow", "nonfinite_loss"}:
            self._out.line(f"! {story.event(event)}")

    def end(self, result: Mapping[str, Any]) -> None:
        """Print nothing: the command line prints the result or the error."""
