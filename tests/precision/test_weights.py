"""Masters are FP32 training, pure weights are FP32 steps rounded, a skip changes no bit, a checkpoint loses none."""

import gc

import pytest
import torch
from torch import nn

from mptrain.precision import weights
from mptrain.precision.weights import make_weight_store
from tests.precision.low_weights import OPTIMIZERS, STORES, Small, same_bits, setup


def plain_fp32(made, optimizer, lr=0.01):
    """Return FP32 copies of the weights and torch's own optimizer over them."""
    copies = {p: nn.Parameter(p.detach().float()) for p in made.model.parameters()}
    groups = [
        {"params": [c for c in copies.values() if c.ndim >= 2], "weight_decay": 0.01},
        {"params": [c for c in copies.values() if c.ndim < 2], "weight_decay": 0.0},
    ]
    fused = {} if optimizer == "NAdam" else {"fused": True}
    return copies, getattr(torch.optim, optimizer)(groups, lr=lr, **fused, **OPTIMIZERS[optimizer])


@pytest.mark.parametrize("low", ["fp16", "bf16"])
@pytest.mark.parametrize("optimizer", sorted(OPTIMIZERS))
def test_masters_are_an_fp32_loop_fed_the_same_gradients(optimizer, low):
    made = setup("master", low=low, optimizer=optimizer)
    copies, plain = plain_fp32(made, optimizer)
    for step in range(20):
        for param in made.model.parameters():
            param.grad = None
        made.backward(step)
        for param, copied in copies.items():
            copied.grad = None if param.grad is None else param.grad.float() / 1024
        plain.step()
        made.finish()
        for param, copied in copies.items():
            assert torch.equal(made.store.best(param), copied)
            assert torch.equal(param, copied.to(param.dtype))
            assert param.grad is None or param.grad.dtype == param.dtype


@pytest.mark.parametrize(("kind", "rounding"), STORES)
@pytest.mark.parametrize("optimizer", ["SGD", "AdamW", "NAdam"])
def test_a_skipped_step_changes_no_bit(kind, rounding, optimizer):
    made = setup(kind, rounding, optimizer=optimizer)
    with torch.no_grad():
        made.model.unused[0] = made.model.head.bias[0] = -0.0  # -0 + 0 would be 0
    made.store.load_model_state(made.model, made.model.state_dict())
    for step in range(4):
        made.step(step)
    before = made.numbers()
    made.step(5, spoil=True)
    assert made.scaler.outcome.skipped == 1
    assert same_bits(before, made.numbers()) == []
    made.step(6)
    assert same_bits(before, made.numbers()) != []


def test_a_skipped_first_step_leaves_moments_at_zero():
    made = setup("pure", "stochastic")
    before = made.numbers()
    made.step(0, spoil=True)
    after = made.numbers()
    assert same_bits(before, {name: after[name] for name in before}) == []
    assert not any(value.count_nonzero() for name, value in after.items() if name not in before)


def test_a_skip_leaves_a_compensation_of_half_a_spacing_alone():
    made = setup("pure", "kahan", optimizer="SGD")
    odd = 1 + 2**-7  # half of BF16's spacing above it, nearest even is 1 + 2**-6
    with torch.no_grad():
        made.model.unused.fill_(odd)
    left = {"unused": torch.full((5,), 2.0**-8), "head.bias": torch.full((4,), -0.0)}
    made.store.load_state_dict({"compensation": {name: value.bfloat16() for name, value in left.items()}})
    before = made.numbers()
    made.step(0, spoil=True)
    assert same_bits(before, made.numbers()) == []
    made.step(1)  # a step that is applied adds what is owed
    assert torch.equal(made.model.unused, torch.full((5,), 1 + 2**-6, dtype=torch.bfloat16))
    assert torch.equal(made.store.state_dict()["compensation"]["unused"].float(), torch.full((5,), -(2.0**-8)))


def wide_model(dtype):
    return nn.Sequential(nn.Linear(256, 256, dtype=dtype), nn.Linear(256, 256, dtype=dtype), nn.Linear(256, 256))


def live_bytes():
    gc.collect()
    found = [o for o in gc.get_objects() if type(o) in (torch.Tensor, nn.Parameter) and o.layout == torch.strided]
    found += [t.grad for t in found if t.is_leaf and t.grad is not None]
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in found}
    return sum(storages.values())


