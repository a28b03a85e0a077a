"""A run's precision plan as data, for plan.json and `mptrain plan`. Must not: train, print, or write."""

from __future__ import annotations

from typing import Any

from mptrain.config.schema import RunConfig
from mptrain.precision.in_force import InForce
from mptrain.precision.plan import Plan
from mptrain.trainer.build import Run
from mptrain.trainer.memory_plan import HeldBytes
from mptrain.trainer.sketch import PhaseSketch, sketch_run


def plan_report(run: Run) -> dict[str, Any]:
    """Return what is in force, per module and in bytes, JSON-able."""
    until = run.phase_end if run.phase_end <= run.total_steps else None
    return _report(run.config, run.in_force, run.parts.policy.plan, until, run.memory, run.notices)


def plan_reports(config: RunConfig) -> list[dict[str, Any]]:
    """Sketch what `config` describes and return the plan of each of its phases; raises what `sketch_run` does.

    Each is what `plan_report` gives of the run itself, with the activations, and what is not here in its notices.
    """
    sketch = sketch_run(config)
    missing = (f"the data are not here, the plan is for what they should be ({sketch.data_error})",)
    notices = missing if sketch.data_error else ()
    return [_phase_report(config, phase, notices) for phase in sketch.phases]


def _phase_report(config: RunConfig, phase: PhaseSketch, notices: tuple[str, ...]) -> dict[str, Any]:
    notices = (*notices, *phase.notices)
    report = _report(config, phase.in_force, phase.plan, phase.until_step, phase.memory, notices)
    total = None if phase.activations is None else phase.memory.total + phase.activations
    report["memory"] |= {"activations": phase.activations, "total_with_activations": total}
    return report


def _report(
    config: RunConfig,
    in_force: InForce,
    plan: Plan,
    until_step: int | None,
    memory: HeldBytes,
    notices: tuple[str, ...],
) -> dict[str, Any]:
    return in_force.as_dict() | {
        "line": in_force.line(),
        "compile": config.train.compile,
        "until_step": until_step,
        "modules": [module.as_dict() for module in plan.modules],
        "memory": memory.as_dict(),
        "notices": list(notices),
    }
