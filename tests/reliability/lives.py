"""A run that is killed again and again, and what it must come to all the same.

Each life is a fork of this process, which has imported everything: a life then takes a fraction of a second and not
four. The child runs the real command line.
"""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import torch

import mptrain.trainer.launch  # once, before the forks
from mptrain import checkpoint as checkpoints
from mptrain.checkpoint import CheckpointStore
from mptrain.cli.app import run as mptrain

CONFIG = """\
model: {name: mlp, hidden: [256, 256], norm: batch, dropout: 0.1}
data: {name: synthetic, input_shape: [64], num_outputs: 10, num_train: 1024, num_test: 64, batch_size: 16}
task: classification
optimizer: {name: adamw, lr: 1e-3}
schedule: constant
train: {max_steps: 1000000, deterministic: true}
checkpoint: {every: 2, keep_last: 2}
precision: {mode: fp16, loss_scale: {growth_interval: 7}}
ema: 0.99
device: cpu
log: {every: 5}
"""


def begin(*arguments: str) -> int:
    """Start `mptrain run lives.yaml ...` in a fork, in the current folder; return its process id."""
    child = os.fork()
    if child:
        return child
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    torch.set_num_threads(1)
    code = 1
    try:
        code = mptrain(["run", "lives.yaml", "--run-id", "a", "--quiet", *arguments])
    finally:
        os._exit(code)


def end(process: int) -> int:
    """Wait for a fork; return its exit code, or minus the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def store(folder: Path) -> CheckpointStore:
    """Return the store of the run in `folder`."""
    return CheckpointStore(folder / "runs" / "lives" / "a" / "checkpoints")


def wait_for_a_save_after(step: int, folder: Path, process: int) -> None:
    """Return once a checkpoint beyond `step` has its name; raise where the process ends or stalls before."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if any(int(path.name[5:13]) > step for path in store(folder).folder.glob("step-*")):
            return
        if os.waitpid(process, os.WNOHANG)[0]:
            raise AssertionError(f"a life ended by itself after step {step}")
        time.sleep(0.002)
    raise AssertionError(f"no save after step {step}")


def prepare(folder: Path) -> None:
    """Make `folder` the current one, with the config in it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "lives.yaml").write_text(CONFIG)
    os.chdir(folder)


def whole_state(folder: Path) -> dict[str, torch.Tensor]:
    """Return every tensor and number of a run's newest checkpoint by its path."""
    newest = store(folder).latest()
    assert newest is not None
    return flat(checkpoints.load(newest.path))


def flat(tree: object, path: str = "") -> dict[str, torch.Tensor]:
    """Return the tensors and numbers in nested containers by their path."""
    if isinstance(tree, dict | list | tuple):
        items = tree.items() if isinstance(tree, dict) else enumerate(tree)
        return {key: value for name, item in items for key, value in flat(item, f"{path}.{name}").items()}
    return {path: torch.as_tensor(tree)} if isinstance(tree, torch.Tensor | int | float) else {}


def differences(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> list[str]:
    """Return what is not bit-equal in two states."""
    names = first.keys() ^ second.keys()
    return [*names, *(name for name in first.keys() & second.keys() if not torch.equal(first[name], second[name]))]


def kill_at_random(folder: Path, kills: int, seed: int, *settings: str) -> int:
    """Kill a saving run `kills` times, then let it end; return the steps it had reached by then.

    After every kill there is a checkpoint newer than before, and each one with a manifest loads. The end has the bits
    of a run that was never killed. Raises AssertionError otherwise.
    """
    prepare(folder / "killed")
    generator, reached = random.Random(seed), 0
    for number in range(kills):
        process = begin("--resume", "auto", *settings)
        wait_for_a_save_after(reached, folder / "killed", process)
        time.sleep(generator.uniform(0, 0.15))
        os.kill(process, signal.SIGKILL)
        assert end(process) == -signal.SIGKILL
        found = store(folder / "killed").found()
        assert not found.unreadable, f"kill {number}: {found.unreadable}"
        for checkpoint in found.complete:
            checkpoints.verify(checkpoint.path)
        assert found.complete[-1].step > reached, f"kill {number} lost a checkpoint"
        reached = found.complete[-1].step
    last = f"--max-steps={reached + 4}"
    assert end(begin("--resume", "auto", *settings, last)) == 0
    prepare(folder / "whole")
    assert end(begin(*settings, last)) == 0
    lost = differences(whole_state(folder / "killed"), whole_state(folder / "whole"))
    assert not lost, f"after {kills} kills these differ from the run that was not killed: {lost[:5]}"
    return reached


def stop_at_random(folder: Path, number: int, name: str, seed: int) -> None:
    """Send a signal at a random moment; the run saves, exits 75, and resumed has the bits of a whole one."""
    prepare(folder / "stopped")
    process = begin()
    wait_for_a_save_after(0, folder / "stopped", process)
    time.sleep(random.Random(seed).uniform(0, 0.3))
    os.kill(process, getattr(signal, name))
    assert end(process) == 75, f"{name} number {number}"
    newest = store(folder / "stopped").latest()
    assert newest is not None
    last = f"--max-steps={newest.step + 3}"
    assert end(begin("--resume", "auto", last)) == 0
    prepare(folder / "whole")
    assert end(begin(last)) == 0
    lost = differences(whole_state(folder / "stopped"), whole_state(folder / "whole"))
    assert not lost, f"{name} number {number}: these differ from the run that was not stopped: {lost[:5]}"
