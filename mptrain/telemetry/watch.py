"""A run that another process is at work on, told to a console from what its folder holds.

Owns: following the files as they grow, and turning their records back into what a reporter receives. Must not: write
anything there, take the run's lock, or lay out what is shown (`live.py`, `plain.py`).

A resumed run trims its records and writes run.json anew, a folder may vanish and be made again: then what was shown no
longer holds, and the follower starts over with a fresh console.
"""

from __future__ import annotations

import heapq
import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from datetime import datetime
from pathlib import Path
from typing import Any

from mptrain.durable import read_regular
from mptrain.errors import DataError
from mptrain.telemetry.console import View
from mptrain.telemetry.records import Evaluation, Event, GradientHistogram, Numerics, Progress, RunInfo

KILLED = "killed: its process left no result; go on with mptrain run ... --resume auto"
_STARTED_OVER = "the run was taken up anew, or its folder vanished"


class RecordClock:
    """The time of the record that is being told, so that the past is shown at the pace it had; else the time now.

    Seconds since the epoch.
    """

    def __init__(self) -> None:
        self.at: float | None = None

    def __call__(self) -> float:
        """Return the time."""
        return time.time() if self.at is None else self.at


class _StartOver(Exception):
    """What was read before is no longer what the folder holds."""


class _Tail:
    """The whole lines of a file that grows, each given once."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read = 0
        self._file: tuple[int, int] | None = None

    def records(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield each new record with its time; raise _StartOver where the file is another one, shorter or gone."""
        if not self._path.is_file():
            if self._read:
                raise _StartOver
            return
        with self._path.open("rb") as file:
            found = self._path.stat()
            if found.st_size < self._read or self._file not in (None, (found.st_dev, found.st_ino)):
                raise _StartOver
            self._file = found.st_dev, found.st_ino
            file.seek(self._read)
            for line in file:
                if not line.endswith(b"\n"):
                    return  # being written
                self._read += len(line)
                record = _read(line)
                if record is not None and isinstance(record.get("time"), str):
                    yield record["time"], record


class Follower:
    """Tells consoles, made by `make` with the clock to show by, what is in a run's folder and what comes to it."""

    def __init__(self, run_dir: Path, make: Callable[[RecordClock], View]) -> None:
        self._run_dir, self._make = run_dir, make
        self._clock = RecordClock()
        self._console: View | None = None
        self._about: bytes | None = None
        """What run.json held when the console was made."""

    @property
    def has_begun(self) -> bool:
        """Whether there has been anything to tell."""
        return self._about is not None

    def take_in(self, *, running: bool) -> bool:
        """Tell what is new; return whether there may be more to come.

        `running`: a process is at work in the folder. It must have been asked before this call: what was written before
        the process ended is then read here. Raises DataError for records that cannot be read.
        """
        try:
            self._tell_news()
            if not running:
                self._end()
        except (_StartOver, FileNotFoundError):  # the latter where a file goes between two looks at it
            self.leave(_STARTED_OVER)
            return True
        except OSError as error:
            raise DataError(f"{self._run_dir}: cannot read its records: {error.strerror}") from error
        except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError) as error:
            said = f"its records are damaged, or of another version of mptrain ({type(error).__name__}: {error})"
            raise DataError(f"{self._run_dir}: {said}") from error
        return running

    def leave(self, words: str) -> None:
        """Stop showing the run, with a last line that says why."""
        if self._console is not None:
            self._console.leave(words)
            self._console = None

    def _tell_news(self) -> None:
        about = _content(self._run_dir / "run.json")
        if self._console is not None and about != self._about:
            raise _StartOver
        if self._console is None:
            info = _read(about)
            if info is None:
                return  # model and data are still being built
            self._begin(about, info)
        assert self._console is not None
        for told, record in heapq.merge(*(tail.records() for tail in self._tails), key=lambda each: each[0]):
            self._at(told)
            _tell(self._console, record)
        self._clock.at = None

    def _begin(self, about: bytes | None, info: Mapping[str, Any]) -> None:
        self._about = about
        self._tails = [_Tail(self._run_dir / name) for name in ("events.jsonl", "metrics.jsonl")]
        self._at(info["time"])
        self._console = self._make(self._clock)
        picked = _picked(RunInfo, info)
        self._console.begin(RunInfo(**picked | {key: tuple(picked[key]) for key in ("planted", "notices")}))

    def _end(self) -> None:
        result = _read(_content(self._run_dir / "result.json"))
        if self._console is None:
            return
        if result is None:
            self.leave(KILLED)
        else:
            self._console.end(restored(result))

    def _at(self, told: str) -> None:
        self._clock.at = datetime.fromisoformat(told).timestamp()


def restored(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record with the floats that strict JSON has as null and a flag."""
    out = {key: restored(value) if isinstance(value, Mapping) else value for key, value in record.items()}
    for key, flag in record.items():
        name = key.removesuffix("_nonfinite")
        if name != key and isinstance(flag, str) and out.get(name, 0) is None:
            out[name] = float(flag)
    return out


def _tell(console: View, record: Mapping[str, Any]) -> None:
    """Hand one record to the console."""
    record = restored(record)
    match record.get("type"):
        case "train":
            picked = _picked(Progress, record)
            console.window(Progress(**picked | {"numerics": _numerics(picked["numerics"])}))
        case "eval":
            console.evaluated(Evaluation(**_picked(Evaluation, record)))
        case None:
            console.event(Event(**_picked(Event, record)))


def _numerics(sample: Mapping[str, Any] | None) -> Numerics | None:
    if sample is None:
        return None
    histogram = sample["histogram"]
    return Numerics(
        **_picked(Numerics, sample) | {"histogram": GradientHistogram(**_picked(GradientHistogram, histogram))}
    )


def _picked(kind: type, record: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a record has for the fields of a dataclass."""
    return {field.name: record[field.name] for field in fields(kind)}


def _content(path: Path) -> bytes | None:
    try:
        return read_regular(path)
    except PermissionError:  # it is there, and not for this reader
        raise
    except OSError:
        return None


def _read(text: bytes | None) -> dict[str, Any] | None:
    """Return the JSON object that `text` is, None where it is none."""
    try:
        found = json.loads(text) if text is not None else None
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None
