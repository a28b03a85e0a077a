"""Tar files as shards of samples, in webdataset's layout: members that share a name up to its first dot are a sample.

    000123.jpg  000123.cls  000124.jpg  000124.cls  ...

Owns: finding members by their headers, and reading one by its place. Must not: unpack anything, hold a member it was
not asked for, use a member's name as a path, or know what members mean.
"""

from __future__ import annotations

import glob
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from mptrain.config.wording import shorten
from mptrain.errors import ConfigError, DataError, first_line

MAX_NAMES = 100_000
"""A pattern that stands for more files than this is a slip of the pen."""


class Extent(NamedTuple):
    """Where in its shard a member's bytes lie."""

    offset: int
    size: int


@dataclass
class TarSample:
    """The members of one sample."""

    key: str
    """Their common name, folders included."""
    members: dict[str, Extent] = field(default_factory=dict)
    """By extension: what follows the first dot of the name, in lower case."""


def shard_paths(key: str, pattern: str) -> list[Path]:
    """Return the files that `pattern` stands for: `{000..146}` counts, `{a,b}` chooses, `*`, `?` and `[...]` match.

    Files that match are in order of their names. `key` is the config's, for errors: ConfigError for a pattern that
    stands for too many files, DataError for one that stands for none. A file that is not there is found out later.
    """
    paths: list[str] = []
    for name in _expanded(key, pattern):
        full = str(Path(name).expanduser())
        paths += sorted(glob.glob(full)) if glob.has_magic(full) else [full]
    if not paths:
        raise DataError(f"{key}: '{pattern}' matches no file in {Path.cwd()}; give the shards' names or a pattern")
    return list(map(Path, paths))


def _expanded(key: str, pattern: str) -> list[str]:
    braces = re.search(r"\{([^{}]*)\}", pattern)
    if braces is None:
        return [pattern]
    count = re.fullmatch(r"(\d+)\.\.(\d+)", braces[1])
    first, last = (int(count[1]), int(count[2])) if count else (0, 0)
    if last - first >= MAX_NAMES:
        raise ConfigError(f"{key}: '{pattern}' stands for over {MAX_NAMES:,} files")
    choices = [f"{n:0{len(count[1])}}" for n in range(first, last + 1)] if count else braces[1].split(",")
    return [
        name
        for choice in choices
        for name in _expanded(key, f"{pattern[: braces.start()]}{choice}{pattern[braces.end() :]}")
    ]


def tar_samples(path: Path) -> Iterator[TarSample]:
    """Yield a shard's samples in order, reading headers only; what is no regular file with an extension is passed over.

    Raises DataError naming a shard that is missing, compressed, damaged or cut short or that names places outside of
    it, and a sample that has two members of one extension.
    """
    sample = TarSample("")
    for member in _members(path):
        folder, _, name = member.name.rpartition("/")
        stem, _, extension = name.partition(".")
        if not (member.isreg() and stem and extension):
            continue
        key = f"{folder}/{stem}" if folder else stem
        if key != sample.key:
            if sample.members:
                yield sample
            sample = TarSample(key)
        if extension.lower() in sample.members:
            raise DataError(f"{path}: {key} has two members .{extension.lower()}; give every sample its own name")
        sample.members[extension.lower()] = Extent(member.offset_data, member.size)
    if sample.members:
        yield sample


def _members(path: Path) -> Iterator[tarfile.TarInfo]:
    try:
        with tarfile.open(path, "r:") as tar:
            while (member := tar.next()) is not None:
                tar.members = []  # type: ignore[attr-defined]  # or it would keep them all
                if member.name.startswith("/") or ".." in member.name.split("/"):
                    raise DataError(
                        f"{path}: its member {shorten(member.name)!r} lies outside of it; an archive that would write "
                        "elsewhere where it is unpacked is not read, make it anew with relative names"
                    )
                yield member
            # tarfile takes a damaged header for the end, too: the real one is marked by blocks of zeros.
            end = tar.offset
        with path.open("rb") as file:
            file.seek(end)
            if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                raise DataError(f"{path}: damaged or cut short at byte {end:,}; fetch or write this shard again")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check the path and its permissions") from error
    except (tarfile.TarError, ValueError, EOFError) as error:
        raise DataError(
            f"{path}: no tar file, a compressed one, or damaged ({first_line(error)}); shards are read in place, so "
            "unpack a compressed one, and fetch or write a damaged one again"
        ) from error


def read_member(path: Path, extent: Extent) -> bytes:
    """Return a member's bytes; raise DataError where the shard has changed or cannot be read."""
    try:
        with path.open("rb") as file:
            file.seek(extent.offset)
            content = file.read(extent.size)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check the path and its permissions") from error
    if len(content) < extent.size:
        raise DataError(f"{path}: is shorter than when its members were listed; leave shards alone during a run")
    return content
