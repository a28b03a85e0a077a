"""Starts workers, gives them jobs, reads what they say, kills them where asked.

Owns: processes and the clock of a kill. Must not: judge an outcome, or import torch.
"""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.faults.job import Job

ROOT = Path(__file__).parent.parent.parent
LIMIT_S = 180
SAVES_BEFORE_KILL = 2
"""A process saves so often before it is killed in its next save: a retention rule has had something to remove."""


@dataclass
class Ending:
    """How a process ended, and what it said until then."""

    code: int = 0
    """Exit code; negative: the signal that ended it."""
    events: list[dict[str, Any]] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    """Everything else that it printed, without empty lines."""
    saves_s: list[float] = field(default_factory=list)

    def told(self, event: str) -> list[dict[str, Any]]:
        """Return the events of one kind, in order."""
        return [told for told in self.events if told["event"] == event]

    @property
    def ids(self) -> list[int]:
        """Return the ids of all samples trained on, in order."""
        return [sample for step in self.told("step") for sample in step["ids"]]

    @property
    def resumed_at(self) -> int | None:
        """Return the step after which it went on; None where it never took a step."""
        steps = self.told("step")
        return (steps[0]["resumed_at"] or 0) if steps else None

    @property
    def killed_in_save(self) -> bool:
        """Return whether SIGKILL came after an optimizer step's end and before the next step's beginning."""
        return self.code == -signal.SIGKILL and bool(self.events) and self.events[-1]["event"] == "stepped"

    @property
    def last_words(self) -> str:
        """Return the first sentence of the line that names the error: the last that looks like it, else the last."""
        named = [line for line in self.lines if re.match(r"(\w+\.)*\w*(Error|Exception)\b|error\b", line)]
        return re.split(r"(?<=[a-z])\. ", (named or self.lines or ["nothing printed"])[-1])[0][:160]


class Contestant:
    """One contestant's worker; a context manager, as it is a process."""

    def __init__(self, name: str, python: str, env: Mapping[str, str]) -> None:
        self.name = name
        self._worker = subprocess.Popen(
            [python, "-m", "benchmarks.faults.worker", name],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1", **env},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )

    def __enter__(self) -> Contestant:
        return self

    def __exit__(self, *_: object) -> None:
        self._worker.kill()  # it waits for its next job, and holds nothing
        self._worker.communicate()

    def run(self, job: Job, *, kill: random.Random | None = None) -> Ending:
        """Run one job to its end; with `kill`, SIGKILL its process at a random moment of its third save."""
        assert self._worker.stdin is not None
        self._worker.stdin.write(json.dumps(asdict(job)) + "\n")
        self._worker.stdin.flush()
        ending = Ending()
        process, began_saving = 0, 0.0
        for event in self._events(ending, f"{job.folder}/"):
            if event["event"] == "begin":
                process = event["pid"]
                watchdog = threading.Timer(LIMIT_S, os.kill, (process, signal.SIGKILL))
                watchdog.start()
            elif event["event"] == "ended":
                if watchdog.finished.is_set():
                    raise TimeoutError(f"{self.name} took more than {LIMIT_S} s")
                watchdog.cancel()
                ending.code = event["code"]
                return ending
            elif event["event"] == "step" and began_saving:
                ending.saves_s.append(time.monotonic() - began_saving)
            elif event["event"] == "stepped":
                began_saving = time.monotonic()
                if kill is not None and len(ending.saves_s) == SAVES_BEFORE_KILL:
                    time.sleep(kill.uniform(0, ending.saves_s[-1]))
                    os.kill(process, signal.SIGKILL)
            if event["event"] != "begin":
                ending.events.append(event)
        raise RuntimeError(f"{self.name} cannot be started: {ending.last_words}")

    def _events(self, ending: Ending, folder: str) -> Iterator[dict[str, Any]]:
        """Yield what the witness says; all other lines go to `ending`, without the names of folders on this machine."""
        assert self._worker.stdout is not None
        for line in self._worker.stdout:
            if line.startswith("@@"):
                yield json.loads(line[2:])
            else:
                said = re.sub(r"\S*/site-packages/", "", line.replace(folder, ""))
                ending.lines += [part.strip() for part in re.split(r"[\r\n]", said) if part.strip()]
