"""Precision schedules: which step runs in which precision, and that nothing is lost between them."""

import pytest
import torch

from mptrain.catalog import to_yaml
from mptrain.checkpoint import CheckpointStore, load
from mptrain.config.precision import PrecisionConfig
from mptrain.errors import CapabilityError, ConfigError
from mptrain.trainer.build import build_run
from mptrain.trainer.phases import phase_ends, precision_at
from mptrain.trainer.saved import evaluate_run
from mptrain.trainer.trainer import Trainer
from tests.trainer.runs import Recorder, build, config, fitted, same, trainer, weights

SHORT = {"train": {"max_steps": 20}, "log": {"every": 5, "numerics_every": 0}}


def _config(*phases: tuple[float, str]) -> PrecisionConfig:
    return PrecisionConfig(phases=[{"until": until, "mode": mode} for until, mode in phases])


def _phases(*phases: tuple[float, str]) -> dict:
    return {"precision": {"mode": "auto", "phases": [{"until": u, "mode": m} for u, m in phases]}}


@pytest.mark.parametrize(
    ("phases", "ends"),
    [
        ([(0.1, "bf16"), (1.0, "fp16")], [10, 100]),
        ([(30, "bf16"), (1.0, "fp16")], [30, 100]),
        ([(0.25, "bf16"), (50, "fp32"), (200, "fp16")], [25, 50, 200]),
        ([(0.07, "bf16"), (0.55, "fp32"), (0.551, "bf16"), (1.0, "fp16")], [7, 55, 56, 100]),  # 0.07 * 100 > 7
    ],
)
def test_shares_and_steps(phases, ends):
    assert phase_ends(_config(*phases), 100) == ends


def test_the_step_decides_the_precision():
    config = _config((0.1, "bf16"), (1.0, "fp16"))
    assert [precision_at(config, step, 100)[0].mode for step in (0, 9, 10, 99, 100)] == ["bf16"] * 2 + ["fp16"] * 3


@pytest.mark.parametrize("phases", [[(0.5, "bf16"), (20, "fp16"), (1.0, "fp32")], [(0.5, "bf16"), (60, "fp16")]])
def test_phases_must_fit_the_run(phases):
    with pytest.raises(ConfigError, match=r"precision\.phases"):
        phase_ends(_config(*phases), 100)


def test_a_later_phase_that_this_device_lacks_is_refused_before_the_first_step():
    with pytest.raises(CapabilityError, match="cannot run mxfp8"):
        build(SHORT | {"device": "cpu"} | _phases((0.5, "bf16"), (1.0, "mxfp8")))


def test_each_phase_runs_in_its_precision_and_carries_the_state_over():
    made = trainer(SHORT | _phases((0.5, "fp32"), (1.0, "bf16-pure")))
    before = []
    original = made._enter_phase

    def watched():
        before.extend(weights(made.run))
        original()
        assert same([w.to(torch.bfloat16) for w in before], weights(made.run))

    made._enter_phase = watched
    made.fit()
    assert before
    assert made.ledger.counts.applied == 20
    assert made.run.in_force.mode == "bf16-pure"
    (change,) = [event for event in made.reporter.events if event.kind == "precision_change"]
    assert change.applied_steps == 10
    assert "fp32 -> bf16-pure" in change.message


def test_a_phase_of_the_same_precision_changes_nothing():
    plain = fitted(SHORT | {"precision": {"mode": "fp32"}})
    phased = fitted(SHORT | _phases((0.5, "fp32"), (1.0, "fp32")))
    assert same(weights(plain.run), weights(phased.run))


def test_resumed_within_a_later_phase_it_ends_as_if_never_stopped(tmp_path):
    changes = SHORT | _phases((0.5, "fp16"), (1.0, "fp16-master"))
    whole = fitted(changes)
    store = CheckpointStore(tmp_path)
    fitted({**changes, "train": {"max_steps": 20, "stop_at_step": 14}}, store)
    found = store.latest()
    resumed = Trainer(build_run(config(changes), steps_done=found.step), Recorder(), None)
    assert resumed.run.in_force.mode == "fp16-master"
    resumed.restore(load(found.path, device=torch.device("cpu")))
    resumed.fit()
    assert same(weights(whole.run), weights(resumed.run))


@pytest.mark.parametrize("on_skip", ["drop", "count"])
@pytest.mark.parametrize("stop", [4, 5, 6, 10, 11])
def test_stopped_before_at_or_after_a_boundary_it_ends_as_if_never_stopped(on_skip, stop, tmp_path):
    phases = [
        {"until": 0.25, "mode": "fp16-master"},
        {"until": 0.5, "mode": "bf16-pure", "rounding": "kahan"},
        {"until": 1.0, "mode": "fp16-pure", "rounding": "stochastic"},
    ]
    changes = {
        "precision": {"mode": "auto", "phases": phases, "loss_scale": {"on_skip": on_skip, "growth_interval": 2}},
        "train": {"max_steps": 20, "eval_every_steps": 5},
        "optimizer": {"name": "sgd", "lr": 0.01},
        "ema": 0.9,
        "debug": {"plant": [{"what": "inf_grad", "at": at} for at in (2, 5, 10, 13)]},
    }
    whole = fitted(changes)
    store = CheckpointStore(tmp_path)
    fitted(changes | {"train": changes["train"] | {"stop_at_step": stop}}, store)
    found = store.latest()
    resumed = Trainer(build_run(config(changes), steps_done=found.step), Recorder(), None)
    resumed.restore(load(found.path, device=torch.device("cpu")))
    resumed.fit()
    assert same(weights(whole.run), weights(resumed.run))
    assert whole.ledger.counts == resumed.ledger.counts
    assert whole.ledger.scale_history() == resumed.ledger.scale_history()
    assert whole.metrics == resumed.metrics
    averages = [list(each.run.parts.average.state_dict().values()) for each in (whole, resumed)]
    assert same(*averages)


def test_a_checkpoint_at_a_boundary_is_evaluated_as_it_was_trained(tmp_path):
    changes = SHORT | _phases((0.5, "bf16"), (1.0, "fp32")) | {"train": {"max_steps": 20, "stop_at_step": 10}}
    (tmp_path / "config.yaml").write_text(to_yaml(config(changes)))
    made = fitted(changes, CheckpointStore(tmp_path / "checkpoints"))
    again = evaluate_run(tmp_path, [], best=False)
    assert (again["precision"], again["metrics"]) == ("bf16", made.metrics)


@pytest.mark.parametrize("target", [("fp32", "nearest"), ("bf16-master", "nearest"), ("fp16-pure", "kahan")])
def test_what_kahan_carries_goes_on_as_part_of_the_weights(target):
    phases = [
        {"until": 0.5, "mode": "bf16-pure", "rounding": "kahan"},
        {"until": 1.0, "mode": target[0], "rounding": target[1]},
    ]
    made = trainer(SHORT | {"precision": {"mode": "auto", "phases": phases}})
    inner = made._enter_phase

    def watched():
        before, left = dict(made.run.parts.model.named_parameters()), made.run.parts.weights.state_dict()
        carried = {name: before[name].double() + value for name, value in left["compensation"].items()}
        assert any(value.count_nonzero() for value in left["compensation"].values())
        inner()
        store, model = made.run.parts.weights, made.run.parts.model
        new = store.state_dict().get("compensation", {})
        for name, value in carried.items():
            got = store.best(model.get_parameter(name)).double() + new.get(name, 0)
            torch.testing.assert_close(got, value, rtol=2**-20, atol=2**-24)

    made._enter_phase = watched
    made.fit()
    assert made.run.in_force.mode == target[0]
