"""The scaler is GradScaler's equal step by step, and differs from it only where it says so."""

import math

import pytest
import torch
from torch import nn

from mptrain.config.precision import LossScaleConfig
from mptrain.optim.build import build_optimizer
from mptrain.precision.loss_scaler import DynamicLossScaler, LossScaler

CPU = torch.device("cpu")
OVERFLOWS = {3, 4, 9, 17, 18, 19, 30}


def small_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))


def rate(value: float = 0.01) -> torch.Tensor:
    return torch.tensor(value, dtype=torch.float64)


def one_step(model, scaler, optimizer, inputs, *, loss_factor=1.0, spoil_gradient=False):
    """What the trainer's step does, without the trainer; returns whether the step was skipped."""
    for param in model.parameters():
        param.grad = None
    loss = model(inputs).pow(2).mean() * loss_factor
    scaler.outcome.loss.copy_(loss.detach())
    scaler.scale(loss).backward()
    if spoil_gradient:
        model[0].weight.grad[0, 0] = math.inf
    scaler.unscale_()
    optimizer.step()
    scaler.update()
    return bool(scaler.outcome.skipped)


@pytest.mark.parametrize(
    ("torch_name", "arguments"),
    [("SGD", {"momentum": 0.9}), ("Adam", {}), ("AdamW", {}), ("Adagrad", {}), ("RMSprop", {}), ("NAdam", {})],
)
@pytest.mark.parametrize("clip", [None, 0.05])
def test_equals_grad_scaler_step_by_step(torch_name, arguments, clip):
    ours, theirs = small_model(), small_model()
    config = LossScaleConfig(kind="dynamic", init_scale=1024.0, growth_interval=3)
    scaler = DynamicLossScaler(config, ours.parameters(), CPU)
    optimizer = build_optimizer(torch_name, [{"params": list(ours.parameters())}], rate(), arguments)
    scaler.attach(optimizer)
    reference_scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=3)
    fused = torch_name in ("SGD", "Adam", "AdamW", "Adagrad")
    reference = (
        getattr(torch.optim, torch_name)(theirs.parameters(), lr=0.01, fused=fused or None, **arguments)
        if fused
        else getattr(torch.optim, torch_name)(theirs.parameters(), lr=0.01, **arguments)
    )
    generator = torch.Generator().manual_seed(1)
    for step in range(40):
        inputs = torch.randn(5, 8, generator=generator)
        for param in ours.parameters():
            param.grad = None
        loss = ours(inputs).pow(2).mean()
        scaler.outcome.loss.copy_(loss.detach())
        scaler.scale(loss).backward()
        reference.zero_grad()
        reference_scaler.scale(theirs(inputs).pow(2).mean()).backward()
        if step in OVERFLOWS:
            ours[0].weight.grad[0, 0] = math.inf
            theirs[0].weight.grad[0, 0] = math.inf
        scaler.unscale_()
        reference_scaler.unscale_(reference)
        if clip is not None:
            scaler.clip_norm_(clip)
            expected_norm = nn.utils.clip_grad_norm_(theirs.parameters(), clip)
            assert step in OVERFLOWS or torch.equal(scaler.outcome.grad_norm, expected_norm)
        optimizer.step()
        scaler.update()
        reference_scaler.step(reference)
        reference_scaler.update()
        assert scaler.current_scale() == reference_scaler.get_scale()
        assert int(scaler.state_dict()["growth_tracker"]) == reference_scaler._get_growth_tracker()
        assert bool(scaler.outcome.skipped) == (step in OVERFLOWS)
        for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            assert torch.equal(mine, other), f"weights differ at step {step}"


def dynamic(model, **settings) -> tuple[DynamicLossScaler, object]:
    config = LossScaleConfig(kind="dynamic", **settings)
    scaler = DynamicLossScaler(config, model.parameters(), CPU)
    optimizer = build_optimizer("SGD", [{"params": list(model.parameters())}], rate(), {"momentum": 0.9})
    scaler.attach(optimizer)
    return scaler, optimizer


def test_scale_never_leaves_floor_and_ceiling():
    model = small_model()
    scaler, optimizer = dynamic(model, init_scale=8.0, min_scale=2.0, max_scale=16.0, growth_interval=1)
    inputs = torch.ones(2, 8)
    for _ in range(6):
        one_step(model, scaler, optimizer, inputs, spoil_gradient=True)
    assert scaler.current_scale() == 2.0
    for _ in range(8):
        one_step(model, scaler, optimizer, inputs)
    assert scaler.current_scale() == 16.0


