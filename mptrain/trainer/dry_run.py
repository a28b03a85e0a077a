"""`mptrain run --dry-run`: what would be trained, as data. Must not: train, print, or write."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mptrain.config.schema import RunConfig
from mptrain.errors import DataError
from mptrain.precision.in_force import InForce
from mptrain.trainer.build import Run, build_run, describe_device
from mptrain.trainer.materials import describe_data, describe_model
from mptrain.trainer.sketch import Sketch, sketch_run


def dry_run(config: RunConfig) -> dict[str, Any]:
    """Build everything and return what was built, JSON-able; of data that are not here, what they should be.

    Raises what `build_run` does, DataError only where the config does not tell what the data would be like.
    """
    try:
        run = build_run(config)
    except DataError as error:
        sketch = sketch_run(config)
        if sketch.data_error is None:  # not the data but, say, a file of weights
            raise error
        first = sketch.phases[0]
        notices = [f"the data are not here, only their config was used: {sketch.data_error}", *first.notices]
        return _report(sketch, first.in_force, sketch.model, sketch.data, notices) | {"data_error": sketch.data_error}
    model = describe_model(config, run.parts.model)
    return _report(run, run.in_force, model, describe_data(config, run.splits), run.notices)


def _report(made: Run | Sketch, in_force: InForce, model: str, data: str, notices: Sequence[str]) -> dict[str, Any]:
    return {
        "schema": 1,
        "status": "ok",
        "exit_code": 0,
        "error": None,
        "dry_run": True,
        "device": describe_device(made.device),
        "precision": in_force.as_dict() | {"line": in_force.line()},
        "model": model,
        "data": data,
        "data_error": None,
        "total_steps": made.total_steps,
        "steps_per_epoch": made.steps_per_epoch,
        "notices": list(notices),
    }
