"""Emulated runs against native ones: the same losses over a whole training, and the same steps skipped."""

import pytest

from mptrain.trainer.trainer import Trainer
from tests.trainer.runs import fitted

RUN = {
    "model": {"name": "small_cnn", "widths": [8, 16]},
    "data": {"name": "synthetic", "input_shape": [1, 8, 8], "num_outputs": 4, "num_train": 64, "batch_size": 16},
    "train": {"max_steps": 30},
    "optimizer": {"name": "adamw", "lr": 0.003},
    "log": {"every": 1, "numerics_every": 0},
}


def _run(precision: dict, **changes) -> Trainer:
    return fitted(RUN | {"precision": precision} | changes)


def _losses(made: Trainer) -> list[float]:
    return [window.loss for window in made.reporter.windows]


def _scales(made: Trainer) -> list[float]:
    return [window.loss_scale for window in made.reporter.windows]


@pytest.mark.parametrize(
    ("changes", "skips"),
    [
        ({}, 0),
        ({"debug": {"plant": [{"what": "inf_grad", "at": 7}]}}, 1),
        ({"precision": {"loss_scale": {"init_scale": 2.0**40, "max_scale": 2.0**40}}}, None),
    ],
    ids=["undisturbed", "planted", "natural"],
)
def test_emulated_fp16_learns_and_skips_as_native_fp16(changes, skips):
    changes = dict(changes)
    scaling = changes.pop("precision", {})
    native, emulated = (
        _run({"mode": "fp16", "backend": backend, **scaling}, **changes) for backend in ("native", "emulated")
    )
    assert emulated.ledger.counts == native.ledger.counts
    assert _scales(emulated) == _scales(native)
    assert _losses(emulated) == pytest.approx(_losses(native), rel=2e-3)
    skipped = native.ledger.counts.skipped
    assert skipped == skips if skips is not None else skipped > 5


def test_a_free_format_as_wide_as_fp32_is_fp32_bit_for_bit():
    assert _losses(_run({"mode": "e8m23", "backend": "emulated"})) == _losses(_run({"mode": "fp32"}))


@pytest.mark.parametrize(
    ("mode", "apart"), [("e5m10", 2e-3), ("e4m3", 2e-2), ("e8m0", 0.3), ("e1m3", 0.3), ("e2m0", 0.6)]
)
def test_narrower_free_formats_stray_further_and_stay_finite(mode, apart):
    exact, rounded = _losses(_run({"mode": "fp32"})), _losses(_run({"mode": mode, "backend": "emulated"}))
    assert rounded != exact
    assert rounded == pytest.approx(exact, rel=apart)