def test_nonfinite_loss_skips_but_leaves_scale_and_tracker():
    model = small_model()
    scaler, optimizer = dynamic(model, init_scale=64.0, growth_interval=2)
    inputs = torch.ones(2, 8)
    one_step(model, scaler, optimizer, inputs)
    before = [p.detach().clone() for p in model.parameters()]
    for _ in range(5):
        assert one_step(model, scaler, optimizer, inputs, loss_factor=math.nan)
    assert scaler.current_scale() == 64.0
    assert int(scaler.state_dict()["growth_tracker"]) == 1
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    one_step(model, scaler, optimizer, inputs)
    assert scaler.current_scale() == 128.0


def test_hysteresis_spends_overflows_and_refills_on_growth():
    model = small_model()
    scaler, optimizer = dynamic(model, init_scale=64.0, hysteresis=3, growth_interval=2)
    inputs, seen = torch.ones(2, 8), []
    for bad in [True, True, True, True, False, False, True, True, True]:
        one_step(model, scaler, optimizer, inputs, spoil_gradient=bad)
        seen.append(scaler.current_scale())
    # Two tolerated, then every overflow backs off until the scale grows, which refills the patience.
    assert seen == [64, 64, 32, 16, 16, 32, 32, 32, 16]


@pytest.mark.parametrize("fault", ["tolerated overflow", "nonfinite loss"])
def test_hysteresis_is_not_refilled_by_a_skip_where_the_scale_would_have_grown(fault):
    model = small_model()
    scaler, optimizer = dynamic(model, init_scale=64.0, hysteresis=3, growth_interval=2)
    inputs = torch.ones(2, 8)
    one_step(model, scaler, optimizer, inputs, spoil_gradient=True)  # two overflows left
    one_step(model, scaler, optimizer, inputs)  # one good step: the next would make the scale grow
    if fault == "nonfinite loss":
        one_step(model, scaler, optimizer, inputs, loss_factor=math.nan)
        one_step(model, scaler, optimizer, inputs, spoil_gradient=True)
    else:
        one_step(model, scaler, optimizer, inputs, spoil_gradient=True)
    assert scaler.current_scale() == 64.0
    one_step(model, scaler, optimizer, inputs, spoil_gradient=True)
    assert scaler.current_scale() == 32.0


def test_infinite_norm_of_finite_gradients_skips():
    model = nn.Linear(4, 4, bias=False)
    scaler = LossScaler(1.0, model.parameters(), CPU)
    model.weight.grad = torch.full((4, 4), 2e38)
    scaler.outcome.loss.fill_(1.0)
    scaler.unscale_()
    assert not scaler.outcome.skipped
    scaler.clip_norm_(1.0)
    assert scaler.outcome.skipped


@pytest.mark.parametrize("kind", ["none", "static"])
def test_constant_scale_skips_too(kind):
    model = small_model()
    scaler = LossScaler(1.0 if kind == "none" else 256.0, model.parameters(), CPU)
    optimizer = build_optimizer("AdamW", [{"params": list(model.parameters())}], rate(), {})
    scaler.attach(optimizer)
    before = [p.detach().clone() for p in model.parameters()]
    assert one_step(model, scaler, optimizer, torch.ones(2, 8), spoil_gradient=True)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert not one_step(model, scaler, optimizer, torch.ones(2, 8))
    assert not torch.equal(before[0], next(model.parameters()))
    assert scaler.current_scale() == (None if kind == "none" else 256.0)


def test_static_scale_does_not_change_the_gradient():
    plain, scaled = small_model(), small_model()
    for model, value in ((plain, 1.0), (scaled, 512.0)):
        scaler = LossScaler(value, model.parameters(), CPU)
        loss = model(torch.ones(3, 8)).pow(2).mean()
        scaler.outcome.loss.copy_(loss.detach())
        scaler.scale(loss).backward()
        scaler.unscale_()
    for a, b in zip(plain.parameters(), scaled.parameters(), strict=True):
        assert torch.equal(a.grad, b.grad)  # a power of two is exact


def test_state_round_trip():
    model = small_model()
    scaler, optimizer = dynamic(model, init_scale=64.0, hysteresis=2, growth_interval=5)
    for bad in (False, False, True, True, False):
        one_step(model, scaler, optimizer, torch.ones(2, 8), spoil_gradient=bad)
    other, _ = dynamic(small_model(), init_scale=4.0, hysteresis=2, growth_interval=5)
    other.load_state_dict(scaler.state_dict())
    assert {k: v for k, v in other.state_dict().items() if k != "kind"} == {
        k: v for k, v in scaler.state_dict().items() if k != "kind"
    }


def test_a_constant_scale_is_the_config_s_whatever_was_saved():
    model = small_model()
    scaler = LossScaler(1.0, model.parameters(), CPU)
    scaler.load_state_dict(LossScaler(1024.0, small_model().parameters(), CPU).state_dict())
    model(torch.ones(3, 8)).sum().backward()
    expected = [p.grad.clone() for p in model.parameters()]
    scaler.unscale_()
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), expected, strict=True))


