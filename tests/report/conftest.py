"""One small real sweep, made once, that several test files read."""

import os
from pathlib import Path

import pytest

from mptrain.cli.app import run as mptrain

CONFIG = """\
model: {name: mlp, hidden: [16], norm: batch}
data: {name: synthetic, input_shape: [8], num_outputs: 4, num_train: 256, num_test: 200, batch_size: 8}
task: classification
optimizer: {name: adamw, lr: 0.01}
schedule: constant
train: {max_steps: 20, eval_every_steps: 10}
device: cpu
log: {every: 5, numerics_every: 5}
checkpoint: {enabled: false}
"""
VARIANTS = {
    "fp32": [],
    "bf16": ["precision=bf16"],
    "fp16": ["precision=fp16", "precision.backend=emulated"],
    "fp16-static": ["precision=fp16", "precision.backend=emulated", "precision.loss_scale=1"],
    "kahan": ["precision=bf16-pure", "precision.rounding=kahan"],
}
SEEDS = 2


@pytest.fixture(scope="session")
def sweep(tmp_path_factory):
    """Return a folder above real runs: five variants of two seeds, and one that diverged."""
    folder = tmp_path_factory.mktemp("sweep")
    config = folder / "small.yaml"
    config.write_text(CONFIG)

    def train(run_id, *overrides):
        return mptrain(
            ["run", str(config), *overrides, "--run-id", run_id, "--output-dir", str(folder / "runs"), "--quiet"]
        )

    for name, overrides in VARIANTS.items():
        for seed in range(SEEDS):
            assert train(f"{name}-{seed}", f"seed={seed}", *overrides) == 0
    plants = "[" + ", ".join(f"{{what: nan_loss, at: {step}}}" for step in (7, 8, 9)) + "]"
    assert train("fp8-0", "precision=e4m3", "precision.backend=emulated", f"debug.plant={plants}") == 3
    return folder / "runs"


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Return an empty folder, as the current one."""
    monkeypatch.chdir(tmp_path)
    return Path(os.curdir)
