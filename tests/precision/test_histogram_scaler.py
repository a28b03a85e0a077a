"""The histogram's scale keeps both ends of the gradients within FP16, before either is lost."""

import math

import pytest
import torch
from torch import nn

from mptrain.config.precision import LossScaleConfig
from mptrain.optim.build import build_optimizer
from mptrain.precision.histogram_scaler import HistogramLossScaler
from mptrain.precision.loss_scaler import LossScaler
from mptrain.precision.scalers import make_scaler
from tests.trainer.runs import fitted, same, trainer, weights
from tests.trainer.test_host_reads import CountHostReads, NoticeHostReads

CPU = torch.device("cpu")
TARGET = 0.001
SMALLEST, MAX = 2.0**-24, 65504.0


def scaler_of(params, kind="histogram", **settings) -> LossScaler:
    return make_scaler(kind, LossScaleConfig(kind=kind, **settings), params, CPU)


def attempt(scaler, param, true_gradient) -> bool:
    """One attempt whose gradient is computed in FP16 at the scale in force; return whether it is skipped."""
    return attempt_all(scaler, {param: true_gradient})


def attempt_all(scaler, true_gradients) -> bool:
    """`attempt` for several parameters."""
    for param, gradient in true_gradients.items():
        param.grad = (gradient * scaler.current_scale()).half().float()
    scaler.outcome.loss.fill_(1.0)
    scaler.unscale_()
    scaler.update()
    return bool(scaler.outcome.skipped)


def gaussian(exponent: float, seed: int = 0) -> torch.Tensor:
    return torch.randn(100_000, generator=torch.Generator().manual_seed(seed)) * 2.0**exponent


def lost_share(gradient, scale) -> float:
    return float(((gradient * scale).abs() < SMALLEST).float().mean())


@pytest.mark.parametrize("exponent", [-40, -36, -32, -28, -20, -12, -8, -6, -4])
@pytest.mark.parametrize("init_exponent", [0, 8, 16, 24])
def test_one_look_brings_both_ends_within_range(exponent, init_exponent):
    param, gradient = nn.Parameter(torch.zeros(100_000)), gaussian(exponent)
    scaler = scaler_of([param], init_scale=2.0**init_exponent, max_scale=2.0**40, histogram_every=1)
    looks = 0
    while attempt(scaler, param, gradient):  # an overflow backs off first, as no distribution can be seen
        looks += 1
    scale = scaler.current_scale()
    # Where nearly all was lost the first look only sees a remnant: the next sees the rest.
    attempt(scaler, param, gradient)
    scale = scaler.current_scale()
    assert lost_share(gradient, scale) <= 1.5 * TARGET
    assert float(gradient.abs().max()) * scale * 8 <= MAX
    assert math.log2(scale) == int(math.log2(scale))
    attempt(scaler, param, gradient)
    assert scaler.current_scale() == scale, "a scale within its bounds is held"


def test_a_scale_within_its_bounds_is_held():
    param = nn.Parameter(torch.zeros(100_000))
    scaler = scaler_of([param], histogram_every=1)
    for step in range(20):
        assert not attempt(scaler, param, gaussian(-24 - (step % 4), seed=step))
    assert scaler.current_scale() == 65536.0


def two_layers(low: float, high: float):
    """Two parameters and their gradients, one far below the other."""
    gradients = [gaussian(low), gaussian(high)]
    return {nn.Parameter(torch.zeros_like(gradient)): gradient for gradient in gradients}


@pytest.mark.parametrize("low", [-60, -40, -34])  # all of it lost at the first scale, or the most
def test_the_top_wins_where_layers_lie_too_far_apart_for_the_format(low):
    gradients = two_layers(low, 0.0)
    scaler = scaler_of(gradients, init_scale=256.0, histogram_every=1)
    attempt_all(scaler, gradients)
    amax = max(float(gradient.abs().max()) for gradient in gradients.values())
    scale = scaler.current_scale()
    assert scale > 256.0
    assert amax * scale * 8 <= MAX < amax * scale * 32


def test_zeros_of_a_layer_within_range_are_zeros():
    param, gradient = nn.Parameter(torch.zeros(100_000)), gaussian(-24)
    gradient[::2] = 0.0  # as behind dead units
    scaler = scaler_of([param], histogram_every=1)
    attempt(scaler, param, gradient)
    assert scaler.current_scale() == 65536.0


def run_of(kind, exponents, **settings):
    """Return (skipped steps, largest share lost) while the gradient's magnitude follows `exponents`."""
    param = nn.Parameter(torch.zeros(100_000))
    scaler = scaler_of([param], kind, **settings)
    skips, worst = 0, 0.0
    for step, exponent in enumerate(exponents):
        gradient = gaussian(exponent, seed=step)
        scale = scaler.current_scale()
        skips += attempt(scaler, param, gradient)
        if step >= 20:
            worst = max(worst, lost_share(gradient, scale))
    return skips, worst


def test_it_steps_down_before_a_growing_gradient_overflows():
    growing = [-14 + step / 10 for step in range(180)]
    dynamic, _ = run_of("dynamic", growing)
    histogram, lost = run_of("histogram", growing)
    assert dynamic > 5
    assert histogram == 0
    assert lost <= TARGET


