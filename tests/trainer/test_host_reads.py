"""The hot path never reads the device: counted as `_local_scalar_dense` over whole steps of the real loop."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from mptrain.catalog import REGISTRIES
from tests.trainer.runs import trainer

FUSED = [*sorted(entry.name for entry in REGISTRIES["optimizer"] if "fused" in entry.flags), "adagrad"]


class CountHostReads(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.reads = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.reads += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


def reads_in_50_steps(changes) -> int:
    made = trainer({"train": {"max_steps": 60}, **changes})
    reads_at = {}
    counter = CountHostReads()
    original = made._attempt

    def counted(window):
        original(window)
        reads_at[made._launched] = counter.reads

    made._attempt = counted
    with counter:
        made.fit()
    return reads_at[55] - reads_at[5]


def test_the_counter_counts():
    with CountHostReads() as counter:
        torch.ones(()).item()
        bool(torch.ones(()) > 0)
    assert counter.reads == 2


@pytest.mark.parametrize("mode", ["fp32", "bf16", "fp16", "fp64"])
@pytest.mark.parametrize("optimizer", FUSED)
def test_no_read_with_a_fused_optimizer(mode, optimizer):
    assert reads_in_50_steps({"optimizer": {"name": optimizer, "lr": 1e-3}, "precision": {"mode": mode}}) == 0


@pytest.mark.parametrize("mode", ["fp32", "fp16"])
def test_no_read_with_everything_on(mode):
    changes = {
        "model": {"norm": "batch", "dropout": 0.1},
        "precision": {"mode": mode, "loss_scale": {"hysteresis": 2}},
        "train": {"max_steps": 60, "clip_norm": 1.0, "clip_value": 0.5, "accumulate": 2},
        "optimizer": {"name": "sgd", "lr": 0.01, "weight_decay": 1e-4, "decay_norm_and_bias": False},
        "schedule": {"name": "cosine", "warmup_steps": 5},
        "ema": 0.99,
    }
    assert reads_in_50_steps(changes) == 0
