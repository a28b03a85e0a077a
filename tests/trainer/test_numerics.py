"""Numerics in the real loop: sampled on time, recorded, and without a read of the device."""

import math

import numpy as np
import pytest
import torch

from tests.trainer.runs import fitted, merged, trainer
from tests.trainer.test_host_reads import CountHostReads, NoticeHostReads

EVERY_5 = {"log": {"every": 5, "numerics_every": 5}, "train": {"max_steps": 20}}


def samples(made):
    return [event for event in made.reporter.events if event.kind == "numerics"]


def test_a_sample_every_so_many_attempts():
    made = fitted(EVERY_5)
    assert [event.attempted_step for event in samples(made)] == [5, 10, 15, 20]
    assert [event.attempted_step for event in samples(fitted({**EVERY_5, "log": {"numerics_every": 0}}))] == []


def test_details_by_parameter_add_up_to_the_summary():
    made = fitted(EVERY_5)
    data = samples(made)[-1].data
    by_parameter = data["by_parameter"]
    assert list(by_parameter) == [name for name, _ in made.run.parts.model.named_parameters()]
    assert data["amax"] == max(one["amax"] for one in by_parameter.values())
    assert data["grad_norm"] == pytest.approx(math.hypot(*(one["norm"] for one in by_parameter.values())))
    assert sum(one["elements"] for one in by_parameter.values()) == sum(
        p.numel() for p in made.run.parts.model.parameters()
    )


def test_a_window_shows_the_newest_sample():
    made = fitted(merged(EVERY_5, {"log": {"numerics_every": 10}}))
    shown = [window.numerics and window.numerics.attempted_step for window in made.reporter.windows]
    assert shown == [None, 10, 10, 20]


def test_what_is_measured_is_the_gradient_of_that_step():
    """The last step's gradients are still there when the run is over."""
    made = fitted(EVERY_5)
    data = samples(made)[-1].data
    grads = {name: param.grad for name, param in made.run.parts.model.named_parameters()}
    assert {name: one["amax"] for name, one in data["by_parameter"].items()} == {
        name: grad.abs().max().item() for name, grad in grads.items()
    }


def test_gradients_are_measured_before_they_are_clipped():
    made = fitted(merged(EVERY_5, {"train": {"clip_norm": 1e-3}}))
    for event in samples(made):
        assert event.data["grad_norm"] > 1e-3
    assert samples(made)[-1].data["grad_norm"] == pytest.approx(made.ledger.last.grad_norm, rel=1e-5)


def test_a_scale_is_part_of_the_sample():
    made = fitted(
        merged(EVERY_5, {"precision": {"mode": "fp16", "loss_scale": {"kind": "static", "init_scale": 1024.0}}})
    )
    data = samples(made)[-1].data
    assert (data["format"], data["loss_scale"]) == ("fp16", 1024.0)
    assert data["headroom"] == pytest.approx(math.log2(65504 / data["amax"] / 1024))


def test_the_histogram_is_of_the_gradients_as_the_backward_holds_them():
    scaling = {"kind": "static", "init_scale": 1024.0}
    made = fitted(merged(EVERY_5, {"precision": {"mode": "fp16", "loss_scale": scaling}}))
    data = samples(made)[-1].data
    grads = torch.cat([param.grad.flatten() for param in made.run.parts.model.parameters()])  # unscaled, FP32
    exponents = np.frexp(grads.numpy()[grads.numpy() != 0])[1] - 1 + 10
    found, first = data["histogram"], data["histogram"]["first_exponent"]
    assert found["counts"] == tuple(np.bincount(exponents - first))
    assert found["zeros"] == int((grads == 0).sum()) == grads.numel() - sum(found["counts"])
    window = made.reporter.windows[-1].numerics.histogram
    assert (window.first_exponent, window.counts, window.zeros) == tuple(found.values())


def test_what_is_not_finite_is_in_no_octave():
    made = fitted(merged(EVERY_5, {"debug": {"plant": [{"what": "inf_grad", "at": 5}]}}))
    found = samples(made)[0].data
    elements = sum(one["elements"] for one in found["by_parameter"].values())
    assert 0 < sum(found["histogram"]["counts"]) < elements - found["histogram"]["zeros"]


def test_a_sampled_step_that_overflows_is_recorded_as_it_was():
    made = fitted(merged(EVERY_5, {"debug": {"plant": [{"what": "inf_grad", "at": 5}]}}))
    first = samples(made)[0]
    assert first.attempted_step == 5
    assert first.data["amax"] == math.inf
    assert first.data["headroom"] == -math.inf


