"""The parts of a checkpoint as files: one `<part>.pt` each, and the manifest.

Owns: writing them durably, verifying them against the manifest, reading them. Must not: name or remove checkpoints
(`store.py`).
"""

from __future__ import annotations

import hashlib
import os
import pickle
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from mptrain.checkpoint.manifest import read_manifest, write_manifest
from mptrain.durable import SyncedFile, sync_folder
from mptrain.errors import CheckpointError, first_line
from mptrain.torch_files import read_torch_file


def write(folder: Path, parts: Mapping[str, Any], manifest: dict[str, Any]) -> None:
    """Write every part, then the manifest with their sizes and checksums (added under `files`); all is on the disk."""
    manifest["files"] = {f"{name}.pt": _write_part(folder / f"{name}.pt", state) for name, state in parts.items()}
    write_manifest(folder, manifest)
    sync_folder(folder)


def _write_part(path: Path, state: Any) -> dict[str, Any]:
    with SyncedFile(path) as file:
        torch.save(state, file)  # type: ignore[arg-type]  # its `write` is all that torch calls
    return {"bytes": file.size, "sha256": file.sha256}


def verify(path: Path) -> dict[str, Any]:
    """Return a checkpoint's manifest after comparing size and checksum of every part with it.

    Raises CheckpointError, one line, for the first that differs. Reads everything: about 1 s per 2 GB.
    """
    manifest = read_manifest(path)
    for name, record in manifest["files"].items():
        _verify_part(path / name, record)
    return manifest


def load(path: Path, *, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Return a checkpoint's parts with tensors on `device`, after verifying sizes and checksums."""
    parts = {}
    for name in verify(path)["files"]:
        file = path / name
        with _reading(file):
            parts[file.stem] = read_torch_file(file, device)
    return parts


def _verify_part(file: Path, record: Mapping[str, Any]) -> None:
    with _reading(file):
        if os.path.islink(file) or (os.path.exists(file) and not os.path.isfile(file)):
            raise CheckpointError(f"{file}: damaged (it is no file of its own); resume from an earlier checkpoint")
        size, due = file.stat().st_size, record["bytes"]
        if size != due:
            what = "is empty" if not size else f"has {size} bytes instead of {due}"
            raise CheckpointError(f"{file}: damaged ({what}); resume from an earlier checkpoint")
        with file.open("rb") as content:
            checksum = hashlib.file_digest(content, "sha256").hexdigest()
        if checksum != record["sha256"]:
            raise CheckpointError(f"{file}: damaged (its checksum differs); resume from an earlier checkpoint")


@contextmanager
def _reading(file: Path) -> Iterator[None]:
    """Turn what the body raises over a file that cannot be read into CheckpointError."""
    try:
        yield
    except FileNotFoundError:
        raise CheckpointError(f"{file}: damaged (it is missing); resume from an earlier checkpoint") from None
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{file}: cannot be read: it holds more than tensors and plain values, and loading never runs code "
            f"({first_line(error)[:120]})"
        ) from None
    except (OSError, EOFError, RuntimeError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise CheckpointError(f"{file}: cannot be read ({first_line(error)})") from None
