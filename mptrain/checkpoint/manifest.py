"""The manifest: what makes a folder a whole checkpoint.

Owns: its fields, and the reasons why a folder is none. Must not: read the parts (`files.py`), or import torch.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from mptrain.durable import read_regular, write_synced
from mptrain.errors import CheckpointError, first_line

SCHEMA = 1
MANIFEST = "manifest.json"


def write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    """Write `manifest`, whose `files` hold size and checksum of every part."""
    write_synced(folder / MANIFEST, [json.dumps(manifest, indent=2, allow_nan=False).encode()])


def read_manifest(path: Path) -> dict[str, Any]:
    """Return a checkpoint's manifest; raise CheckpointError where it is missing, damaged or from a newer version."""
    if os.path.isfile(path):
        raise CheckpointError(f"{path}: is a file; a checkpoint of mptrain is a folder with a {MANIFEST}")
    try:
        manifest = json.loads(read_regular(path / MANIFEST))
        schema = manifest["schema"]
        if schema == SCHEMA:
            _check(manifest)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: not a complete checkpoint (no {MANIFEST})") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(
            f"{path / MANIFEST}: damaged ({first_line(error)}); resume from an earlier checkpoint"
        ) from None
    if schema != SCHEMA:
        raise CheckpointError(
            f"{path}: checkpoint schema {schema!r:.20}, this mptrain reads {SCHEMA}; use the version that wrote it"
        )
    return dict(manifest)


def _check(manifest: dict[str, Any]) -> None:
    """Raise KeyError, TypeError or ValueError for a manifest that `write_manifest` did not write."""
    manifest.setdefault("step", manifest["applied_steps"])  # written before skips could count as steps
    for key in ("step", "applied_steps", "attempted_steps"):
        if type(manifest[key]) is not int:
            raise TypeError(f"{key} is not a whole number")
    if type(manifest["score"]) not in (int, float, type(None)):
        raise TypeError("score is not a number")
    for name, record in manifest["files"].items():
        if Path(name).name != name:
            raise ValueError(f"{name!r} is not the name of a file in the checkpoint")
        if type(record["bytes"]) is not int or type(record["sha256"]) is not str:
            raise TypeError(f"{name!r} has no size and checksum")
