"""A small run for the command line's tests, and strict readers of what it leaves."""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

CONFIG = """\
model: {name: mlp, hidden: [16], norm: batch}
data: {name: synthetic, input_shape: [8], num_outputs: 4, num_train: 96, num_test: 50, batch_size: 8}
task: classification
optimizer: {name: adamw, lr: 0.01}
schedule: constant
train: {epochs: 2}
device: cpu
log: {every: 5}
"""


def strict(text: str) -> dict:
    """Parse JSON; NaN and infinities are not JSON."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(text, parse_constant=refuse)


def result_of(run_id: str, name: str = "small") -> dict:
    """Return a run's result.json."""
    return strict(Path("runs", name, run_id, "result.json").read_text())


def as_another_user(folder: Path, act: Callable[[], int]) -> int:
    """Return what `act` returns in `folder`, in a process of a user who owns nothing there (of this one, if not root).

    The folder is entered before, so that those above it need not be open to others.
    """
    child = os.fork()
    if child == 0:
        code = 99
        try:
            os.chdir(folder)
            if os.geteuid() == 0:
                os.setuid(65534)
            code = act()
        finally:
            sys.stderr.flush()
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
