"""The folder that sweeps are tested in, and the command as a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ENV = {**os.environ, "OMP_NUM_THREADS": "1"}
MPTRAIN = [sys.executable, "-m", "mptrain"]
CONFIG = """\
model: {name: mlp, hidden: [16], norm: batch}
data: {name: synthetic, input_shape: [8], num_outputs: 4, num_train: 96, num_test: 50, batch_size: 8}
task: classification
optimizer: {name: adamw, lr: 0.01}
schedule: constant
train: {max_steps: 12, eval_every_steps: 6}
device: cpu
log: {every: 2}
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty folder with small.yaml in it, as the current one."""
    monkeypatch.chdir(tmp_path)
    Path("small.yaml").write_text(CONFIG)
    return tmp_path


def sweep(*arguments: str, code: int = 0) -> tuple[str, str]:
    """Run `mptrain sweep` to its end, which must have that exit code; return stdout and stderr."""
    done = subprocess.run([*MPTRAIN, "sweep", *arguments], capture_output=True, text=True, env=ENV, timeout=200)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout, done.stderr


def swept(*arguments: str, code: int = 0) -> dict:
    """Run `mptrain sweep --json` and return its object."""
    return json.loads(sweep(*arguments, "--json", code=code)[0])


def living(pids: list[int]) -> list[int]:
    """Return those of the processes that are still there."""
    found = []
    for pid in pids:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
                found.append(pid)
        except OSError:
            continue
    return found