@pytest.mark.parametrize("clip", [{}, {"clip_norm": 1.0}, {"clip_value": 1.0}])
def test_an_overflow_names_its_culprit(clip):
    made = fitted({"train": {"max_steps": 10, **clip}, "debug": {"plant": [{"what": "inf_grad", "at": 4}]}})
    [overflow] = [event for event in made.reporter.events if event.kind == "overflow"]
    name, param = next(made.run.parts.model.named_parameters())  # where the drill plants it
    count = len(list(made.run.parts.model.parameters()))
    assert overflow.data["first"] == name
    assert (overflow.data["parameters"], overflow.data["nonfinite_parameters"]) == ([name], 1)
    assert overflow.message.endswith(f"(first in {name}, 1 of {count} parameters)")
    assert param.isfinite().all()


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("mode", ["fp16", "fp16-master", "fp16-pure", "fp64"])
def test_an_overflow_names_its_culprit_in_every_storage(mode, accumulate):
    precision = {"mode": mode, "loss_scale": {"init_scale": 8.0}} if mode != "fp64" else {"mode": mode}
    made = fitted(
        {
            "precision": precision,
            "optimizer": {"name": "sgd", "lr": 0.01},
            "train": {"max_steps": 6, "accumulate": accumulate},
            "debug": {"plant": [{"what": "inf_grad", "at": 3}]},
        }
    )
    [overflow] = [event for event in made.reporter.events if event.kind == "overflow"]
    assert overflow.data["parameters"] == [next(name for name, _ in made.run.parts.model.named_parameters())]


def test_a_loss_that_is_not_finite_is_not_blamed_on_a_parameter():
    made = fitted({"train": {"max_steps": 10}, "debug": {"plant": [{"what": "nan_loss", "at": 4}]}})
    [event] = [event for event in made.reporter.events if event.kind == "nonfinite_loss"]
    assert event.message == "skipped, the loss is nan"
    assert event.data["nonfinite_parameters"] == len(list(made.run.parts.model.parameters()))


@pytest.mark.parametrize("mode", ["fp32", "bf16", "fp16", "fp64"])
@pytest.mark.parametrize("clip", [{}, {"clip_norm": 1.0}])
def test_no_read_of_the_device_at_any_step(mode, clip):
    made = trainer(merged(EVERY_5, {"precision": {"mode": mode}, "train": clip, "log": {"numerics_every": 3}}))
    counter, notice, inner = CountHostReads(), NoticeHostReads(), made._step

    def watched(window):
        with notice, counter:
            return inner(window)

    made._step = watched
    made.fit()
    assert samples(made)
    assert (counter.reads, notice.seen) == (0, set())


def test_sampling_changes_no_bit():
    plain, sampled = (
        fitted({"train": {"max_steps": 12, "clip_norm": 1.0}, "log": {"numerics_every": every}}) for every in (0, 1)
    )
    for a, b in zip(plain.run.parts.model.parameters(), sampled.run.parts.model.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(("mode", "lost"), [("bf16-pure", True), ("bf16-master", False), ("bf16", False)])
def test_updates_lost_to_rounding(mode, lost):
    """A rate so low that a BF16 weight hardly ever moves; only weights that are stored low can lose an update."""
    made = fitted(merged(EVERY_5, {"precision": {"mode": mode}, "optimizer": {"name": "sgd", "lr": 1e-5}}))
    share = samples(made)[-1].data["lost_update_share"]
    assert share > 0.9 if lost else share is None


def test_stochastic_rounding_keeps_some_of_the_updates():
    def share(rounding):
        precision = {"mode": "bf16-pure", "rounding": rounding}
        made = fitted(merged(EVERY_5, {"precision": precision, "optimizer": {"name": "sgd", "lr": 1e-3}}))
        return samples(made)[-1].data["lost_update_share"]

    assert share("stochastic") < share("nearest")


def test_products_that_underflow_are_counted_where_they_are_emulated():
    def sample(scale):
        scaling = {"kind": "static", "init_scale": scale, "min_scale": 2.0**-24}
        precision = {"mode": "fp16", "backend": "emulated", "loss_scale": scaling}
        return samples(fitted(merged(EVERY_5, {"precision": precision})))[-1].data

    tiny, scaled = sample(2.0**-20), sample(1024.0)
    assert tiny["products"]["nonzero"] >= tiny["products"]["became_zero"] > 0
    assert tiny["underflow_share"] > 10 * scaled["underflow_share"]
    assert fitted(EVERY_5).reporter.windows[-1].numerics.underflow_share is None


def test_only_the_backward_of_sampled_steps_is_counted():
    made = trainer(merged(EVERY_5, {"precision": {"mode": "fp16", "backend": "emulated"}}))
    accumulation, counting = made.run.parts.policy.accumulation, []
    original = made.run.parts.numerics.counting

    def watched():
        context = original()
        with context:
            counting.append(accumulation.count_underflow)
        return original()

    made.run.parts.numerics.counting = watched
    made.fit()
    assert counting == [attempt % 5 == 0 for attempt in range(1, 21)]
    assert not accumulation.count_underflow


def test_groups_are_judged_at_their_own_scale():
    scaling = {"init_scale": 1024.0, "groups": [{"match": "re:^3", "init_scale": 4096.0}]}
    made = fitted(merged(EVERY_5, {"precision": {"mode": "fp16", "loss_scale": scaling}}))
    by_parameter = samples(made)[-1].data["by_parameter"]
    scales = {name: one["scaled_amax"] / one["amax"] for name, one in by_parameter.items()}
    assert scales == {"1.weight": 1024.0, "1.bias": 1024.0, "3.weight": 4096.0, "3.bias": 4096.0}
