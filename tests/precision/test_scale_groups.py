"""Modules with a loss scale of their own: gradients inside run at it, and each scale answers for its own overflows."""

import contextlib
import copy
from collections import namedtuple

import pytest
import torch
from torch import nn

from mptrain.config.precision import LossScaleConfig
from mptrain.errors import ConfigError
from mptrain.optim.build import build_optimizer
from mptrain.precision.scale_groups import GroupedLossScaler, make_grouped_scaler
from mptrain.precision.scalers import check_loss_scale
from tests.trainer.test_host_reads import CountHostReads, NoticeHostReads

CPU = torch.device("cpu")


class Net(nn.Module):
    """Three blocks in a row; the middle one multiplies the gradient that enters it by `gain`."""

    def __init__(self, gain: float = 1.0) -> None:
        super().__init__()
        self.first, self.last = (nn.Sequential(nn.Linear(8, 8), nn.Tanh()) for _ in range(2))
        self.middle = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), GainLayer(gain))

    def forward(self, inputs):
        return self.last(self.middle(self.first(inputs)))


class GainLayer(nn.Module):
    def __init__(self, gain):
        super().__init__()
        self.gain = gain

    def forward(self, inputs):
        return Gain.apply(inputs, self.gain)


class Gain(torch.autograd.Function):
    """The identity, with a gradient multiplied by a constant."""

    @staticmethod
    def forward(ctx, value, gain):
        ctx.gain = gain
        return value.view_as(value)

    @staticmethod
    def backward(ctx, grad):
        return grad * ctx.gain, None


def net(**settings) -> Net:
    torch.manual_seed(0)
    return Net(**settings)


def config(*groups, **settings) -> LossScaleConfig:
    entries = [{"match": match, "init_scale": scale} for match, scale in groups]
    return LossScaleConfig.model_validate({"kind": "dynamic", "init_scale": 64.0, "groups": entries, **settings})


def backward(model, scaler, dtype=torch.float32, factor=1.0) -> None:
    for param in model.parameters():
        param.grad = None
    inputs = torch.randn(5, 8, generator=torch.Generator().manual_seed(1))
    with torch.autocast("cpu", dtype=torch.float16, enabled=dtype is torch.float16):
        loss = model(inputs).float().pow(2).mean() * factor
    scaler.outcome.loss.copy_(loss.detach())
    scaler.scale(loss).backward()


def attempt(model, scaler, dtype=torch.float32, factor=1.0) -> tuple[float, dict[str, float], bool]:
    """One step without an optimizer; return the main scale, the groups' and whether it would have been skipped."""
    backward(model, scaler, dtype, factor)
    scaler.unscale_()
    scaler.update()
    return scaler.current_scale(), scaler.current_group_scales(), bool(scaler.outcome.skipped)


@pytest.mark.parametrize("match", ["first", "middle", "last", "re:^(first|last)$", "m*"])
def test_each_gradient_has_its_own_scale_and_unscaled_the_bits_of_none(match):
    plain, model = net(), net()
    backward(plain, make_grouped_scaler("none", LossScaleConfig(), plain, CPU))
    scaler = make_grouped_scaler("dynamic", config((match, 4096.0)), model, CPU)
    backward(model, scaler)
    inside = {param for group in scaler._groups for param in group.params}
    assert 0 < len(inside) < 6
    for param, reference in zip(model.parameters(), plain.parameters(), strict=True):
        assert torch.equal(param.grad, reference.grad * (4096.0 if param in inside else 64.0))
    scaler.unscale_()
    for param, reference in zip(model.parameters(), plain.parameters(), strict=True):
        assert torch.equal(param.grad, reference.grad)
    assert not scaler.outcome.skipped


