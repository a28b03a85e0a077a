"""One run in a process of its own: started, watched, asked to stop, killed; and what became of it.

Owns: the process, and `stderr.log` in the run's folder. Must not: decide when to start or stop (`runner.py`).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from mptrain.durable import read_regular
from mptrain.errors import ENDINGS, MptrainError, one_line
from mptrain.sweep.folders import read_result
from mptrain.sweep.follow import Follower
from mptrain.sweep.plan import PlannedRun
from mptrain.telemetry.files import cannot_write

STDERR = "stderr.log"
_TAIL_BYTES = 65_536
_STATUSES: Mapping[int, str] = {kind.exit_code: kind.status for kind in ENDINGS}


@dataclass(frozen=True)
class Outcome:
    """How a run ended."""

    status: str
    """That of its result, or `killed`, `pruned`, `in_use` (by another process)."""
    exit_code: int
    """As a shell says it: 128 + the signal's number for a run that was killed."""
    error: str | None = None
    result: Mapping[str, Any] | None = None
    """result.json; None where the run left none."""


class Child:
    """A run that has been started."""

    def __init__(self, run: PlannedRun, environment: Mapping[str, str]) -> None:
        self.run = run
        self.follower = Follower(run.run_dir, run.config.train.max_steps)
        self._stderr = run.run_dir / STDERR
        self._result_before = self._result_time()
        try:
            run.run_dir.mkdir(parents=True, exist_ok=True)
            with self._stderr.open("ab") as stderr:
                self._said_before = stderr.tell()
                self._process = subprocess.Popen(  # noqa: S603
                    run.command(),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=stderr,
                    env=dict(environment),
                    start_new_session=True,  # a Ctrl-C on the terminal is the sweep's, which asks each run to stop
                    preexec_fn=_stop_with_parent(),
                )
        except OSError as error:
            raise cannot_write(run.run_dir, error) from error

    @property
    def pid(self) -> int:
        """Its process."""
        return self._process.pid

    def has_ended(self) -> bool:
        """Say whether the process is gone."""
        return self._process.poll() is not None

    def ask_to_stop(self) -> None:
        """Send SIGTERM: the run finishes its step, saves, and ends with code 75."""
        if not self.has_ended():
            self._process.terminate()

    def kill(self) -> None:
        """Kill the process and those it started, and wait until it is gone."""
        if not self.has_ended():  # else its number may be another's by now
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def outcome(self) -> Outcome:
        """Return what became of the process, which has ended."""
        code = self._process.wait()
        last_words = self._last_words()
        result = read_result(self.run.run_dir) if self._result_time() != self._result_before else None
        if result is not None:  # also where it was killed on its way out
            return Outcome(str(result.get("status")), int(result.get("exit_code", code)), result.get("error"), result)
        if code < 0:
            by = signal.Signals(-code).name
            hint = "; the machine may have run out of memory" if code == -signal.SIGKILL else ""
            return Outcome("killed", 128 - code, f"killed by {by}{hint}")
        if code == 0:
            return Outcome("crashed", MptrainError.exit_code, "it ended with code 0, but left no result.json")
        return Outcome(
            _STATUSES.get(code, MptrainError.status),
            code,
            last_words or f"it ended with code {code} and could say nothing in {STDERR}; is the disk full?",
        )

    def _result_time(self) -> int | None:
        """Return when result.json was written; None where there is none."""
        try:
            return (self.run.run_dir / "result.json").stat().st_mtime_ns
        except OSError:
            return None

    def _last_words(self) -> str | None:
        """Return the last error line of this process; a log that nobody wrote to is removed."""
        try:
            text = read_regular(self._stderr)
            if not text:
                self._stderr.unlink()
        except OSError:
            return None
        lines = text[self._said_before :][-_TAIL_BYTES:].decode(errors="replace").splitlines()
        lines = [line for line in lines if line.strip()]
        errors = [line for line in lines if line.startswith("error: ")]
        return one_line((errors or lines)[-1].removeprefix("error: ")) if lines else None


def _stop_with_parent() -> Callable[[], None] | None:
    """Return what makes Linux send SIGTERM to a new process when its parent has gone, however that ended."""
    if sys.platform != "linux":
        return None
    libc, set_death_signal = ctypes.CDLL(None), 1  # PR_SET_PDEATHSIG, <sys/prctl.h>
    return lambda: libc.prctl(set_death_signal, signal.SIGTERM)
