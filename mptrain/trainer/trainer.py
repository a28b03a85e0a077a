"""The training loop: attempts until enough steps are done; evaluates, saves and reports on the way.

Owns: the cadence (when to evaluate, save, stop), and what a checkpoint holds of the loop. Must not: know formats or
kernels (`step.py`, `mptrain.precision`), count (`ledger.py`), or print (`mptrain.telemetry`).

The host launches attempts and learns of their outcome a little later. It therefore assumes that what is in flight is
applied, and asks the device (one wait) only where that assumption would end the run, evaluate or save. Only
`loss_scale.on_skip: retry` waits after every attempt: it must know whether to attempt the same batch again.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Literal

from mptrain.checkpoint import CheckpointStore
from mptrain.errors import ConfigError, DivergedError, Preempted
from mptrain.interfaces import Batch
from mptrain.telemetry.records import Evaluation, Reporter
from mptrain.trainer.attempts import Attempts
from mptrain.trainer.best import Best
from mptrain.trainer.build import Run, enter_phase
from mptrain.trainer.data_watch import News
from mptrain.trainer.divergence import explained, require_finite_weights
from mptrain.trainer.evaluate import CutShort, evaluate
from mptrain.trainer.memory import reset_peak_memory
from mptrain.trainer.position import Position, windows
from mptrain.trainer.randomness import random_state, restore_random_state
from mptrain.trainer.resume import check_identity, check_kinds
from mptrain.trainer.saving import SavePoint, make_saver
from mptrain.trainer.signals import StopRequest
from mptrain.trainer.state import parts_state, restore_parts

EndedBy = Literal["steps", "stop_at_step", "early_stop", "max_time"]
"""The length that the config gives, a stop before it, patience that is spent, or the time budget."""


class Trainer(Attempts):
    """Trains a built run to its end; `restore` first to resume."""

    def __init__(
        self, run: Run, reporter: Reporter, store: CheckpointStore | None = None, *, began: float | None = None
    ) -> None:
        super().__init__(run, reporter)
        self.saver = make_saver(store, in_background=run.config.checkpoint.in_background)
        self.ended_by: EndedBy | None = None
        """Why training stopped without an error; None before that."""
        self.best = Best()
        self.metrics: dict[str, float] = {}
        self.summary: dict[str, Any] | None = None
        self._retries = run.config.precision.loss_scale.on_skip == "retry"
        self._evaluated_at = self._saved_at = -1
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
        self._tell(self._restored)
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

    def state(self) -> dict[str, Any]:
        """Return everything a resumed run needs, by checkpoint part."""
        return parts_state(self.run) | {"trainer": self._loop_state()}

    def _loop_state(self) -> dict[str, Any]:
        return {
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

    def restore(self, state: dict[str, Any], allowed: Mapping[str, str] | None = None) -> None:
        """Continue from `state`; what could not go on as it was is reported when training begins.

        `allowed` are the changes that a user gave a reason for (key or section -> reason). Raises ConfigError where the
        run is now shorter than what it has done or its data are others, CheckpointError for the state of another run.
        """
        loop = state["trainer"]
        check_kinds(_numbers_of(loop), _numbers_of(self._loop_state()), "trainer")
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


def _numbers_of(loop: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of the loop's state is made of numbers; the rest is checked where it is restored."""
    return {part: value for part, value in loop.items() if part not in ("random", "data", "skipped_files")}
