"""What a run leaves on disk: metrics.jsonl, events.jsonl, result.json, and strict JSON for every other file.

Owns: the run directory's JSON. Must not: import torch, print, or decide what is worth recording.

Strict means: a non-finite float is `null` with `"<key>_nonfinite": "nan" | "inf" | "-inf"` beside it (for a list, a
list of such flags), and only plain Python values are taken, so that a stray tensor fails at once and not in a reader.
A line reaches its file in one write, so a run that is killed leaves whole lines.
"""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mptrain.durable import sync_folder, write_synced
from mptrain.errors import CapabilityError, DataError
from mptrain.telemetry.records import Evaluation, Event, Progress, RunInfo

_PROGRESS_FIELDS = tuple(field.name for field in fields(Progress))
# Exact types: numpy.float64 is a subclass of float, yet not a value that belongs in a file.
_AS_THEY_ARE = frozenset({str, int, bool, type(None)})
_encode_line = json.JSONEncoder(allow_nan=False, check_circular=False, separators=(", ", ": ")).encode


def strict_json(obj: Mapping[str, Any]) -> dict[str, Any]:
    """Return `obj` with every non-finite float replaced by null and a flag; raise TypeError for what is not JSON."""
    out: dict[str, Any] = {}
    for key, value in obj.items():
        if type(key) is not str:
            raise TypeError(f"a JSON key must be a string, not {key!r} ({type(key).__name__})")
        out[key], flag = _split(value)
        if flag is not None:
            out[f"{key}_nonfinite"] = flag
    return out


def _split(value: Any) -> tuple[Any, Any]:
    """Return the strict JSON value and its non-finite flag (None where there is nothing to flag)."""
    kind = type(value)
    if kind in _AS_THEY_ARE:
        return value, None
    if kind is float:
        return (value, None) if math.isfinite(value) else (None, str(value))
    if isinstance(value, Mapping):
        return strict_json(value), None
    if kind is list or kind is tuple:
        pairs = [_split(item) for item in value]
        flags = [flag for _, flag in pairs]
        return [item for item, _ in pairs], flags if any(flags) else None
    raise TypeError(f"{kind.__module__}.{kind.__name__} is not a plain JSON value: {value!r:.80}")


def write_json(path: Path, obj: Mapping[str, Any]) -> None:
    """Write `obj` as strict, indented JSON; a reader sees the old file or the new one, never a part of it.

    Raises TypeError for values that are not plain Python, CapabilityError where the file cannot be written.
    """
    text = json.dumps(strict_json(obj), indent=2, allow_nan=False) + "\n"
    _replace(path, [text.encode()])


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8, like write_json; raise CapabilityError where the file cannot be written."""
    _replace(path, [text.encode()])


def _replace(path: Path, chunks: Iterable[bytes]) -> None:
    """Put a new file in the place of `path`, durably and all at once."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        write_synced(temporary, chunks)
        temporary.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        with contextlib.suppress(OSError):  # it is gone already, or the error above says what is wrong
            temporary.unlink()


def cannot_write(path: Path, error: OSError, option: str = "--output-dir") -> CapabilityError:
    """Return the error that says so in one line; `option` is the one that says where to write."""
    return CapabilityError(
        f"cannot write {path}: {error.strerror}; free space or permissions there, or choose another {option}"
    )


class NewLines:
    """A new file of JSON lines that takes the place of `path` when all is written, or leaves that as it was.

    Raises CapabilityError, which names `option`, where the file cannot be written.
    """

    def __init__(self, path: Path, option: str) -> None:
        self._path, self._option = path, option
        self._temporary = path.with_name(f".{path.name}.tmp")

    def __enter__(self) -> NewLines:
        with self._writing():
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._temporary.open("wb")
        return self

    def append(self, record: Mapping[str, Any]) -> None:
        """Add one line; raise TypeError for a value that is not plain Python."""
        line = _line(record)
        with self._writing():
            self._file.write(line)

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        try:
            with self._writing(), self._file:
                if kind is None:
                    self._file.flush()
                    os.fsync(self._file.fileno())
                    self._temporary.replace(self._path)
                    sync_folder(self._path.parent)
        finally:
            with contextlib.suppress(OSError):  # it is gone already, or the error says what is wrong
                self._temporary.unlink()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise cannot_write(self._path, error, self._option) from error


