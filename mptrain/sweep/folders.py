"""What is in the folder of a planned run already: nothing, a finished run, one to go on with, or another run.

Owns: which endings are final. Must not: write, or import torch.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mptrain.catalog import load_config, to_yaml
from mptrain.config.problems import shown
from mptrain.config.schema import RunConfig
from mptrain.durable import read_regular
from mptrain.errors import ConfigError
from mptrain.sweep.plan import PlannedRun
from mptrain.trainer.resume import leaves
from mptrain.trainer.run_lock import run_status

Kind = Literal["new", "to resume", "running", "finished"]
FAILED_FOR_GOOD = frozenset({"diverged", "oom", "data_error", "unmet"})
"""Endings that another try would most likely have again: results, which only --retry-failed runs anew."""
FINAL = FAILED_FOR_GOOD | {"ok"}


@dataclass(frozen=True)
class Found:
    """What a folder holds of a planned run."""

    kind: Kind
    status: str | None = None
    """That of `mptrain.trainer.run_lock.run_status`; None where there is no run yet."""
    result: dict[str, Any] | None = None
    """result.json of a finished run."""


def look(runs: Sequence[PlannedRun], *, retry_failed: bool = False) -> list[Found]:
    """Return what the folder of each run holds; raise ConfigError naming every folder that holds another run."""
    found, problems = [], []
    for run in runs:
        difference = _difference(run)
        if difference is not None:
            problems.append(
                f"{run.label}: {run.run_dir} holds a run of another config ({difference}); remove it, or choose "
                "another --output-dir"
            )
        else:
            found.append(_look(run.run_dir, retry_failed))
    if problems:
        raise ConfigError(problems)
    return found


def _look(run_dir: Path, retry_failed: bool) -> Found:
    if not os.path.exists(run_dir / "config.yaml"):
        return Found("new")
    status = run_status(run_dir)
    if status == "running":
        return Found("running", status)
    if status == "ok" or (status in FINAL and not retry_failed):
        return Found("finished", status, read_result(run_dir))
    return Found("to resume", status)


def read_result(run_dir: Path) -> dict[str, Any] | None:
    """Return a run's result.json; None where there is none, or no object in it."""
    try:
        result = json.loads(read_regular(run_dir / "result.json"))
    except (OSError, ValueError):
        return None
    return result if isinstance(result, dict) else None


def _difference(run: PlannedRun) -> str | None:
    """Return the first key in which the recorded config differs from the planned one; None where none does."""
    recorded = run.run_dir / "config.yaml"
    try:
        text = read_regular(recorded).decode(errors="replace")
    except OSError as error:
        if not os.path.lexists(recorded):  # where it cannot even be, the run will say why
            return None
        return f"config.yaml cannot be read: {error.strerror}"
    if not text or text == to_yaml(run.config):  # empty: it was killed as it began
        return None
    try:
        was = load_config(recorded).config  # of another version of mptrain it may be the same in other words
    except ConfigError as error:
        return error.problems[0]
    return None if was == run.config else _first_change(was, run.config)


def _first_change(was: RunConfig, now: RunConfig) -> str:
    before, after = (dict(leaves(config.model_dump(mode="json"))) for config in (was, now))
    key = next(key for key in {**before, **after} if before.get(key) != after.get(key))
    return f"{key} was {shown(before.get(key))}, is {shown(after.get(key))}"
