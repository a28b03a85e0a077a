"""A step whose loss or gradients are not finite changes nothing, in every precision; and when to give up."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from mptrain.errors import ConfigError, DivergedError
from mptrain.precision.outcome import Outcome
from mptrain.trainer.buffers import BufferGuard
from mptrain.trainer.faults import PlantedFaults
from mptrain.trainer.ledger import Ledger
from mptrain.trainer.trainer import Trainer
from tests.trainer.runs import PRECISIONS, Recorder, build, fitted, precision_id, same, trainer, weights


def plant(*faults):
    return {"debug": {"plant": [{"what": what, "at": at} for what, at in faults]}}


def everything(made):
    """All state that a skipped step must not touch, by name."""
    parts = made.run.parts
    state = {f"model.{k}": v for k, v in parts.model.state_dict().items()}
    for index, entries in parts.optimizer.state_dict()["state"].items():
        state |= {f"optimizer.{index}.{k}": v for k, v in entries.items()}
    if parts.average:
        state |= {f"ema.{k}": v for k, v in parts.average.state_dict().items()}
    state |= {f"best.{k}": v for k, v in parts.weights.model_state(parts.model).items()}
    state |= {f"left.{k}": v for k, v in parts.weights.state_dict().get("compensation", {}).items()}
    state |= {"applied": parts.applied.count, "lr": parts.applied.lr}
    return {k: v.detach().clone() for k, v in state.items()}


def fit_and_check_unchanged_by(made, at):
    """Train to the end; everything must be the same after attempted step `at` as before it."""
    inner, before, after = made._attempt, {}, {}

    def attempt(window):
        if made._launched == at - 1:
            before.update(everything(made))
        inner(window)
        if made._launched == at:
            after.update(everything(made))

    made._attempt = attempt
    made.fit()
    assert before.keys() <= after.keys()
    for name, value in after.items():
        if name in before:
            assert torch.equal(value, before[name]), f"{name} changed in a skipped step"
        else:  # optimizer state first made in the skipped step
            assert not value.any(), f"{name} is not zero after a skipped first step"


@pytest.mark.parametrize("fault", ["inf_grad", "nan_loss", "nan_input"])
@pytest.mark.parametrize("mode", ["fp64", "fp32", "bf16", "fp16"])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "adagrad", "rmsprop"])
@pytest.mark.parametrize("at", [1, 7])
def test_a_skipped_step_changes_nothing(fault, mode, optimizer, at):
    made = trainer(
        {
            "model": {"norm": "batch"},
            "optimizer": {"name": optimizer, "lr": 0.01},
            "schedule": {"name": "linear", "warmup_steps": 3},
            "precision": {"mode": mode},
            "train": {"accumulate": 2},
            "ema": 0.9,
            **plant((fault, at)),
        }
    )
    fit_and_check_unchanged_by(made, at)
    counts = made.ledger.counts
    assert (counts.attempted, counts.applied, counts.skipped, counts.last_skipped) == (21, 20, 1, at)
    assert int(made.run.parts.applied.count) == 20
    assert all(value.isfinite().all() for value in weights(made.run))
    assert math.isfinite(made.metrics["loss"])


@pytest.mark.parametrize("fault", ["inf_grad", "nan_loss", "nan_input"])
@pytest.mark.parametrize("precision", PRECISIONS, ids=precision_id)
def test_a_skipped_step_changes_nothing_in_any_mode(precision, fault):
    changes = {
        "model": {"norm": "batch", "dropout": 0.1},
        "train": {"max_steps": 5, "accumulate": 2},
        "ema": 0.9,
        "precision": precision,
        **plant((fault, 4)),
    }
    made = trainer(changes)
    fit_and_check_unchanged_by(made, 4)
    assert (made.ledger.counts.applied, made.ledger.counts.skipped) == (5, 1)
    told = [event for event in made.reporter.events if event.kind in ("overflow", "nonfinite_loss")]
    assert [(event.attempted_step, event.data["first"]) for event in told] == [
        (4, "1.weight" if fault == "inf_grad" else told[0].data["first"])
    ]


def test_a_skipped_first_step_leaves_sgd_as_if_it_had_not_been():
    # torch's fused SGD leaves its momentum buffers unfilled memory when its first step is skipped.
    base = {"optimizer": {"name": "sgd", "lr": 0.05, "momentum": 0.9}, "data": {"shuffle": False, "num_train": 8}}
    clean = fitted({**base, "train": {"max_steps": 4}})
    skipped = fitted({**base, "train": {"max_steps": 4}, **plant(("inf_grad", 1))})
    assert skipped.ledger.counts.attempted == 5
    assert same(weights(clean.run), weights(skipped.run))


def test_max_steps_counts_applied_steps_and_the_schedule_reaches_its_end():
    made = fitted({"train": {"max_steps": 10}, "schedule": "linear", **plant(("inf_grad", 3))})
    counts = made.ledger.counts
    assert (counts.attempted, counts.applied, counts.skipped) == (11, 10, 1)
    assert made.run.rates[9] == 0.0
    assert made.reporter.windows[-1].lr == 0.0


def test_events_tell_overflow_from_a_bad_loss():
    made = fitted({"precision": {"mode": "fp16"}, **plant(("inf_grad", 4), ("nan_loss", 9))})
    by_step = {
        event.attempted_step: event for event in made.reporter.events if event.kind in ("overflow", "nonfinite_loss")
    }
    assert {step: event.kind for step, event in by_step.items()} == {4: "overflow", 9: "nonfinite_loss"}
    changes = [
        (e.attempted_step, e.data["from"], e.data["to"]) for e in made.reporter.events if e.kind == "scale_change"
    ]
    assert changes == [(5, 65536.0, 32768.0)]
    assert made.final_loss_scale() == 32768.0
    assert [e.data["what"] for e in made.reporter.events if e.kind == "planted"] == ["inf_grad", "nan_loss"]


def test_a_loss_that_stays_bad_ends_the_run_with_the_last_good_weights():
    changes = {"precision": {"mode": "fp16"}, **plant(*(("nan_loss", at) for at in range(6, 40)))}
    made = trainer(changes)
    with pytest.raises(
        DivergedError, match=r"3 times in a row, up to attempted step 8 \(5 applied, loss scale 65536\)"
    ):
        made.fit()
    good = fitted({"precision": {"mode": "fp16"}, "train": {"max_steps": 5}})
    assert same(weights(made.run), weights(good.run))


def test_two_bad_losses_and_a_good_one_go_on():
    made = fitted(plant(("nan_loss", 5), ("nan_loss", 6), ("nan_loss", 8), ("nan_loss", 9)))
    assert made.ledger.counts.skipped == 4


def test_overflow_at_the_floor_ends_the_run():
    changes = {
        "precision": {"mode": "fp16", "loss_scale": {"init_scale": 4.0, "min_scale": 2.0}},
        **plant(*(("inf_grad", at) for at in range(5, 40))),
    }
    made = trainer(changes)
    with pytest.raises(DivergedError, match=r"floor \(min_scale 2\).*attempted step 8 .*precision=bf16"):
        made.fit()
    assert made.final_loss_scale() == 2.0


def overflow_on(ledger, scale, backoff, floor):
    for _ in range(31):
        list(ledger.add(Outcome(1.0, math.nan, scale, 1.0)))
        scale = max(scale * backoff, floor)


@pytest.mark.parametrize(
    ("mode", "min_scale", "remedy"),
    [
        ("fp16-pure", 1.0, r"precision=bf16-pure, .*lower precision\.loss_scale\.min_scale \(now 1\)"),
        ("bf16", 1.0, r"precision\.loss_scale=none: bf16 has a range that needs no scaling"),
        ("bf16-pure", None, r"good step; lower optimizer\.lr or set train\.clip_norm, or raise"),
    ],
)
def test_what_to_try_fits_the_precision(mode, min_scale, remedy):
    ledger = Ledger(build({"train": {"max_consecutive_skips": 30}}).config.train, "drop")
    ledger.enter_precision(mode, min_scale)
    with pytest.raises(DivergedError, match=remedy) as caught:
        overflow_on(ledger, *((2.0**16, 0.5, min_scale) if min_scale else (1.0, 1.0, 1.0)))
    told = "loss scale 65536 -> 32768 at step 2 -> 16384 at step 3 -> ... -> 4 at step 15 -> 2 at"
    assert (told in str(caught.value)) == (min_scale is not None)
    assert ("attempted step 19" if min_scale else "attempted step 30") in str(caught.value)


def test_the_history_of_the_scale_is_bounded_and_another_precision_is_no_change():
    ledger = Ledger(build().config.train, "drop")
    ledger.enter_precision("fp16", 1.0)
    for step in range(30):
        list(ledger.add(Outcome(1.0, math.nan, 2.0**step, 0.0)))
    assert [change["to"] for change in ledger.scale_history()] == [2.0**step for step in range(10, 30)]
    ledger.enter_precision("bf16", None)
    assert list(ledger.add(Outcome(1.0, math.nan, 1.0, 0.0))) == []
    restored = Ledger(build().config.train, "drop")
    restored.load_state_dict(ledger.state_dict())
    assert restored.scale_history() == ledger.scale_history()


def test_skips_without_end_end_the_run():
    changes = {
        "precision": {"mode": "bf16"},
        "train": {"max_consecutive_skips": 6},
        **plant(*(("inf_grad", a) for a in range(3, 40))),
    }
    with pytest.raises(DivergedError, match=r"6 steps in a row .*attempted step 8 .*no loss scaling"):
        trainer(changes).fit()


def test_a_constant_scale_that_is_too_high_is_named_with_its_remedy():
    changes = {
        "precision": {"mode": "fp16", "loss_scale": {"kind": "static", "init_scale": 1024.0}},
        "train": {"max_consecutive_skips": 6},
        **plant(*(("inf_grad", a) for a in range(3, 40))),
    }
    made = trainer(changes)
    with pytest.raises(DivergedError, match=r"loss scale 1024\).* set precision\.loss_scale=dynamic"):
        made.fit()
    assert "skipped, gradients are not finite at loss scale 1024" in made.reporter.events[1].message


def test_the_scales_of_groups_are_in_the_message():
    scaling = {"kind": "dynamic", "min_scale": 1024.0, "groups": [{"match": "1"}]}
    changes = {
        "precision": {"mode": "fp16", "loss_scale": scaling},
        "train": {"max_consecutive_skips": 9},
        **plant(*(("inf_grad", a) for a in range(3, 40))),
    }
    with pytest.raises(
        DivergedError, match=r"loss scale 65536\).*; scales of precision\.loss_scale\.groups: '1' 1024$"
    ):
        trainer(changes).fit()


@pytest.mark.parametrize(
    ("mode", "words"), [("fp16-pure", "or use a BF16 mode"), ("fp16-master", "or use a BF16 mode")]
)
def test_weights_beyond_fp16_are_named_as_the_reason_and_not_the_loss(mode, words):
    changes = {"optimizer": {"name": "sgd", "lr": 1e7}, "precision": {"mode": mode}}
    with pytest.raises(DivergedError, match=rf"weights are not finite after \d+ applied steps: .*{words}.* stands$"):
        trainer(changes).fit()


def test_fp16_of_a_real_overflow_finds_its_scale():
    # No plant: a scale far above what FP16 gradients can hold must come down by itself.
    made = fitted({"precision": {"mode": "fp16", "loss_scale": {"init_scale": 2.0**24}}, "train": {"max_steps": 40}})
    assert made.ledger.counts.skipped > 0
    assert made.final_loss_scale() < 2.0**24
    assert made.ledger.counts.applied == 40
    assert all(value.isfinite().all() for value in weights(made.run))


def test_a_buffer_shared_by_two_modules_stays_shared_and_is_given_back():
    first, second = nn.BatchNorm1d(3), nn.BatchNorm1d(3)
    second.running_mean = first.running_mean
    model = nn.Sequential(first, second)
    guard = BufferGuard(model)
    assert first.running_mean is second.running_mean
    guard.keep()
    model(torch.randn(4, 3))
    assert first.running_mean.any()
    guard.give_back_if(torch.tensor(1.0))
    assert not first.running_mean.any()
    assert first.num_batches_tracked == second.num_batches_tracked == 0


class Replacing(nn.Module):
    """Assigns its buffer instead of writing in place."""

    def __init__(self):
        super().__init__()
        self.register_buffer("seen", torch.zeros(2, dtype=torch.int64))

    def forward(self, inputs):
        self.seen = self.seen + 1
        return inputs


@pytest.mark.parametrize("skipped", [0.0, 1.0])
def test_a_buffer_that_is_replaced_is_given_back_only_on_a_skip(skipped):
    model = nn.Sequential(Replacing(), nn.Linear(2, 2))
    guard = BufferGuard(model)
    for _ in range(2):
        guard.keep()
        model(torch.ones(1, 2))
        guard.give_back_if(torch.tensor(skipped))
    assert model[0].seen.tolist() == ([0, 0] if skipped else [2, 2])


def test_a_model_without_buffers_has_nothing_to_keep():
    guard = BufferGuard(nn.Linear(2, 2))
    guard.keep()
    guard.give_back_if(torch.tensor(1.0))


def test_an_infinity_can_be_planted_in_channels_last_gradients():
    param = nn.Parameter(torch.ones(2, 3, 2, 2).to(memory_format=torch.channels_last))
    param.sum().backward()
    faults = PlantedFaults([("inf_grad", 1)])
    faults.begin(1)
    faults.on_gradients([param.grad])
    assert param.grad.isinf().sum() == 1


class DetachedTask:
    main_metric, higher_is_better = "accuracy", True

    def __init__(self, rebuilt):
        self._rebuilt = rebuilt

    def loss(self, model, batch):
        value = model(batch.inputs).detach().float().mean()
        return value.clone().requires_grad_() if self._rebuilt else value


@pytest.mark.parametrize("rebuilt", [False, True])
def test_a_detached_loss_has_a_human_message(rebuilt):
    run = build({"train": {"clip_norm": 1.0}})
    run = replace(run, parts=replace(run.parts, task=DetachedTask(rebuilt)))
    with pytest.raises(ConfigError, match="loss is not connected to any of the 4 trainable parameters"):
        Trainer(run, Recorder()).fit()
