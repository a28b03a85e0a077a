"""When the run evaluates, saves and stops, and what it calls its best."""

import math
from dataclasses import replace

import pytest
import torch

from mptrain import checkpoint as checkpoints
from mptrain.checkpoint import CheckpointStore
from mptrain.errors import DivergedError
from mptrain.trainer.best import Best
from mptrain.trainer.trainer import Trainer
from tests.trainer.runs import Recorder, build, fitted, trainer


def evaluated_at(made: Trainer) -> list[int]:
    return [evaluation.applied_steps for evaluation in made.reporter.evaluations]


def scores_set_to(made: Trainer, values: list[float], store: CheckpointStore | None = None) -> Trainer:
    """Let the evaluations of `made` give these accuracies in turn, in a trainer that saves into `store`."""
    given, real = iter(values), made.run.parts.task

    class Scripted(type(real)):
        def __init__(self) -> None:
            self.__dict__.update(real.__dict__)

        def metrics(self, device):
            metrics = real.metrics(device)
            compute = metrics.compute
            metrics.compute = lambda: {**compute(), "accuracy": next(given)}
            return metrics

    run = replace(made.run, parts=replace(made.run.parts, task=Scripted()))
    return Trainer(run, Recorder(), store)


def test_evaluates_every_n_applied_steps_once_each_however_many_are_skipped():
    plant = [{"what": "inf_grad", "at": at} for at in (4, 5, 6, 10, 11)]
    made = fitted({"train": {"max_steps": 20, "eval_every_steps": 5}, "debug": {"plant": plant}})
    assert evaluated_at(made) == [5, 10, 15, 20]


def test_evaluates_every_n_epochs_and_counts_finished_ones():
    made = fitted({"train": {"epochs": 4, "max_steps": None, "eval_every_epochs": 2}})
    assert [(e.applied_steps, e.epoch) for e in made.reporter.evaluations] == [(24, 2), (48, 4)]


def test_steps_and_epochs_that_meet_are_evaluated_once():
    made = fitted({"train": {"epochs": 2, "max_steps": None, "eval_every_epochs": 1, "eval_every_steps": 6}})
    assert evaluated_at(made) == [6, 12, 18, 24]


def test_a_save_at_the_end_of_an_epoch_knows_the_evaluation_made_there(tmp_path):
    store = CheckpointStore(tmp_path, keep_last=9, keep_best=True)
    made = trainer({"train": {"max_steps": 36, "eval_every_epochs": 1}, "checkpoint": {"every": 12}}, store)
    made = scores_set_to(made, [0.9, 0.8, 0.7], store)
    made.fit()
    assert [(c.step, c.score) for c in store.complete()] == [(12, 0.9), (24, 0.8), (36, 0.7)]
    assert store.best().step == 12
    state = checkpoints.load(store.complete()[1].path)["trainer"]
    assert (state["evaluated_at"], state["best"]["value"]) == (24, 0.9)


def test_the_last_step_is_saved_once_with_its_score(tmp_path):
    store = CheckpointStore(tmp_path, keep_last=9)
    made = fitted({"train": {"max_steps": 20}, "checkpoint": {"every": 10, "best": False}}, store)
    saved = [event.message for event in made.reporter.events if event.kind == "checkpoint"]
    assert saved == ["saved step-00000010", "saved step-00000020"]
    assert store.latest().score == made.metrics["accuracy"]


def test_an_improvement_below_min_delta_is_saved_as_best_and_does_not_spare_patience(tmp_path):
    store = CheckpointStore(tmp_path, keep_last=1, keep_best=True)
    early_stop = {"patience": 3, "min_delta": 0.05}
    made = trainer({"train": {"max_steps": 60, "eval_every_steps": 5, "early_stop": early_stop}}, store)
    made = scores_set_to(made, [0.50, 0.51, 0.52, 0.51, 0.9], store)
    made.fit()
    assert (made.best.value, made.best.applied_steps) == (0.52, 15)
    assert made.ledger.counts.applied == 20
    assert store.best().step == 15
    assert [e.improved for e in made.reporter.evaluations] == [True, True, True, False]


def test_small_gains_that_add_up_are_an_improvement():
    best = Best()
    for step, value in enumerate((0.50, 0.53, 0.56)):
        best.consider(value, step, higher_is_better=True, min_delta=0.05)
    assert (best.value, best.without_improvement) == (0.56, 0)


def test_a_metric_that_is_not_a_number_is_never_the_best():
    best = Best()
    assert not best.consider(math.nan, 1, higher_is_better=False, min_delta=0.0)
    assert best.consider(2.0, 2, higher_is_better=False, min_delta=0.0)
    assert not best.consider(math.nan, 3, higher_is_better=False, min_delta=0.0)
    assert (best.value, best.applied_steps, best.without_improvement) == (2.0, 2, 1)


def test_an_early_stopped_run_stays_stopped_when_resumed(tmp_path):
    store = CheckpointStore(tmp_path)
    changes = {"train": {"max_steps": 60, "eval_every_steps": 5, "early_stop": {"patience": 2}}}
    made = scores_set_to(trainer(changes, store), [0.5, 0.4, 0.3], store)
    made.fit()
    assert made.ledger.counts.applied == 15
    resumed = trainer(changes, store)
    resumed.restore(checkpoints.load(store.latest().path))
    resumed.fit()
    assert resumed.ledger.counts.applied == 15
    assert resumed.train_loss == made.train_loss


def test_skips_after_a_save_are_in_the_checkpoint_of_a_stopped_run(tmp_path):
    store = CheckpointStore(tmp_path)
    plant = [{"what": "inf_grad", "at": 11}, {"what": "sigterm", "at": 12}, {"what": "inf_grad", "at": 12}]
    made = trainer({"checkpoint": {"every": 10}, "debug": {"plant": plant}}, store)
    with pytest.raises(Exception, match="stopped by SIGTERM"):
        made.fit()
    assert store.latest().step == 10
    assert store.latest().manifest["attempted_steps"] == 12


@pytest.mark.parametrize("every", [None, 1])
def test_weights_that_overflow_end_the_run_and_are_not_saved(tmp_path, every):
    # Every loss and gradient is finite, the update is not: SGD with a rate near FP32's largest number.
    store = CheckpointStore(tmp_path, keep_last=9)
    optimizer = {"name": "sgd", "lr": 3e38, "momentum": 0.0}
    data = {"name": "synthetic", "kind": "regression", "num_outputs": 4}
    changes = {"optimizer": optimizer, "data": data, "task": "regression", "train": {"max_steps": 1}}
    made = trainer({**changes, "checkpoint": {"every": every}}, store)
    with torch.no_grad():
        for param in made.run.parts.model.parameters():
            param.mul_(30)
    with pytest.raises(DivergedError, match=r"weights are not finite after 1 applied steps.*lower optimizer\.lr"):
        made.fit()
    assert store.complete() == []
    assert made.ledger.counts.skipped == 0


def test_a_large_but_finite_weight_is_saved(tmp_path):
    store = CheckpointStore(tmp_path)
    made = Trainer(build({"train": {"max_steps": 1}}), Recorder(), store)
    with torch.no_grad():
        made.run.parts.model[1].bias[0] = -1e20  # a dead ReLU; the square would overflow FP32 in a norm
    made.fit()
    assert store.latest().step == 1
