"""A run cut anywhere and resumed ends with the bits of the uninterrupted one."""

import pytest
import torch

from mptrain import checkpoint as checkpoints
from mptrain.catalog import config_from_mapping, to_yaml
from mptrain.checkpoint import CheckpointStore
from mptrain.errors import ConfigError, Preempted
from mptrain.trainer.resume import changes_on_resume
from mptrain.trainer.state import parts_state
from tests.reliability.lives import flat
from tests.trainer.runs import (
    BASE,
    PRECISIONS,
    Recorder,
    build,
    fitted,
    merged,
    precision_id,
    same,
    trainer,
    weights,
)

VARIED = {
    "model": {"norm": "batch", "dropout": 0.2},
    "schedule": {"name": "one_cycle"},
    "train": {"max_steps": 30},
    "ema": 0.9,
}
INF_AT = {"debug": {"plant": [{"what": "inf_grad", "at": 3}, {"what": "inf_grad", "at": 21}]}}


def cut_and_resumed(changes, at, tmp_path):
    """Stop by SIGTERM at attempted step `at`, then go on in a trainer built afresh."""
    store = CheckpointStore(tmp_path / "checkpoints")
    faults = changes.get("debug", {"plant": []})["plant"]
    with_cut = merged(changes, {"debug": {"plant": [*faults, {"what": "sigterm", "at": at}]}})
    with pytest.raises(Preempted):
        trainer(with_cut, store).fit()
    torch.rand(7)  # whatever happens to global generators meanwhile must not matter
    resumed = trainer(changes, store)
    resumed.restore(checkpoints.load(store.latest().path))
    resumed.fit()
    return resumed


@pytest.mark.parametrize("mode", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "rmsprop"])
@pytest.mark.parametrize("at", [8, 12, 17])  # 12 attempts are an epoch: in mid-epoch, at its end, in the next
def test_equals_the_uninterrupted_run(mode, optimizer, at, tmp_path):
    changes = merged(VARIED, {"optimizer": {"name": optimizer, "lr": 0.01}, "precision": {"mode": mode}, **INF_AT})
    whole, resumed = fitted(changes), cut_and_resumed(changes, at, tmp_path)
    assert same(weights(whole.run), weights(resumed.run))
    assert whole.ledger.counts == resumed.ledger.counts
    assert whole.final_loss_scale() == resumed.final_loss_scale()
    assert whole.metrics == resumed.metrics
    ours, theirs = (t.run.parts.optimizer.state_dict()["state"] for t in (whole, resumed))
    for index, entries in ours.items():
        for key, value in entries.items():
            assert torch.equal(torch.as_tensor(value), torch.as_tensor(theirs[index][key])), (index, key)
    average, other = (t.run.parts.average.state_dict() for t in (whole, resumed))
    assert all(torch.equal(average[name], other[name]) for name in average)


@pytest.mark.parametrize("precision", PRECISIONS, ids=precision_id)
@pytest.mark.parametrize("optimizer", ["sgd", "nadam"])
def test_equals_the_uninterrupted_run_in_every_mode(precision, optimizer, tmp_path):
    changes = merged(
        VARIED,
        {
            "optimizer": {"name": optimizer, "lr": 1e-3},
            "precision": precision | {"loss_scale": {"growth_interval": 3}},
            "train": {"max_steps": 12, "accumulate": 2, "clip_norm": 1.0},
            "debug": {"plant": [{"what": "inf_grad", "at": 3}, {"what": "inf_grad", "at": 9}]},
        },
    )
    whole, resumed = fitted(changes), cut_and_resumed(changes, 8, tmp_path)
    first, second = flat(parts_state(whole.run)), flat(parts_state(resumed.run))
    assert first.keys() == second.keys()
    assert [key for key, value in first.items() if not torch.equal(value, second[key])] == []
    assert whole.ledger.counts == resumed.ledger.counts
    assert whole.metrics == resumed.metrics


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("accumulate", [1, 3])
def test_continues_the_same_order_with_workers_and_accumulation(workers, accumulate, tmp_path):
    changes = merged(
        VARIED, {"data": {"cache": "none", "num_workers": workers}, "train": {"accumulate": accumulate, "max_steps": 9}}
    )
    whole, resumed = fitted(changes), cut_and_resumed(changes, 4, tmp_path)
    assert same(weights(whole.run), weights(resumed.run))


