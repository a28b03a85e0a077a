"""Schedules, decay groups and the moving average."""

from copy import deepcopy

import pytest
import torch
from torch import nn

import mptrain.optim
from mptrain.config.schema import EmaConfig
from mptrain.errors import CheckpointError, ConfigError
from mptrain.optim import schedules
from mptrain.optim.build import build_optimizer, decay_groups, restore_optimizer
from mptrain.optim.ema import WeightAverage
from mptrain.optim.progress import AppliedSteps
from mptrain.precision.weights import WeightStore
from mptrain.registry import SCHEDULES

assert mptrain.optim  # registers the entries

CPU = torch.device("cpu")


@pytest.mark.parametrize(("total", "fraction"), [(100, 0.3), (37, 0.25), (10, 0.5)])
def test_one_cycle_is_torch_s(total, fraction):
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1)
    reference = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total, pct_start=fraction, cycle_momentum=False)
    ours = schedules.one_cycle(total, fraction, 25.0, 1e4)
    for step in range(total):
        assert 0.1 * ours(step) == pytest.approx(reference.get_last_lr()[0], rel=1e-9), step
        optimizer.step()
        if step < total - 1:
            reference.step()


def test_decays_begin_at_the_peak_and_end_where_they_say():
    for decay in (schedules.linear(11, 0.1), schedules.cosine(11, 0.1)):
        assert decay(0) == pytest.approx(1.0)
        assert decay(5) == pytest.approx(0.55)
        assert decay(10) == pytest.approx(0.1)
    staircase = schedules.step(4, 0.5)
    assert [staircase(i) for i in (0, 3, 4, 8)] == [1.0, 1.0, 0.5, 0.25]


def test_polynomial_agrees_with_torch():
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    reference = torch.optim.lr_scheduler.PolynomialLR(optimizer, total_iters=10, power=0.9)
    factor = SCHEDULES.build(SCHEDULES.config_type("polynomial")(name="polynomial"), 10)
    for step in range(10):
        assert 0.1 * factor(step) == pytest.approx(reference.get_last_lr()[0]), step
        optimizer.step()
        reference.step()


def test_inverse_sqrt_is_the_transformers():
    config = SCHEDULES.config_type("inverse_sqrt")(name="inverse_sqrt", warmup_steps=3)
    factor = SCHEDULES.build(config, 100)
    # Vaswani et al. 2017, equation 3, from step 1, scaled to a peak of 1 at step 4.
    expected = [min(n**-0.5, n * 4**-1.5) / 4**-0.5 for n in range(1, 101)]
    assert [factor(step) for step in range(100)] == pytest.approx(expected)


def test_milestones_are_steps_of_the_run():
    config = {"name": "multi_step", "milestones": [5, 8], "warmup_steps": 3}
    factor = SCHEDULES.build(SCHEDULES.config_type("multi_step").model_validate(config), 10)
    assert [factor(i) for i in range(10)] == pytest.approx([0.25, 0.5, 0.75, 1, 1, 0.1, 0.1, 0.1, 0.01, 0.01])
    with pytest.raises(ValueError, match=r"milestones \[8, 5\] must rise"):
        SCHEDULES.config_type("multi_step").model_validate(config | {"milestones": [8, 5]})


def test_warmup_rises_to_the_peak():
    factor = schedules.with_warmup(4, schedules.constant(), 10)
    assert [factor(i) for i in range(6)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0])


def test_warmup_as_long_as_the_run_is_refused():
    with pytest.raises(ConfigError, match="warmup_steps: 10 leaves nothing of the run's 10 steps"):
        schedules.with_warmup(10, schedules.constant(), 10)


def test_norms_and_biases_are_not_decayed_unless_asked():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(2, 2))
    decayed, free = decay_groups(model, 0.1, decay_norm_and_bias=False)
    assert (decayed["weight_decay"], free["weight_decay"]) == (0.1, 0.0)
    assert {p.ndim for p in free["params"]} == {1}
    assert len(decayed["params"]) == 2
    (everything,) = decay_groups(model, 0.1, decay_norm_and_bias=True)
    assert len(everything["params"]) == 6