@pytest.mark.parametrize(
    ("kind", "rounding", "accumulate", "per_low_weight"),
    [
        ("master", "nearest", 1, 2 + 2 + 4 + 8),  # weight, gradient, master, two moments
        ("master", "nearest", 2, 2 + 4 + 4 + 8),
        ("pure", "nearest", 1, 2 + 2 + 4),
        ("pure", "stochastic", 2, 2 + 2 + 4),
        ("pure", "kahan", 1, 2 + 2 + 4 + 2),
    ],
)
def test_what_stays_in_memory_between_steps(kind, rounding, accumulate, per_low_weight):
    before = live_bytes()
    made = setup(kind, rounding, model=wide_model(torch.bfloat16), accumulate=accumulate)
    for _ in range(3):
        for index in range(accumulate):
            with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
                loss = made.model(torch.ones(1, 256)).float().square().mean()
            made.scaler.scale(loss).backward()
            made.store.collect_gradients(first=index == 0)
        made.finish()
        for param in made.model[2].parameters():
            assert param.grad is not None
    del loss
    low, plain = 2 * (256 * 256 + 256), 256 * 256 + 256
    expected = low * per_low_weight + plain * 16
    assert live_bytes() - before == pytest.approx(expected, rel=0.02)
    kept = made.store.bytes()
    assert kept["master_weights"] == (4 * low if kind == "master" else 0)
    assert kept["gradients"] == (4 * low if kind == "master" and accumulate > 1 else 0)
    assert kept["compensation"] == (2 * low if rounding == "kahan" else 0)


@pytest.mark.parametrize("low", ["fp16", "bf16"])
@pytest.mark.parametrize("optimizer", sorted(OPTIMIZERS))
@pytest.mark.parametrize(("kind", "rounding"), STORES)
def test_a_resumed_run_has_the_bits_of_an_uninterrupted_one(kind, rounding, optimizer, low):
    whole, first, second = (setup(kind, rounding, optimizer=optimizer, low=low) for _ in range(3))
    for step in range(8):
        whole.step(step, clip=1.0)
    for step in range(4):
        first.step(step, clip=1.0)
    second.step(77)  # what it held before is overwritten
    second.load(first.saved())
    for step in range(4, 8):
        second.step(step, clip=1.0)
    assert same_bits(whole.numbers(), second.numbers()) == []


@pytest.mark.parametrize("low", ["fp16", "bf16"])
@pytest.mark.parametrize("rounding", ["nearest", "stochastic", "kahan"])
def test_updates_below_the_spacing_stall_only_nearest(rounding, low):
    model = nn.Sequential(nn.Linear(64, 64, bias=False, dtype={"fp16": torch.float16, "bf16": torch.bfloat16}[low]))
    nn.init.constant_(model[0].weight, 1.5)
    steps, rate, gradient = 100, 0.25, 2.0**-12  # an update of 1/8 (FP16: half) of half the spacing at 1.5
    rate = rate if low == "fp16" else 8 * rate
    made = setup("pure", rounding, low=low, optimizer="SGD", lr=rate, model=model)
    for group in made.optimizer.param_groups:
        group |= {"weight_decay": 0.0, "momentum": 0.0, "nesterov": False}
    for _ in range(steps):
        model[0].weight.grad = torch.full_like(model[0].weight, gradient * 1024)
        made.finish()
    moved = 1.5 - model[0].weight.detach().double()
    wanted = steps * rate * gradient
    spacing = {"fp16": 2.0**-10, "bf16": 2.0**-7}[low]
    if rounding == "nearest":
        assert not moved.count_nonzero()
    elif rounding == "kahan":
        assert (moved - wanted).abs().max() <= spacing / 2
        assert (moved - made.store.state_dict()["compensation"]["0.weight"].double() - wanted).abs().max() < 1e-5
    else:
        chance = rate * gradient / spacing
        deviation = spacing * (steps * chance * (1 - chance)) ** 0.5
        assert abs(moved.mean() - wanted) < 4 * deviation / 64
        assert moved.std() == pytest.approx(deviation, rel=0.1)


def test_nearest_keeps_adams_second_moment_where_stochastic_lets_it_decay():
    mean = {}
    for rounding in ("nearest", "stochastic"):
        model = nn.Sequential(nn.Linear(64, 64, bias=False, dtype=torch.bfloat16))
        made = setup("pure", rounding, model=model)
        made.optimizer.param_groups[0]["betas"] = (0.9, 0.999)
        for step in range(101):
            model[0].weight.grad = torch.full_like(model[0].weight, 0.0 if step else 1024.0)
            made.finish()
        moments = made.optimizer.state_dict()["state"][0]["exp_avg_sq"]
        assert moments.dtype == torch.bfloat16
        mean[rounding] = moments.double().mean().item()
    assert mean["nearest"] == pytest.approx(1e-3, rel=0.01)
    assert mean["stochastic"] == pytest.approx(1e-3 * 0.999**100, rel=0.01)


