"""How a sweep looks while it runs: a live table on a terminal, plain lines elsewhere, silence for --quiet and --json.

Owns: layout and wording. Must not: know how runs are started.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import TextIO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from mptrain import environment
from mptrain.config.wording import shorten
from mptrain.sweep.runner import Row, View
from mptrain.sweep.summary import metric_of, said
from mptrain.telemetry import human
from mptrain.telemetry.plain import LineWriter, discard

_AT_WORK = ("running", "stopping", "pruning")
_REDRAW_S = 0.25
_REPORT_EVERY_S = 30.0
_BAR_CELLS = 12
_LABEL_CELLS = 44
_WIDE = 100
"""Columns of a terminal from which on there is room for bars and speeds."""
_NARROW = 72
"""Columns below which there is no room for figures: a cut number would read as another."""
_COLOURS = {"ok": "green", "running": "cyan", "stopping": "yellow", "pruning": "yellow", "pruned": "yellow"}


def make_view(*, speaks: bool) -> View:
    """Return the view that stdout calls for."""
    if not speaks or sys.stdout is None:
        return Silent()
    if sys.stdout.isatty() and not environment.in_ci() and not environment.dumb_terminal():
        return LiveTable()
    return PlainLines(sys.stdout)


class Silent:
    """Shows nothing."""

    def began(self, row: Row) -> None:
        """Show nothing."""

    def ended(self, row: Row) -> None:
        """Show nothing."""

    def refresh(self, rows: Sequence[Row]) -> None:
        """Show nothing."""

    def said(self, text: str) -> None:
        """Show nothing."""

    def close(self) -> None:
        """Show nothing."""


class PlainLines(Silent):
    """A line when a run begins and ends, and one on each that runs every half minute; `clock` returns seconds."""

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._out = LineWriter(stream)
        self._clock = clock
        self._reported = clock()

    def began(self, row: Row) -> None:
        """Print that it began."""
        self._out.line(human.one_line(f"run {row.run.number}  {row.run.label}  begins in {row.run.run_dir}"))

    def ended(self, row: Row) -> None:
        """Print how it ended."""
        self._out.line(human.one_line(f"run {row.run.number}  {row.run.label}  {ending(row)}"))

    def refresh(self, rows: Sequence[Row]) -> None:
        """Print how far the running ones have come, every half minute."""
        if self._clock() - self._reported < _REPORT_EVERY_S:
            return
        self._reported = self._clock()
        for row in rows:
            if row.state in _AT_WORK:
                self._out.line(human.one_line(f"run {row.run.number}  {row.run.label}  {standing(row)}"))
        self._out.line(counts(rows))

    def said(self, text: str) -> None:
        """Print it."""
        self._out.line(text)


class LiveTable(Silent):
    """A table that redraws itself: the running ones, what ended last, and counts of all."""

    def __init__(self) -> None:
        self._console = Console(force_terminal=True, no_color=environment.no_color(), highlight=False, emoji=False)
        # Drawn by this thread: runs are started in between, which another thread in the process would disturb.
        self._live = Live(console=self._console, auto_refresh=False, transient=True, vertical_overflow="crop")
        self._stdout = sys.stdout  # not the proxy that takes its place while the table stands
        self._live.start()
        self._drawn = 0.0
        self._note = ""

    def refresh(self, rows: Sequence[Row]) -> None:
        """Redraw, a few times a second."""
        now = time.monotonic()
        if now - self._drawn >= _REDRAW_S:
            self._drawn = now
            with self._terminal():
                self._live.update(self._table(rows), refresh=True)

    def ended(self, row: Row) -> None:
        """Redraw soon."""
        self._drawn = 0.0

    def said(self, text: str) -> None:
        """Show it below the table from now on."""
        self._note, self._drawn = text, 0.0

    def close(self) -> None:
        """Remove the table and give the terminal back."""
        with self._terminal():
            self._live.stop()

    @contextlib.contextmanager
    def _terminal(self) -> Iterator[None]:
        """Use the terminal; if it has gone (a closed ssh session), the runs are still there to be stopped in order."""
        try:
            yield
        except OSError:
            discard(self._stdout)

    def _table(self, rows: Sequence[Row]) -> RenderableType:
        width, height = self._console.size
        wide, narrow = width >= _WIDE, width < _NARROW
        names = {name for row in rows if (name := _metric(row)[0])}
        table = Table(box=None, padding=(0, 1), pad_edge=False)
        table.add_column("run", justify="right", no_wrap=True)
        table.add_column("", max_width=_LABEL_CELLS)  # the one that is cut where room is short, as it alone may wrap
        table.add_column("state", no_wrap=True)
        table.add_column("steps", no_wrap=True)
        last = ("samples/s", "eta") if wide else ("eta",)
        heads = ("loss", names.pop() if len(names) == 1 else "metric", "skips", *last)
        for name in () if narrow else heads:
            table.add_column(name, justify="right", no_wrap=True)
        for row in visible(rows, height - 4 - bool(self._note)):
            loss, metric, skips, speed, left = figures(row)
            steps = bar(row, "#-" if self._console.options.ascii_only else "━·") if wide else _steps(row)
            shown = (loss, metric.rpartition(" ")[2], skips, *([speed] if wide else []), left)
            table.add_row(
                str(row.run.number),
                Text(row.run.label, no_wrap=True, overflow="ellipsis"),
                Text(row.state, style=_COLOURS.get(row.state, "red" if row.outcome else "dim")),
                steps,
                *(() if narrow else shown),
            )
        lines = [Text(counts(rows), style="bold")] + ([Text(self._note, style="yellow")] if self._note else [])
        return Group(table, *lines)


def visible(rows: Sequence[Row], room: int) -> list[Row]:
    """Return the rows that fit in `room` lines: those at work, then what ended last, then what comes next."""
    if len(rows) <= room:
        return list(rows)
    at_work = [row for row in rows if row.state in _AT_WORK]
    ended = sorted((row for row in rows if row.outcome), key=lambda row: row.began + (row.seconds or 0), reverse=True)
    others = [row for row in rows if row.outcome is None and row.state not in _AT_WORK]
    return [*at_work, *ended, *others][: max(room, 1)]


def counts(rows: Sequence[Row]) -> str:
    """Return e.g. `12 runs: 3 ok, 1 diverged, 2 running, 6 waiting; about 4:10 to go`."""
    states = Counter(row.state for row in rows)
    text = f"{len(rows)} runs: " + ", ".join(f"{count} {state}" for state, count in states.items())
    left = _seconds_left(rows)
    return text if left is None else f"{text}; about {human.duration(left)} to go"


def _seconds_left(rows: Sequence[Row]) -> float | None:
    """Return the seconds to the end, if what waits takes as long as what has ended; None while nothing has."""
    took = [row.seconds for row in rows if row.seconds]
    at_work = [row for row in rows if row.state in _AT_WORK]
    waiting = sum(row.state == "waiting" for row in rows)
    if not took or not at_work:
        return None
    each = sum(took) / len(took)
    now = time.monotonic()
    left = sum(max(0.0, each - (now - row.began)) for row in at_work)
    return (left + waiting * each) / len(at_work)


def bar(row: Row, cells: str = "━·") -> str:
    """Return e.g. `━━━━━━······  240/468`; `cells` are a full one and an empty one."""
    done, total = row.progress.steps_done, row.progress.total_steps
    if done is None or not total:
        return _steps(row)
    filled = min(_BAR_CELLS, round(_BAR_CELLS * done / total))
    return f"{cells[0] * filled}{cells[1] * (_BAR_CELLS - filled)} {_steps(row)}"


def _steps(row: Row) -> str:
    done = row.progress.steps_done
    return "" if done is None else f"{done}/{row.progress.total_steps or '?'}"


def figures(row: Row) -> tuple[str, ...]:
    """Return loss, metric, skips, speed and time left; empty where unknown."""
    result = (row.outcome.result if row.outcome else None) or {}
    progress = row.progress
    loss = result.get("train_loss", progress.loss)
    skips = result.get("skipped_steps", progress.skipped_steps)
    speed = result.get("samples_per_s", progress.samples_per_s)
    left = None if row.outcome else progress.seconds_left()
    name, value = _metric(row)
    return (
        "" if loss is None else human.number(loss),
        "" if name is None else f"{name} {human.number(value)}",
        "" if skips is None else str(skips),
        "" if speed is None else f"{speed:,.0f}",
        "" if left is None else human.duration(left),
    )


def _metric(row: Row) -> tuple[str | None, float | None]:
    """Return name and value of the main metric, as far as they are known; `loss` alone would be that of training."""
    name, value = metric_of(row.outcome.result if row.outcome else None) or (None, None)
    if name is None and row.progress.evaluations:
        name, value = row.progress.metric, row.progress.evaluations[-1]
    return ("test loss" if name == "loss" else name), value


def standing(row: Row) -> str:
    """Return where a run that is at work stands."""
    loss, metric, skips, speed, left = figures(row)
    labelled = {"step": _steps(row), "loss": loss, "": metric, "skipped": skips, "samples/s": speed, "eta": left}
    return "  ".join([row.state, *(f"{label} {text}".strip() for label, text in labelled.items() if text)])


def ending(row: Row) -> str:
    """Return how a run ended, in one line."""
    loss, metric, skips, *_ = figures(row)
    parts = [shorten(said(row), 200), f"loss {loss}" if loss else "", metric, f"skipped {skips}" if skips else ""]
    parts.append("finished before" if row.finished_before else human.duration(row.seconds) if row.seconds else "")
    return "  ".join(part for part in parts if part)


def status_lines(rows: Sequence[Row]) -> list[str]:
    """Return a line for each run: number, label and how it ended."""
    width = max((len(shorten(row.run.label, _LABEL_CELLS)) for row in rows), default=0)
    return [
        f"{row.run.number:>4}  {shorten(row.run.label, _LABEL_CELLS):<{width}}  "
        f"{ending(row) if row.outcome else '  '.join(filter(None, (row.state, row.note)))}"
        for row in rows
    ]
