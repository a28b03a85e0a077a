"""The step of low weights reads no device, sees every FP32 copy in the weight's own layout, and counts what is lost."""

import pytest
import torch
from torch import nn

from mptrain.precision.flat_layout import FlatLayout
from mptrain.precision.weight_rounding import pure_notices, round_compensated
from tests.precision.low_weights import OPTIMIZERS, STORES, setup
from tests.trainer.test_host_reads import CountHostReads, NoticeHostReads


@pytest.mark.parametrize(("kind", "rounding"), STORES)
@pytest.mark.parametrize("optimizer", ["SGD", "AdamW", "Adagrad"])
@pytest.mark.parametrize("low", ["fp16", "bf16"])
def test_no_host_read_with_a_fused_optimizer(kind, rounding, optimizer, low):
    made = setup(kind, rounding, optimizer=optimizer, low=low, accumulate=2)
    counter, notice = CountHostReads(), NoticeHostReads()
    for step in range(5):
        made.store.measure_next = step % 2 == 0
        with counter, notice:
            made.step(step, micro_batches=2, clip=1.0, spoil=step == 3)
    assert counter.reads == 0
    assert notice.seen == set()


@pytest.mark.parametrize(("kind", "rounding"), STORES)
def test_the_optimizer_finds_its_parameters_again_even_after_an_error(kind, rounding, monkeypatch):
    made = setup(kind, rounding)
    before = [list(map(id, group["params"])) for group in made.optimizer.param_groups]
    made.step(0)
    assert [list(map(id, group["params"])) for group in made.optimizer.param_groups] == before

    def fail(*_):
        raise RuntimeError("out of sorts")

    monkeypatch.setattr(made.scaler, "finish_", fail)
    with pytest.raises(RuntimeError, match="out of sorts"):
        made.step(1)
    assert [list(map(id, group["params"])) for group in made.optimizer.param_groups] == before


@pytest.mark.parametrize("optimizer", sorted(OPTIMIZERS))
def test_pure_state_is_low_and_laid_out_as_the_weight(optimizer):
    made = setup("pure", optimizer=optimizer)
    for step in range(3):
        made.step(step)
        for param in made.model.parameters():
            stand_in = made.store.optimized(param)
            assert stand_in.data_ptr() == param.data_ptr()
            for key, value in made.optimizer.state[stand_in].items():
                if value.dim():
                    assert value.dtype == param.dtype, key
                    assert value.stride() == param.stride(), key
                    assert value.untyped_storage().nbytes() == value.nbytes, key  # no view of a bucket's buffer
                else:
                    assert value.dtype == torch.float32, key
    assert made.model.conv.weight.is_contiguous(memory_format=torch.channels_last)


def test_a_weight_that_gets_no_gradient_keeps_its_bits_and_its_moments():
    made = setup("pure", "stochastic")
    made.model.unused.grad = torch.ones(5, dtype=torch.bfloat16)
    made.finish()
    before = made.numbers()
    made.step(1)
    after = made.numbers()
    for name in ("unused", "exp_avg 4", "exp_avg_sq 4", "step 4"):
        assert torch.equal(before[name], after[name])
    assert not torch.equal(before["conv.weight"], after["conv.weight"])


def test_a_layout_keeps_each_tensors_order_of_dimensions_and_alignment():
    like = [torch.zeros(2, 3, 4, 5).to(memory_format=torch.channels_last), torch.zeros(7, 3).t(), torch.zeros(())]
    like.append(torch.zeros(4, 6)[:, ::2])  # not dense
    layout = FlatLayout(like)
    flat = layout.zeros()
    for index, view in enumerate(layout.views(flat)):
        view.fill_(index + 1)
        assert view.data_ptr() % 128 == flat.data_ptr() % 128
    assert [view.stride() for view in layout.views(flat)] == [*(t.stride() for t in like[:3]), (3, 1)]
    assert [flat.eq(index + 1).sum().item() for index in range(4)] == [120, 21, 1, 12]
    tensors = [torch.randn(t.shape).bfloat16() for t in like]
    for view, tensor in zip(layout.views(layout.gather(tensors)), tensors, strict=True):
        assert torch.equal(view, tensor.float())


