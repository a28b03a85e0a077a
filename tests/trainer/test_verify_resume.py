"""What `verify-resume` compares: cut and resumed, every kind of run is bit-equal; what differs is named.

The three runs are made in this process, which is quicker; `tests/cli/test_verify_resume.py` starts real ones.
"""

import json

import pytest
import torch

from mptrain.catalog import to_yaml
from mptrain.errors import ConfigError
from mptrain.optim.ema import WeightAverage
from mptrain.trainer.verify_compare import COMPONENTS
from mptrain.trainer.verify_resume import Job, checked_config, compare, result_of
from mptrain.trainer.verify_trace import record
from tests.trainer.runs import PRECISIONS, config, merged, precision_id

VARIED = {"model": {"norm": "batch", "dropout": 0.2}, "schedule": {"name": "one_cycle"}, "ema": 0.9}


def plant(*attempts):
    return {"debug": {"plant": [{"what": "inf_grad", "at": at} for at in attempts]}}


def traces(changes, folder, steps=8, cut=None, between=lambda part: None):
    """Make the three runs; `between` hears of each before it begins."""
    path = folder / "config.yaml"
    path.write_text(to_yaml(checked_config(config(merged(VARIED, changes)), steps)))
    made = []
    for part in ("whole", "cut", "resumed"):
        between(part)
        at = made[0]["cut"] if made else cut
        trace = record(Job(part, str(path), str(folder / "checkpoints"), "", at))
        made.append(json.loads(json.dumps(trace)))
        torch.rand(7)  # whatever becomes of the generators meanwhile must not matter
    return made


def verified(*arguments, **more):
    whole, cut, resumed = traces(*arguments, **more)
    return result_of(whole, compare(whole, cut, resumed))


def equal(result):
    assert result["error"] is None, result
    assert all(each["equal"] for each in result["components"].values()), result
    assert (result["status"], result["exit_code"]) == ("ok", 0)
    return result


@pytest.mark.parametrize("precision", PRECISIONS, ids=precision_id)
def test_every_precision_is_bit_equal(precision, tmp_path):
    changes = {
        "precision": precision | {"loss_scale": {"growth_interval": 3}},
        "train": {"accumulate": 2, "clip_norm": 1.0},
        **plant(2, 6),
    }
    result = equal(verified(changes, tmp_path))
    assert (result["steps"], result["cut"]) == (8, 4)
    stored_low = precision["mode"].endswith("-master") or "rounding" in precision
    assert ("storage" in result["components"]) == stored_low


@pytest.mark.parametrize(
    "changes",
    [
        {"data": {"cache": "none", "num_workers": 2}},
        {"train": {"accumulate": 3}, "data": {"cache": "none"}},
        {"train": {"eval_every_steps": 2}},
        {"train": {"early_stop": {"patience": 1}, "eval_every_epochs": 1, "max_time": "1s"}},
        {
            "train": {"micro_batch": "auto"},
            "debug": {"plant": [{"what": "oom", "at": 2}, {"what": "sigterm", "at": 3}]},
        },
        {"checkpoint": {"async": True, "every": 1}},
        {"optimizer": {"name": "nadam"}},
        {"task": {"name": "classification", "reduction": "sum"}},
        {"log": {"numerics_every": 2}},
        *(
            {"precision": {"mode": "fp16", "loss_scale": {"on_skip": on}}, **plant(3, 4, 5)}
            for on in ("retry", "count")
        ),
    ],
    ids=str,
)
def test_every_kind_of_run_is_bit_equal(changes, tmp_path):
    equal(verified(changes, tmp_path))


@pytest.mark.parametrize("cut", [1, 4, 7, 11])
def test_any_cut(cut, tmp_path):
    """Of 12 micro-batches three make a step: the cuts are after an epoch's first step, at its end, in the middle."""
    changes = {"train": {"accumulate": 3, "eval_every_epochs": 1}}
    result = equal(verified(changes, tmp_path, steps=12, cut=cut))
    assert result["components"]["loader"]["compared"] == f"{12 - cut} steps"