class InPlace(nn.Module):
    """Changes a block's output and a block's input in place, as ResNets do."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(8, 8), nn.Sequential(nn.ReLU(inplace=True), nn.Linear(8, 8))

    def forward(self, inputs):
        hidden = self.first(inputs)
        hidden += inputs
        return self.last(hidden * 2)


@pytest.mark.parametrize("match", ["first", "last", "*"])
def test_blocks_may_be_followed_and_begun_by_changes_in_place(match):
    torch.manual_seed(0)
    plain = InPlace()
    model = copy.deepcopy(plain)
    backward(plain, make_grouped_scaler("none", LossScaleConfig(), plain, CPU))
    scaler = make_grouped_scaler("dynamic", config((match, 4096.0)), model, CPU)
    backward(model, scaler)
    scaler.unscale_()
    assert all(torch.equal(a.grad, b.grad) for a, b in zip(plain.parameters(), model.parameters(), strict=True))


@pytest.mark.parametrize("clip_value", [None, 1e-3])
def test_clipping_sees_unscaled_gradients_of_all_groups(clip_value):
    plain, model = net(), net()
    backward(plain, make_grouped_scaler("none", LossScaleConfig(), plain, CPU))
    scaler = make_grouped_scaler("dynamic", config(("first", 4096.0), ("last", 2.0)), model, CPU)
    backward(model, scaler)
    scaler.unscale_()
    scaler.clip_norm_(0.01)
    torch.testing.assert_close(scaler.outcome.grad_norm, nn.utils.clip_grad_norm_(plain.parameters(), 0.01))
    if clip_value:
        scaler.clip_value_(clip_value)
        nn.utils.clip_grad_value_(plain.parameters(), clip_value)
    for param, reference in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(param.grad, reference.grad)


def test_low_precision_gradients_are_finished_at_their_own_scale():
    model = net()
    scaler = make_grouped_scaler("dynamic", config(("middle", 4096.0)), model, CPU)
    params = list(model.parameters())
    truth = [torch.randn(param.shape) for param in params]
    scaler.read_gradients_from(lambda p: low[p])
    low = {
        p: (g * (4096.0 if p in set(model.middle.parameters()) else 64.0)).bfloat16()
        for p, g in zip(params, truth, strict=True)
    }
    scaler.outcome.loss.fill_(1.0)
    scaler.unscale_()
    staged = [low[param].float() for param in params]
    scaler.finish_(staged, params)
    for grad, expected in zip(staged, truth, strict=True):
        assert torch.equal(grad, expected.bfloat16().float())


def test_small_gradients_of_a_group_survive_where_the_main_scale_would_lose_them():
    kept, lost = (net(gain=1e-8) for _ in range(2))
    backward(kept, make_grouped_scaler("dynamic", config(("re:^(first|middle)$", 2.0**18)), kept, CPU), torch.float16)
    backward(lost, make_grouped_scaler("dynamic", LossScaleConfig(init_scale=64.0), lost, CPU), torch.float16)
    assert not lost.first[0].weight.grad.any()
    assert (kept.first[0].weight.grad != 0).float().mean() > 0.9


OVERFLOWING = 2.0**24


@pytest.mark.parametrize("match", ["last", "middle", "first"])
def test_a_group_that_overflows_backs_off_alone(match):
    model = net()
    scaler = make_grouped_scaler("dynamic", config((match, OVERFLOWING)), model, CPU)
    assert attempt(model, scaler, torch.float16, factor=100.0) == (64.0, {match: OVERFLOWING / 2}, True)


@pytest.mark.parametrize("match", ["last", "middle", "first"])
def test_a_main_scale_that_overflows_backs_off_alone(match):
    model = net(gain=1.0 if match == "last" else 1e-3)
    scaler = make_grouped_scaler("dynamic", config((match, 1.0), init_scale=OVERFLOWING), model, CPU)
    assert attempt(model, scaler, torch.float16, factor=100.0) == (OVERFLOWING / 2, {match: 1.0}, True)


def test_a_group_of_several_blocks_in_a_row_is_blamed_for_what_passes_from_one_to_the_next():
    model = net()
    scaler = make_grouped_scaler("dynamic", config(("re:^(middle|last)$", OVERFLOWING)), model, CPU)
    scales = attempt(model, scaler, torch.float16, factor=100.0)
    assert scales == (64.0, {"re:^(middle|last)$": OVERFLOWING / 2}, True)


def test_a_skip_is_no_good_step_for_the_scales_that_are_not_to_blame():
    model = net()
    scaler = make_grouped_scaler("dynamic", config(("last", 2.0**17), growth_interval=2), model, CPU)
    seen = [attempt(model, scaler, torch.float16, factor=100.0) for _ in range(12)]
    first_good = [skipped for *_, skipped in seen].index(False)
    assert first_good > 2
    assert [main for main, *_ in seen[: first_good + 2]] == [64.0] * (first_good + 1) + [128.0]


def test_a_bad_loss_moves_no_scale():
    model = net()
    scaler = make_grouped_scaler("dynamic", config(("last", 128.0)), model, CPU)
    assert attempt(model, scaler, factor=float("nan")) == (64.0, {"last": 128.0}, True)


Pair = namedtuple("Pair", "left right")


class Branches(nn.Module):
    """Takes keywords and gives its outputs in containers; one of them carries no gradient."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, *, inputs):
        out = self.layer(inputs["x"])
        return {"pair": Pair(out, [out * 2]), "index": out.argmax(), "name": "branches"}