def test_clip_value_bounds_every_element():
    model = small_model()
    scaler = LossScaler(4.0, model.parameters(), CPU)
    loss = model(torch.full((3, 8), 10.0)).pow(2).sum()
    scaler.outcome.loss.copy_(loss.detach())
    scaler.scale(loss).backward()
    scaler.unscale_()
    scaler.clip_value_(0.25)
    assert max(float(p.grad.abs().max()) for p in model.parameters()) == 0.25


def low_and_reference(dtype: torch.dtype, scale: float, seed: int = 0):
    """A parameter each in `dtype` and in FP32, with scaled gradients in their own dtype, and the FP32 truth."""
    torch.manual_seed(seed)
    params = [nn.Parameter(torch.zeros(40, 30, dtype=dtype)), nn.Parameter(torch.zeros(30))]
    for param in params:
        param.grad = (torch.randn(param.shape) * 1e-6 * scale).to(param.dtype)
    return params, [param.grad.float() / scale for param in params]


def finished(scaler, param):
    staged = [param.grad.float()]
    scaler.finish_(staged, [param])
    return staged[0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("clip_norm", [None, 1e-5])
@pytest.mark.parametrize("clip_value", [None, 1e-7])
def test_low_precision_gradients_stay_scaled_until_they_are_finished(dtype, clip_norm, clip_value):
    params, truth = low_and_reference(dtype, 4096.0)
    scaled = params[0].grad.clone()
    scaler = DynamicLossScaler(LossScaleConfig(init_scale=4096.0), params, CPU)
    scaler.outcome.loss.fill_(1.0)
    scaler.unscale_()
    references = [nn.Parameter(torch.zeros_like(grad)) for grad in truth]
    for reference, grad in zip(references, truth, strict=True):
        reference.grad = grad
    if clip_norm is not None:
        scaler.clip_norm_(clip_norm)
        norm = nn.utils.clip_grad_norm_(references, clip_norm)
        torch.testing.assert_close(scaler.outcome.grad_norm, norm, rtol=1e-6, atol=0)
        assert norm > clip_norm
    if clip_value is not None:
        scaler.clip_value_(clip_value)
        nn.utils.clip_grad_value_(references, clip_value)
    assert torch.equal(params[0].grad, scaled)
    torch.testing.assert_close(finished(scaler, params[0]), references[0].grad, rtol=1e-6, atol=0)
    torch.testing.assert_close(params[1].grad, references[1].grad, rtol=1e-6, atol=0)
    assert not scaler.outcome.skipped


def test_low_precision_gradients_without_a_scale_are_exact():
    params, truth = low_and_reference(torch.bfloat16, 1.0)
    scaler = LossScaler(1.0, params, CPU)
    scaler.outcome.loss.fill_(1.0)
    scaler.unscale_()
    assert torch.equal(finished(scaler, params[0]), truth[0])
    assert torch.equal(params[1].grad, truth[1])


def test_an_infinity_in_a_low_precision_gradient_skips_and_backs_off():
    params, _ = low_and_reference(torch.float16, 4096.0)
    params[0].grad[3, 3] = -math.inf
    scaler = DynamicLossScaler(LossScaleConfig(init_scale=4096.0), params, CPU)
    scaler.outcome.loss.fill_(1.0)
    scaler.unscale_()
    scaler.update()
    assert scaler.outcome.skipped
    assert scaler.current_scale() == 2048.0


def test_clipping_of_one_step_does_not_reach_the_next():
    params, truth = low_and_reference(torch.float16, 4096.0)
    scaler = DynamicLossScaler(LossScaleConfig(init_scale=4096.0), params, CPU)
    scaler.outcome.loss.fill_(1.0)
    scaler.unscale_()
    scaler.clip_norm_(1e-5)
    scaler.clip_value_(1e-7)
    params[1].grad = truth[1] * 4096.0
    scaler.unscale_()
    assert torch.equal(finished(scaler, params[0]), truth[0])


def test_gradients_summed_elsewhere_are_unscaled_there():
    params, truth = low_and_reference(torch.float16, 4096.0)
    sums = {param: grad * 4096.0 for param, grad in zip(params, truth, strict=True)}
    scaled = params[0].grad.clone()
    scaler = DynamicLossScaler(LossScaleConfig(init_scale=4096.0), params, CPU)
    scaler.read_gradients_from(sums.get)
    scaler.outcome.loss.fill_(1.0)
    scaler.unscale_()
    assert torch.equal(params[0].grad, scaled)
    assert all(torch.equal(sums[param], grad) for param, grad in zip(params, truth, strict=True))
