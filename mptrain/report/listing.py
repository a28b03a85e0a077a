"""What runs there are: a few facts of each run folder, read fast.

Owns: which facts, and where they stand. Must not: read metrics.jsonl whole, compare runs, or import torch or numpy.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mptrain.errors import DataError
from mptrain.precision.in_force import InForce
from mptrain.report import records
from mptrain.report.runs import newest_write
from mptrain.trainer.run_lock import run_status

_TAIL_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class Listed:
    """One run, as `mptrain runs` shows it."""

    run_dir: str
    status: str
    precision: str | None
    """The mode in force, with `emulated` where it was."""
    applied_steps: int | None
    total_steps: int | None
    metric_name: str | None
    metric: float | None
    ended: float
    """When its newest record was written; seconds since the epoch."""


def list_runs(folders: Sequence[Path]) -> tuple[list[Listed], list[str]]:
    """Return the runs, the newest last, and for each that cannot be read one `path: what is wrong`."""
    found, problems = [], []
    for folder in folders:
        try:
            found.append(_listed(folder))
        except DataError as error:
            problems.append(str(error))
        except OSError as error:  # not for this reader, or just removed
            problems.append(f"{folder}: cannot be read: {error.strerror}")
    return sorted(found, key=lambda run: run.ended), problems


def _listed(folder: Path) -> Listed:
    status = run_status(folder)
    result = None if status == "running" else records.read_object(folder / "result.json", records.Result)
    info = records.read_object(folder / "run.json", records.RunInfo)
    in_force = result.precision if result and result.precision else records.read_object(folder / "plan.json", InForce)
    train, evaluation = (None, None) if result and result.attempted_steps is not None else _last_records(folder)
    metrics = result.metrics if result and result.metrics else evaluation.metrics if evaluation else {}
    main = result.main_metric.name if result and result.main_metric else evaluation.main_metric if evaluation else None
    value = metrics.get(main) if main else None
    emulated = " emulated" if in_force and in_force.backend == "emulated" else ""
    return Listed(
        run_dir=str(folder),
        status=status,
        precision=f"{in_force.mode}{emulated}" if in_force else None,
        applied_steps=train.applied_steps if train else result.applied_steps if result else None,
        total_steps=info.total_steps if info else None,
        metric_name=main,
        metric=value if isinstance(value, float) else None,
        ended=newest_write(folder),
    )


def _last_records(folder: Path) -> tuple[records.Train | None, records.Eval | None]:
    """Return the last window and evaluation that stand near the end of metrics.jsonl."""
    path = folder / "metrics.jsonl"
    if not os.path.isfile(path):
        return None, None
    try:
        with path.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL_BYTES))
            lines = file.read().split(b"\n")[:-1]  # the last one has no end yet, or is empty
            if file.tell() > _TAIL_BYTES:
                lines = lines[1:]  # the first one is cut
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    train: records.Train | None = None
    evaluation: records.Eval | None = None
    for line in lines:
        try:
            record = records.METRICS.decode(line)
        except records.UNREADABLE as error:
            raise DataError(f"{path}: {error}") from None
        if isinstance(record, records.Train):
            train = record
        else:
            evaluation = record
    return train, evaluation
