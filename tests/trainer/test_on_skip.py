"""What becomes of a skipped step's batch: dropped, retried at a lower scale, or counted as a step."""

import math

import pytest
import torch

from mptrain import checkpoint as checkpoints
from mptrain.checkpoint import CheckpointStore
from mptrain.errors import DivergedError, Preempted
from tests.trainer.runs import fitted, merged, same, trainer, weights


def run_of(on_skip, *faults, **train):
    return {
        "precision": {"mode": "fp16", "loss_scale": {"on_skip": on_skip}},
        "schedule": {"name": "linear", "warmup_steps": 3},
        "train": {"max_steps": 20, **train},
        "ema": 0.9,
        "debug": {"plant": [{"what": what, "at": at} for what, at in faults]},
    }


def inputs_of_applied_steps(made):
    """Fit, and return the first input of each applied step's batch."""
    inner, seen = made._step, []

    def step(window):
        before = int(made.run.parts.applied.count)
        samples = inner(window)
        if int(made.run.parts.applied.count) > before:
            seen.append(window[0].inputs[0].clone())
        return samples

    made._step = step
    made.fit()
    return seen


@pytest.mark.parametrize(("on_skip", "attempted", "applied"), [("drop", 22, 20), ("retry", 22, 20), ("count", 20, 18)])
def test_counts_schedule_and_names(on_skip, attempted, applied, tmp_path):
    store = CheckpointStore(tmp_path / "checkpoints")
    made = fitted(run_of(on_skip, ("inf_grad", 3), ("inf_grad", 9)), store)
    counts = made.ledger.counts
    assert (counts.attempted, counts.applied, counts.skipped) == (attempted, applied, 2)
    assert made.ledger.steps_done == int(made.run.parts.applied.count) == 20
    assert float(made.run.parts.applied.lr) == made.run.rates[20]
    assert [checkpoint.path.name for checkpoint in store.complete()] == ["step-00000020"]
    assert store.latest().manifest["applied_steps"] == applied
    assert [w.steps_done for w in made.reporter.windows][-1] == 20
    assert made.reporter.windows[-1].lr == made.run.rates[19]


def test_retried_batches_are_lost_to_no_one():
    clean = inputs_of_applied_steps(trainer(run_of("drop")))
    faults = [("inf_grad", 3), ("inf_grad", 4), ("inf_grad", 9)]
    retried = inputs_of_applied_steps(trainer(run_of("retry", *faults)))
    dropped = inputs_of_applied_steps(trainer(run_of("drop", *faults)))
    assert same(retried, clean)
    assert same(dropped[:2], clean[:2])
    assert torch.equal(dropped[2], clean[4])


def test_a_retried_run_learns_exactly_what_an_undisturbed_one_learns():
    # A power of two changes no bit in FP32, so the lower scale of the retries must not show.
    settings = {"precision": {"mode": "fp32", "loss_scale": {"kind": "dynamic", "init_scale": 1024.0}}}
    clean = fitted(merged(run_of("retry"), settings))
    retried = fitted(merged(run_of("retry", ("inf_grad", 1), ("inf_grad", 7), ("inf_grad", 8)), settings))
    assert same(weights(clean.run), weights(retried.run))
    assert clean.metrics == retried.metrics
    assert retried.final_loss_scale() == 128.0


def test_a_retry_is_told_and_counts_in_the_history():
    made = fitted(run_of("retry", ("inf_grad", 3), ("inf_grad", 4)))
    told = [(e.attempted_step, e.message) for e in made.reporter.events if e.kind in ("overflow", "scale_change")]
    where = " (first in 1.weight, 1 of 4 parameters)"
    assert told == [
        (3, f"skipped, gradients are not finite at loss scale 65536{where}; retrying"),
        (4, "loss scale 65536 -> 32768"),
        (4, f"skipped, gradients are not finite at loss scale 32768{where}; retrying"),
        (5, "loss scale 32768 -> 16384"),
    ]
    assert made.ledger.scale_history() == [
        {"attempted_step": 4, "from": 65536.0, "to": 32768.0},
        {"attempted_step": 5, "from": 32768.0, "to": 16384.0},
    ]


def test_a_bad_loss_is_not_retried():
    made = trainer(run_of("retry", ("nan_loss", 3)))
    clean = inputs_of_applied_steps(trainer(run_of("drop")))
    seen = inputs_of_applied_steps(made)
    assert torch.equal(seen[2], clean[3])
    assert "retrying" not in "".join(event.message for event in made.reporter.events)


def test_retries_without_end_end_the_run():
    made = trainer(run_of("retry", *(("inf_grad", at) for at in range(5, 60)), max_consecutive_skips=8))
    with pytest.raises(DivergedError, match=r"8 steps in a row .*attempted step 12 .*65536 -> 32768 at step 6 -> "):
        made.fit()
    assert all(value.isfinite().all() for value in weights(made.run))
    assert made.ledger.counts.applied == 4


@pytest.mark.parametrize("on_skip", ["retry", "count"])
@pytest.mark.parametrize("at", [5, 6, 7, 11])
def test_cut_anywhere_and_resumed_equals_the_uninterrupted_run(on_skip, at, tmp_path):
    faults = [("inf_grad", 5), ("inf_grad", 6), ("nan_loss", 9)]
    dropout = {"model": {"norm": "batch", "dropout": 0.2}}
    changes = merged(run_of(on_skip, *faults), dropout)
    whole = fitted(changes)
    store = CheckpointStore(tmp_path / "checkpoints")
    with pytest.raises(Preempted):
        trainer(merged(run_of(on_skip, *faults, ("sigterm", at)), dropout), store).fit()
    resumed = trainer(changes, store)
    resumed.restore(checkpoints.load(store.latest().path))
    resumed.fit()
    assert resumed.ledger.counts == whole.ledger.counts
    assert resumed.ledger.scale_history() == whole.ledger.scale_history()
    assert same(weights(whole.run), weights(resumed.run))
    assert whole.metrics == resumed.metrics


def test_a_counted_skip_changes_nothing_but_the_schedule():
    base = merged(run_of("count"), {"optimizer": {"name": "sgd", "lr": 0.05, "momentum": 0.9}})
    clean = fitted(merged(base, {"train": {"stop_at_step": 6}}))
    ended = {"train": {"stop_at_step": 8}, "debug": {"plant": [{"what": "inf_grad", "at": at} for at in (7, 8)]}}
    skipped = fitted(merged(base, ended))
    assert same(weights(clean.run), weights(skipped.run))
    average, other = (list(t.run.parts.average.state_dict().values()) for t in (clean, skipped))
    assert same(average, other)
    assert float(skipped.run.parts.applied.lr) == skipped.run.rates[8]
    assert math.isfinite(skipped.metrics["loss"])


def test_a_phase_without_a_scale_drops_what_no_lower_scale_can_cure():
    phases = [{"until": 10, "mode": "fp16"}, {"until": 1.0, "mode": "bf16"}]
    precision = {"mode": "auto", "phases": phases}
    made = fitted(merged(run_of("retry", ("inf_grad", 3), ("inf_grad", 15)), {"precision": precision}))
    told = [(e.attempted_step, e.message) for e in made.reporter.events if e.kind in ("overflow", "precision_change")]
    assert [(step, message.split("; ")[-1]) for step, message in told if step != 15] == [
        (3, "retrying"),
        (11, "precision changed fp16 -> bf16: loss scale 32768 put aside"),
    ]
    assert [message.endswith("retrying") for step, message in told if step == 15] == [False]
    assert (made.ledger.counts.attempted, made.ledger.counts.applied) == (22, 20)
