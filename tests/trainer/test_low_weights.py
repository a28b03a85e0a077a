"""Weights stored low, in whole runs: what micro-batches summed in FP32 change for a planted overflow."""

import pytest
import torch
from torch import nn

from mptrain.config.schema import ModelConfig
from mptrain.interfaces import DataSpec
from tests.trainer.runs import PRECISIONS, build, fitted, precision_id, registered, same, weights


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("mode", ["fp16-master", "bf16-master", "fp16-pure"])
def test_a_planted_infinity_is_found_wherever_the_gradients_are(mode, accumulate):
    changes = {
        "precision": {"mode": mode, "backend": "emulated", "loss_scale": {"kind": "dynamic", "init_scale": 1024.0}},
        "train": {"max_steps": 4, "accumulate": accumulate, "clip_norm": 1.0},
        "debug": {"plant": [{"what": "inf_grad", "at": 2}]},
    }
    made = fitted(changes)
    assert (made.ledger.counts.applied, made.ledger.counts.skipped) == (4, 1)
    assert made.run.parts.scaler.current_scale() == 512.0


@pytest.mark.parametrize("mode", ["fp16-master", "bf16-master"])
def test_the_average_of_masters_begins_at_the_fp32_weights(mode):
    initial = build({"ema": 0.9}).parts.average.state_dict()
    average = build({"ema": 0.9, "precision": {"mode": mode}}).parts.average.state_dict()
    assert all(torch.equal(average[name], value) for name, value in initial.items())


@pytest.mark.parametrize("precision", PRECISIONS, ids=precision_id)
def test_the_same_seed_gives_the_same_bits(precision):
    changes = {"model": {"norm": "batch", "dropout": 0.1}, "precision": precision, "train": {"max_steps": 5}}
    assert same(weights(fitted(changes).run), weights(fitted(changes).run))


class _Odd(nn.Module):
    """Begins with a weight without elements, and has one without dimensions."""

    def __init__(self, config: ModelConfig, spec: DataSpec) -> None:
        super().__init__()
        self.empty, self.factor = nn.Parameter(torch.empty(0, 3)), nn.Parameter(torch.ones(()))
        self.head = nn.Linear(8, spec.num_outputs)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.head(inputs) * self.factor + self.empty.sum()


@pytest.mark.parametrize("kind", ["dynamic", "histogram"])
@pytest.mark.parametrize("precision", PRECISIONS, ids=precision_id)
def test_weights_without_elements_or_dimensions_are_trained_like_others(precision, kind):
    changes = {
        "model": {"name": "odd_for_tests"},
        "precision": precision | {"loss_scale": {"kind": kind, "histogram_every": 2}},
        "train": {"max_steps": 4, "accumulate": 2, "clip_norm": 1.0},
        "optimizer": {"name": "nadam", "lr": 0.01},
        "log": {"every": 5, "numerics_every": 2},
        "debug": {"plant": [{"what": "inf_grad", "at": 2}]},
    }
    with registered("odd_for_tests", _Odd):
        made = fitted(changes)
    assert (made.ledger.counts.applied, made.ledger.counts.skipped) == (4, 1)
    assert made.run.parts.model.factor != 1
