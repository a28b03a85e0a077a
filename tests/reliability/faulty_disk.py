"""A disk that dies at a chosen system call, and what a power cut then takes with it.

Everything that mptrain writes durably goes through `os` (see `mptrain/durable.py`), so its functions are where a call
can be counted, torn, or be the last one. What a call has done stays, as after SIGKILL; `lose_unsynced` then takes what
no fsync has secured: the contents of files, and renames in folders.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_CALLS = ("open", "write", "fsync", "close", "rename", "replace", "mkdir", "unlink", "rmdir")


class PowerCut(BaseException):
    """The moment of death; no `except Exception` may survive it."""


class FaultyDisk:
    """Counts calls; the one numbered `dies_at` (from 0), and all later ones, do not happen.

    With `torn`, a write that is the last call writes half of its bytes first.
    """

    def __init__(self, dies_at: int | None = None, *, torn: bool = False) -> None:
        self.calls = 0
        self._dies_at, self._torn = dies_at, torn
        self._real = {name: getattr(os, name) for name in _CALLS}
        self._real["fsync"] = lambda descriptor: None  # what it secures is kept in mind here; the real one takes 5 ms
        self._paths: dict[int, Path] = {}
        self._open: set[int] = set()
        self._unsynced_files: set[Path] = set()
        self._unsynced_renames: list[tuple[Path, Path]] = []

    @contextmanager
    def mounted(self) -> Iterator[None]:
        """Stand between mptrain and the system; returns normally where the disk died."""
        kept = {name: getattr(os, name) for name in _CALLS}
        for name in _CALLS:
            setattr(os, name, self._counted(name))
        try:
            yield
        except PowerCut:
            pass
        finally:
            for name, real in kept.items():
                setattr(os, name, real)
            for descriptor in self._open:  # as the end of a process would
                os.close(descriptor)
            self._open.clear()

    def _counted(self, name: str) -> Callable[..., Any]:
        def call(*arguments: Any, **keywords: Any) -> Any:
            number, self.calls = self.calls, self.calls + 1
            if self._dies_at is not None and number >= self._dies_at:
                if number == self._dies_at and self._torn and name == "write":
                    self._real["write"](arguments[0], bytes(arguments[1])[: len(arguments[1]) // 2])
                raise PowerCut
            result = self._real[name](*arguments, **keywords)
            self._note(name, arguments, keywords, result)
            return result

        return call

    def _note(self, name: str, arguments: tuple[Any, ...], keywords: dict[str, Any], result: Any) -> None:
        if name == "open":
            self._open.add(result)
        elif name == "close":
            self._open.discard(arguments[0])
        if name == "open" and "dir_fd" not in keywords:
            self._paths[result] = Path(arguments[0])
        elif name == "write":
            self._unsynced_files.add(self._paths[arguments[0]])
        elif name == "fsync":
            path = self._paths[arguments[0]]
            self._unsynced_files.discard(path)
            self._unsynced_renames = [pair for pair in self._unsynced_renames if pair[1].parent != path]
        elif name in ("rename", "replace"):
            before, after = Path(arguments[0]), Path(arguments[1])
            self._unsynced_renames.append((before, after))
            moved = {path for path in self._unsynced_files if path == before or before in path.parents}
            self._unsynced_files -= moved
            self._unsynced_files |= {after / path.relative_to(before) for path in moved}

    def lose_unsynced(self) -> None:
        """Take what no fsync has secured: files become empty, renames are undone, the last one first."""
        for path in self._unsynced_files:
            if path.exists():
                path.write_bytes(b"")
        for before, after in reversed(self._unsynced_renames):
            if after.exists() and not before.exists():
                after.rename(before)
