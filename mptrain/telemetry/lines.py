"""An append-only file of JSON lines that a full or vanished disk does not end.

Owns: what could not be written yet, and writing it when that is possible again. Must not: word warnings, or know what
a line means.

A line reaches its file in one write, so a run that is killed leaves whole lines.
"""

from __future__ import annotations

import errno
import os
from collections import deque
from pathlib import Path

_HELD_LINES = 10_000
"""Lines that wait for a disk to have room again; beyond them the oldest are lost. About 6 MB."""


class Lines:
    """A file of lines with one writer; it is made by the first line."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.error: OSError | None = None
        """Why the last line is not in the file; None where all are."""
        self.lost = 0
        """Lines that will never be in it."""
        self._waiting: deque[bytes] = deque()
        self._descriptor: int | None = None

    def append(self, line: bytes) -> None:
        """Add one line; where it cannot be written it waits, and `error` says why."""
        if len(self._waiting) == _HELD_LINES:
            self._waiting.popleft()
            self.lost += 1
        self._waiting.append(line)
        self.flush()

    def flush(self) -> None:
        """Write what waits, as far as that is possible."""
        try:
            while self._waiting:
                self._write(self._waiting[0])
                self._waiting.popleft()
        except OSError as error:
            self.error = error
        else:
            self.error = None

    @property
    def waiting(self) -> int:
        """The number of lines that wait."""
        return len(self._waiting)

    def has_vanished(self) -> bool:
        """Say whether the file that was written to is in no folder any more."""
        return self._descriptor is not None and os.fstat(self._descriptor).st_nlink == 0

    def _write(self, line: bytes) -> None:
        if self._descriptor is None:
            self._descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        written = os.write(self._descriptor, line)
        if written < len(line):  # the disk filled up within the line: take the part back
            os.ftruncate(self._descriptor, os.fstat(self._descriptor).st_size - written)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def close(self) -> None:
        """Close the file; a later line opens it again."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
