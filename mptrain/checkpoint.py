"""Checkpoints: atomic save, verified load, retention.

    checkpoints/step-00000312/   model.pt  optimizer.pt  trainer.pt  [ema.pt]   manifest.json (written last)

Owns: the on-disk format. A folder without a manifest whose sizes and checksums match is not a checkpoint. Must not:
know what the parts mean; the trainer hands in plain state (tensors, numbers, strings, lists, dicts) and gets it back.
Loading never runs code: `weights_only=True` throughout.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mptrain.durable import sync_folder, write_synced
from mptrain.errors import CapabilityError, CheckpointError, first_line

SCHEMA = 1
_MANIFEST = "manifest.json"
_TEMPORARY = ".saving-"


@dataclass(frozen=True)
class Checkpoint:
    """One complete checkpoint on disk."""

    path: Path
    manifest: Mapping[str, Any]

    @property
    def step(self) -> int:
        """Steps done when it was saved: the applied ones, or the attempted ones where skips count as steps."""
        return int(self.manifest["step"])

    @property
    def score(self) -> float | None:
        """The main metric, larger is better, where the run had just been evaluated."""
        value = self.manifest["score"]
        return None if value is None else float(value)


class CheckpointStore:
    """The checkpoints of one run: the newest `keep_last`, and the best one if `keep_best`."""

    def __init__(self, folder: Path, *, keep_last: int = 1, keep_best: bool = False) -> None:
        self.folder = folder
        self._keep_last = keep_last
        self._keep_best = keep_best

    def save(
        self, parts: Mapping[str, Any], *, step: int, applied_steps: int, attempted_steps: int, score: float | None
    ) -> Checkpoint:
        """Write `parts` as one checkpoint named after `step`, the steps done; earlier ones stay until it is complete.

        Raises CapabilityError where the folder cannot be made; OSError and torch's RuntimeError of a full disk pass.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CapabilityError(f"cannot save: {self.folder} cannot be made ({error.strerror})") from error
        self._remove_leftovers()
        target = self.folder / f"step-{step:08d}"
        temporary = self.folder / f"{_TEMPORARY}{target.name}"
        temporary.mkdir()
        manifest: dict[str, Any] = {"schema": SCHEMA, "step": step, "applied_steps": applied_steps}
        manifest |= {"attempted_steps": attempted_steps, "score": score}
        try:
            _write_checkpoint(temporary, parts, manifest)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)  # on a full disk the run's result needs this space
            raise
        self._put_in_place(temporary, target)
        self._rotate(step)
        return Checkpoint(target, manifest)

    def _put_in_place(self, temporary: Path, target: Path) -> None:
        """Rename a written checkpoint to its name; at every moment the old or the new one can be found."""
        if target.exists():  # the same step saved again, say after steps that were all skipped
            beside = target.with_name(f"{target.name}.new")
            if beside.exists():
                self._remove(beside)
            temporary.rename(beside)
            self._remove(target)
            temporary = beside
        temporary.rename(target)
        sync_folder(self.folder)

    def _remove(self, path: Path) -> None:
        """Remove a checkpoint; renamed first, so that a kill in between leaves no half one under its name."""
        doomed = path.rename(self.folder / f"{_TEMPORARY}old-{path.name}")
        shutil.rmtree(doomed)

    def complete(self) -> list[Checkpoint]:
        """Return the checkpoints with a readable manifest, oldest first; contents are verified by `load`."""
        found = []
        for path in sorted(self.folder.glob("step-*")):
            try:
                found.append(Checkpoint(path, read_manifest(path)))
            except CheckpointError:
                continue
        return sorted(found, key=lambda checkpoint: checkpoint.step)

    def latest(self) -> Checkpoint | None:
        """Return the newest complete checkpoint."""
        return max(self.complete(), key=lambda c: c.step, default=None)

    def best(self) -> Checkpoint | None:
        """Return the checkpoint with the highest score, the newest of equals."""
        return _best_of(self.complete())

    def _rotate(self, newest: int) -> None:
        """Remove what is not kept; later steps than the newest are of a future left by resuming before them."""
        complete = self.complete()
        past = [c for c in complete if c.step <= newest]
        kept = {c.path for c in past[-self._keep_last :]}
        if self._keep_best and (best := _best_of(past)):
            kept.add(best.path)
        for checkpoint in complete:
            if checkpoint.path not in kept:
                self._remove(checkpoint.path)

    def _remove_leftovers(self) -> None:
        for leftover in self.folder.glob(f"{_TEMPORARY}*"):
            shutil.rmtree(leftover, ignore_errors=True)


def _best_of(checkpoints: list[Checkpoint]) -> Checkpoint | None:
    scored = [c for c in checkpoints if c.score is not None]
    return max(scored, key=lambda c: (c.score, c.step), default=None)


def read_manifest(path: Path) -> dict[str, Any]:
    """Return a checkpoint's manifest; raise CheckpointError where it is missing, damaged or from a newer version."""
    try:
        manifest = json.loads((path / _MANIFEST).read_bytes())
        schema = manifest["schema"]
        if schema == SCHEMA:
            _check_manifest(manifest)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: not a complete checkpoint (no {_MANIFEST})") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path / _MANIFEST}: damaged ({error}); resume from an earlier checkpoint") from None
    if schema != SCHEMA:
        raise CheckpointError(
            f"{path}: checkpoint schema {schema}, this mptrain reads {SCHEMA}; use the version that wrote it"
        )
    return dict(manifest)


def load(path: Path, *, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Return a checkpoint's parts with tensors on `device`, after verifying sizes and checksums."""
    manifest = read_manifest(path)
    parts = {}
    for name, record in manifest["files"].items():
        file = path / name
        try:
            size = file.stat().st_size
            if size != record["bytes"] or _sha256(file) != record["sha256"]:
                raise CheckpointError(f"{file}: damaged (size or checksum differs); resume from an earlier checkpoint")
            parts[file.stem] = torch.load(file, map_location=device, weights_only=True)
        except (OSError, EOFError, RuntimeError, pickle.UnpicklingError) as error:
            raise CheckpointError(f"{file}: cannot be read ({first_line(error)})") from None
    return parts


def _check_manifest(manifest: dict[str, Any]) -> None:
    """Raise KeyError, TypeError or ValueError for a manifest that this module did not write."""
    manifest.setdefault("step", manifest["applied_steps"])  # written before skips could count as steps
    for key in ("step", "applied_steps", "attempted_steps"):
        if type(manifest[key]) is not int:
            raise TypeError(f"{key} is not a whole number")
    if type(manifest["score"]) not in (int, float, type(None)):
        raise TypeError("score is not a number")
    for name, record in manifest["files"].items():
        if Path(name).name != name:
            raise ValueError(f"{name!r} is not the name of a file in the checkpoint")
        _ = record["bytes"], record["sha256"]


def _write_checkpoint(folder: Path, parts: Mapping[str, Any], manifest: dict[str, Any]) -> None:
    """Write every part, then the manifest with their sizes and checksums (added under `files`)."""
    manifest["files"] = {f"{name}.pt": _write_part(folder / f"{name}.pt", state) for name, state in parts.items()}
    write_synced(folder / _MANIFEST, [json.dumps(manifest, indent=2, allow_nan=False).encode()])
    sync_folder(folder)


def _write_part(file: Path, state: Any) -> dict[str, Any]:
    torch.save(state, file)
    with file.open("rb") as handle:
        os.fsync(handle.fileno())
    return {"bytes": file.stat().st_size, "sha256": _sha256(file)}


def _sha256(file: Path) -> str:
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
