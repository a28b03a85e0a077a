"""One run from a loaded config to result.json, whatever its end.

Owns: the run directory's files and the mapping of every ending to a status. Must not: train (`trainer.py`) or print
(`mptrain.telemetry`).
"""

from __future__ import annotations

import json
import os
import time
import traceback
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from mptrain import checkpoint as checkpoints
from mptrain.catalog import to_yaml
from mptrain.checkpoint import Checkpoint, CheckpointStore
from mptrain.config.schema import RunConfig
from mptrain.errors import ConfigError, MptrainError
from mptrain.telemetry.console import Fanout, make_console
from mptrain.telemetry.files import RunFiles, cannot_write, strict_json, write_json, write_text
from mptrain.telemetry.records import Event, RunInfo
from mptrain.telemetry.throughput import UNKNOWN
from mptrain.trainer.build import Run, build_run, describe_device
from mptrain.trainer.data_watch import skipped_files
from mptrain.trainer.endings import ending_of
from mptrain.trainer.environment_report import environment_report, versions
from mptrain.trainer.materials import describe_data, describe_model
from mptrain.trainer.memory import peak_memory_bytes
from mptrain.trainer.memory_plan import held_bytes
from mptrain.trainer.plan_report import plan_report
from mptrain.trainer.resume import changes_on_resume
from mptrain.trainer.run_dir import CHECKPOINTS, find_resume, new_run_id, run_dir_for
from mptrain.trainer.signals import StopAtOnce, Undisturbed
from mptrain.trainer.trainer import Trainer


@dataclass(frozen=True)
class LaunchOptions:
    """What the command line adds to the config."""

    output_dir: Path = Path("runs")
    run_id: str | None = None
    resume: str | None = None
    quiet: bool = False
    json_output: bool = False
    notices: tuple[str, ...] = ()
    """What loading the config had to say; shown and recorded with the run's own notices."""


def launch(config: RunConfig, options: LaunchOptions, *, command: list[str]) -> dict[str, Any]:
    """Run `config` to its end and return result.json's content.

    Raises an MptrainError only for what must not create or touch a run directory; every later ending
    is in the result (`status`, `exit_code`, `error`). An unexpected exception is recorded as `crashed` and raised.
    """
    chosen = choose_run_dir(config, options)
    run_dir, resumed = chosen.path, chosen.resumed
    files = RunFiles(run_dir)
    if not resumed and not chosen.again:
        _claim(run_dir)
    began = time.perf_counter()
    reporter = Fanout([files, make_console(quiet=options.quiet, json_output=options.json_output)])
    trainer: Trainer | None = None
    crash: BaseException | None = None
    ending: MptrainError | None = None
    try:
        with StopAtOnce():
            if not resumed:
                _record(run_dir, config, command)
            run = build_run(config, steps_done=resumed.step if resumed else 0)
            trainer = Trainer(run, reporter, _store(config, run_dir))
            info = _run_info(trainer, run_dir, resumed, (*options.notices, *chosen.notices))
            if resumed:
                finished = _finished_result(run_dir, trainer, resumed)
                if finished is not None:
                    said = f"{resumed.step} steps are done, {trainer.target} are asked for: nothing to train"
                    reporter.begin(replace(info, notices=(*info.notices, said)))
                    reporter.end(finished)
                    return finished
                _record(run_dir, config, command)
            _begin(trainer, info, files, resumed)
        trainer.fit()
        _check_summary(trainer)
    except BaseException as error:
        ending = ending_of(error, training=trainer is not None)
        crash = error if ending is None else None
    with Undisturbed():
        result = _result(config, trainer, ending, crash, run_dir, time.perf_counter() - began)
        reporter.end(result)
    if crash is not None:
        raise crash
    return result


@dataclass(frozen=True)
class Chosen:
    """The folder of a run, and how it begins there."""

    path: Path
    resumed: Checkpoint | None = None
    again: bool = False
    """The folder holds an earlier attempt that saved nothing."""
    notices: tuple[str, ...] = ()


def choose_run_dir(config: RunConfig, options: LaunchOptions) -> Chosen:
    """Return where a run goes and what it resumes; raise ConfigError or CheckpointError where it cannot."""
    found = None
    if options.resume is not None:
        found = find_resume(options.resume, options.output_dir, config.name, options.run_id)
    if found:
        run_dir, resumed = found
        if options.run_id is not None and run_dir.name != options.run_id:
            raise ConfigError(f"--run-id: '{options.run_id}' is not the run that --resume names ({run_dir})")
        changes = changes_on_resume(config, run_dir)
        return Chosen(run_dir, resumed, notices=tuple(f"resumed with another {change}" for change in changes))
    run_id = new_run_id() if options.run_id is None else options.run_id
    run_dir = run_dir_for(options.output_dir, config.name, run_id)
    if options.resume is None or not os.path.exists(run_dir / "config.yaml"):
        return Chosen(run_dir)
    return Chosen(run_dir, again=True, notices=(f"--resume auto: {run_dir} holds no checkpoint; starting afresh",))


def _claim(run_dir: Path) -> None:
    """Take a new run's folder; raise ConfigError where another run has it, however close in time both began."""
    try:
        (run_dir / "config.yaml").touch(exist_ok=False)
    except FileExistsError:
        raise ConfigError(
            f"--run-id: {run_dir} exists already; choose another id, or continue it with --resume auto"
        ) from None
    except OSError as error:
        raise cannot_write(run_dir / "config.yaml", error) from error


def _record(run_dir: Path, config: RunConfig, command: list[str]) -> None:
    write_text(run_dir / "config.yaml", to_yaml(config))
    write_json(run_dir / "env.json", environment_report(command))


