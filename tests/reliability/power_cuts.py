"""Saves that die at every one of their system calls, and what must be there afterwards."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from mptrain import checkpoint as checkpoints
from mptrain.checkpoint import CheckpointStore
from mptrain.errors import CheckpointError
from tests.reliability.faulty_disk import FaultyDisk

Point = tuple[int, float | None]
"""Step and score."""
SCENARIOS: dict[str, list[Point]] = {
    "the first save": [(1, None)],
    "one more": [(1, None), (2, None)],
    "the same step again": [(1, None), (2, None), (2, 0.5)],
    "after resuming before": [(5, None), (9, None), (7, None)],
}
"""The saves of a store; the last one dies."""
ENDINGS: dict[str, Callable[[FaultyDisk], None]] = {
    "killed": lambda disk: None,
    "killed within a write": lambda disk: None,
    "power cut": FaultyDisk.lose_unsynced,
}


def die_at_every_call(scenario: str, ending: str, folder: Path) -> int:
    """Let the last save of `scenario` die at each of its calls; return how many there are.

    Afterwards a whole checkpoint must be there (where there was one before), nothing half may be taken for one, and
    the next save must succeed and clear up. Raises AssertionError otherwise.
    """
    folder.mkdir(parents=True, exist_ok=True)  # or the first save alone would make its parents, by more calls
    whole = _die(scenario, folder / "whole", None, ending)
    for number in range(whole.calls):
        here = folder / str(number)
        disk = _die(scenario, here, number, ending)
        assert disk.calls > number, "the disk did not die"
        ENDINGS[ending](disk)
        survived, complete = good(here), [found.step for found in CheckpointStore(here).complete()]
        assert survived or len(SCENARIOS[scenario]) == 1, f"call {number} of {whole.calls} left nothing to load"
        assert survived == complete, f"call {number} of {whole.calls} left a half checkpoint with a manifest"
        with FaultyDisk().mounted():
            _save(_store(here), 10, None)
        assert good(here)[-1] == 10
        assert not list(here.glob(".saving-*"))
    return whole.calls


def good(folder: Path) -> list[int]:
    """Return the steps of the checkpoints that load; each must hold what was saved for it."""
    steps = []
    for checkpoint in CheckpointStore(folder).complete():
        try:
            state = checkpoints.load(checkpoint.path)
        except CheckpointError:
            continue
        expected = _parts(checkpoint.step, checkpoint.score)
        assert torch.equal(state["model"]["w"], expected["model"]["w"])
        assert state["trainer"] == expected["trainer"]
        steps.append(checkpoint.step)
    return steps


def _die(scenario: str, folder: Path, dies_at: int | None, ending: str) -> FaultyDisk:
    *before, last = SCENARIOS[scenario]
    with FaultyDisk().mounted():
        for point in before:
            _save(_store(folder), *point)
    disk = FaultyDisk(dies_at, torn=ending == "killed within a write")
    with disk.mounted():
        _save(_store(folder), *last)
    return disk


def _store(folder: Path) -> CheckpointStore:
    return CheckpointStore(folder, keep_last=1, keep_best=True)


def _save(store: CheckpointStore, step: int, score: float | None) -> None:
    store.save(_parts(step, score), step=step, applied_steps=step, attempted_steps=step, score=score)


def _parts(step: int, score: float | None) -> dict[str, Any]:
    content = torch.full((64,), step + (score or 0.0))
    return {"model": {"w": content}, "trainer": {"position": [0, step], "losses": [1.0, 2.0]}}
