"""Writes that survive a power cut: the two calls that every atomic write is made of.

Owns: fsync. Must not: know what is written, or word errors.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path


def write_synced(path: Path, chunks: Iterable[bytes]) -> None:
    """Write a file and wait until it is on the disk; raise OSError as the system does."""
    with path.open("wb") as file:
        file.writelines(chunks)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Wait until the folder's entries (a rename in it) are on the disk; only POSIX systems can."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
