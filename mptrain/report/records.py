"""The records of a run's files as typed values, decoded strictly: what is foreign or damaged is named by file and line.

Owns: which fields of the files are read, and the words for what cannot be. Must not: decide what a record means.
Fields that are not listed here are skipped, yet must be JSON.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, TypeVar

import msgspec

from mptrain.durable import read_regular
from mptrain.errors import DataError
from mptrain.precision.in_force import InForce

_CHUNK = 1 << 17
UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What decoding raises for content that is foreign or damaged."""
_Count = Annotated[int, msgspec.Meta(ge=0)]
_T = TypeVar("_T")


class Train(msgspec.Struct, tag_field="type", tag="train", gc=False):
    """A logged window of metrics.jsonl."""

    attempted_steps: int
    applied_steps: int
    skipped_steps: int
    loss: float | None
    loss_scale: float | None
    samples_per_s: float | None
    step_time_ms: float | None
    data_wait_fraction: float | None
    peak_memory_bytes: int | None
    wall_s: float
    numerics: msgspec.Raw = msgspec.Raw(b"null")
    """Decoded where it is wanted only (`Numerics`): it stands in every window, and is long."""


class Eval(msgspec.Struct, tag_field="type", tag="eval", gc=False):
    """An evaluation of metrics.jsonl."""

    applied_steps: int
    metrics: dict[str, float | str | list[float | str | None] | None]
    """Numbers; also lists of them, and the flags of those that are not finite."""
    main_metric: str
    improved: bool


class Event(msgspec.Struct, gc=False):
    """A line of events.jsonl."""

    kind: str
    attempted_step: int
    applied_steps: int
    data: msgspec.Raw


class ScaleChange(msgspec.Struct, rename={"before": "from", "after": "to"}):
    """The data of a `scale_change` event."""

    before: float
    after: float


class Histogram(msgspec.Struct):
    """Gradient elements by power of two of their magnitude."""

    first_exponent: int
    counts: list[_Count]
    zeros: _Count


class Numerics(msgspec.Struct):
    """A sample of the gradients' magnitudes."""

    format: str
    loss_scale: float
    histogram: Histogram | None = None


class MainMetric(msgspec.Struct):
    """What a run is judged by."""

    name: str
    higher_is_better: bool


class StepTime(msgspec.Struct):
    """Step time in milliseconds."""

    median: float | None = None


class Result(msgspec.Struct):
    """result.json; a run that failed before it was built has few of its keys."""

    schema: int
    status: str
    exit_code: int
    error: str | None
    wall_s: float
    precision: InForce | None
    device: str | None
    planted: list[str] = []
    main_metric: MainMetric | None = None
    metrics: dict[str, float | str | list[float | str | None] | None] = {}
    applied_steps: int | None = None
    attempted_steps: int | None = None
    skipped_steps: int | None = None
    final_loss_scale: float | None = None
    train_loss: float | None = None
    samples_per_s: float | None = None
    step_time_ms: StepTime = msgspec.field(default_factory=StepTime)
    peak_memory_bytes: int | None = None
    data_wait_fraction: float | None = None


class RunInfo(msgspec.Struct):
    """run.json, written when training begins."""

    schema: int
    device: str
    total_steps: int


class Environment(msgspec.Struct):
    """env.json."""

    versions: dict[str, str | None]
    platform: str
    cpu: str
    torch_threads: int


def read_object(path: Path, kind: type[_T]) -> _T | None:
    """Return a JSON file decoded as `kind`, None where there is no such file; raise DataError for any other content."""
    try:
        content = read_regular(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    try:
        value = msgspec.json.decode(content, type=kind)
    except UNREADABLE as error:
        raise DataError(f"{path}: {_said(error)}") from None
    schema = getattr(value, "schema", 1)
    if schema != 1:
        raise DataError(f"{path}: its schema is {schema}, this mptrain reads schema 1; use the mptrain that wrote it")
    return value


def read_lines(path: Path, decoder: msgspec.json.Decoder[_T]) -> Iterator[list[_T]]:
    """Yield the records of a file of JSON lines, many at a time; nothing where there is no such file.

    A last line without its end is left out: a living run is writing it, or a killed one was. Raises DataError for any
    other line that is not one record.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # a pipe would never end
            raise OSError(errno.EINVAL, "it is no file")
        with path.open("rb") as file:
            number, rest = 1, [b""]
            while chunk := file.read(_CHUNK):
                end = chunk.rfind(b"\n") + 1
                if not end:
                    rest.append(chunk)  # joined once: adding to a text of megabytes would copy it each time
                    continue
                lines, rest = b"".join([*rest, chunk[:end]]), [chunk[end:]]
                yield _decode(path, number, lines, decoder)
                number += lines.count(b"\n")
    except FileNotFoundError:
        return
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None


def _decode(path: Path, number: int, lines: bytes, decoder: msgspec.json.Decoder[_T]) -> list[_T]:
    """Return the records of whole lines, the first of which has that number."""
    try:
        records = decoder.decode_lines(lines)
        if len(records) == lines.count(b"\n"):
            return records
    except UNREADABLE:
        pass  # which line it was is found below
    for line in lines.splitlines():
        try:
            decoder.decode(line)
        except UNREADABLE as error:
            raise DataError(f"{path}:{number}: {_said(error)}") from None
        number += 1
    raise AssertionError(f"unreachable: every line of {path} is one record")


def decode(path: Path, text: msgspec.Raw | bytes, kind: type[_T]) -> _T:
    """Return a record of `path`, or a part of one, decoded as `kind`; raise DataError where it is none."""
    try:
        return msgspec.json.decode(text, type=kind)
    except UNREADABLE as error:
        raise DataError(f"{path}: {_said(error)}") from None


def _said(error: Exception) -> str:
    text = str(error)
    return f"{text[:1].lower()}{text[1:]}" if not text.startswith("JSON") else text


METRICS: msgspec.json.Decoder[Train | Eval] = msgspec.json.Decoder(Train | Eval)
EVENTS: msgspec.json.Decoder[Event] = msgspec.json.Decoder(Event)