def test_kahan_keeps_the_sum_of_weight_and_compensation():
    generator = torch.Generator().manual_seed(0)
    old = torch.randn(1000, generator=generator).bfloat16().float()
    carried = (old * torch.rand(1000, generator=generator) * 2**-9).bfloat16().float()
    update = torch.randn(1000, generator=generator) * 1e-3
    rounded, left = round_compensated(old, old + update, carried, torch.zeros(()), torch.bfloat16)
    wanted = old.double() + update.double() + carried.double()
    assert ((rounded.double() + left.double() - wanted).abs() <= wanted.abs() * 2**-15).all()
    assert ((rounded.double() - wanted).abs() <= wanted.abs() * 2**-8).all()


def lost_share(rounding: str, *, gradient: float) -> tuple[int, int]:
    weight = torch.ones(64, 64, dtype=torch.bfloat16)
    weight[:16] = 2.0**-8  # a finer spacing: the same update moves it
    model = nn.Sequential(nn.Linear(64, 64, bias=False))
    model[0].weight.data = weight
    made = setup("pure", rounding, optimizer="SGD", lr=1.0, model=model)
    for group in made.optimizer.param_groups:
        group |= {"weight_decay": 0.0, "momentum": 0.0, "nesterov": False}
    model[0].weight.grad = torch.full_like(weight, gradient * 1024)
    model[0].weight.grad[:, :32] = 0
    made.store.measure_next = True
    made.finish()
    assert not made.store.measure_next
    found = made.store.lost.item(), made.store.updated.item()
    made.finish()  # not measured: what was counted stays
    assert (made.store.lost.item(), made.store.updated.item()) == found
    return found


def test_lost_updates_are_those_that_leave_no_trace():
    assert lost_share("nearest", gradient=2.0**-12) == (48 * 32, 64 * 32)
    assert lost_share("kahan", gradient=2.0**-12) == (0, 64 * 32)
    assert lost_share("nearest", gradient=2.0**-4) == (0, 64 * 32)
    lost, updated = lost_share("stochastic", gradient=2.0**-12)
    assert updated == 64 * 32
    assert lost == pytest.approx(48 * 32 * (1 - 2.0**-4), rel=0.05)  # spacing below 1 is 2**-8


def test_a_skipped_step_has_no_updates_to_lose():
    made = setup("pure")
    made.step(0)
    made.store.measure_next = True
    made.step(1, spoil=True)
    assert made.store.lost == made.store.updated == 0
    made.store.measure_next = True
    made.step(2)
    assert 0 < made.store.lost < made.store.updated


@pytest.mark.parametrize(
    ("low", "rounding", "settings", "words"),
    [
        ("bf16", "nearest", {"betas": (0.9, 0.999)}, ["beta2 0.999", "use beta2 0.9961 or less"]),
        ("bf16", "kahan", {"betas": (0.9, 0.999)}, ["cannot decay"]),
        ("bf16", "stochastic", {"betas": (0.9, 0.999)}, []),
        ("bf16", "nearest", {"betas": (0.9, 0.99)}, []),
        ("bf16", "nearest", {"alpha": 0.999}, ["with alpha 0.999"]),
        ("bf16", "nearest", {"momentum": 0.9}, []),
        ("fp16", "nearest", {"betas": (0.9, 0.999)}, ["second moments below 6e-08"]),
        ("fp16", "stochastic", {"alpha": 0.99}, ["second moments below 6e-08"]),
        ("fp16", "nearest", {"betas": (0.9, 0.9999)}, ["cannot decay", "second moments below 6e-08"]),
    ],
)
def test_what_moments_lose_is_said(low, rounding, settings, words):
    found = pure_notices(low, rounding, settings)
    assert bool(found) == bool(words)
    for word in words:
        assert word in " ".join(found)