@pytest.mark.parametrize("cut", [3, 4, 5])
def test_phases_may_change_at_the_cut(cut, tmp_path):
    phases = [
        {"until": 4, "mode": "fp16"},
        {"until": 6, "mode": "bf16-pure", "rounding": "kahan"},
        {"until": 1.0, "mode": "fp32"},
    ]
    equal(verified({"precision": {"mode": "auto", "phases": phases}}, tmp_path, cut=cut))


def test_the_schedule_keeps_its_length_and_a_short_run_is_checked_whole(tmp_path):
    assert traces({}, tmp_path)[0]["rows"][7]["lr"] == traces({}, tmp_path / "..", steps=20)[0]["rows"][7]["lr"]
    assert equal(verified({"train": {"max_steps": 5}}, tmp_path, steps=20))["steps"] == 5


@pytest.mark.parametrize(("cut", "steps", "text"), [(5, 5, "--cut: 5 must be less than the 5"), (None, 1, "1 step")])
def test_a_cut_needs_steps_on_both_sides(cut, steps, text, tmp_path):
    with pytest.raises(ConfigError, match=text):
        traces({"train": {"max_steps": steps}}, tmp_path, cut=cut)


def test_an_average_that_is_not_restored_is_named(tmp_path, monkeypatch):
    def forget(part):
        if part == "resumed":
            monkeypatch.setattr(WeightAverage, "load_state_dict", lambda self, state: None)

    result = verified({}, tmp_path, between=forget)
    assert (result["exit_code"], result["status"]) == (3, "diverged")
    assert result["error"].startswith("not restored: weight average: ")
    assert not result["components"]["ema"]["equal"]
    assert result["components"]["optimizer"]["equal"]
    # The average takes no part in training; it is what is evaluated.
    assert result["components"]["loss"]["equal"]
    assert not result["components"]["evaluation"]["equal"]


ROW_FIELDS = [
    ("batches", "loader"),
    ("lr", "schedule"),
    ("loss_scale", "scaler"),
    ("loss", "loss"),
    ("weights", "model"),
]


@pytest.mark.parametrize(("field", "component"), ROW_FIELDS)
def test_one_bit_of_any_step_is_named(field, component, tmp_path):
    whole, cut, resumed = traces({}, tmp_path)
    resumed["rows"][1][field] = "other"
    result = result_of(whole, compare(whole, cut, resumed))
    assert result["error"].startswith(f"{COMPONENTS[component]}: differs at attempted step 6: ")
    assert [name for name, each in result["components"].items() if not each["equal"]] == [component]


def test_one_bit_of_any_state_is_named(tmp_path):
    whole, cut, resumed = traces({"precision": "bf16-master"}, tmp_path)
    for moment, words in (("restored", "not restored: "), ("next", "before the first step"), ("end", "at the end")):
        state = resumed["states"][moment]
        for component in (name for name, values in state.items() if values and name != "unsaved"):
            name, kept = next(iter(state[component].items()))
            state[component][name] = "other"
            error = result_of(whole, compare(whole, cut, resumed))["error"]
            assert words in error
            assert COMPONENTS[component] in error
            assert name in error
            state[component][name] = kept
    equal(result_of(whole, compare(whole, cut, resumed)))


def test_the_cause_comes_before_what_follows_from_it(tmp_path):
    whole, cut, resumed = traces({}, tmp_path)
    for row in resumed["rows"]:
        row["loss"] = row["weights"] = "other"
    resumed["states"]["restored"]["optimizer"]["state of layers.0.weight, exp_avg"] = "other"
    resumed["rows"][2]["batches"] = "other"
    error = result_of(whole, compare(whole, cut, resumed))["error"]
    assert error == "not restored: optimizer: state of layers.0.weight, exp_avg"
    cut["rows"][2]["random"]["numpy"] = "other"
    error = result_of(whole, compare(whole, cut, resumed))["error"]
    assert error.startswith(
        "not deterministic even without a cut: random state: differs before any cut at attempted step 3"
    )


def test_a_run_that_ends_elsewhere_differs(tmp_path):
    whole, cut, resumed = traces({}, tmp_path)
    del resumed["rows"][-1]
    assert "4 attempts without the cut, 3 with it" in result_of(whole, compare(whole, cut, resumed))["error"]