def test_it_follows_a_gradient_that_shrinks_a_thousandfold():
    shrinking = [-28 - step / 20 for step in range(200)]
    _, static = run_of("static", shrinking)
    skips, histogram = run_of("histogram", shrinking)
    assert static > 0.1
    assert histogram <= 2 * TARGET  # the gradient shrinks on between two looks
    assert skips == 0


def test_an_overflow_that_no_parameter_foretold_lowers_the_ceiling_until_enough_good_steps():
    gradients = two_layers(-60.0, -4.0)  # the low one always asks for a higher scale
    scaler = scaler_of(gradients, init_scale=256.0, histogram_every=1, growth_interval=3)
    spoilt = {param: gradient.clone() for param, gradient in gradients.items()}
    next(iter(spoilt.values()))[0] = math.inf
    attempt_all(scaler, gradients)
    wanted = scaler.current_scale()
    assert wanted > 256.0
    assert attempt_all(scaler, spoilt)
    assert scaler.current_scale() == wanted / 2
    seen = []
    for _ in range(5):
        attempt_all(scaler, gradients)
        seen.append(scaler.current_scale())
    assert seen == [wanted / 2] * 3 + [wanted] * 2


def test_a_bad_loss_moves_nothing():
    param = nn.Parameter(torch.zeros(100_000))
    scaler = scaler_of([param], histogram_every=1)
    param.grad = torch.full((100_000,), math.nan)
    scaler.outcome.loss.fill_(math.nan)
    before = {name: torch.as_tensor(value).clone() for name, value in scaler.state_dict().items() if name != "kind"}
    scaler.unscale_()
    scaler.update()
    after = scaler.state_dict()
    assert all(torch.equal(value, torch.as_tensor(after[n])) for n, value in before.items() if n != "attempts")


@pytest.mark.parametrize(("value", "expected"), [(0.0, 2.0**24), (1e30, 32768.0)])
def test_all_lost_and_all_infinite(value, expected):
    param = nn.Parameter(torch.zeros(1000))
    scaler = scaler_of([param])
    attempt(scaler, param, torch.full((1000,), value))
    assert scaler.current_scale() == expected


def test_bounds_hold():
    param = nn.Parameter(torch.zeros(100_000))
    scaler = scaler_of([param], init_scale=64.0, min_scale=32.0, max_scale=128.0, histogram_every=1)
    attempt(scaler, param, gaussian(-40))
    assert scaler.current_scale() == 128.0
    for _ in range(5):
        attempt(scaler, param, gaussian(14))
    assert scaler.current_scale() == 32.0


def test_it_looks_only_when_it_is_due_and_a_resumed_one_keeps_the_beat():
    param = nn.Parameter(torch.zeros(100_000))
    scaler = scaler_of([param], init_scale=1.0, max_scale=2.0**100, histogram_every=4)
    scales = []
    for step in range(10):
        attempt(scaler, param, gaussian(-10 - 8 * step))
        scales.append(scaler.current_scale())
        if step == 5:
            resumed = scaler_of([param], init_scale=1.0, max_scale=2.0**100, histogram_every=4)
            resumed.load_state_dict(scaler.state_dict())
            scaler = resumed
    changes = [step for step in range(1, 10) if scales[step] != scales[step - 1]]
    assert changes == [4, 8]


def test_a_dynamic_scale_is_taken_over():
    param = nn.Parameter(torch.zeros(10))
    dynamic = scaler_of([param], "dynamic", init_scale=512.0)
    histogram = scaler_of([param])
    assert histogram.take_over(dynamic.state_dict()) == "loss scale 512 goes on"
    assert scaler_of([param], "dynamic").take_over(histogram.state_dict()) == "loss scale 512 goes on"


def test_no_look_reads_the_device():
    model = nn.Linear(16, 16)
    scaler = HistogramLossScaler(LossScaleConfig(kind="histogram", histogram_every=1), model.parameters(), CPU)
    groups = [{"params": list(model.parameters())}]
    optimizer = build_optimizer("SGD", groups, torch.tensor(0.01, dtype=torch.float64), {"momentum": 0.9})
    scaler.attach(optimizer)
    with CountHostReads() as counter, NoticeHostReads() as notice:
        for _ in range(5):
            loss = model(torch.ones(2, 16)).pow(2).mean()
            scaler.outcome.loss.copy_(loss.detach())
            scaler.scale(loss).backward()
            scaler.unscale_()
            optimizer.step()
            scaler.update()
    assert (counter.reads, notice.seen) == (0, set())


def test_an_fp16_run_with_a_scale_far_too_high_finds_its_scale_and_learns():
    changes = {"precision": {"mode": "fp16", "loss_scale": {"kind": "histogram", "init_scale": 2.0**24}}}
    made = fitted(changes)
    assert made.ledger.counts.applied == 20
    assert made.ledger.counts.skipped < 12
    assert made.final_loss_scale() < 2.0**22


def test_in_fp32_it_changes_no_bit():
    changes = {"precision": {"loss_scale": {"kind": "histogram", "init_scale": 2.0**22, "histogram_every": 3}}}
    made = trainer(changes)
    made.fit()
    assert same(weights(fitted().run), weights(made.run))
    assert made.final_loss_scale() < 2.0**22
