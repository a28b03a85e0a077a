"""Attempted steps: launched on the device, and taken in when the device has published what became of them.

Owns: what is in flight, and telling of it: windows, events, samples of the gradients. Must not: decide what is due
(`trainer.py`), compute (`step.py`), or count (`ledger.py`).

The host launches attempts and learns of their outcome a little later; `_settle` waits for all of them.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Iterable
from typing import Any

import torch

from mptrain.errors import DivergedError
from mptrain.interfaces import Batch
from mptrain.precision.outcome import Outcome
from mptrain.precision.overflow_census import NO_CULPRITS, Culprits
from mptrain.telemetry.attempt_log import Completed, make_attempt_log
from mptrain.telemetry.records import Event, Progress, Reporter
from mptrain.telemetry.throughput import WindowSpeed
from mptrain.trainer.build import Run
from mptrain.trainer.data_watch import DataWatch, News
from mptrain.trainer.divergence import require_gradients, with_inputs
from mptrain.trainer.ledger import Ledger
from mptrain.trainer.micro_batch import make_micro_batch
from mptrain.trainer.numerics import Sample
from mptrain.trainer.numerics_summary import NumericsSummary
from mptrain.trainer.pace import Pace
from mptrain.trainer.position import Position, WindowPlace
from mptrain.trainer.progress_report import progress_of
from mptrain.trainer.step import TrainStep

_LIVE_SECONDS = 0.25
_ATTEMPTS_IN_ONE_COPY = 10


class Attempts:
    """The attempts of a run, from wherever it stands."""

    def __init__(self, run: Run, reporter: Reporter) -> None:
        self.run = run
        self.reporter = reporter
        self.position = Position()
        self.train_loss = math.nan
        self.numerics = NumericsSummary()
        self.pace = Pace()
        self.data_watch = DataWatch(run.splits.train, run.config.data, run.splits.bad_files)
        self.ledger = Ledger(run.config.train, run.config.precision.loss_scale.on_skip)
        self.micro_batch = make_micro_batch(run.config, run.device, self._tell_smaller)
        self._begin_precision()
        log_every = run.config.log.every
        rows_in_one_copy = max(d for d in range(1, _ATTEMPTS_IN_ONE_COPY + 1) if log_every % d == 0)
        fields = len(Outcome._fields) + run.parts.census.num_flags
        self._log = make_attempt_log(fields, rows_in_one_copy, run.device)
        self._in_flight: deque[tuple[int, WindowPlace]] = deque()
        self._launched = 0
        self._began = self._shown = time.perf_counter()

    def _begin_precision(self) -> None:
        run = self.run
        self.ledger.enter_precision(run.in_force.mode, run.parts.scaler.min_scale)
        self.micro_batch.multiple = run.parts.policy.batch_multiple
        compile_loss = torch.compile if run.config.train.compile else lambda function: function
        self._step = TrainStep(run.parts, compile_loss, self.micro_batch)
        self._step.attempts = self.ledger.counts.attempted

    def _launch(self, window: list[Batch]) -> None:
        parts = self.run.parts
        self._launched += 1
        planted = parts.faults.begin(self._launched)
        parts.numerics.begin(self._launched)
        for what in planted:
            self._event("planted", what, {"what": what})
        place = WindowPlace(self.position.epoch, self.position.micro_batch, len(window))
        self._in_flight.append((self._step(window), place))
        parts.numerics.record()
        self._log.record(parts.census.row())
        if self.pace.is_warming_up:
            self._settle()

    def _tell_smaller(self, size: int, smaller: int) -> None:
        self._event(
            "micro_batch", f"out of memory at {size} samples: going on with {smaller}", {"from": size, "to": smaller}
        )

    def _optimistic_steps(self) -> int:
        return self.ledger.steps_done + len(self._in_flight)

    def _settle(self) -> None:
        """Wait for the device and account for everything launched."""
        for completed in self._log.drain():
            self._take_in(completed)
        self._take_in_samples(self.run.parts.numerics.drain())

    def _take_in(self, completed: Completed) -> None:
        every = self.run.config.log.every
        for row in completed.rows:
            samples, place = self._in_flight.popleft()
            outcome = Outcome(*row[: len(Outcome._fields)])
            self.pace.count(0 if outcome.skipped else samples)
            self._account_for(outcome, self._culprits(outcome, row), place)
            self._take_in_samples(self.run.parts.numerics.completed())
            if self.ledger.counts.attempted % every == 0:
                self.pace.mark(completed.at)
                self._close_log_window()
                self._watch_data(None if self.run.parts.policy.emulated else self.pace.latest)
        if self.pace.is_warming_up:
            self.pace.mark(completed.at)
        now = time.perf_counter()
        if now - self._shown > _LIVE_SECONDS:
            self._shown = now
            self.reporter.progress(self._progress(self.ledger.last.loss))

    def _account_for(self, outcome: Outcome, culprits: Culprits, place: WindowPlace) -> None:
        """Tell what one attempt did; raise DivergedError where it is hopeless, with the cause if it can be found."""
        try:
            for event in self.ledger.add(outcome, culprits):
                self.reporter.event(event)
        except DivergedError as error:
            raise (error if math.isfinite(outcome.loss) else with_inputs(error, self.run, place)) from None
        if self.ledger.gradients_seem_gone:
            require_gradients(self.run, self.ledger)

    def _culprits(self, outcome: Outcome, row: list[float]) -> Culprits:
        return self.run.parts.census.culprits(row[len(Outcome._fields) :]) if outcome.skipped else NO_CULPRITS

    def _take_in_samples(self, samples: list[Sample]) -> None:
        for sample in samples:
            self.numerics.add(sample.summary)
            attempted, applied = sample.summary.attempted_step, self.ledger.counts.applied
            self.reporter.event(Event("numerics", attempted, applied, sample.message, sample.details))

    def _close_log_window(self) -> None:
        self._report_window()
        self.ledger.close_window()

    def _report_window(self) -> None:
        """Report the log window as far as it has come; where the run stops, a resumed one goes on within it."""
        window = self.ledger.window
        if window.losses:
            self.train_loss = sum(window.losses) / len(window.losses)
            self.reporter.window(self._progress(self.train_loss))

    def _watch_data(self, speed: WindowSpeed | None = None) -> None:
        self._tell(self.data_watch.news(speed))

    def _tell(self, news: Iterable[News]) -> None:
        for each in news:
            self._event(*each)

    def _progress(self, loss: float) -> Progress:
        seconds = time.perf_counter() - self._began
        return progress_of(self.run, self.ledger, self.pace, self.position, loss, self.numerics.latest, seconds)

    def _event(self, kind: str, message: str, data: dict[str, Any]) -> None:
        counts = self.ledger.counts
        self.reporter.event(Event(kind, max(self._launched, counts.attempted), counts.applied, message, data))

    def final_loss_scale(self) -> float | None:
        """Return the scale now in force; None where the loss is not scaled."""
        return self.run.parts.scaler.current_scale()