class Wrapped(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner, self.head = Branches(), nn.Linear(8, 8)

    def forward(self, inputs):
        out = self.inner(inputs={"x": self.head(inputs)})
        assert (type(out["pair"]), out["name"]) == (Pair, "branches")
        return out["pair"].left + out["pair"].right[0]


def test_gradients_cross_containers():
    torch.manual_seed(0)
    plain = Wrapped()
    torch.manual_seed(0)
    model = Wrapped()
    backward(plain, make_grouped_scaler("none", LossScaleConfig(), plain, CPU))
    scaler = make_grouped_scaler("dynamic", config(("inner", 4096.0)), model, CPU)
    backward(model, scaler)
    scaler.unscale_()
    for param, reference in zip(model.parameters(), plain.parameters(), strict=True):
        assert torch.equal(param.grad, reference.grad)


def test_the_state_goes_on():
    model, other = net(), net()
    settings = config(("last", 2.0**20), growth_interval=3)
    scaler, resumed = (make_grouped_scaler("dynamic", settings, m, CPU) for m in (model, other))
    for _ in range(7):
        attempt(model, scaler, torch.float16)
    resumed.load_state_dict(scaler.state_dict())
    for _ in range(4):
        assert attempt(model, scaler, torch.float16) == attempt(other, resumed, torch.float16)
    assert resumed.state_dict().keys() == {"kind", "scale", "growth_tracker", "hysteresis_left", "groups"}


def test_group_scales_are_put_aside_and_taken_up_again():
    model = net()
    settings = config(("last", 4096.0))
    scaler = make_grouped_scaler("dynamic", settings, model, CPU)
    attempt(model, scaler, factor=1.0)
    without = make_grouped_scaler("none", settings, net(), CPU)
    assert not isinstance(without, GroupedLossScaler)
    assert without.take_over(scaler.state_dict()) == "loss scale 64 put aside"
    model = net()
    back = make_grouped_scaler("dynamic", config(("last", 2.0)), model, CPU)
    assert back.take_over(without.state_dict()) == "loss scale 64 is taken up again"
    assert back.current_group_scales() == {"last": 4096.0}
    assert attempt(model, back)[2] is False


def test_a_step_with_groups_never_reads_the_device():
    model = net()
    scaler = make_grouped_scaler("dynamic", config(("first", 8.0), ("last", 4096.0), hysteresis=2), model, CPU)
    groups = [{"params": list(model.parameters())}]
    optimizer = build_optimizer("AdamW", groups, torch.tensor(0.01, dtype=torch.float64), {})
    scaler.attach(optimizer)
    inputs = torch.randn(5, 8)
    with CountHostReads() as counter, NoticeHostReads() as notice:
        for _ in range(5):
            for param in model.parameters():
                param.grad = None
            loss = model(inputs).pow(2).mean()
            scaler.outcome.loss.copy_(loss.detach())
            scaler.scale(loss).backward()
            scaler.unscale_()
            scaler.clip_norm_(1.0)
            optimizer.step()
            scaler.update()
    assert (counter.reads, notice.seen) == (0, set())


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Linear(8, 8), nn.Linear(8, 8)
        self.head.weight = self.embed.weight
        self.act = nn.Tanh()


@pytest.mark.parametrize(
    ("model", "groups", "message"),
    [
        (Net, [("last", 2.0), ("last.0", 4.0)], r"groups\[1\]: 'last.0' and 'last' both mean 'last.0'; make them"),
        (Net, [("last.0", 2.0), ("last", 4.0)], r"groups\[1\]: 'last' and 'last.0' both mean 'last'"),
        (Net, [("last", 2.0), ("last", 4.0)], r"groups\[1\]: 'last' and 'last' both mean 'last'"),
        (Net, [("lost", 2.0)], r"groups\[0\]: 'lost' matches no module; did you mean 'last'\?"),
        (Net, [("type:Tanh", 2.0)], r"'type:Tanh' has no trainable parameter; leave it out"),
        (Tied, [("head", 2.0)], r"'head' shares a weight with 'embed.weight' outside it"),
    ],
)
def test_groups_that_cannot_be_are_refused(model, groups, message):
    with pytest.raises(ConfigError, match=message):
        make_grouped_scaler("dynamic", config(*groups), model(), CPU)


@pytest.mark.parametrize(
    ("settings", "kinds", "message"),
    [
        (
            {"kind": "auto", "on_skip": "retry"},
            {"none"},
            r"on_skip: 'retry' needs a loss scale that can move.*use drop",
        ),
        ({"kind": "auto", "groups": [{"match": "last"}]}, {"none"}, r"groups: this precision has no loss scale; leave"),
        ({"kind": "auto", "on_skip": "retry"}, {"none", "dynamic"}, None),
        ({"kind": "auto", "groups": [{"match": "last"}]}, {"none", "dynamic"}, None),
        ({"kind": "auto", "on_skip": "count"}, {"none"}, None),
    ],
)
def test_what_no_precision_of_the_run_can_honour_is_refused(settings, kinds, message):
    with pytest.raises(ConfigError, match=message) if message else contextlib.nullcontext():
        check_loss_scale(LossScaleConfig.model_validate(settings), kinds)
