"""The checkpoints of one run: which are kept, and how one comes and goes.

Owns: names, order and retention. Must not: know what is in a checkpoint (`files.py`).

A save writes into a temporary folder, reads it back, puts it in place by a rename, and only then removes older ones:
at every moment at least one whole checkpoint is on the disk, once there has been one.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from mptrain.checkpoint import files
from mptrain.checkpoint.manifest import SCHEMA, read_manifest
from mptrain.durable import sync_folder
from mptrain.errors import CapabilityError, CheckpointError

_TEMPORARY = ".saving-"
_PATTERN = "step-*"


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


class Found(NamedTuple):
    """What a store holds, by its manifests."""

    complete: list[Checkpoint]
    """Oldest first."""
    unreadable: list[CheckpointError]
    """Why the other folders are no checkpoints."""


class CheckpointStore:
    """The checkpoints of one run: the newest `keep_last`, and the best one if `keep_best`."""

    def __init__(self, folder: Path, *, keep_last: int = 1, keep_best: bool = False) -> None:
        self.folder = folder
        self._keep_last = keep_last
        self._keep_best = keep_best

    def save(
        self, parts: Mapping[str, Any], *, step: int, applied_steps: int, attempted_steps: int, score: float | None
    ) -> Checkpoint:
        """Write `parts` as one checkpoint named after `step`, the steps done; earlier ones stay until it is verified.

        Raises CapabilityError where the folder cannot be made, CheckpointError where what was written reads back
        differently; OSError and torch's RuntimeError of a full disk pass.
        """
        self._make_folder()
        self._remove_leftovers()
        target = self.folder / f"step-{step:08d}"
        temporary = self.folder / f"{_TEMPORARY}{target.name}"
        temporary.mkdir()
        manifest: dict[str, Any] = {"schema": SCHEMA, "step": step, "applied_steps": applied_steps}
        manifest |= {"attempted_steps": attempted_steps, "score": score}
        try:
            files.write(temporary, parts, manifest)
            files.verify(temporary)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)  # on a full disk the run's result needs this space
            raise
        self._put_in_place(temporary, target)
        self._rotate(step)
        return Checkpoint(target, manifest)

    def _make_folder(self) -> None:
        if self.folder.is_dir():
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            sync_folder(self.folder.parent)
        except OSError as error:
            raise CapabilityError(f"cannot save: {self.folder} cannot be made ({error.strerror})") from error

    def _put_in_place(self, temporary: Path, target: Path) -> None:
        """Rename a written checkpoint to its name; at every moment the old or the new one can be found."""
        if target.exists():  # the same step saved again, say after steps that were all skipped
            beside = target.with_name(f"{target.name}.new")
            if beside.exists():
                self._remove(beside)
            temporary.rename(beside)
            sync_folder(self.folder)
            self._remove(target)
            temporary = beside
        temporary.rename(target)
        sync_folder(self.folder)

    def _remove(self, path: Path) -> None:
        """Remove a checkpoint; renamed first, so that a kill in between leaves no half one under its name."""
        doomed = path.rename(self.folder / f"{_TEMPORARY}old-{path.name}")
        sync_folder(self.folder)
        shutil.rmtree(doomed)

    def found(self) -> Found:
        """Return the checkpoints with a readable manifest, and why the rest has none; contents are not verified."""
        found = Found([], [])
        for path in self.folders():
            try:
                found.complete.append(Checkpoint(path, read_manifest(path)))
            except CheckpointError as error:
                found.unreadable.append(error)
        found.complete.sort(key=lambda checkpoint: checkpoint.step)
        return found

    def folders(self) -> list[Path]:
        """Return everything that has a checkpoint's name, whole or not."""
        return sorted(self.folder.glob(_PATTERN))

    def complete(self) -> list[Checkpoint]:
        """Return the checkpoints with a readable manifest, oldest first; contents are verified by `load`."""
        return self.found().complete

    def newest(self) -> Checkpoint:
        """Return the newest checkpoint; raise CheckpointError where it is not whole, though an earlier one may be."""
        folders = self.folders()
        if not folders:
            raise CheckpointError(f"{self.folder.parent}: holds no checkpoint")
        return Checkpoint(folders[-1], read_manifest(folders[-1]))

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