def test_tied_weights_are_one_master_under_every_name():
    made, other = setup("master"), setup("master")
    made.step(0)
    state = made.saved()["model"]
    assert state.keys() == made.model.state_dict().keys()
    assert state["first.weight"].dtype == torch.float32
    assert torch.equal(state["first.weight"], state["tied.weight"])
    assert not torch.equal(state["first.weight"], made.model.first.weight)  # more than the stored weight says
    other.store.load_model_state(other.model, state)
    assert other.model.tied.weight is other.model.first.weight
    assert torch.equal(other.store.best(other.model.tied.weight), state["tied.weight"])
    assert torch.equal(other.model.tied.weight, made.model.tied.weight)


def test_an_average_swapped_into_the_masters_is_published():
    made = setup("master")
    param = made.model.head.weight
    made.store.best(param).fill_(1.001)
    made.store.publish()
    assert torch.equal(param, torch.full_like(param, 1.0))
    assert (made.store.best(param) == torch.tensor(1.001)).all()


@pytest.mark.parametrize("low", ["fp16", "bf16"])
def test_micro_batches_are_summed_in_fp32(low):
    made, watched = setup("master", low=low, accumulate=3), setup("master", low=low)
    wanted = {}
    for step in range(3):
        made.step(step, micro_batches=3, clip=0.5)
        for param in watched.model.parameters():
            param.grad = None
        sums = {}
        for index in range(3):  # the same weights: `watched` takes made's state before each window
            watched.backward(step * 3 + index, factor=1 / 3)
            for name, param in watched.model.named_parameters():
                if param.grad is not None:
                    sums[name] = sums[name] + param.grad.float() if name in sums else param.grad.float()
                    param.grad = None
        norm = torch.stack([(total / 1024).norm() for total in sums.values()]).norm()
        for name, total in sums.items():
            wanted[name] = total / 1024 * (0.5 / (norm + 1e-6)).clamp(max=1)
        for name, param in made.model.named_parameters():
            found = made.store.gradient(param)
            if name == "unused":
                assert found is None
                continue
            torch.testing.assert_close(found, wanted[name], rtol=1e-5, atol=1e-9)
            assert (param.grad is None) == (param.dtype != torch.float32)
        assert made.scaler.outcome.grad_norm.item() == pytest.approx(norm.item(), rel=1e-5)
        watched.load(made.saved())


def test_a_weight_first_used_by_a_later_micro_batch_starts_its_sum_there():
    made = setup("master", accumulate=2)
    head, unused = made.model.head.weight, made.model.unused
    for window in (1.0, 2.0):
        head.grad, unused.grad = torch.full_like(head, window), None
        made.store.collect_gradients(first=True)
        assert made.store.gradient(unused) is None
        head.grad, unused.grad = torch.full_like(head, 2.0**-9), torch.full_like(unused, window)
        made.store.collect_gradients(first=False)
        assert (made.store.gradient(head) == window + 2.0**-9).all()  # BF16 would lose the second
        assert (made.store.gradient(unused) == window).all()


@pytest.mark.parametrize("low", ["fp16", "bf16"])
@pytest.mark.parametrize(("kind", "rounding"), STORES)
def test_clipping_is_fp32_clipping(kind, rounding, low):
    made = setup(kind, rounding, low=low, optimizer="SGD", lr=1.0)
    for group in made.optimizer.param_groups:
        group |= {"weight_decay": 0.0, "momentum": 0.0, "nesterov": False}
    for param in made.model.parameters():
        param.grad = None
    made.backward(0)
    gradients = {name: p.grad.float() / 1024 for name, p in made.model.named_parameters() if p.grad is not None}
    before = {name: made.store.best(p).float().clone() for name, p in made.model.named_parameters()}
    norm = torch.stack([g.norm() for g in gradients.values()]).norm()
    made.finish(clip=0.25 * norm.item())
    assert made.scaler.outcome.grad_norm.item() == pytest.approx(norm.item(), rel=1e-6)
    for name, param in made.model.named_parameters():
        if name in gradients and (kind == "master" or param.dtype == torch.float32):
            update = before[name] - made.store.best(param)
            torch.testing.assert_close(update, 0.25 * gradients[name], rtol=1e-4, atol=1e-7)


def test_gradients_too_small_for_fp16_once_unscaled_are_not_lost():
    made = setup("master", low="fp16", optimizer="SGD", lr=1.0)
    param = made.model.unused
    made.store.best(param).zero_()
    made.store.publish()
    param.grad = torch.full_like(param, 2.0**-20)
    made.finish()
    assert (made.store.best(param) == -(2.0**-30) * 1.9).all()  # Nesterov's first step is 1 + momentum


