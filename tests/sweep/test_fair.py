"""Every precision of a seed starts from the same weights and sees the same samples: what pairing by seed relies on."""

import torch

from mptrain.catalog import config_from_mapping
from mptrain.precision.modes import get_mode
from mptrain.trainer.build import build_run
from mptrain.trainer.materials import build_model
from tests.trainer.runs import BASE

MODES = ("fp32", "bf16", "fp16", "bf16-pure")


def start_of(mode: str, seed: int) -> dict:
    """Return what a run starts from: its weights before and after they are stored, and its first batches."""
    model = {"name": "mlp", "hidden": [16], "norm": "batch", "dropout": 0.1}
    config = config_from_mapping(
        BASE | {"seed": seed, "precision": {"mode": mode, "backend": "auto"}, "model": model}, source="test"
    )
    weights = {name: tensor.clone() for name, tensor in build_model(config)[2].state_dict().items()}
    run = build_run(config)
    batches = [batch.inputs.clone() for batch in run.train_loader.epoch(0)]
    return {
        "weights": weights,
        "stored": run.parts.model.state_dict(),
        "order": [run.train_loader.order(epoch) for epoch in range(3)],
        "batches": batches,
        "drawn_next": torch.rand(3),
    }


def test_all_precisions_of_a_seed_start_alike():
    baseline = start_of("fp32", seed=3)
    for mode in MODES[1:]:
        found = start_of(mode, seed=3)
        for what in ("order", "batches"):
            torch.testing.assert_close(found[what], baseline[what], rtol=0, atol=0)
        for name, tensor in baseline["weights"].items():
            assert torch.equal(found["weights"][name], tensor), (mode, name)
            stored = found["stored"][name]
            assert torch.equal(stored, tensor.to(stored.dtype)), (mode, name)
        assert any(tensor.dtype == torch.bfloat16 for tensor in found["stored"].values()) == get_mode(mode).pure
        # dropout draws from here on
        assert torch.equal(found["drawn_next"], baseline["drawn_next"]), mode


def test_another_seed_is_another_start():
    one, other = start_of("fp32", seed=3), start_of("fp32", seed=4)
    assert not torch.equal(one["order"][0], other["order"][0])
    assert any(not torch.equal(one["weights"][name], other["weights"][name]) for name in one["weights"])
