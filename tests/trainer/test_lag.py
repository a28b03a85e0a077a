"""The host learns late: a run whose outcomes arrive in windows, as from a GPU, tells the same story as one at once."""

from collections import deque

import pytest
from torch import Tensor

from mptrain.checkpoint import CheckpointStore
from mptrain.errors import DivergedError
from mptrain.telemetry.attempt_log import AttemptLog, Completed
from tests.trainer.runs import same, trainer, weights


class LaggingLog(AttemptLog):
    """Hands rows out in windows, and a window only when `behind` later ones are full, as a busy device does."""

    def __init__(self, window: int, behind: int) -> None:
        super().__init__()
        self._window, self._behind = window, behind
        self._waiting: deque[Completed] = deque()
        self.waits = 0

    def record(self, values: Tensor) -> None:
        super().record(values)
        if len(self._rows) == self._window:
            self._send()

    def completed(self) -> Completed | None:
        return self._waiting.popleft() if len(self._waiting) > self._behind else None

    def drain(self) -> list[Completed]:
        self._send()
        self.waits += bool(self._waiting)
        done, self._waiting = list(self._waiting), deque()
        return done

    def _send(self) -> None:
        if done := super().completed():
            self._waiting.append(done)


CHANGES = {
    "precision": {"mode": "fp16", "loss_scale": {"growth_interval": 4}},
    # Clipped by value, so that each row brings its flags of non-finite gradients, as every row from a GPU does.
    "train": {"max_steps": 60, "eval_every_steps": 7, "clip_value": 1e3},
    "checkpoint": {"every": 9},
    "log": {"every": 10},
    "debug": {"plant": [{"what": "inf_grad", "at": at} for at in (3, 8, 21, 22, 58)]},
}


def story(made):
    events = [(e.kind, e.attempted_step, e.applied_steps, e.message) for e in made.reporter.events]
    # A planted fault is told when it is launched; what it did, when it is known.
    outcomes = [event for event in events if event[0] != "planted"]
    windows = [(w.attempted_steps, w.applied_steps, w.last_skipped_step, w.loss, w.lr) for w in made.reporter.windows]
    evaluations = [(e.applied_steps, e.epoch, dict(e.metrics)) for e in made.reporter.evaluations]
    return outcomes, windows, evaluations, made.ledger.counts, made.train_loss


@pytest.mark.parametrize(("window", "behind"), [(1, 3), (5, 2), (10, 0), (10, 4)])
def test_the_same_story_and_weights(window, behind, tmp_path):
    at_once = trainer(CHANGES, CheckpointStore(tmp_path / "at once"))
    late = trainer(CHANGES, CheckpointStore(tmp_path / "late"))
    late._log = LaggingLog(window, behind)
    at_once.fit()
    late.fit()
    assert story(late) == story(at_once)
    assert same(weights(late.run), weights(at_once.run))


def test_logging_never_waits():
    made = trainer({"train": {"max_steps": 200}, "log": {"every": 10}})
    made._log = LaggingLog(10, 3)
    made.fit()
    # Three in the warm-up, where each step is timed alone, and one at the end.
    assert made._log.waits == 4
    assert len(made.reporter.windows) == 20


def test_divergence_found_late_ends_the_run_with_the_last_good_weights():
    plant = [{"what": "nan_loss", "at": at} for at in range(12, 100)]
    made = trainer({"train": {"max_steps": 200}, "debug": {"plant": plant}})
    made._log = LaggingLog(5, 2)
    with pytest.raises(DivergedError, match=r"3 times in a row, up to attempted step 14 \(11 applied"):
        made.fit()
    good = trainer({"train": {"max_steps": 11}})
    good.fit()
    assert same(weights(made.run), weights(good.run))
