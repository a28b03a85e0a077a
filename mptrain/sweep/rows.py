"""The rows of a sweep as it begins: what is finished already, what is at work elsewhere, what waits.

Owns: that, and their wording in a dry run. Must not: start anything.
"""

from __future__ import annotations

from collections.abc import Sequence

from mptrain.errors import ConfigError
from mptrain.sweep.child import Outcome
from mptrain.sweep.folders import Found
from mptrain.sweep.plan import PlannedRun
from mptrain.sweep.runner import Row


def make_rows(runs: Sequence[PlannedRun], found: Sequence[Found]) -> list[Row]:
    """Return a row for each run; those that another process is at work on are not started, and count as failed."""
    return [_row(run, there) for run, there in zip(runs, found, strict=True)]


def _row(run: PlannedRun, there: Found) -> Row:
    row = Row(run, found=there.kind)
    if there.kind == "finished":
        result = there.result or {}
        row.end(Outcome(str(there.status), int(result.get("exit_code", 0)), result.get("error"), there.result))
        row.finished_before = True
    elif there.kind == "running":
        said = f"another process is at work in {run.run_dir}; wait for its end"
        row.end(Outcome("in_use", ConfigError.exit_code, said))
    return row