@pytest.mark.parametrize("at", [10, 12])  # log.every is 5: between two windows, and within one
def test_logged_losses_continue(at, tmp_path):
    whole, resumed = fitted(VARIED), cut_and_resumed(VARIED, at, tmp_path)
    expected = [(w.attempted_steps, w.loss) for w in whole.reporter.windows if w.attempted_steps > at]
    assert whole.train_loss == resumed.train_loss
    assert [(w.attempted_steps, w.loss) for w in resumed.reporter.windows] == expected


def stretch(store, steps, precision):
    """Train on to `steps` in `precision`, from the last checkpoint where there is one; return the trainer."""
    made = trainer({"precision": precision, "train": {"max_steps": 40, "stop_at_step": steps}}, store)
    if latest := store.latest():
        made.restore(checkpoints.load(latest.path))
    made.fit()
    return made


def changes_told(made):
    return [e.message for e in made.reporter.events if e.kind in ("precision_change", "scale_change")]


FP16 = {"mode": "fp16", "loss_scale": {"init_scale": 128.0, "growth_interval": 4}}


def test_a_scale_is_put_aside_by_a_precision_without_one_and_taken_up_again(tmp_path):
    store = CheckpointStore(tmp_path / "checkpoints")
    assert stretch(store, 6, FP16).final_loss_scale() == 256.0
    between = stretch(store, 10, {"mode": "bf16"})
    assert changes_told(between) == ["precision changed fp16 -> bf16: loss scale 256 put aside"]
    again = stretch(store, 12, {"mode": "fp32"})
    assert changes_told(again) == ["precision changed bf16 -> fp32"]
    back = stretch(store, 14, FP16)
    told = changes_told(back)
    assert told[0] == "precision changed fp32 -> fp16: loss scale 256 is taken up again"
    # Two good steps of four were counted before it was put aside: it grows after two more.
    assert back.final_loss_scale() == 512.0
    assert back.ledger.scale_history() == [{"attempted_step": 5, "from": 128.0, "to": 256.0}]
    assert back.ledger.counts.applied == 14


def test_a_scale_starts_where_none_was_before(tmp_path):
    store = CheckpointStore(tmp_path / "checkpoints")
    stretch(store, 3, {"mode": "bf16"})
    assert changes_told(stretch(store, 5, FP16)) == ["precision changed bf16 -> fp16: loss scale starts at 128"]


def test_a_scale_goes_on_in_another_precision_within_its_new_bounds(tmp_path):
    store = CheckpointStore(tmp_path / "checkpoints")
    stretch(store, 6, FP16)
    bounded = {"mode": "bf16", "loss_scale": {"kind": "dynamic", "init_scale": 8.0, "max_scale": 64.0}}
    resumed = stretch(store, 8, bounded)
    assert changes_told(resumed) == ["precision changed fp16 -> bf16: loss scale 64 goes on"]


def test_a_resumed_scale_keeps_to_the_bounds_now_configured(tmp_path):
    store = CheckpointStore(tmp_path / "checkpoints")
    stretch(store, 6, FP16)
    bounded = {"mode": "fp16", "loss_scale": {"init_scale": 8.0, "max_scale": 64.0}}
    again = trainer({"precision": bounded, "train": {"max_steps": 40, "stop_at_step": 8}}, store)
    again.restore(checkpoints.load(store.latest().path))
    assert again.final_loss_scale() == 64.0


def test_stopping_early_by_limit_is_a_prefix_of_the_run(tmp_path):
    store = CheckpointStore(tmp_path / "checkpoints")
    first = merged(VARIED, {"train": {"stop_at_step": 11}})
    assert fitted(first, store).ledger.counts.applied == 11
    resumed = trainer(VARIED, store)
    resumed.restore(checkpoints.load(store.latest().path))
    resumed.fit()
    assert same(weights(fitted(VARIED).run), weights(resumed.run))


def test_saved_tensors_are_fp32_and_keys_are_plain(tmp_path):
    store = CheckpointStore(tmp_path / "checkpoints")
    made = fitted(merged(VARIED, {"precision": {"mode": "bf16"}}), store)
    saved = checkpoints.load(store.latest().path)
    assert saved["model"].keys() == build(VARIED).parts.model.state_dict().keys()
    assert {v.dtype for v in saved["model"].values() if v.is_floating_point()} == {torch.float32}
    assert all(v.untyped_storage().nbytes() == v.nbytes for v in saved["model"].values())
    assert isinstance(made.reporter, Recorder)


