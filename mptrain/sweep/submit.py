"""Hands runs to a scheduler: a line of shell for each, or a job of submitit.

Owns: filling the line, and `submitted.json` in the run's folder, so that nothing is submitted twice. Must not: wait
for jobs, or know one scheduler from another.
"""

from __future__ import annotations

import importlib
import json
import shlex
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO

from mptrain.config.yaml_reader import read_scalar
from mptrain.durable import read_regular
from mptrain.errors import CapabilityError, ConfigError, MptrainError, first_line, one_line
from mptrain.sweep.child import Outcome
from mptrain.sweep.plan import PlannedRun
from mptrain.sweep.runner import Row
from mptrain.telemetry.files import cannot_write, indented

RECORD = "submitted.json"
_SUBMITIT = "submitit"

Submit = Callable[[PlannedRun], str]
"""Hands a run over; returns what the scheduler said of it, raises CapabilityError where it refused."""


def make_submit(template: str, folder: Path) -> Submit:
    """Return what `--submit` asks for; raise ConfigError for a template that hands nothing over.

    `folder` takes the files of submitit. Raises CapabilityError where submitit is asked for and not installed.
    """
    words = template.split()
    if words[:1] == [_SUBMITIT]:
        return _with_submitit(words[1:], folder)
    if "{command}" not in template and "{words}" not in template:
        raise ConfigError(
            f"--submit: {template!r} has no {{command}}, the place of the command to run (or {{words}}, the same in "
            "separate words); write e.g. --submit 'sbatch --wrap {command}'"
        )
    return lambda run: _by_shell(fill(template, run))


def fill(template: str, run: PlannedRun) -> str:
    """Return the line of shell that hands `run` over; every value is quoted, and other braces stay."""
    words = shlex.join(run.command())
    name = f"{run.config.name}-{run.run_id}"
    values = {"{command}": words, "{name}": name, "{run_dir}": str(run.run_dir)}
    line = template
    for place, value in values.items():
        for written in (f"'{place}'", f'"{place}"', place):  # quotes that a user put around it would end at ours
            line = line.replace(written, shlex.quote(value))
    return line.replace("{words}", words)


def _by_shell(line: str) -> str:
    # Files, not pipes: what `srun ... &` leaves in the background would hold a pipe open, and the sweep with it.
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        code = subprocess.call(line, shell=True, stdin=subprocess.DEVNULL, stdout=out, stderr=err)  # noqa: S602
        said, complaint = _content(out), _content(err)
    if code != 0:
        last = (complaint or said or "it said nothing").splitlines()[-1]
        raise CapabilityError(f"--submit: {line!r} ended with code {code}: {last}")
    return said


def _content(file: BinaryIO) -> str:
    file.seek(0)
    return file.read().decode(errors="replace").strip()


def _with_submitit(settings: Sequence[str], folder: Path) -> Submit:
    try:
        submitit: Any = importlib.import_module(_SUBMITIT)
    except ImportError:
        raise CapabilityError("--submit submitit: it is not installed; pip install mptrain[submitit]") from None
    pairs = [setting.partition("=") for setting in settings]
    wrong = [setting for setting, pair in zip(settings, pairs, strict=True) if not (pair[0] and pair[1])]
    if wrong:
        raise ConfigError(f"--submit submitit: {wrong[0]!r} must be KEY=VALUE, e.g. slurm_partition=gpu timeout_min=60")
    parameters = {key: read_scalar(value) for key, _, value in pairs}
    try:
        executor = submitit.AutoExecutor(folder=folder / "submitit", cluster=parameters.pop("cluster", None))
        executor.update_parameters(**parameters)
    except Exception as error:  # submitit raises what it likes for a parameter or cluster that it does not know
        raise ConfigError(f"--submit submitit: {first_line(error)}") from error

    def submit(run: PlannedRun) -> str:
        try:
            job = executor.submit(submitit.helpers.CommandFunction(run.command()))
        except Exception as error:  # whatever a cluster's commands do
            raise CapabilityError(f"--submit submitit: {first_line(error)}") from error
        return f"job {job.job_id}"

    return submit


def submit_all(rows: Sequence[Row], submit: Submit) -> None:
    """Hand over every row that waits, unless it has been before and has not begun since."""
    for row in rows:
        if row.state != "waiting":
            continue
        if is_pending(row.run.run_dir):
            row.note = f"before, and it has not begun since; remove {row.run.run_dir / RECORD} to submit it again"
        else:
            try:
                row.note = one_line(_hand_over(row.run, submit))
            except MptrainError as error:
                row.end(Outcome(error.status, error.exit_code, str(error)))
                continue
        row.state = "submitted"


def _hand_over(run: PlannedRun, submit: Submit) -> str:
    """Submit a run and record that; return what the scheduler said."""
    now = {"time": datetime.now().isoformat(timespec="seconds"), "time_ns": time.time_ns()}  # it may begin at once
    said = submit(run)
    record = {"schema": 1, **now, "command": run.command(), "scheduler": said}
    try:
        run.run_dir.mkdir(parents=True, exist_ok=True)
        (run.run_dir / RECORD).write_text(indented(record))
    except OSError as error:
        raise cannot_write(run.run_dir / RECORD, error) from error
    return said


def is_pending(run_dir: Path) -> bool:
    """Say whether a run has been submitted and has not begun since."""
    try:
        submitted = int(json.loads(read_regular(run_dir / RECORD))["time_ns"])
    except (OSError, ValueError, KeyError, TypeError):
        return False
    try:
        return (run_dir / "config.yaml").stat().st_mtime_ns < submitted  # a run that begins writes it
    except FileNotFoundError:
        return True