def test_rate_follows_applied_steps_only():
    applied = AppliedSteps([0.1, 0.2, 0.3], CPU)
    applied.advance(torch.tensor(1.0))
    assert (int(applied.count), float(applied.lr)) == (0, 0.1)
    applied.advance(torch.tensor(0.0))
    assert (int(applied.count), float(applied.lr)) == (1, 0.2)


def average_after(decay, steps, *, warmup=False, skipped=0.0):
    """Weights fixed at 2, average started at 1."""
    model = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        model.weight.fill_(1.0)
        average = WeightAverage(model, EmaConfig(decay=decay, warmup=warmup), CPU, WeightStore())
        model.weight.fill_(2.0)
    for step in range(1, steps + 1):
        average.update(torch.tensor(step), torch.tensor(skipped))
    return float(average.state_dict()["weight"])


def test_small_updates_are_not_lost():
    # decay 0.9999 over 1000 steps: 1 + (1 - 0.9999^1000); a BF16 average would stay at 1.000.
    assert average_after(0.9999, 1000) == pytest.approx(2 - 0.9999**1000, rel=1e-4)


def test_a_skipped_step_leaves_every_bit():
    assert average_after(0.5, 10, skipped=1.0) == 1.0


def test_warmup_uses_the_smaller_decay():
    assert average_after(0.9999, 1, warmup=True) == pytest.approx(1 + 9 / 11)


def test_weights_come_back_after_evaluation():
    model = nn.Linear(2, 2)
    first = model.weight.detach().clone()
    average = WeightAverage(model, EmaConfig(decay=0.9), CPU, WeightStore())
    with torch.no_grad():
        model.weight.add_(1.0)
    live = model.weight.detach().clone()
    with average.in_place_of_weights():
        assert torch.equal(model.weight, first)
    assert torch.equal(model.weight, live)


def test_tied_weights_have_their_average_under_every_name():
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    model[1].weight = model[0].weight
    average = WeightAverage(model, EmaConfig(decay=0.5, warmup=False), CPU, WeightStore())
    with torch.no_grad():
        model[0].weight.add_(1.0)
    average.update(torch.tensor(1), torch.tensor(0.0))
    state = average.state_dict()
    assert state.keys() == model.state_dict().keys()
    evaluated = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    evaluated[1].weight = evaluated[0].weight
    evaluated.load_state_dict({**model.state_dict(), **state})
    with average.in_place_of_weights():
        assert torch.equal(evaluated[0].weight, model[0].weight)
    other = WeightAverage(model, EmaConfig(decay=0.5), CPU, WeightStore())
    other.load_state_dict(state)
    assert all(torch.equal(value, state[name]) for name, value in other.state_dict().items())


@pytest.mark.parametrize("name", ["AdamW", "NAdam"])
def test_settings_stay_the_config_s_when_a_state_is_restored(name):
    def built(decay, lr):
        param = nn.Parameter(torch.ones(2, 2))
        rate = torch.tensor(lr, dtype=torch.float64)
        return build_optimizer(name, [{"params": [param], "weight_decay": decay}], rate, {}), param, rate

    before, param, _ = built(0.1, 0.5)
    before.found_inf = torch.tensor(0.0)
    param.grad = torch.ones(2, 2)
    before.step()
    after, param, rate = built(0.2, 0.25)
    restore_optimizer(after, before.state_dict())
    assert after.param_groups[0]["weight_decay"] == 0.2
    assert float(after.param_groups[0]["lr"]) == 0.25
    first, second = (o.state_dict()["state"][0]["exp_avg"] for o in (before, after))
    assert first.all()
    assert torch.equal(first, second)
    after.found_inf = torch.tensor(0.0)
    param.grad = torch.zeros(2, 2)
    rate.fill_(0.0)
    after.step()
    assert torch.equal(param, torch.ones(2, 2))  # the rate is still the shared tensor


def test_a_state_of_other_groups_is_refused_with_the_remedy():
    model = nn.Linear(2, 2)
    one, two = (
        build_optimizer("SGD", decay_groups(model, 0.1, decay_norm_and_bias=both), torch.tensor(0.1), {"momentum": 0.0})
        for both in (True, False)
    )
    with pytest.raises(CheckpointError, match=r"keep .*optimizer\.decay_norm_and_bias"):
        restore_optimizer(two, one.state_dict())


