"""Lines of UTF-8 files: in order, or any one of them; a line that is none is named by file and number.

Owns: reading and decoding lines. Must not: know what a line holds.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from mptrain.errors import DataError
from mptrain.interfaces import BadFiles

NEWLINE = ord("\n")
BLOCK = 2**24
"""Bytes that are searched for lines at a time."""


def decoded(raw: bytes, path: Path, number: int) -> str:
    """Return a line's text without its end, the first one's without a byte order mark.

    Raises DataError, which names the line, where it is no UTF-8.
    """
    try:
        text = raw.decode().removesuffix("\n").removesuffix("\r")
        return text.removeprefix("\ufeff") if number == 1 else text
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}:{number}: no UTF-8: byte 0x{raw[error.start]:02x} at column {error.start + 1}; convert the file "
            "(iconv -t utf-8), or set data.on_error=skip to leave the line out"
        ) from error


class Lines:
    """A file's lines in order, each with its number from 1; what is no UTF-8 is reported and left out."""

    def __init__(self, key: str, path: Path, bad_lines: BadFiles) -> None:
        self._key, self.path, self._bad_lines = key, path, bad_lines
        self.number = 0
        """Number of the line that was given last."""

    def __iter__(self) -> Iterator[str]:
        """Yield the lines' texts; raise DataError for a file that cannot be read."""
        try:
            with self.path.open("rb") as file:
                for self.number, raw in enumerate(file, 1):
                    try:
                        text = decoded(raw, self.path, self.number)
                    except DataError as error:
                        self._bad_lines.report(error)
                        continue
                    yield text
        except OSError as error:
            raise unreadable(self._key, self.path, error) from error


class IndexedLines:
    """Any line of a file by its index from 0, read when it is asked for: the file is never held whole."""

    def __init__(self, key: str, path: Path) -> None:
        """Find where the lines begin; raise DataError for a file that is missing, unreadable or empty."""
        self.path = path
        digest, bounds, size = hashlib.sha256(), [np.zeros(1, np.int64)], 0
        try:
            with path.open("rb") as file:
                while block := file.read(BLOCK):
                    digest.update(block)
                    bounds.append(np.flatnonzero(np.frombuffer(block, np.uint8) == NEWLINE) + (size + 1))
                    size += len(block)
        except OSError as error:
            raise unreadable(key, path, error) from error
        if size == 0:
            raise DataError(f"{key}: {path} is empty")
        self.sha256 = digest.hexdigest()
        self._bounds = np.concatenate(bounds)
        if self._bounds[-1] != size:
            self._bounds = np.append(self._bounds, size)  # the last line has no end of its own

    def __len__(self) -> int:
        return len(self._bounds) - 1

    def __getitem__(self, index: int) -> str:
        """Return a line's text; raise DataError, which names it, where it cannot be read or is no UTF-8."""
        start, end = self._bounds[index : index + 2].tolist()
        try:
            with self.path.open("rb") as file:
                file.seek(start)
                return decoded(file.read(end - start), self.path, index + 1)
        except OSError as error:
            raise unreadable("data", self.path, error) from error


def unreadable(key: str, path: Path, error: OSError) -> DataError:
    """Return the error that says that a file cannot be read, and why."""
    return DataError(f"{key}: {path.absolute()} cannot be read ({error.strerror})")
