"""Slow proofs (`make reliability`): a saving run killed at random moments always leaves a checkpoint to resume from."""

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mptrain import checkpoint as checkpoints
from mptrain.checkpoint import CheckpointStore

CONFIG = """\
model: {name: mlp, hidden: [512, 512]}
data: {name: synthetic, input_shape: [64], num_outputs: 10, num_train: 1024, num_test: 64, batch_size: 32}
task: classification
optimizer: {name: adamw, lr: 1e-3}
schedule: constant
train: {max_steps: 1000000}
checkpoint: {every: 2}
device: cpu
"""
KILLS = 12


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_killed_at_random_moments_it_always_resumes(tmp_path):
    (tmp_path / "killed.yaml").write_text(CONFIG)
    store = CheckpointStore(tmp_path / "runs" / "killed" / "a" / "checkpoints")
    command = [sys.executable, "-m", "mptrain", "run", "killed.yaml", "--run-id", "a", "--resume", "auto", "--quiet"]
    generator, reached = random.Random(0), 0
    for _ in range(KILLS):
        process = subprocess.Popen(command, cwd=tmp_path, env={**os.environ, "OMP_NUM_THREADS": "1"})
        wait_for_a_later_save(store, reached, process)
        time.sleep(generator.uniform(0, 0.2))
        process.kill()
        process.wait()
        newest = store.latest()
        assert newest.step > reached, "the run did not go on from where it was killed"
        assert checkpoints.load(newest.path).keys() >= {"model", "optimizer", "scaler", "trainer"}
        reached = newest.step


def wait_for_a_later_save(store: CheckpointStore, step: int, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline:
        if any(int(Path(folder).name[5:13]) > step for folder in store.folder.glob("step-*")):
            return
        time.sleep(0.01)
    raise AssertionError(f"no save after step {step}; exit code {process.poll()}")
