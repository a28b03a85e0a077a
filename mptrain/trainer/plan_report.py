"""A run's precision plan as data, for plan.json and `mptrain plan`. Must not: train, print, or write."""

from __future__ import annotations

from typing import Any

from mptrain.config.schema import RunConfig
from mptrain.trainer.build import Run, build_run, enter_phase


def plan_report(run: Run) -> dict[str, Any]:
    """Return what is in force, per module and in bytes, JSON-able."""
    return run.in_force.as_dict() | {
        "line": run.in_force.line(),
        "compile": run.config.train.compile,
        "until_step": run.phase_end if run.phase_end <= run.total_steps else None,
        "modules": [module.as_dict() for module in run.parts.policy.plan.modules],
        "memory": run.memory.as_dict(),
        "notices": list(run.notices),
    }


def plan_reports(config: RunConfig) -> list[dict[str, Any]]:
    """Build what `config` describes and return the plan of each of its phases; raises what `build_run` does."""
    run = build_run(config)
    reports = [plan_report(run)]
    while run.phase_end < run.total_steps:
        run = enter_phase(run, run.phase_end)
        reports.append(plan_report(run))
    return reports
