"""Where a run lives: `<output-dir>/<config name>/<run id>/`, its fixed file names, and which run `--resume` means.

Owns: folder names and the search for what to resume. Must not: write anything but the folder itself.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from mptrain.checkpoint import Checkpoint, CheckpointStore, read_manifest
from mptrain.config.wording import shorten
from mptrain.errors import CheckpointError, ConfigError

CHECKPOINTS = "checkpoints"
_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def new_run_id() -> str:
    """Return an id that sorts by time and does not collide."""
    return f"{datetime.now():%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"


def run_dir_for(output_dir: Path, name: str, run_id: str) -> Path:
    """Return the run's folder; raise ConfigError for an id that is not a plain folder name."""
    if not _RUN_ID.fullmatch(run_id):
        raise ConfigError(
            f"--run-id: {shorten(run_id)!r} must be letters, digits, '.', '_' or '-', at most 100 of them"
        )
    return output_dir / name / run_id


class ResumeFrom(NamedTuple):
    """What `--resume` means."""

    run_dir: Path
    checkpoint: Path | None = None
    """The one that was asked for; None: the newest."""
    falls_back: bool = False
    """Where the newest cannot be used, take the one before it (`auto`)."""


def find_resume(resume: str, output_dir: Path, name: str, run_id: str | None) -> ResumeFrom | None:
    """Return what to resume, or None where `auto` finds nothing.

    `auto` means this run id, or else the run of this config that saved last. A path is a run folder or one checkpoint
    in it; raises CheckpointError where it is neither.
    """
    if not resume:
        raise ConfigError("--resume: is empty; give auto, a run folder, or a checkpoint in one")
    if resume != "auto":
        return _at_path(Path(resume))
    candidates = (output_dir / name).glob("*/") if run_id is None else [run_dir_for(output_dir, name, run_id)]
    saved = {folder: max(times) for folder in candidates if (times := _save_times(folder))}
    # Ids chosen by users do not sort by time, so the time of the save decides.
    return ResumeFrom(max(saved, key=lambda folder: saved[folder]), falls_back=True) if saved else None


def _save_times(run_dir: Path) -> list[int]:
    """Return when each checkpoint of a run was saved, whole or not."""
    times = []
    for folder in CheckpointStore(run_dir / CHECKPOINTS).folders():
        with contextlib.suppress(FileNotFoundError):  # another process has just rotated it away
            times.append(folder.lstat().st_mtime_ns)  # of a link itself: it may lead nowhere
    return times


def _at_path(path: Path) -> ResumeFrom:
    if not os.path.exists(path):  # Path.exists raises on a name that is too long
        raise CheckpointError(f"--resume: {path} does not exist")
    if os.path.isfile(path):
        raise CheckpointError(f"--resume: {path} is a file; give a run folder, or a checkpoint folder in one")
    if path.parent.name == CHECKPOINTS:
        return ResumeFrom(path.parent.parent, path)
    if CheckpointStore(path / CHECKPOINTS).folders():
        return ResumeFrom(path)
    raise CheckpointError(f"--resume: {path} holds no complete checkpoint")


def candidates(source: ResumeFrom) -> tuple[list[Checkpoint], list[CheckpointError]]:
    """Return the checkpoints to try, the best choice first, and why others are none.

    Raises CheckpointError where the only one to try is none.
    """
    if source.checkpoint is not None:
        return [Checkpoint(source.checkpoint, read_manifest(source.checkpoint))], []
    store = CheckpointStore(source.run_dir / CHECKPOINTS)
    if not source.falls_back:
        return [store.newest()], []
    found = store.found()
    return found.complete[::-1], found.unreadable
