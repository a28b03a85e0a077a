"""A save that dies at any system call leaves a good checkpoint, and nothing half written that is taken for one."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from mptrain import checkpoint as checkpoints
from mptrain.checkpoint import CheckpointStore
from mptrain.errors import CheckpointError
from tests.reliability.faulty_disk import FaultyDisk

SCENARIOS: dict[str, Callable[[CheckpointStore], None]] = {
    "the first save": lambda store: save(store, 1),
    "one more": lambda store: [save(store, 1), save(store, 2)],
    "the same step again": lambda store: [save(store, 1), save(store, 2), save(store, 2, 0.5)],
    "after resuming before": lambda store: [save(store, 5), save(store, 9), save(store, 7)],
}


def parts(step: int, score: float | None) -> dict:
    content = torch.full((64,), step + (score or 0.0))
    return {"model": {"w": content}, "trainer": {"position": [0, step], "losses": [1.0, 2.0]}}


def save(store: CheckpointStore, step: int, score: float | None = None) -> None:
    store.save(parts(step, score), step=step, applied_steps=step, attempted_steps=step, score=score)


def last_save_dies(scenario: str, folder: Path, dies_at: int | None, *, torn: bool) -> tuple[FaultyDisk, int]:
    """Run a scenario on a disk that dies at a call of its last save; return the disk and the calls before that save."""
    store = CheckpointStore(folder, keep_last=1, keep_best=True)
    made: list[tuple[int, float | None]] = []
    real = store.save

    store.save = lambda parts, **point: made.append((point["step"], point["score"]))
    SCENARIOS[scenario](store)
    store.save = real
    with FaultyDisk().mounted():
        for step, score in made[:-1]:
            save(store, step, score)
    disk = FaultyDisk(dies_at, torn=torn)
    with disk.mounted():
        save(store, *made[-1])
    return disk, len(made) - 1


def good(folder: Path) -> list[int]:
    """Return the steps of the checkpoints that load, each holding what was saved for it."""
    steps = []
    for checkpoint in CheckpointStore(folder).complete():
        try:
            state = checkpoints.load(checkpoint.path)
        except CheckpointError:
            continue
        expected = parts(checkpoint.step, checkpoint.score)
        assert torch.equal(state["model"]["w"], expected["model"]["w"])
        assert state["trainer"] == expected["trainer"]
        steps.append(checkpoint.step)
    return steps


@pytest.mark.parametrize("ending", ["killed", "torn", "power cut"])
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_every_system_call_of_a_save_may_be_the_last(scenario, ending, tmp_path):
    whole, earlier = last_save_dies(scenario, tmp_path / "whole", None, torn=False)
    assert whole.calls > 20
    newest = good(tmp_path / "whole")[-1]
    for number in range(whole.calls):
        folder = tmp_path / str(number)
        disk, _ = last_save_dies(scenario, folder, number, torn=ending == "torn")
        assert disk.calls > number, "the disk did not die"
        if ending == "power cut":
            disk.lose_unsynced()
        survived = good(folder)
        if earlier:
            assert survived, f"call {number} of {whole.calls} left nothing to load"
        complete = [checkpoint.step for checkpoint in CheckpointStore(folder).complete()]
        assert survived == complete, f"call {number} of {whole.calls} left a half checkpoint with a manifest"
        with FaultyDisk().mounted():
            save(CheckpointStore(folder, keep_last=1, keep_best=True), newest + 1)  # life goes on, and clears up
        assert good(folder)[-1] == newest + 1
        assert not list(folder.glob(".saving-*"))
