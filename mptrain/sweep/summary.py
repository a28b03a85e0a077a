"""What a sweep came to: its exit code, and its one JSON object.

Owns: both. Must not: print.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from mptrain.errors import Preempted
from mptrain.sweep.runner import Row


def summarise(
    rows: Sequence[Row],
    stopped_by: str | None,
    notices: Sequence[str] = (),
    *,
    total: int | None = None,
    tolerated: Collection[str] = (),
) -> dict[str, Any]:
    """Return the sweep's JSON object; `stopped_by` is the signal that ended it early.

    `total` is the number of runs that were to run, where not all of them have a row yet. The exit code is 0 where every
    run ended well, 75 where the sweep was stopped, and otherwise that of the first run (in the sweep's order) that
    failed; `tolerated` statuses fail it only where no run ended well.
    """
    failed = [row for row in rows if row.outcome is not None and row.outcome.exit_code != 0]
    if any(row.outcome is not None and row.outcome.status == "ok" for row in rows):
        failed = [row for row in failed if row.state not in tolerated]
    status, exit_code, error = "ok", 0, None
    total = len(rows) if total is None else total
    left = total - sum(row.outcome is not None and row.outcome.status != Preempted.status for row in rows)
    if stopped_by and left:
        status, exit_code = Preempted.status, Preempted.exit_code
        error = f"stopped by {stopped_by} with {left} of {total} runs to go; the same command goes on"
    elif failed:
        first = failed[0].outcome
        assert first is not None
        status, exit_code = first.status, first.exit_code
        error = f"{len(failed)} of {len(rows)} runs failed; the first: {failed[0].run.label}: {said(failed[0])}"
    return {
        "schema": 1,
        "status": status,
        "exit_code": exit_code,
        "error": error,
        "notices": list(notices),
        "runs": [as_dict(row) for row in rows],
    }


def said(row: Row) -> str:
    """Return how a run ended in one line, e.g. `diverged (the loss is nan)`."""
    assert row.outcome is not None
    error = (row.outcome.error or "").splitlines()
    return f"{row.outcome.status}{f' ({error[0]})' if error else ''}"


def as_dict(row: Row) -> dict[str, Any]:
    """Return a row as plain values."""
    run, outcome = row.run, row.outcome
    return {
        "number": run.number,
        "label": run.label,
        "run_dir": str(run.run_dir),
        "config": str(run.config_path),
        "overrides": list(run.overrides),
        "status": outcome.status if outcome else row.state,
        "exit_code": outcome.exit_code if outcome else None,
        "error": outcome.error if outcome else None,
        "finished_before": row.finished_before,
        "result": dict(outcome.result) if outcome and outcome.result else None,
    }


def metric_of(result: Mapping[str, Any] | None) -> tuple[str, float | None] | None:
    """Return a result's main metric, by name; its value is None where it was not finite, all where it has none."""
    main = (result or {}).get("main_metric")
    if not isinstance(main, Mapping) or not (result or {}).get("metrics"):
        return None
    name = str(main["name"])
    return name, (result or {})["metrics"].get(name)