@pytest.mark.parametrize("optimizer", ["SGD", "AdamW", "NAdam"])
@pytest.mark.parametrize("target", STORES)
def test_a_run_goes_on_in_another_precision(target, optimizer):
    first, second, third = (setup(*kind, optimizer=optimizer) for kind in [("fp32",), target, ("fp32",)])
    for step in range(3):
        first.step(step)
    saved = first.saved()
    second.load(saved)
    for name, param in second.model.named_parameters():
        assert torch.equal(second.store.best(param), saved["model"][name].to(second.store.best(param).dtype))
        assert torch.equal(param, saved["model"][name].to(param.dtype))
    low = {torch.bfloat16} if target[0] == "pure" else {torch.float32}
    params = [p for group in second.optimizer.param_groups for p in group["params"]]
    sizes = dict(enumerate(params))
    for index, entries in second.optimizer.state_dict()["state"].items():
        for key, value in entries.items():
            is_moment = value.dim() > 0 and value.shape == sizes[index].shape and sizes[index].dtype in low
            assert value.dtype in (low if is_moment else {torch.float32})
            assert torch.equal(value, saved["optimizer"]["state"][index][key].to(value.dtype))
    for step in range(3, 6):
        second.step(step)
    third.load(second.saved())
    assert {p.dtype for p in third.model.parameters()} == {torch.float32}
    assert {v.dtype for e in third.optimizer.state_dict()["state"].values() for v in e.values()} == {torch.float32}
    for param, other in zip(third.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(param, second.store.best(other).float())
    third.step(6)


def test_kahan_takes_over_what_rounding_wider_weights_loses():
    wide, made = setup("fp32"), setup("pure", "kahan")
    made.load(wide.saved())
    left = made.store.state_dict()["compensation"]
    for name, param in wide.model.named_parameters():
        stored = made.model.get_parameter(name).float()
        if name in left:
            torch.testing.assert_close(stored + left[name].float(), param.detach(), rtol=2**-15, atol=0)
    assert any(value.count_nonzero() for value in left.values())


def test_the_noise_follows_the_runs_seed_but_is_not_what_else_is_drawn_from_it():
    low = dict(setup("pure").model.named_parameters())
    states = [
        make_weight_store("pure", "stochastic", low, accumulate=1, seed=seed).state_dict()["generator"]["state"]
        for seed in (3, 3, 4)
    ]
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])
    assert not torch.equal(states[0], torch.Generator().manual_seed(3).get_state())


def test_noise_of_another_device_is_not_taken_over():
    made = setup("pure", "stochastic")
    state = made.store.state_dict()
    made.step(0)
    drawn = made.store.state_dict()["generator"]["state"]
    made.store.load_state_dict({"generator": {"device": "cuda", "state": torch.zeros(16, dtype=torch.uint8)}})
    assert torch.equal(made.store.state_dict()["generator"]["state"], drawn)
    made.store.load_state_dict(state)
    assert not torch.equal(made.store.state_dict()["generator"]["state"], drawn)


@pytest.mark.parametrize("optimizer", sorted(OPTIMIZERS))
@pytest.mark.parametrize(("kind", "rounding"), [store for store in STORES if store[1] != "stochastic"])
def test_many_buckets_have_the_bits_of_one(kind, rounding, optimizer, monkeypatch):
    one = setup(kind, rounding, optimizer=optimizer)
    monkeypatch.setattr(weights, "_BUCKET_ELEMENTS", 100)
    many = setup(kind, rounding, optimizer=optimizer)
    assert len(list(many.store._buckets())) > 3
    for step in range(5):
        for made in (one, many):
            made.step(step, clip=1.0)
    assert same_bits(one.numbers(), many.numbers()) == []


def test_formats_do_not_share_a_bucket():
    model = Small(torch.bfloat16)
    model.head.weight.data = model.head.weight.data.half()
    made = setup("pure", "kahan", model=model)
    for step in range(3):
        made.step(step)
    assert model.head.weight.dtype == torch.float16
    assert model.first.weight.dtype == torch.bfloat16
    moments = {p: made.optimizer.state[made.store.optimized(p)]["exp_avg"] for p in model.parameters() if p.ndim == 2}
    assert all(moment.dtype == param.dtype for param, moment in moments.items())


def test_fp32_weights_are_left_to_the_optimizer():
    made = setup("fp32")
    param = made.model.head.weight
    assert made.store.optimized(param) is param
    assert made.store.best(param).data_ptr() == param.data_ptr()
    assert isinstance(made.optimizer, torch.optim.AdamW)
    assert made.store.state_dict() == {}
    assert set(made.store.bytes().values()) == {0}
    made.store.measure_next = True
    made.step(0)
    assert made.store.lost is made.store.updated is None
    assert type(make_weight_store("pure", "kahan", {}, accumulate=1, seed=0)) is type(made.store)
