"""The training loop: attempts until enough steps are done; evaluates, saves and reports on the way.

Owns: the cadence (when to log, evaluate, save, stop) and the position in the data. Must not: know formats or kernels
(`step.py`, `mptrain.precision`), count (`ledger.py`), or print (`mptrain.telemetry`).

The host launches attempts and learns of their outcome a little later. It therefore assumes that what is in flight is
applied, and asks the device (one wait) only where that assumption would end the run, evaluate or save. Only
`loss_scale.on_skip: retry` waits after every attempt: it must know whether to attempt the same batch again.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Literal

import torch

from mptrain.checkpoint import CheckpointStore
from mptrain.errors import ConfigError, DivergedError, Preempted
from mptrain.interfaces import Batch
from mptrain.precision.outcome import Outcome
from mptrain.precision.overflow_census import NO_CULPRITS, Culprits
from mptrain.telemetry.attempt_log import Completed, make_attempt_log
from mptrain.telemetry.records import Evaluation, Event, Progress, Reporter
from mptrain.telemetry.throughput import WindowSpeed
from mptrain.trainer.best import Best
from mptrain.trainer.build import Run, enter_phase
from mptrain.trainer.data_watch import DataWatch, News
from mptrain.trainer.divergence import explained, require_finite_weights, require_gradients, with_inputs
from mptrain.trainer.evaluate import CutShort, evaluate
from mptrain.trainer.ledger import Ledger
from mptrain.trainer.memory import reset_peak_memory
from mptrain.trainer.micro_batch import make_micro_batch
from mptrain.trainer.numerics import Sample
from mptrain.trainer.numerics_summary import NumericsSummary
from mptrain.trainer.pace import Pace
from mptrain.trainer.position import Position, WindowPlace, windows
from mptrain.trainer.progress_report import progress_of
from mptrain.trainer.randomness import random_state, restore_random_state
from mptrain.trainer.resume import check_identity
from mptrain.trainer.saving import SaveNews, SavePoint, make_saver
from mptrain.trainer.signals import StopRequest
from mptrain.trainer.state import parts_state, restore_parts
from mptrain.trainer.step import TrainStep

EndedBy = Literal["steps", "stop_at_step", "early_stop", "max_time"]
"""The length that the config gives, a stop before it, patience that is spent, or the time budget."""
_LIVE_SECONDS = 0.25
_ATTEMPTS_IN_ONE_COPY = 10


class Trainer:
    """Trains a built run to its end; `restore` first to resume."""

    def __init__(
        self, run: Run, reporter: Reporter, store: CheckpointStore | None = None, *, began: float | None = None
    ) -> None:
        self.run = run
        self.reporter = reporter
        self.saver = make_saver(store, in_background=run.config.checkpoint.in_background)
        self.ended_by: EndedBy | None = None
        """Why training stopped without an error; None before that."""
        self.position = Position()
        self.best = Best()
        self.metrics: dict[str, float] = {}
        self.train_loss = math.nan
        self.numerics = NumericsSummary()
        self.summary: dict[str, Any] | None = None
        self.pace = Pace()
        self.data_watch = DataWatch(run.splits.train, run.config.data, run.splits.bad_files)
        on_skip = run.config.precision.loss_scale.on_skip
        self._retries = on_skip == "retry"
        self.ledger = Ledger(run.config.train, on_skip)
        self.micro_batch = make_micro_batch(run.config, run.device, self._tell_smaller)
        self._begin_precision()
        log_every = run.config.log.every
        self._rows_in_one_copy = max(d for d in range(1, _ATTEMPTS_IN_ONE_COPY + 1) if log_every % d == 0)
        fields = len(Outcome._fields) + run.parts.census.num_flags
        self._log = make_attempt_log(fields, self._rows_in_one_copy, run.device)
        self._in_flight: deque[tuple[int, WindowPlace]] = deque()
        self._launched = 0
        self._evaluated_at = self._saved_at = -1
        self._began = self._shown = time.perf_counter()
        budget = run.config.train.max_time
        self._deadline = math.inf if budget is None else (self._began if began is None else began) + budget
        self._stop = StopRequest()
        self._restored: list[News] = []
        stop_at = run.config.train.stop_at_step
        self.target = min(run.total_steps, stop_at) if stop_at else run.total_steps

    def fit(self) -> None:
        """Train, evaluate and save to the end; raise DivergedError where hopeless, Preempted (saved) when told."""
        reset_peak_memory(self.run.device)
        self.run.parts.model.train()
        self._began = time.perf_counter()
        for kind, message, data in self._restored:
            self._event(kind, message, data)
        self._watch_data()
        with self._stop:
            self.pace.restart()
            try:
                self._train()
            except DivergedError as error:
                raise explained(error, self.run, self.ledger.counts.applied) from None
            if self.ended_by != "max_time" and self._evaluated_at != self.ledger.steps_done:
                self._evaluate()
            if self._stop.requested and self._evaluated_at != self.ledger.steps_done:
                self._preempt(self._stop.requested)
            self._save_at_the_end()
        if self.ended_by != "max_time":
            self.summary = self._summarize()

    def _train(self) -> None:
        if self.ledger.steps_done and self._evaluation_is_due():
            self._evaluate()  # it was cut short when the run was stopped
        while not self._is_finished():
            self._epoch()
        self._settle()
        self._report_window()

    def _begin_precision(self) -> None:
        run = self.run
        self.ledger.enter_precision(run.in_force.mode, run.parts.scaler.min_scale)
        self.micro_batch.multiple = run.parts.policy.batch_multiple
        compile_loss = torch.compile if run.config.train.compile else lambda function: function
        self._step = TrainStep(run.parts, compile_loss, self.micro_batch)
        self._step.attempts = self.ledger.counts.attempted

    def _enter_phase(self) -> None:
        """Go on in the next of `precision.phases`, with everything but the number formats carried over."""
        state = self.state()
        self.run = enter_phase(self.run, self.ledger.steps_done)
        self._begin_precision()
        said = restore_parts(self.run, state, self.ledger.steps_done)
        restore_random_state(state["trainer"]["random"], self.run.device)
        self.run.parts.model.train()
        message = "; ".join(text for _, text in said) or self.run.in_force.line()
        self._event("precision_change", message, self.run.in_force.as_dict())
        self.pace.restart()

    def _summarize(self) -> dict[str, Any] | None:
        parts = self.run.parts
        with parts.evaluated_weights():
            summary = parts.task.summary(parts.model, self.run.splits)
        return dict(summary) if summary is not None else None

    def _epoch(self) -> None:
        """Run the rest of the current epoch, or until the run is finished."""
        accumulate = self.run.config.train.accumulate
        batches = self.run.train_loader.epoch(self.position.epoch, self.position.micro_batch)
        for window in self.pace.waiting(windows(batches, accumulate)):
            self._attempt(window)
            if self._after_attempt():
                return
        self.position = Position(self.position.epoch + 1, 0)

    def _attempt(self, window: list[Batch]) -> None:
        """Attempt a step on `window`, again and again where overflows are retried.

        Where a stop is requested meanwhile, the position stays before the window: a resumed run goes on with it.
        """
        self._launch(window)
        while self._retries:
            self._settle()
            if not self.ledger.retry_is_due:
                break
            if self._stop.requested:
                return
            self._launch(window)
        self.position.micro_batch += len(window)

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

    def _after_attempt(self) -> bool:
        """Take in what the device has finished, act on what is due; return whether the run is finished.

        Evaluation comes before saving, so that a checkpoint knows its score and a resumed run evaluates nothing twice.
        """
        if completed := self._log.completed():
            self._take_in(completed)
        self._watch_data()
        self._tell(self.saver.news())
        if self._evaluation_is_due():
            self._evaluate()
        if self._is_finished():
            return True
        if self._is_due(self.run.config.checkpoint.every, self._saved_at):
            self._save()
        if self._stop.requested:
            self._preempt(self._stop.requested)
        if time.perf_counter() >= self._deadline:
            self._end_in_time()
            return True
        if self._phase_is_over():
            self._enter_phase()
        return False

    def _phase_is_over(self) -> bool:
        if self._optimistic_steps() < self.run.phase_end:
            return False
        self._settle()
        return self.ledger.steps_done >= self.run.phase_end

    def _is_finished(self) -> bool:
        if self.ended_by is not None:
            return True
        if self._optimistic_steps() < self.target:
            return False
        self._settle()
        if self.ledger.steps_done >= self.target:
            self.ended_by = "steps" if self.target == self.run.total_steps else "stop_at_step"
        return self.ended_by is not None

    def _evaluation_is_due(self) -> bool:
        train = self.run.config.train
        if self._is_due(train.eval_every_steps, self._evaluated_at):
            return True
        if train.eval_every_epochs is None:
            return False
        epochs = self._finished_epochs()
        if epochs == self.position.epoch or epochs % train.eval_every_epochs:
            return False
        self._settle()
        return self._evaluated_at != self.ledger.steps_done

    def _finished_epochs(self) -> int:
        return self.position.epoch + (self.position.micro_batch == len(self.run.train_loader))

    def _is_due(self, every: int | None, last: int) -> bool:
        if every is None or self._optimistic_steps() % every:
            return False
        self._settle()
        done = self.ledger.steps_done
        return done % every == 0 and done not in (0, last)

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
        for kind, message, data in self.data_watch.news(speed):
            self._event(kind, message, data)

    def _progress(self, loss: float) -> Progress:
        seconds = time.perf_counter() - self._began
        return progress_of(self.run, self.ledger, self.pace, self.position, loss, self.numerics.latest, seconds)

    def _evaluate(self) -> None:
        self._pause()
        run, parts = self.run, self.run.parts
        began = time.perf_counter()
        try:
            with parts.evaluated_weights():
                metrics = evaluate(parts.model, parts.task, run.eval_batches, parts.policy, run.device, self._cut_short)
        except CutShort:
            if not self._stop.requested:
                self._end_in_time()
            self.pace.restart()
            return
        self.metrics = metrics
        self._watch_data()
        applied = self.ledger.counts.applied
        self._evaluated_at = self.ledger.steps_done
        early = run.config.train.early_stop
        improved = self.best.consider(
            self.metrics[parts.task.main_metric],
            applied,
            higher_is_better=parts.task.higher_is_better,
            min_delta=early.min_delta if early else 0.0,
        )
        self.reporter.evaluated(
            Evaluation(
                applied_steps=applied,
                epoch=self._finished_epochs(),
                metrics=dict(self.metrics),
                main_metric=parts.task.main_metric,
                improved=improved,
                seconds=time.perf_counter() - began,
            )
        )
        if improved and run.config.checkpoint.best:
            self._save()
        if early and self._patience_is_spent():
            self.ended_by = "early_stop"
            self._event("early_stop", f"no improvement in {early.patience} evaluations: stopping", {})
        self.pace.restart()

    def _cut_short(self, outputs: Any, batch: Batch) -> None:
        """Leave an evaluation whose end a stop cannot wait for; the resumed run begins it anew."""
        if self._stop.requested or time.perf_counter() >= self._deadline:
            raise CutShort

    def _patience_is_spent(self) -> bool:
        early = self.run.config.train.early_stop
        return early is not None and self.best.without_improvement >= early.patience

    def _save(self) -> None:
        self._pause()
        self._saved_at = self.ledger.steps_done
        self._tell(self.saver.save(self.state, self._save_point()))
        self.pace.restart()

    def _save_at_the_end(self) -> None:
        """Save and wait for it; raise where the run's last state is not on the disk."""
        self._save()
        self._tell(self.saver.finish())
        self.saver.require_saved()

    def _save_point(self) -> SavePoint:
        counts = self.ledger.counts
        return SavePoint(self.ledger.steps_done, counts.applied, counts.attempted, self._score())

    def _tell(self, news: list[SaveNews]) -> None:
        for each in news:
            self._event(*each)

    def _score(self) -> float | None:
        """Return the main metric, larger is better, where it was measured at this very step."""
        if self._evaluated_at != self.ledger.steps_done:
            return None
        task = self.run.parts.task
        value = self.metrics[task.main_metric]
        return (value if task.higher_is_better else -value) if math.isfinite(value) else None

    def _pause(self) -> None:
        """Wait for the device and stop the clock; weights that are not finite are neither evaluated nor saved."""
        self._settle()
        self.pace.mark(time.perf_counter())
        require_finite_weights(self.run, self.ledger.counts.applied)

    def _preempt(self, signal_name: str) -> None:
        self._settle()
        self._report_window()
        self._event("preempted", f"{signal_name}: stopping after this step", {"signal": signal_name})
        self._save_at_the_end()
        applied = self.ledger.counts.applied
        raise Preempted(f"stopped by {signal_name} after {applied} applied steps; go on with --resume auto")

    def _end_in_time(self) -> None:
        self._settle()
        self._report_window()
        self.ended_by = "max_time"
        applied = self.ledger.counts.applied
        said = f"train.max_time is over after {applied} applied steps; go on with --resume auto"
        self._event("max_time", said, {"max_time": self.run.config.train.max_time})

    def _event(self, kind: str, message: str, data: dict[str, Any]) -> None:
        counts = self.ledger.counts
        self.reporter.event(Event(kind, max(self._launched, counts.attempted), counts.applied, message, data))

    def final_loss_scale(self) -> float | None:
        """Return the scale now in force; None where the loss is not scaled."""
        return self.run.parts.scaler.current_scale()

    def state(self) -> dict[str, Any]:
        """Return everything a resumed run needs, by checkpoint part."""
        loop = {
            "position": [self.position.epoch, self.position.micro_batch],
            "ledger": self.ledger.state_dict(),
            "best": asdict(self.best),
            "train_loss": self.train_loss,
            "metrics": dict(self.metrics),
            "evaluated_at": self._evaluated_at,
            "numerics": self.numerics.state_dict(),
            "skipped_files": self.data_watch.skipped_files(),
            "micro_batch": self.micro_batch.size,
            "data": dict(self.run.splits.identity),
            "random": random_state(self.run.device),
        }
        return parts_state(self.run) | {"trainer": loop}

    def restore(self, state: dict[str, Any], allowed: Mapping[str, str] | None = None) -> None:
        """Continue from `state`; what could not go on as it was is reported when training begins.

        `allowed` are the changes that a user gave a reason for (key or section -> reason). Raises ConfigError where the
        run is now shorter than what it has done or its data are others, CheckpointError for the state of another run.
        """
        loop = state["trainer"]
        self.ledger.load_state_dict(loop["ledger"])
        counts, done = self.ledger.counts, self.ledger.steps_done
        if done > self.run.total_steps:
            raise ConfigError(
                f"train: {self.run.total_steps} steps asked for, {done} are done already; raise "
                "train.max_steps or train.epochs, or stop a longer run with train.stop_at_step"
            )
        data = check_identity(loop.get("data"), self.run.splits.identity, allowed or {})
        said = restore_parts(self.run, state, done, allowed)
        self.position = Position(*loop["position"])
        self.best = Best(**loop["best"])
        self.train_loss, self.metrics = loop["train_loss"], dict(loop["metrics"])
        self.numerics.load_state_dict(loop["numerics"])
        self.data_watch.take_over(loop["skipped_files"])
        self.micro_batch.take_over(loop.get("micro_batch"))
        self._evaluated_at, self._saved_at = loop["evaluated_at"], done
        self.saver.take_over(self._save_point())
        self._launched = self._step.attempts = counts.attempted
        if self._patience_is_spent():
            self.ended_by = "early_stop"
        restore_random_state(loop["random"], self.run.device)
        if said:
            self.ledger.enter_precision(self.run.in_force.mode, self.run.parts.scaler.min_scale)
        self._restored = [(kind, message, {}) for kind, message in said]
        if data is not None:
            self._restored.append(("changed", str(data), data._asdict()))
        self._restored.append(("resume", f"resumed after {counts.applied} applied steps", {}))
