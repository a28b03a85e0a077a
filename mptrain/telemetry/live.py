"""The run on a terminal: a block of figures that redraws itself below the lines that stay.

Owns: the terminal while a run lasts (cursor, redirected output, redraw thread). Must not: cost the training thread
more than storing a record, or read the device.

The redraw thread shares Python's lock with the training thread, so a redraw is hand-laid text (about 1 ms, four times
a second) rather than rich's tables.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TextIO

from rich.console import Console, ConsoleOptions, RenderResult
from rich.control import Control
from rich.live import Live
from rich.segment import ControlType, Segment
from rich.style import Style

from mptrain import environment
from mptrain.telemetry import block, story
from mptrain.telemetry.plain import discard
from mptrain.telemetry.records import Evaluation, Event, Progress, RunInfo

REDRAWS_PER_S = 4.0
SPARK_INTERVAL_S = 0.5
"""The loss curve takes at most one point in this time."""


class _Drawn:
    """Ready lines, handed to rich as they are."""

    def __init__(self, lines: list[list[Segment]]) -> None:
        self.lines = lines

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for number, line in enumerate(self.lines):
            if number:
                yield Segment.line()
            yield from line


def _point_loggers(old: TextIO, new: TextIO) -> None:
    """Move log handlers (torch has some) from one stderr to another: rich redirects only what looks sys.stderr up."""
    loggers = [logging.getLogger(), *(logging.getLogger(name) for name in logging.root.manager.loggerDict)]
    for handler in [handler for logger in loggers for handler in logger.handlers]:
        if isinstance(handler, logging.StreamHandler) and handler.stream is old:
            handler.setStream(new)


class LiveConsole:
    """The reporter for a terminal; writes to stdout. `clock` returns seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._console = Console(
            force_terminal=True, no_color=environment.no_color(), highlight=False, markup=False, emoji=False
        )
        self._live: Live | None = None
        self._streams = (sys.stdout, sys.stderr)
        self._main_metric: str | None = None
        self._received = self._sparked = 0.0
        self._widths: list[int] = []

    def begin(self, info: RunInfo) -> None:
        """Print what is known before the first step, and start the live block."""
        self._state = block.State(info)
        self._time_left = story.TimeLeft(info.total_steps)
        self._received = self._clock()
        with self._terminal():
            self._print_rows(story.banner(info))
            for label, text in story.alarms(info):
                self._print([(f" {label} ", block.ALARM), (f" {text}", block.WARN)])
            self._live = Live(
                get_renderable=self._draw,
                console=self._console,
                refresh_per_second=REDRAWS_PER_S,
                transient=True,
                vertical_overflow="crop",
            )
            self._live.start(refresh=True)
            _point_loggers(self._streams[1], sys.stderr)
        # Whatever ends the process short of a kill, the user gets the cursor back.
        atexit.register(self._stop)
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._leave_to_parent)

    def progress(self, progress: Progress) -> None:
        """Store what the next redraw shows."""
        self._received = self._clock()
        self._state.progress = progress
        self._state.seconds_left = self._time_left.seconds(progress)
        if self._received - self._sparked >= SPARK_INTERVAL_S:
            self._sparked = self._received
            self._state.losses.add(progress.loss)

    def window(self, progress: Progress) -> None:
        """Store what the next redraw shows."""
        self.progress(progress)

    def evaluated(self, evaluation: Evaluation) -> None:
        """Leave a line that stays, above the block."""
        self._main_metric = evaluation.main_metric
        self._state.evaluation = evaluation
        if evaluation.improved:
            self._state.best = evaluation.metrics[evaluation.main_metric]
        style = block.GOOD if evaluation.improved else block.PLAIN
        with self._terminal():
            self._print([("eval  ", block.DIM), (story.evaluated(evaluation), style)])

    def event(self, event: Event) -> None:
        """Show the event among the last few, below the figures."""
        if self._live is not None and event.kind not in story.FILE_ONLY_EVENTS:
            self._state.events.append(event)

    def end(self, result: Mapping[str, Any]) -> None:
        """Replace the block by a short summary; a run that ended before it began has nothing to add to its error."""
        if self._live is None:
            return
        self._stop()
        with self._terminal():
            self._print([])
            style = block.GOOD if result["status"] == "ok" else block.BAD
            rows = story.summary(self._state.info, result, self._state.progress, self._main_metric)
            self._print_rows(rows, first_style=style)

    def leave(self, words: str) -> None:
        """Give the terminal back while the run goes on, with a last line."""
        self._stop()
        with self._terminal():
            self._print([(words, block.DIM)])

    def _stop(self) -> None:
        """Remove the block and give the terminal back."""
        atexit.unregister(self._stop)
        if self._live is not None:
            proxy = sys.stderr
            with self._terminal():
                self._live.stop()
            _point_loggers(proxy, sys.stderr)

    def _leave_to_parent(self) -> None:
        """Let a forked worker write plainly: the block, its thread and its locks belong to the parent."""
        if self._live is not None and self._live.is_started:
            atexit.unregister(self._stop)
            sys.stdout, sys.stderr = self._streams

    @contextlib.contextmanager
    def _terminal(self) -> Iterator[None]:
        """Use the terminal; if it has gone (a closed ssh session), training goes on without it."""
        try:
            yield
        except OSError:
            discard(self._streams[0])

    def _print(self, line: block.Line) -> None:
        segments = [Segment(text, Style.parse(style)) for text, style in line]
        self._console.print(_Drawn([segments, []]), soft_wrap=True)

    def _print_rows(self, rows: list[story.Row], first_style: str = block.STRONG) -> None:
        width = max(len(label) for label, _ in rows)
        for number, (label, text) in enumerate(rows):
            self._print([(f"{label:<{width}}  ", block.DIM), (text, first_style if number == 0 else block.PLAIN)])

    def _draw(self) -> _Drawn:
        """Return the block as it is now; called by rich before each redraw, mostly from its own thread."""
        state = self._state
        waited = self._clock() - self._received
        state.elapsed_s = (state.progress.wall_s if state.progress is not None else 0.0) + waited
        width, height = self._console.size
        self._rewind_wrapped(width)
        # One column and one row are left free: text in the last one makes some terminals wrap or scroll.
        unicode = not self._console.options.ascii_only
        lines = [
            Segment.adjust_line_length(
                [Segment(text, Style.parse(style)) for text, style in line if text], width - 1, pad=False
            )
            for line in block.layout(state, width - 1, height - 1, unicode=unicode)
        ]
        self._widths = [Segment.get_line_length(line) for line in lines]
        return _Drawn(lines)

    def _rewind_wrapped(self, width: int) -> None:
        """Where a narrower window has wrapped the drawn lines, put the cursor where rich believes it to be."""
        wrapped = sum(-(-drawn // width) - 1 for drawn in self._widths if drawn > width)
        if wrapped:
            height = len(self._widths)
            self._console.control(
                Control(
                    ControlType.CARRIAGE_RETURN,
                    (ControlType.CURSOR_UP, height - 1 + wrapped),
                    *([(ControlType.ERASE_IN_LINE, 2), (ControlType.CURSOR_DOWN, 1)] * (height - 1 + wrapped)),
                    (ControlType.ERASE_IN_LINE, 2),
                    (ControlType.CURSOR_UP, wrapped),
                )
            )
