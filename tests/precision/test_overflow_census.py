"""Which parameters went non-finite: found in every dtype, in spite of clipping, the nearest to the loss first."""

import math

import pytest
import torch
from torch import nn

from mptrain.config.precision import LossScaleConfig, LossScaleGroupConfig
from mptrain.config.schema import TrainConfig
from mptrain.precision.loss_scaler import DynamicLossScaler, LossScaler
from mptrain.precision.outcome import Outcome
from mptrain.precision.overflow_census import EveryStepCensus, OverflowCensus, make_census
from mptrain.precision.scale_groups import make_grouped_scaler

CPU = torch.device("cpu")
PLAIN = TrainConfig(epochs=1)


def small_model() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.BatchNorm1d(3), nn.Linear(3, 2))


def with_gradients(model: nn.Module, **bad: float) -> nn.Module:
    """Give every parameter a gradient; those named in `bad` (dots as underscores) hold that value once."""
    for name, param in model.named_parameters():
        param.grad = torch.ones_like(param)
        param.grad.view(-1)[-1] = bad.get(name.replace(".", "_"), 1.0)
    return model


def scaler_for(model: nn.Module) -> LossScaler:
    return DynamicLossScaler(LossScaleConfig(init_scale=4.0), list(model.parameters()), CPU)


def flags(census: OverflowCensus) -> list[float]:
    row = census.row().tolist()
    assert len(row) == len(Outcome._fields) + census.num_flags
    return row[len(Outcome._fields) :]


def found(census: OverflowCensus) -> list[str]:
    return census.culprits(flags(census)).names


@pytest.mark.parametrize("kind", [OverflowCensus, EveryStepCensus])
@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_only_what_is_not_finite_is_named(kind, value):
    model = with_gradients(small_model(), **{"0_weight": value, "2_bias": value})
    scaler = scaler_for(model)
    census = kind(dict(model.named_parameters()), scaler)
    scaler.unscale_()
    census.record()
    assert found(census) == ["2.bias", "0.weight"]  # the nearest to the loss first
    assert census.culprits(flags(census)).of == 6


@pytest.mark.parametrize("kind", [OverflowCensus, EveryStepCensus])
def test_finite_gradients_name_nothing(kind):
    model = with_gradients(small_model(), **{"3_weight": 1e18})
    scaler = scaler_for(model)
    census = kind(dict(model.named_parameters()), scaler)
    scaler.unscale_()
    census.record()
    assert found(census) == []


@pytest.mark.parametrize("kind", [OverflowCensus, EveryStepCensus])
def test_parameters_without_gradient_are_passed_over(kind):
    model = with_gradients(small_model(), **{"2_bias": math.inf})
    model[3].weight.grad = None
    census = kind(dict(model.named_parameters()), scaler_for(model))
    census.record()
    assert found(census) == ["2.bias"]


@pytest.mark.parametrize("low", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kind", [OverflowCensus, EveryStepCensus])
def test_low_gradients_beside_wide_ones(kind, low):
    model = small_model().to(low)
    model[2].float()
    with_gradients(model, **{"0_bias": math.inf, "2_weight": math.nan})
    model[3].weight.grad.fill_(torch.finfo(torch.float16).max)  # large, and finite
    census = kind(dict(model.named_parameters()), scaler_for(model))
    census.record()
    assert found(census) == ["2.weight", "0.bias"]


@pytest.mark.parametrize("groups", [(), (LossScaleGroupConfig(match="3", init_scale=16.0),)])
@pytest.mark.parametrize(
    "clip",
    [{"clip_norm": 1.0}, {"clip_value": 1.0}, {"clip_norm": 1.0, "clip_value": 1.0}],
    ids=lambda clip: "+".join(clip),
)
@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_clipping_hides_nothing(value, clip, groups):
    model = small_model()
    model[0].half()
    with_gradients(model, **{"2_bias": value, "0_bias": value})
    scaler = make_grouped_scaler("dynamic", LossScaleConfig(groups=groups), model, CPU)
    census = make_census(model, scaler, TrainConfig(epochs=1, **clip))
    scaler.unscale_()
    census.record()
    if "clip_norm" in clip:
        scaler.clip_norm_(1.0)
    if "clip_value" in clip:
        scaler.clip_value_(1.0)
    assert found(census) == ["2.bias", "0.bias"]


def test_finite_gradients_with_an_infinite_norm_have_no_culprit():
    model = with_gradients(small_model(), **{"0_weight": 1.7e19, "3_weight": 1.7e19})
    scaler = make_grouped_scaler("none", LossScaleConfig(), model, CPU)
    census = make_census(model, scaler, TrainConfig(epochs=1, clip_norm=1.0))
    scaler.unscale_()
    scaler.clip_norm_(1.0)
    assert scaler.outcome.skipped == 1
    assert found(census) == []


def test_each_step_has_its_own_flags():
    model = small_model()
    census = EveryStepCensus(dict(model.named_parameters()), scaler_for(model))
    rows = []
    for name in ("0_weight", "3_bias", "none"):
        with_gradients(model, **{name: math.inf})
        census.record()
        rows.append(flags(census))
    assert [census.culprits(row).names for row in rows] == [["0.weight"], ["3.bias"], []]


def test_on_a_cpu_gradients_are_looked_at_only_when_asked():
    model = with_gradients(small_model())
    census = make_census(model, scaler_for(model), PLAIN)
    assert census.num_flags == 0
    census.record()
    model[0].weight.grad[0, 0] = math.inf
    assert census.culprits([]).names == ["0.weight"]


def test_the_census_reads_where_the_scaler_reads():
    model = with_gradients(small_model())
    scaler = scaler_for(model)
    census = make_census(model, scaler, PLAIN)
    scaler.read_gradients_from(lambda param: torch.full((2,), math.inf) if param is model[3].bias else param.grad)
    assert census.culprits([]).names == ["3.bias"]


def test_frozen_and_shared_parameters():
    model = small_model()
    model[0].weight.requires_grad_(False)
    model.append(nn.Linear(3, 2))
    model[4].weight = model[3].weight
    census = make_census(with_gradients(model), scaler_for(model), TrainConfig(epochs=1, clip_value=1.0))
    assert census.culprits(flags(census)).of == 6  # all but the frozen one; the shared weight counts once


def test_a_real_backward_spreads_towards_the_input():
    """The first name is the layer where the overflow began: those before it are flagged too, those after it are not."""
    model = nn.Sequential(*(nn.Linear(4, 4) for _ in range(4)))
    with torch.no_grad():
        model[1].weight.zero_()
        model[1].bias.zero_()
        model[3].weight.fill_(1)
        model[2].weight.fill_(3e38)  # its inputs are zero, so only the gradient it passes on overflows
    model(torch.ones(2, 4)).sum().backward()
    census = make_census(model, scaler_for(model), PLAIN)
    assert census.culprits([]).names == ["1.bias", "1.weight", "0.bias", "0.weight"]
