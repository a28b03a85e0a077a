"""Weights stored low, in whole runs: what micro-batches summed in FP32 change for a planted overflow."""

import pytest

from tests.trainer.runs import fitted


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
