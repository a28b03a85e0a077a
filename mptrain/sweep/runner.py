"""Runs what is planned, some at a time, until all have ended or the sweep is told to stop.

Owns: who runs where and when, and stopping. Must not: print (a `View` does), or know what is searched for.

One thread looks at everything a few times a second. The first Ctrl-C (or SIGTERM) asks every run to stop: each
finishes its step and saves. A second Ctrl-C kills them.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from mptrain.errors import Interrupted, MptrainError, Preempted
from mptrain.sweep.child import Child, Outcome
from mptrain.sweep.follow import Progress
from mptrain.sweep.plan import PlannedRun
from mptrain.trainer.signals import StopRequest

POLL_S = 0.1
GRACE_S = 120.0
"""How long runs that were asked to stop may take to save themselves before they are killed."""
_BY_SIGTERM = 128 + signal.SIGTERM


@dataclass
class Row:
    """A run of the sweep and where it stands."""

    run: PlannedRun
    state: str = "waiting"
    """waiting, running, stopping, or how it ended."""
    outcome: Outcome | None = None
    """None while it has not ended."""
    found: str = "new"
    """What the folder held before: new, to resume, running, finished."""
    note: str = ""
    """What else there is to say of its state."""
    finished_before: bool = False
    """It was not run now: an earlier sweep had finished it."""
    progress: Progress = field(default_factory=Progress)
    began: float = 0.0
    seconds: float | None = None
    """Wall time of its process."""

    def end(self, outcome: Outcome) -> None:
        """Record how it ended."""
        self.state, self.outcome = outcome.status, outcome

    def prune(self) -> None:
        """Record that it was stopped because others do better, which is no failure."""
        self.end(Outcome("pruned", 0, None, self.outcome.result if self.outcome else None))


class View(Protocol):
    """Shows a sweep to a person."""

    def began(self, row: Row) -> None: ...
    def ended(self, row: Row) -> None: ...
    def refresh(self, rows: Sequence[Row]) -> None:
        """Show how all stand; called at every look."""

    def said(self, text: str) -> None:
        """Show a line about the sweep as a whole."""

    def close(self) -> None:
        """Show no more."""


class Source(Protocol):
    """Where runs come from: a plan, or a search that makes up the next one as results come in."""

    def next(self) -> Row | None:
        """Return the next row to run; None where there is none now."""

    def is_hopeless(self, row: Row) -> bool:
        """Say whether a run need not go on: it is asked to stop, and counts as pruned."""

    def ended(self, row: Row) -> None:
        """Take in how a run ended."""


class Planned:
    """The source of a sweep: its rows in order."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self._waiting = [row for row in reversed(rows) if row.state == "waiting"]

    def next(self) -> Row | None:
        """Return the next row."""
        return self._waiting.pop() if self._waiting else None

    def is_hopeless(self, row: Row) -> bool:
        """Say no: every run runs to its end."""
        return False

    def ended(self, row: Row) -> None:
        """Do nothing."""


@dataclass(frozen=True)
class Slot:
    """A place for one run at a time."""

    environment: dict[str, str]


class _Requests(StopRequest):
    """Notes the first request to stop in `requested`, and a second Ctrl-C in `at_once`, and raises nothing."""

    at_once = False

    def _on_signal(self, name: str) -> None:
        self.at_once = self.at_once or (name == "SIGINT" and self.requested == "SIGINT")
        self.requested = name


class Runner:
    """Runs the rows of a source; `rows` is what the view is shown, and grows where the source makes up new ones."""

    def __init__(
        self, rows: Sequence[Row], source: Source, slots: Sequence[Slot], view: View, *, stop_on_failure: bool = False
    ) -> None:
        self._rows, self._source, self._view = rows, source, view
        self._free = list(reversed(slots))
        self._at_work: dict[int, tuple[Row, Child, Slot]] = {}
        self._stop_on_failure = stop_on_failure
        self._failed = False
        self._requests = _Requests()
        self._deadline: float | None = None

    def run(self) -> str | None:
        """Run until all have ended; return the signal that stopped the sweep early, None where none did.

        Raises Interrupted at a second Ctrl-C. No process is left, whatever happens.
        """
        with self._requests, self._no_orphans():
            while self._start() or self._at_work:
                self._look()
                self._view.refresh(self._rows)
                time.sleep(POLL_S)
        self._view.refresh(self._rows)
        return self._requests.requested

    @contextmanager
    def _no_orphans(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            for _, child, _ in self._at_work.values():
                child.kill()
            raise

    def _start(self) -> bool:
        """Fill the free slots; return whether anything was started."""
        started = False
        while self._free and not self._requests.requested and not (self._failed and self._stop_on_failure):
            row = self._source.next()
            if row is None:
                break
            started = True
            try:
                child = Child(row.run, self._free[-1].environment)
            except MptrainError as error:
                self._failed = True
                row.end(Outcome(error.status, error.exit_code, str(error)))
                self._view.ended(row)
                continue
            slot = self._free.pop()
            row.state, row.began = "running", time.monotonic()
            self._at_work[child.pid] = row, child, slot
            self._view.began(row)
        return started

    def _look(self) -> None:
        """Take in what runs have done, and stop those that are to stop."""
        for pid, (row, child, slot) in list(self._at_work.items()):
            ended = child.has_ended()  # first: what it wrote before it ended is read then
            row.progress = child.follower.read()
            if ended:
                del self._at_work[pid]
                self._free.append(slot)
                self._end(row, child)
            elif row.state == "running" and self._source.is_hopeless(row):
                row.state = "pruning"
                child.ask_to_stop()
        if self._requests.requested:
            self._stop()

    def _end(self, row: Row, child: Child) -> None:
        outcome = child.outcome()
        if row.state != "running" and outcome.exit_code == _BY_SIGTERM:  # it had not come to heed the signal
            outcome = Outcome(Preempted.status, Preempted.exit_code, "stopped before its first step")
        was_pruned = row.state == "pruning" and outcome.status == Preempted.status
        row.seconds = time.monotonic() - row.began
        row.end(outcome)
        if was_pruned:
            row.prune()
        self._failed = self._failed or (outcome.exit_code != 0 and not was_pruned)
        self._source.ended(row)
        self._view.ended(row)

    def _stop(self) -> None:
        if self._requests.at_once:
            raise Interrupted("interrupted twice; the runs were killed, the last checkpoint of each stands")
        now = time.monotonic()
        if self._deadline is None:
            self._deadline = now + GRACE_S
            if self._at_work:
                self._view.said(
                    f"{self._requests.requested}: waiting for {len(self._at_work)} run(s) to save; "
                    "press Ctrl-C again to kill them"
                )
        for row, child, _ in self._at_work.values():
            if row.state == "running":
                row.state = "stopping"
                child.ask_to_stop()
            if now > self._deadline:
                child.kill()
