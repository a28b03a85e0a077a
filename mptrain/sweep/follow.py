"""How far a run has come, read from its folder while it runs: run.json, and what metrics.jsonl has gained.

Owns: reading only what is new. Must not: hold up the run, or fail for a line that is still being written.
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Progress:
    """The last figures of a run; None where there are none yet."""

    total_steps: int | None = None
    first_step: int = 0
    """Steps that were done before this process began."""
    steps_done: int | None = None
    loss: float | None = None
    skipped_steps: int | None = None
    samples_per_s: float | None = None
    wall_s: float | None = None
    """Seconds from the start of training to the last record."""
    metric: str | None = None
    evaluations: list[float] = field(default_factory=list)
    """The main metric of each evaluation so far; NaN where it was not finite."""

    def seconds_left(self) -> float | None:
        """Return the seconds of training left, at the pace of this process so far."""
        if not self.total_steps or not self.steps_done or not self.wall_s or self.steps_done <= self.first_step:
            return None
        pace = self.wall_s / (self.steps_done - self.first_step)
        return max(0, self.total_steps - self.steps_done) * pace


class Follower:
    """Reads a run's folder again and again; `max_steps` is the run's length where its config says it."""

    def __init__(self, run_dir: Path, max_steps: int | None = None) -> None:
        self._run_dir = run_dir
        self._max_steps = max_steps
        self._info_time: int | None = None
        self._begin_anew()

    def _begin_anew(self) -> None:
        self._file: int | None = None
        self._offset, self._rest = 0, b""
        self.progress = Progress(self._max_steps)
        self._info_time = None

    def read(self) -> Progress:
        """Return how far the run has come."""
        for line in self._new_lines():
            try:
                self._take(json.loads(line))
            except (ValueError, KeyError, TypeError, RecursionError):
                continue  # the report tells of damaged records
        self._read_info()
        return self.progress

    def _new_lines(self) -> list[bytes]:
        try:
            with (self._run_dir / "metrics.jsonl").open("rb") as file:
                info = os.fstat(file.fileno())
                if info.st_ino != self._file or info.st_size < self._offset:  # a resumed run trims its records
                    self._begin_anew()
                    self._file = info.st_ino
                file.seek(self._offset)
                text = file.read()
        except OSError:
            return []
        self._offset += len(text)
        *lines, self._rest = (self._rest + text).split(b"\n")
        return lines

    def _take(self, record: dict[str, Any]) -> None:
        if record["type"] == "eval":
            name = record["main_metric"]
            value = record["metrics"][name]
            self.progress.metric = name
            self.progress.evaluations.append(math.nan if value is None else value)
        elif record["type"] == "train":
            for name in ("steps_done", "loss", "skipped_steps", "samples_per_s", "wall_s"):
                setattr(self.progress, name, record[name])

    def _read_info(self) -> None:
        path = self._run_dir / "run.json"
        try:
            time = path.stat().st_mtime_ns
            if time != self._info_time:
                info = json.loads(path.read_bytes())
                self.progress.total_steps, self.progress.first_step = info["total_steps"], info["first_step"]
                self._info_time = time
        except (OSError, ValueError, KeyError, TypeError):
            return  # it has not begun