def _line(record: Mapping[str, Any]) -> bytes:
    return f"{_encode_line(strict_json(record))}\n".encode()


class _Lines:
    """An append-only file of JSON lines with one writer; it is made by the first line."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd: int | None = None

    def append(self, record: Mapping[str, Any]) -> None:
        """Add one line; raise TypeError for a value that is not plain Python, CapabilityError on a full disk."""
        line = _line(record)
        try:
            if self._fd is None:
                self._fd = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
            written = os.write(self._fd, line)
            if written < len(line):  # the disk filled up within the line: take the part back
                os.ftruncate(self._fd, os.fstat(self._fd).st_size - written)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            raise cannot_write(self._path, error) from error

    def keep(self, wanted: Callable[[Mapping[str, Any]], bool]) -> None:
        """Drop every record that is not `wanted`, and a torn last line."""
        self.close()
        if self._path.exists():
            _replace(self._path, self._wanted_lines(wanted))

    def _wanted_lines(self, wanted: Callable[[Mapping[str, Any]], bool]) -> Iterator[bytes]:
        with self._path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if not line.endswith(b"\n"):
                    return
                try:
                    keep = wanted(json.loads(line))
                except (ValueError, KeyError, TypeError):
                    problem = "not a record of this file; remove the line to resume this run"
                    raise DataError(f"{self._path}:{number}: {problem}") from None
                if keep:
                    yield line

    def close(self) -> None:
        """Close the file; a later append opens it again."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


class RunFiles:
    """The reporter that records a run in its directory, which it makes."""

    def __init__(self, run_dir: Path) -> None:
        try:
            run_dir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise cannot_write(run_dir, error) from error
        self._run_dir = run_dir
        self._metrics = _Lines(run_dir / "metrics.jsonl")
        self._events = _Lines(run_dir / "events.jsonl")

    def trim_after(self, attempted_steps: int, applied_steps: int) -> None:
        """Drop what was recorded after a restored point, so that a resumed run records each step once.

        Raises DataError for a damaged line that is not the last.
        """

        def is_before(record: Mapping[str, Any]) -> bool:
            if record["type"] == "eval":  # knows applied steps only
                return bool(record["applied_steps"] <= applied_steps)
            return bool(record["attempted_steps"] <= attempted_steps)

        self._metrics.keep(is_before)
        self._events.keep(lambda event: bool(event["attempted_step"] <= attempted_steps))

    def begin(self, info: RunInfo) -> None:
        """Do nothing: what is known before the first step is recorded in config.yaml, env.json and plan.json."""

    def progress(self, progress: Progress) -> None:
        """Do nothing: only whole windows are recorded."""

    def window(self, progress: Progress) -> None:
        """Append a `train` record to metrics.jsonl."""
        record: dict[str, Any] = {"type": "train", "time": _now()}
        record.update({name: getattr(progress, name) for name in _PROGRESS_FIELDS})
        record["numerics"] = asdict(progress.numerics) if progress.numerics else None
        self._metrics.append(record)

    def evaluated(self, evaluation: Evaluation) -> None:
        """Append an `eval` record to metrics.jsonl."""
        self._metrics.append(
            {
                "type": "eval",
                "time": _now(),
                "applied_steps": evaluation.applied_steps,
                "epoch": evaluation.epoch,
                "metrics": evaluation.metrics,
                "main_metric": evaluation.main_metric,
                "improved": evaluation.improved,
                "seconds": evaluation.seconds,
            }
        )

    def event(self, event: Event) -> None:
        """Append a record to events.jsonl."""
        self._events.append(
            {
                "time": _now(),
                "kind": event.kind,
                "attempted_step": event.attempted_step,
                "applied_steps": event.applied_steps,
                "message": event.message,
                "data": event.data,
            }
        )

    def end(self, result: Mapping[str, Any]) -> None:
        """Write result.json and close the files."""
        self._metrics.close()
        self._events.close()
        write_json(self._run_dir / "result.json", result)


def _now() -> str:
    """Return the time now, ISO 8601, UTC, to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")
