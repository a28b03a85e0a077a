"""Writes that survive a power cut: the calls that every atomic write is made of; and reads that end.

Owns: fsync, and the checksum of what was handed to the disk. Must not: know what is written, or word errors. Every
call to the system is one of `os`, so that a test can cut the power at each of them.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any


class SyncedFile:
    """A new file, on the disk when its context ends well; knows the size and SHA-256 of what it was given.

    The checksum is of the bytes that were meant to be written: one taken from the file would also bless what a bad
    disk made of them.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._sha256 = hashlib.sha256()
        self._failure: OSError | None = None
        self.size = 0

    def __enter__(self) -> SyncedFile:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_BINARY", 0)
        flags |= getattr(os, "O_NOFOLLOW", 0)  # nothing is written elsewhere
        self._descriptor = os.open(self._path, flags, 0o666)
        return self

    def write(self, content: Any) -> int:
        """Write all of `content` (bytes, or what can be viewed as such) and return its length."""
        view = memoryview(content).cast("B")
        self._sha256.update(view)
        written = 0
        while written < len(view):
            try:
                written += os.write(self._descriptor, view[written:])
            except OSError as failure:
                self._failure = failure
                raise
        self.size += written
        return written

    def flush(self) -> None:
        """Do nothing: nothing is held back."""

    @property
    def sha256(self) -> str:
        """The checksum of what was written so far, in hex."""
        return self._sha256.hexdigest()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                os.fsync(self._descriptor)
        finally:
            os.close(self._descriptor)
        if self._failure is not None:
            raise self._failure  # whatever the writer made of it: torch raises an error of its own


def write_synced(path: Path, chunks: Iterable[bytes]) -> None:
    """Write a file and wait until it is on the disk; raise OSError as the system does."""
    with SyncedFile(path) as file:
        for chunk in chunks:
            file.write(chunk)


def read_regular(path: Path) -> bytes:
    """Return a file's content; raise OSError as the system does, and for what is no file: a pipe would never end."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise OSError(errno.EINVAL, "it is no file")
    return path.read_bytes()


def sync_folder(folder: Path) -> None:
    """Wait until the folder's entries (a rename in it) are on the disk; only POSIX systems can."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
