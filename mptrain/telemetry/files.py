"""What a run leaves on disk: run.json, metrics.jsonl, events.jsonl, result.json, and strict JSON for every other file.

Owns: the run directory's JSON. Must not: import torch, print, or decide what is worth recording.

Strict means: a non-finite float is `null` with `"<key>_nonfinite": "nan" | "inf" | "-inf"` beside it (for a list, a
list of such flags), and only plain Python values are taken, so that a stray tensor fails at once and not in a reader.
"""

from __future__ import annotations

import contextlib
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
from mptrain.telemetry.lines import Lines
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


def indented(obj: Mapping[str, Any]) -> str:
    """Return `obj` as strict, indented JSON; raise TypeError for values that are not plain Python."""
    return json.dumps(strict_json(obj), indent=2, allow_nan=False) + "\n"


def _replace(path: Path, chunks: Iterable[bytes]) -> None:
    """Put a new file in the place of `path`, durably and all at once."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.unlink(missing_ok=True)  # left by a kill; were it a link, another file would be written
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
            self._temporary.unlink(missing_ok=True)
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


class RunFiles:
    """The reporter that records a run in its directory, which it makes.

    A disk that fills up or a folder that vanishes does not end the run: lines wait until they can be written, a folder
    is made anew, `warn` is told, and `flush` returns at the end what is not there.
    """

    def __init__(self, run_dir: Path, warn: Callable[[Event], None] = lambda event: None) -> None:
        try:
            run_dir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise cannot_write(run_dir, error) from error
        self._run_dir, self._warn = run_dir, warn
        self._metrics = Lines(run_dir / "metrics.jsonl")
        self._events = Lines(run_dir / "events.jsonl")
        self._texts: dict[str, str] = {}
        self._warned = self._vanished = False

    def write(self, name: str, text: str) -> None:
        """Write one of the run's own files, durably and all at once; raise CapabilityError where that cannot be."""
        self._texts[name] = text
        _replace(self._run_dir / name, [text.encode()])

    def remove_result(self) -> None:
        """Remove the result of an earlier process: a run that is killed has none. Raises DataError for a folder."""
        path = self._run_dir / "result.json"
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise DataError(f"{path}: cannot be removed ({error.strerror}); move it away to resume this run") from error

    def trim_after(self, attempted_steps: int, applied_steps: int, open_steps: int = 0) -> None:
        """Drop what was recorded after a restored point, so that a resumed run records each step once.

        So does the window of which `open_steps` steps had been taken there: it is recorded when it is full. Raises
        DataError for a damaged line that is not the last.
        """

        def is_before(record: Mapping[str, Any]) -> bool:
            if record["type"] == "eval":  # knows applied steps only
                return bool(record["applied_steps"] <= applied_steps)
            return bool(record["attempted_steps"] <= attempted_steps - open_steps)

        _keep(self._metrics, is_before)
        _keep(self._events, lambda event: bool(event["attempted_step"] <= attempted_steps))

    def flush(self) -> CapabilityError | None:
        """Write what waits; return as an error what of the run's records is not on the disk, None where all is."""
        for lines in (self._metrics, self._events):
            lines.flush()
        missing = sum(lines.waiting + lines.lost for lines in (self._metrics, self._events))
        if self._vanished:
            return CapabilityError(f"{self._run_dir} vanished while the run wrote to it: its earlier records are lost")
        if missing:
            why = next((lines.error for lines in (self._metrics, self._events) if lines.error), None)
            reason = f" ({why.strerror})" if why else ""
            return CapabilityError(f"{missing} records of {self._run_dir} could not be written{reason}")
        return None

    def _append(self, lines: Lines, attempted: int, applied: int, record: Mapping[str, Any]) -> None:
        """Add a record; raise TypeError for a value that is not plain Python."""
        line = _line(record)
        if lines.has_vanished():
            self._make_anew(attempted, applied)
        lines.append(line)
        if lines.error is not None and not self._warned:
            self._warned = True
            said = f"cannot write {lines.path}: {lines.error.strerror}; training goes on, records wait for free space"
            self._tell(attempted, applied, said)
        elif lines.error is None:
            self._warned = False

    def _make_anew(self, attempted: int, applied: int) -> None:
        """Make the folder again, with all that is known of the run but for the records that went with the old one."""
        self._vanished = True
        for lines in (self._metrics, self._events):
            lines.close()
        with contextlib.suppress(OSError, CapabilityError):  # then the lines wait, and that is told
            self._run_dir.mkdir(parents=True, exist_ok=True)
            for name, text in self._texts.items():
                self.write(name, text)
        self._tell(attempted, applied, f"{self._run_dir} vanished; training goes on, in a folder made anew")

    def _tell(self, attempted: int, applied: int, message: str) -> None:
        event = Event("warning", attempted, applied, message)
        self._warn(event)
        self._events.append(_line(_event_record(event)))

    def begin(self, info: RunInfo) -> None:
        """Write run.json: who the run is and how long it will be, for whoever looks on from outside."""
        self.write("run.json", indented({"schema": 1, "time": _now(), **asdict(info)}))

    def progress(self, progress: Progress) -> None:
        """Do nothing: only whole windows are recorded."""

    def window(self, progress: Progress) -> None:
        """Append a `train` record to metrics.jsonl."""
        record: dict[str, Any] = {"type": "train", "time": _now()}
        record.update({name: getattr(progress, name) for name in _PROGRESS_FIELDS})
        record["numerics"] = asdict(progress.numerics) if progress.numerics else None
        self._append(self._metrics, progress.attempted_steps, progress.applied_steps, record)

    def evaluated(self, evaluation: Evaluation) -> None:
        """Append an `eval` record to metrics.jsonl."""
        record = {
            "type": "eval",
            "time": _now(),
            "applied_steps": evaluation.applied_steps,
            "epoch": evaluation.epoch,
            "metrics": evaluation.metrics,
            "main_metric": evaluation.main_metric,
            "improved": evaluation.improved,
            "seconds": evaluation.seconds,
        }
        self._append(self._metrics, evaluation.applied_steps, evaluation.applied_steps, record)

    def event(self, event: Event) -> None:
        """Append a record to events.jsonl."""
        self._append(self._events, event.attempted_step, event.applied_steps, _event_record(event))

    def end(self, result: Mapping[str, Any]) -> None:
        """Write result.json and close the files."""
        self.flush()
        self._metrics.close()
        self._events.close()
        self.write("result.json", indented(result))


def _event_record(event: Event) -> dict[str, Any]:
    return {
        "time": _now(),
        "kind": event.kind,
        "attempted_step": event.attempted_step,
        "applied_steps": event.applied_steps,
        "message": event.message,
        "data": event.data,
    }


def _keep(lines: Lines, wanted: Callable[[Mapping[str, Any]], bool]) -> None:
    """Drop every record that is not `wanted`, and a torn last line."""
    lines.close()
    if not os.path.lexists(lines.path):
        return
    if not lines.path.is_file():  # a pipe would be waited for, and a link to nothing be written through
        raise DataError(f"{lines.path}: is not a regular file; move it away to resume this run")
    _replace(lines.path, _wanted_lines(lines.path, wanted))


def _wanted_lines(path: Path, wanted: Callable[[Mapping[str, Any]], bool]) -> Iterator[bytes]:
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                return
            try:
                keep = wanted(json.loads(line))
            except (ValueError, KeyError, TypeError, RecursionError):
                problem = "not a record of this file; remove the line to resume this run"
                raise DataError(f"{path}:{number}: {problem}") from None
            if keep:
                yield line


def _now() -> str:
    """Return the time now, ISO 8601, UTC, to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")