def stepped(name: str = "AdamW", *, like: nn.Parameter | None = None, **arguments):
    """Return an optimizer after one step on a parameter of shape (2, 3, 2, 2), laid out in memory as `like`."""
    param = nn.Parameter(torch.ones(2, 3, 2, 2) if like is None else torch.ones_like(like))
    groups = [{"params": [param], "weight_decay": 0.0}]
    optimizer = build_optimizer(name, groups, torch.tensor(0.1, dtype=torch.float64), arguments)
    param.grad = torch.empty_like(param).copy_(torch.arange(24.0).view(2, 3, 2, 2))
    optimizer.found_inf = torch.tensor(0.0)
    optimizer.step()
    return optimizer, param


OTHERS = {
    "too small": ("exp_avg", torch.zeros(3)),
    "a scalar": ("exp_avg", torch.tensor(1.0)),
    "of another shape": ("exp_avg_sq", torch.zeros(3, 2, 2, 2)),
    "complex": ("exp_avg", torch.zeros(2, 3, 2, 2, dtype=torch.complex64)),
    "several counts": ("step", torch.ones(3, 5)),
    "no count": ("step", torch.tensor(True)),
}


@pytest.mark.parametrize("what", OTHERS)
def test_an_entry_that_does_not_fit_its_parameter_is_refused(what):
    """torch's fused kernels on the CPU write past the end of a moment that is too small."""
    optimizer, _ = stepped()
    state = optimizer.state_dict()
    key, value = OTHERS[what]
    state["state"][0] = state["state"][0] | {key: value}
    with pytest.raises(CheckpointError, match=rf"optimizer: {key} of a parameter is .* instead of floats of shape"):
        restore_optimizer(optimizer, state)


@pytest.mark.parametrize(("other", "arguments"), [("SGD", {"momentum": 0.5}), ("NAdam", {}), ("RMSprop", {})])
def test_the_state_of_another_optimizer_is_refused(other, arguments):
    optimizer, _ = stepped()
    with pytest.raises(CheckpointError, match="this optimizer step, exp_avg, exp_avg_sq"):
        restore_optimizer(optimizer, stepped(other, **arguments)[0].state_dict())


@pytest.mark.parametrize("saved", [torch.channels_last, torch.contiguous_format])
def test_moments_take_the_memory_format_of_their_parameter(saved):
    """A fused kernel on the CPU walks through memory, whatever the strides."""
    formats = {torch.channels_last, torch.contiguous_format}
    like = nn.Parameter(torch.ones(2, 3, 2, 2).to(memory_format=saved))
    other = nn.Parameter(torch.ones(2, 3, 2, 2).to(memory_format=(formats - {saved}).pop()))
    (one, first), (two, second) = stepped(like=like), stepped(like=other)
    restore_optimizer(two, deepcopy(one.state_dict()))
    for optimizer, param in ((one, first), (two, second)):
        param.grad = torch.empty_like(param).copy_(torch.arange(24.0).flip(0).view(2, 3, 2, 2))
        optimizer.step()
    assert first.stride() != second.stride()
    assert torch.equal(first, second)


@pytest.mark.parametrize("name", ["SGD", "RMSprop"])
def test_momentum_that_the_saved_run_had_not_begins_at_zero(name):
    before, after = stepped(name, momentum=0.0)[0], stepped(name, momentum=0.5)[0]
    restore_optimizer(after, before.state_dict())
    (entries,) = after.state_dict()["state"].values()
    assert torch.equal(entries["momentum_buffer"], torch.zeros(2, 3, 2, 2))
    after.step()
    restore_optimizer(before, after.state_dict())
    assert all("momentum_buffer" not in entries for entries in before.state_dict()["state"].values())
    before.step()


def test_groups_do_not_depend_on_the_amount_of_decay():
    model = nn.Linear(2, 2)
    assert len(decay_groups(model, 0.0, decay_norm_and_bias=False)) == 2
