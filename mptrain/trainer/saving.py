"""Saving while a run trains: in step with it or beside it, and what a save that fails means.

Owns: when the last save was, the copy for a save beside training, and the words for a failure. A save that fails does
not end the run: the earlier checkpoint stands, the next save tries again, and only a failure of the last one is the
run's. Must not: know what is saved (`state.py`) or how (`mptrain.checkpoint`).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from mptrain.checkpoint import Checkpoint, CheckpointStore
from mptrain.errors import CapabilityError, CheckpointError, MptrainError
from mptrain.trainer.endings import cannot_save, ending_of


class SavePoint(NamedTuple):
    """Which moment of a run is saved."""

    step: int
    """Steps done, as the run's length counts them."""
    applied_steps: int
    attempted_steps: int
    score: float | None
    """The main metric, larger is better, where it was measured at this very step."""


class SaveNews(NamedTuple):
    """How a save ended."""

    kind: str
    """`checkpoint` or `save_failed`."""
    message: str
    data: dict[str, Any]


class Saver(Protocol):
    """Saves a run's state."""

    def save(self, state: Callable[[], dict[str, Any]], point: SavePoint) -> list[SaveNews]:
        """Save what `state` returns unless this very point was saved; return what is known by now."""

    def news(self) -> list[SaveNews]:
        """Return how saves have ended since the last call."""

    def finish(self) -> list[SaveNews]:
        """Wait for a save that is on its way; return its news."""

    def take_over(self, point: SavePoint) -> None:
        """Take the restored point for saved."""

    def require_saved(self) -> None:
        """Raise the failure of the last save."""


class NoSaver:
    """Saves nothing (`checkpoint.enabled: false`)."""

    def save(self, state: Callable[[], dict[str, Any]], point: SavePoint) -> list[SaveNews]:
        """Do nothing."""
        return []

    def news(self) -> list[SaveNews]:
        """Return nothing."""
        return []

    def finish(self) -> list[SaveNews]:
        """Return nothing."""
        return []

    def take_over(self, point: SavePoint) -> None:
        """Do nothing."""

    def require_saved(self) -> None:
        """Do nothing."""


class StoreSaver:
    """Saves into a store while training waits."""

    def __init__(self, store: CheckpointStore) -> None:
        self._store = store
        self._saved: SavePoint | None = None
        self._failure: MptrainError | None = None

    def save(self, state: Callable[[], dict[str, Any]], point: SavePoint) -> list[SaveNews]:
        """Save what `state` returns unless this very point was saved."""
        if self._is_saved(point):
            return []
        return [self._write(state(), point)]

    def _is_saved(self, point: SavePoint) -> bool:
        return self._saved == point and self._failure is None

    def _write(self, state: Mapping[str, Any], point: SavePoint) -> SaveNews:
        try:
            checkpoint = self._store.save(state, **point._asdict())
        except (MptrainError, OSError, RuntimeError) as error:
            ending = cannot_save(error) if isinstance(error, OSError) else ending_of(error, training=True)
            if not isinstance(ending, CapabilityError | CheckpointError):
                raise
            self._failure = ending
            return SaveNews("save_failed", f"{ending}; {self._standing()}", {"step": point.step})
        self._saved, self._failure = point, None
        return _saved(checkpoint)

    def _standing(self) -> str:
        last = self._store.latest()
        stands = f"the last checkpoint is {last.path.name}" if last else "there is no checkpoint yet"
        return f"training goes on, {stands}"

    def news(self) -> list[SaveNews]:
        """Return nothing: `save` has told all."""
        return []

    def finish(self) -> list[SaveNews]:
        """Return nothing: nothing is on its way."""
        return []

    def take_over(self, point: SavePoint) -> None:
        """Take the restored point for saved."""
        self._saved = point

    def require_saved(self) -> None:
        """Raise the failure of the last save: CapabilityError or CheckpointError."""
        if self._failure is None:
            return
        last = self._store.latest()
        stands = f"the last checkpoint is {last.path.name}" if last else "there is no checkpoint"
        raise type(self._failure)(f"the last save failed: {self._failure}; {stands}") from self._failure


class BackgroundSaver(StoreSaver):
    """Saves in a thread: training waits for the copy off the device only (`checkpoint.async`).

    One save at a time: a second one waits for the first. The process does not: a daemon thread dies with it, and what
    it had written by then is no checkpoint yet.
    """

    def __init__(self, store: CheckpointStore) -> None:
        super().__init__(store)
        self._thread: threading.Thread | None = None
        self._ended: list[SaveNews] = []
        self._crash: BaseException | None = None

    def save(self, state: Callable[[], dict[str, Any]], point: SavePoint) -> list[SaveNews]:
        """Copy what `state` returns to the host and begin to save it; return how the save before it ended."""
        news = self.finish()
        if self._is_saved(point):
            return news
        copy = host_copy(state())
        self._thread = threading.Thread(target=self._run, args=(copy, point), name="save", daemon=True)
        self._thread.start()
        return news

    def _run(self, state: Mapping[str, Any], point: SavePoint) -> None:
        try:
            self._ended.append(self._write(state, point))
        except BaseException as error:  # raised in the thread that waits for it
            self._crash = error

    def news(self) -> list[SaveNews]:
        """Return how the save ended, if it has."""
        if self._thread is not None and not self._thread.is_alive():
            return self.finish()
        return []

    def finish(self) -> list[SaveNews]:
        """Wait for the save that is on its way; return how it ended."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._crash is not None:
            raise self._crash
        ended, self._ended = self._ended, []
        return ended


def make_saver(store: CheckpointStore | None, *, in_background: bool) -> Saver:
    """Return what saves into `store`, or nothing where there is none."""
    if store is None:
        return NoSaver()
    return BackgroundSaver(store) if in_background else StoreSaver(store)


def _saved(checkpoint: Checkpoint) -> SaveNews:
    return SaveNews("checkpoint", f"saved {checkpoint.path.name}", {"path": checkpoint.path.name})


def host_copy(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return `state` with every tensor copied into host memory, one copy of a tensor that occurs twice.

    From a GPU through pinned memory (torch keeps and reuses it), all tensors at once and one wait at the end.
    """
    copies: dict[int, Tensor] = {}
    copied: dict[str, Any] = _copied(state, copies)
    if any(copy.is_pinned() for copy in copies.values()):
        torch.cuda.current_stream().synchronize()
    return copied


def _copied(value: Any, copies: dict[int, Tensor]) -> Any:
    if isinstance(value, Tensor):
        if id(value) not in copies:
            pinned = torch.empty_like(value, device="cpu", pin_memory=value.is_cuda)
            copies[id(value)] = pinned.copy_(value.detach(), non_blocking=True)
        return copies[id(value)]
    if isinstance(value, Mapping):
        return {key: _copied(item, copies) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_copied(item, copies) for item in value)
    return value
