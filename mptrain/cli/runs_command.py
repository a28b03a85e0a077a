"""`mptrain runs`: the runs below a folder with their status. Must not: import torch or numpy."""

from __future__ import annotations

import os
import time
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mptrain.cli.output import print_json
from mptrain.cli.report_command import print_left_out
from mptrain.cli.run_commands import AsJson
from mptrain.errors import ConfigError
from mptrain.telemetry import human

if TYPE_CHECKING:
    from mptrain.report.listing import Listed


def runs(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where to look, at any depth.")] = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """List runs with their status, the newest last."""
    from mptrain.report.listing import list_runs
    from mptrain.report.runs import runs_below

    if not os.path.isdir(folder):
        raise ConfigError(f"{folder}: is no folder; name one that has runs in it")
    found, problems = list_runs(list(runs_below(folder)))
    print_left_out(problems)
    if as_json:
        listed = [asdict(run) | {"ended": datetime.fromtimestamp(run.ended, UTC).isoformat()} for run in found]
        print_json({"schema": 1, "status": "ok", "exit_code": 0, "runs": listed, "problems": problems})
    elif found:
        _print_table(found, folder)
    else:
        print(f"no runs below {folder}")


def _print_table(found: list[Listed], folder: Path) -> None:
    now = time.time()
    rows = [("run", "status", "precision", "steps", "metric", "age")]
    for run in found:
        metric = f"{run.metric_name} {human.number(run.metric)}" if run.metric_name else "-"
        name = human.one_line(os.path.relpath(run.run_dir, folder))
        rows.append((name, run.status, run.precision or "-", _steps(run), metric, _age(now - run.ended)))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _steps(run: Listed) -> str:
    if run.applied_steps is None:
        return "-"
    return f"{run.applied_steps}/{run.total_steps}" if run.total_steps else str(run.applied_steps)


def _age(seconds: float) -> str:
    """Return e.g. `40 s`, `5 min`, `3 h`, `12 d`."""
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"