def resumed_from(store, changes):
    made = trainer(changes, store)
    made.restore(checkpoints.load(store.latest().path))
    return made


def test_a_save_in_mid_window_and_right_after_an_overflow_loses_no_record(tmp_path):
    changes = merged(
        VARIED,
        {
            "precision": {"mode": "fp16", "loss_scale": {"hysteresis": 2, "growth_interval": 3}},
            "log": {"every": 10},
            "debug": {"plant": [{"what": "inf_grad", "at": at} for at in (6, 7, 13)]},
        },
    )
    whole = fitted(changes)
    store = CheckpointStore(tmp_path / "checkpoints")
    cut = trainer(changes, store)
    inner = cut._attempt

    def attempt(window):
        if cut._launched == 7:
            cut._save()
            raise KeyboardInterrupt
        inner(window)

    cut._attempt = attempt
    with pytest.raises(KeyboardInterrupt):
        cut.fit()
    resumed = resumed_from(store, changes)
    resumed.fit()

    def told_after_the_cut(made):
        of_steps = ("overflow", "scale_change", "planted")
        return [
            (e.attempted_step, e.message) for e in made.reporter.events if e.attempted_step > 7 and e.kind in of_steps
        ]

    assert told_after_the_cut(resumed) == told_after_the_cut(whole)
    assert told_after_the_cut(whole)[0] == (8, "loss scale 131072 -> 65536")
    expected = [(w.attempted_steps, w.loss) for w in whole.reporter.windows]
    assert [(w.attempted_steps, w.loss) for w in resumed.reporter.windows] == expected
    assert same(weights(whole.run), weights(resumed.run))


def test_a_finished_run_resumed_keeps_its_figures(tmp_path):
    store = CheckpointStore(tmp_path / "checkpoints")
    whole = fitted(VARIED, store)
    resumed = resumed_from(store, VARIED)
    resumed.fit()
    assert (resumed.train_loss, resumed.metrics, resumed.best) == (whole.train_loss, whole.metrics, whole.best)
    assert resumed.reporter.evaluations == []


def test_a_run_made_shorter_than_what_it_has_done_is_refused(tmp_path):
    store = CheckpointStore(tmp_path / "checkpoints")
    fitted({"train": {"max_steps": 9}}, store)
    with pytest.raises(ConfigError, match=r"train: 5 steps asked for, 9 are done already; raise train\.max_steps"):
        resumed_from(store, {"train": {"max_steps": 5}})


def test_another_grouping_of_parameters_is_refused_by_its_key(tmp_path):
    before, now = (
        config_from_mapping(merged(BASE, {"optimizer": {"decay_norm_and_bias": b}}), source="x") for b in (True, False)
    )
    (tmp_path / "config.yaml").write_text(to_yaml(before))
    with pytest.raises(ConfigError, match=r"optimizer\.decay_norm_and_bias: was true, is false: .*start a new run"):
        changes_on_resume(now, tmp_path)


@pytest.mark.parametrize("scales", [("static", "none"), ("none", "static"), ("dynamic", "static")])
def test_another_loss_scale_is_the_one_now_asked_for(scales, tmp_path):
    store = CheckpointStore(tmp_path / "checkpoints")
    before, now = ({"precision": {"loss_scale": {"kind": k, "init_scale": 1024.0}}} for k in scales)
    fitted({**before, "train": {"max_steps": 5}}, store)
    resumed = resumed_from(store, now)
    resumed.fit()
    assert resumed.final_loss_scale() == (None if scales[1] == "none" else 1024.0)
    # In FP32 a power of two changes no bit, so every kind of scaling must end with the same weights.
    assert same(weights(fitted().run), weights(resumed.run))


def test_an_evaluation_on_the_way_changes_nothing():
    quiet = fitted(VARIED)
    watched = fitted(merged(VARIED, {"train": {"eval_every_steps": 1}}))
    assert same(weights(quiet.run), weights(watched.run))
    assert len(watched.reporter.evaluations) == 30
