"""Chooses how a run is shown, and lets several reporters follow one run.

Owns: the choice. Must not: print, or import rich before a live view is really wanted.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from mptrain import environment
from mptrain.telemetry.plain import PlainConsole, SilentConsole
from mptrain.telemetry.records import Evaluation, Event, Progress, Reporter, RunInfo


class View(Reporter, Protocol):
    """A reporter for a person, who may leave before the run has ended."""

    def leave(self, words: str) -> None:
        """Stop showing the run, with a last line that says why."""


def make_console(*, quiet: bool, json_output: bool) -> Reporter:
    """Return the live view on a terminal, plain lines elsewhere, and near silence for --quiet and --json."""
    if quiet or json_output or sys.stdout is None:
        return SilentConsole(sys.stderr)
    return make_view(time.monotonic)


def make_view(clock: Callable[[], float]) -> View:
    """Return the live view on a terminal, plain lines elsewhere; `clock` returns the seconds that both go by."""
    on_terminal = sys.stdout is not None and sys.stdout.isatty()
    if on_terminal and not environment.in_ci() and not environment.dumb_terminal():
        from mptrain.telemetry.live import LiveConsole

        return LiveConsole(clock)
    return PlainConsole(sys.stdout, clock)


class Fanout:
    """A reporter that passes everything on to several, in order."""

    def __init__(self, reporters: Sequence[Reporter]) -> None:
        self._reporters = tuple(reporters)

    def begin(self, info: RunInfo) -> None:
        """Pass on."""
        for reporter in self._reporters:
            reporter.begin(info)

    def progress(self, progress: Progress) -> None:
        """Pass on."""
        for reporter in self._reporters:
            reporter.progress(progress)

    def window(self, progress: Progress) -> None:
        """Pass on."""
        for reporter in self._reporters:
            reporter.window(progress)

    def evaluated(self, evaluation: Evaluation) -> None:
        """Pass on."""
        for reporter in self._reporters:
            reporter.evaluated(evaluation)

    def event(self, event: Event) -> None:
        """Pass on."""
        for reporter in self._reporters:
            reporter.event(event)

    def end(self, result: Mapping[str, Any]) -> None:
        """Pass on to every reporter even if one fails (a full disk must not leave the terminal without a cursor)."""
        with contextlib.ExitStack() as all_of_them:
            for reporter in reversed(self._reporters):
                all_of_them.callback(reporter.end, result)
