"""Gradients that are all exactly 0 for long end the run: nothing is learned, and nobody would notice."""

import pytest
import torch
from torch import nn

from mptrain.checkpoint import CheckpointStore, load
from mptrain.errors import DivergedError
from tests.trainer.runs import fitted, merged, registered, trainer
from tests.trainer.test_host_reads import reads_in_50_steps


class Dead(nn.Module):
    """Its hidden units never answer; `biased` leaves the last layer's bias to learn, one of many parameters."""

    def __init__(self, biased, layers=3):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(layers))
        self.last = nn.Linear(8, 4, bias=biased)

    def forward(self, inputs):
        for layer in self.layers:
            inputs = torch.relu(layer(inputs) - 1e6)
        return self.last(inputs)


def dead(changes=None, *, biased=False):
    with registered("dead", lambda config, spec: Dead(biased)):
        return trainer(merged({"model": "dead", "train": {"max_steps": 120}}, changes or {}))


@pytest.mark.parametrize("changes", [{}, {"train": {"clip_norm": 1.0}}, {"train": {"accumulate": 2}}], ids=str)
@pytest.mark.parametrize("mode", ["fp32", "fp64", "bf16", "bf16-master"])
def test_a_dead_network_ends_after_so_many_steps(mode, changes):
    made = dead(merged(changes, {"precision": {"mode": mode}}))
    with pytest.raises(
        DivergedError,
        match=r"^all gradients were exactly 0 in 50 steps in a row, up to attempted step 50 \(50 applied, no loss "
        r"scaling\) with loss 1\.38629, so nothing is learned; the loss does not depend on the weights \(a dead ReLU, ",
    ):
        made.fit()


def test_fp16_names_underflow_first():
    made = dead({"precision": {"mode": "fp16", "loss_scale": "none"}, "train": {"max_zero_gradients": 7}})
    with pytest.raises(
        DivergedError, match=r"step 7 .*; underflow: .*too small for fp16, .*precision\.loss_scale=dynamic"
    ):
        made.fit()


class Faint(nn.Module):
    """Answers so faintly that FP16 holds none of its gradients, unless they are scaled."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(8, 4)

    def forward(self, inputs):
        return self.layer(inputs) * 1e-9


def test_a_real_underflow_of_fp16():
    base = {"model": "faint", "train": {"max_steps": 30, "max_zero_gradients": 20}}
    with registered("faint", lambda config, spec: Faint()):
        with pytest.raises(DivergedError, match=r"step 20 \(20 applied, no loss scaling\).*; underflow: "):
            fitted({**base, "precision": {"mode": "fp16", "loss_scale": "none"}})
        for precision in ({"mode": "fp32"}, {"mode": "fp16"}):
            assert fitted({**base, "precision": precision}).ledger.counts.applied == 30


def test_one_parameter_that_learns_is_enough():
    made = dead(biased=True)
    made.fit()
    assert made.ledger.counts.applied == 120
    assert made.ledger.counts.consecutive_zero_gradients < 50


def test_looks_that_miss_the_one_that_learns_are_checked_before_the_run_ends():
    # 60 parameters and a limit of 5: most looks in a row meet dead ones, and all are looked at then.
    with registered("dead", lambda config, spec: Dead(True, layers=30)):
        made = fitted({"model": "dead", "train": {"max_steps": 120, "max_zero_gradients": 5}})
    assert made.ledger.counts.applied == 120


def test_null_goes_on():
    made = dead({"train": {"max_zero_gradients": None}})
    made.fit()
    assert made.ledger.counts.applied == 120
    assert made.ledger.last.witness == 1.0


def test_the_count_goes_on_over_a_resume(tmp_path):
    store = CheckpointStore(tmp_path / "checkpoints")
    with registered("dead", lambda config, spec: Dead(False)):
        base = {"model": "dead", "train": {"max_steps": 120}}
        fitted(merged(base, {"train": {"stop_at_step": 30}}), store)
        second = trainer(base)
    second.restore(load(store.latest().path, device=torch.device("cpu")))
    with pytest.raises(DivergedError, match=r"up to attempted step 50 "):
        second.fit()


def test_skipped_steps_are_no_zeros():
    planted = {"debug": {"plant": [{"what": "inf_grad", "at": 30}]}}
    with pytest.raises(DivergedError, match=r"50 steps in a row, up to attempted step 80 \(79 applied"):
        dead(planted).fit()


def test_looking_reads_nothing():
    assert reads_in_50_steps({"train": {"max_steps": 60, "max_zero_gradients": 1}}) == 0


def test_a_resumed_run_looks_at_the_same_gradients(tmp_path):
    # One of its four parameters learns, so the count depends on which one was looked at last.
    store = CheckpointStore(tmp_path / "checkpoints")
    with registered("dead", lambda config, spec: Dead(True, layers=1)):
        base = {"model": "dead", "train": {"max_steps": 10}}
        whole = fitted(base)
        fitted(merged(base, {"train": {"stop_at_step": 4}}), store)
        second = trainer(base)
        second.restore(load(store.latest().path, device=torch.device("cpu")))
        second.fit()
    assert whole.ledger.counts.consecutive_zero_gradients > 0
    assert second.ledger.counts == whole.ledger.counts
