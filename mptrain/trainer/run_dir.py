"""Where a run lives: `<output-dir>/<config name>/<run id>/`, its fixed file names, and which run `--resume` means.

Owns: folder names and the search for what to resume. Must not: write anything but the folder itself.
"""

from __future__ import annotations

import os
import re
import secrets
from datetime import datetime
from pathlib import Path

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


def find_resume(resume: str, output_dir: Path, name: str, run_id: str | None) -> tuple[Path, Checkpoint] | None:
    """Return (run folder, checkpoint) for `--resume`, or None where `auto` finds nothing to resume.

    `auto` means the newest checkpoint of this run id, or else of the run of this config that saved last. A path is
    a run folder or one checkpoint in it; raises CheckpointError where it holds none.
    """
    if not resume:
        raise ConfigError("--resume: is empty; give auto, a run folder, or a checkpoint in one")
    if resume != "auto":
        return _at_path(Path(resume))
    candidates = (output_dir / name).glob("*/") if run_id is None else [run_dir_for(output_dir, name, run_id)]
    newest = ((folder, CheckpointStore(folder / CHECKPOINTS).latest()) for folder in candidates)
    found = [(folder, checkpoint) for folder, checkpoint in newest if checkpoint is not None]
    # Ids chosen by users do not sort by time, so the time of the save decides.
    return max(found, key=lambda pair: pair[1].path.stat().st_mtime_ns, default=None)


def _at_path(path: Path) -> tuple[Path, Checkpoint]:
    if not os.path.exists(path):  # Path.exists raises on a name that is too long
        raise CheckpointError(f"--resume: {path} does not exist")
    if path.parent.name == CHECKPOINTS:
        return path.parent.parent, Checkpoint(path, read_manifest(path))
    if checkpoint := CheckpointStore(path / CHECKPOINTS).latest():
        return path, checkpoint
    raise CheckpointError(f"--resume: {path} holds no complete checkpoint")
