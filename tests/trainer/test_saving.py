"""Saves in step with training and beside it, evaluations cut short, and saves that fail."""

import os
import signal
import threading
from dataclasses import replace

import pytest
import torch

from mptrain import checkpoint as checkpoints
from mptrain.checkpoint import CheckpointStore
from mptrain.errors import CapabilityError, Preempted
from mptrain.trainer.saving import BackgroundSaver, SavePoint, host_copy
from mptrain.trainer.trainer import Trainer
from tests.trainer.runs import Recorder, fitted, merged, same, trainer, weights

BACKGROUND = {"checkpoint": {"async": True, "every": 5, "keep_last": 99}}
LONG = {"train": {"max_steps": 30, "eval_every_steps": 10}, "ema": 0.9}


class SlowStore(CheckpointStore):
    """A store whose disk is slow: a save ends when it is let go."""

    def __init__(self, folder):
        super().__init__(folder, keep_last=99)
        self.go = threading.Event()

    def save(self, parts, **point):
        assert self.go.wait(30)
        return super().save(parts, **point)


def test_what_is_saved_beside_training_is_the_moment_of_the_save(tmp_path):
    waits, beside = CheckpointStore(tmp_path / "a", keep_last=99), CheckpointStore(tmp_path / "b", keep_last=99)
    fitted(merged(LONG, {"checkpoint": {"every": 5}}), waits)
    made = fitted(merged(LONG, BACKGROUND), beside)
    assert [c.step for c in beside.complete()] == [c.step for c in waits.complete()] == [5, 10, 15, 20, 25, 30]
    for ours, theirs in zip(beside.complete(), waits.complete(), strict=True):
        first, second = checkpoints.load(ours.path), checkpoints.load(theirs.path)
        assert first.keys() == second.keys()
        for part in ("model", "ema"):
            assert same(list(first[part].values()), list(second[part].values()))
        assert first["trainer"]["ledger"] == second["trainer"]["ledger"]
        for index, entries in first["optimizer"]["state"].items():
            assert same(list(entries.values()), list(second["optimizer"]["state"][index].values()))
    assert made.reporter.kinds().count("checkpoint") == 6


def test_training_goes_on_while_a_save_is_on_its_way(tmp_path):
    store = SlowStore(tmp_path)
    saver = BackgroundSaver(store)
    weight = torch.ones(3)
    assert saver.save(lambda: {"model": {"w": weight}}, SavePoint(1, 1, 1, None)) == []
    weight.zero_()  # the next step
    assert saver.news() == []
    store.go.set()
    [news] = saver.finish()
    assert (news.kind, news.message) == ("checkpoint", "saved step-00000001")
    assert torch.equal(checkpoints.load(store.latest().path)["model"]["w"], torch.ones(3))


def test_the_copy_holds_a_tensor_of_two_names_once():
    shared = torch.ones(2)
    copy = host_copy({"model": {"a": shared, "b": shared}, "list": [shared, (1, "x")]})
    assert copy["model"]["a"] is copy["model"]["b"] is copy["list"][0]
    assert copy["model"]["a"] is not shared
    assert copy["list"][1] == (1, "x")


@pytest.mark.parametrize("background", [False, True])
def test_a_run_whose_saves_fail_trains_to_its_end_and_then_says_so(tmp_path, background):
    (tmp_path / "checkpoints").write_text("a file is in the way")
    changes = {"checkpoint": {"async": background, "every": 5}}
    made = trainer(changes, CheckpointStore(tmp_path / "checkpoints"))
    with pytest.raises(CapabilityError, match=r"the last save failed: cannot save: .*; there is no checkpoint"):
        made.fit()
    assert same(weights(made.run), weights(fitted().run))
    assert (
        made.reporter.kinds().count("save_failed") == 5
    )  # at 5, 10, 15, after the evaluation, and once more at the end
    assert made.metrics["samples"] == 50


def test_a_preempted_run_that_cannot_be_saved_is_not_called_resumable(tmp_path):
    (tmp_path / "checkpoints").write_text("")
    changes = {"debug": {"plant": [{"what": "sigterm", "at": 4}]}}
    with pytest.raises(CapabilityError, match="the last save failed"):
        trainer(changes, CheckpointStore(tmp_path / "checkpoints")).fit()


@pytest.mark.parametrize("background", [False, True])
def test_a_bug_in_a_save_is_not_swallowed(tmp_path, background):
    class Broken(CheckpointStore):
        def save(self, parts, **point):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        trainer({"checkpoint": {"async": background, "every": 5}}, Broken(tmp_path)).fit()


def signalled_in_evaluation(changes, store, number) -> Trainer:
    """Return a trainer that gets SIGTERM in the second batch of its evaluation `number` (from 1)."""
    made = trainer(changes, store)
    real, seen = made.run.parts.task, {"evaluations": 0, "batches": 0}

    class Signalling(type(real)):
        def __init__(self) -> None:
            self.__dict__.update(real.__dict__)

        def metrics(self, device):
            seen["evaluations"] += 1
            seen["batches"] = 0
            return real.metrics(device)

        def outputs(self, model, batch):
            seen["batches"] += 1
            if seen["evaluations"] == number and seen["batches"] == 2:
                os.kill(os.getpid(), signal.SIGTERM)
            return real.outputs(model, batch)

    return Trainer(replace(made.run, parts=replace(made.run.parts, task=Signalling())), Recorder(), store)


@pytest.mark.parametrize("number", [1, 3])  # on the way, and the last
@pytest.mark.parametrize("cadence", [{"eval_every_steps": 10}, {"eval_every_epochs": 1}])
def test_cut_during_an_evaluation_it_equals_the_uninterrupted_run(tmp_path, number, cadence):
    changes = merged(LONG, {"train": {"eval_every_steps": None} | cadence})
    changes["data"] = {"eval_batch_size": 10}
    store = CheckpointStore(tmp_path, keep_last=2, keep_best=True)
    with pytest.raises(Preempted):
        signalled_in_evaluation(changes, store, number).fit()
    assert store.latest().score is None  # it was not evaluated
    resumed = trainer(changes, store)
    resumed.restore(checkpoints.load(store.latest().path))
    resumed.fit()
    whole = fitted(changes)
    assert same(weights(whole.run), weights(resumed.run))
    assert whole.reporter.evaluations[number - 1 :] == [
        replace(ours, seconds=theirs.seconds)
        for ours, theirs in zip(resumed.reporter.evaluations, whole.reporter.evaluations[number - 1 :], strict=True)
    ]
    assert whole.best == resumed.best