def _begin(trainer: Trainer, info: RunInfo, files: RunFiles, resumed: Checkpoint | None) -> None:
    """Announce the run and restore what it resumes; what was recorded beyond that point is dropped."""
    run = trainer.run
    # Loaded before anything is dropped: the checkpoint may turn out to be damaged.
    state = checkpoints.load(resumed.path, device=run.device) if resumed else None
    write_json(Path(info.run_dir) / "plan.json", plan_report(run))
    trainer.reporter.begin(info)
    attempted, applied = [resumed.manifest[f"{kind}_steps"] if resumed else 0 for kind in ("attempted", "applied")]
    files.trim_after(attempted, applied)
    for notice in info.notices:
        files.event(Event("warning", attempted, applied, notice))
    if state is not None:
        trainer.restore(state)


def _finished_result(run_dir: Path, trainer: Trainer, resumed: Checkpoint) -> dict[str, Any] | None:
    """Return the result of a run that ended well and has nothing left to train, so that resuming it loses no figure."""
    try:
        result: dict[str, Any] = json.loads((run_dir / "result.json").read_bytes())
        done = result["status"] == "ok" and result["attempted_steps"] == resumed.manifest["attempted_steps"]
    except (OSError, ValueError, KeyError, TypeError):
        return None  # it was killed before it could write one
    return result if done and resumed.step >= trainer.target else None


def _check_summary(trainer: Trainer) -> None:
    """Raise ConfigError for a task's summary that no JSON file can hold."""
    summary, trainer.summary = trainer.summary, None
    try:
        trainer.summary = None if summary is None else strict_json(summary)
    except TypeError as error:
        raise ConfigError(f"task: its summary must be plain numbers, texts, lists and dicts; {error}") from error


def _store(config: RunConfig, run_dir: Path) -> CheckpointStore | None:
    settings = config.checkpoint
    if not settings.enabled:
        return None
    return CheckpointStore(run_dir / CHECKPOINTS, keep_last=settings.keep_last, keep_best=settings.best)


def _run_info(trainer: Trainer, run_dir: Path, resumed: Checkpoint | None, notices: tuple[str, ...]) -> RunInfo:
    run = trainer.run
    return RunInfo(
        name=run.config.name,
        run_id=run_dir.name,
        run_dir=str(run_dir),
        device=describe_device(run.device),
        precision=run.in_force.line(),
        model=describe_model(run.config, run.parts.model),
        data=describe_data(run.config, run.splits),
        total_steps=trainer.target,
        steps_per_epoch=run.steps_per_epoch,
        first_step=resumed.step if resumed else 0,
        planted=run.parts.faults.planned,
        notices=(*notices, *run.notices),
        emulated=run.parts.policy.emulated,
    )


def _result(
    config: RunConfig,
    trainer: Trainer | None,
    ending: MptrainError | None,
    crash: BaseException | None,
    run_dir: Path,
    wall_s: float,
) -> dict[str, Any]:
    status = "crashed" if crash else ending.status if ending else "ok"
    result: dict[str, Any] = {
        "schema": 1,
        "name": config.name,
        "run_dir": str(run_dir),
        "status": status,
        "exit_code": 1 if crash else ending.exit_code if ending else 0,
        "error": _error_text(ending, crash),
        "precision": None,
        "device": None,
        "planted": [f"{p.what} at {p.at}" for p in config.debug.plant],
        "seed": config.seed,
        "wall_s": wall_s,
        "versions": versions(),
    }
    return result | (_training_result(trainer) if trainer else {})


def _error_text(ending: MptrainError | None, crash: BaseException | None) -> str | None:
    if crash is not None:
        return traceback.format_exception_only(crash)[-1].strip()
    return str(ending) if ending else None


def _tokens_per_s(run: Run, samples_per_s: float | None) -> float | None:
    """Return the speed in tokens where every position of every sample is one; None where there may be padding."""
    if samples_per_s is None or run.spec.kind != "language_modelling":
        return None
    return samples_per_s * run.spec.input_shape[0]


def _training_result(trainer: Trainer) -> dict[str, Any]:
    run, counts = trainer.run, trainer.ledger.counts
    speed = UNKNOWN if run.parts.policy.emulated else trainer.pace.overall()
    best, watch = trainer.best, trainer.data_watch
    return {
        "precision": run.in_force.as_dict(),
        "device": describe_device(run.device),
        "applied_steps": counts.applied,
        "attempted_steps": counts.attempted,
        "skipped_steps": counts.skipped,
        "last_skipped_step": counts.last_skipped,
        "final_loss_scale": trainer.final_loss_scale(),
        "final_group_scales": run.parts.scaler.current_group_scales(),
        "loss_scale_history": trainer.ledger.scale_history(),
        "train_loss": trainer.train_loss,
        "metrics": dict(trainer.metrics),
        "best": {"metric": run.parts.task.main_metric, "value": best.value, "applied_steps": best.applied_steps}
        if trainer.metrics
        else None,
        "summary": trainer.summary,
        "samples_per_s": speed.samples_per_s,
        "tokens_per_s": _tokens_per_s(run, speed.samples_per_s),
        "step_time_ms": {"median": speed.step_time_median_ms, "p90": speed.step_time_p90_ms},
        "peak_memory_bytes": peak_memory_bytes(run.device),
        "held_bytes": {"planned": run.memory.as_dict(), "measured": held_bytes(run.parts).as_dict()},
        "numerics": trainer.numerics.as_dict(),
        "data_wait_fraction": speed.data_wait_fraction,
        "loader_bound": asdict(watch.loader_bound) if watch.loader_bound else None,
        "skipped_files": skipped_files(run.splits.bad_files),
    }
