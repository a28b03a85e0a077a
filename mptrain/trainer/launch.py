"""One run from a loaded config to result.json, whatever its end.

Owns: the run directory's files and the mapping of every ending to a status. Must not: train (`trainer.py`) or print
(`mptrain.telemetry`).
"""

from __future__ import annotations

import json
import os
import time
import traceback
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from mptrain import checkpoint as checkpoints
from mptrain.catalog import to_yaml
from mptrain.checkpoint import Checkpoint, CheckpointStore
from mptrain.config.schema import RunConfig
from mptrain.durable import read_regular
from mptrain.errors import CapabilityError, CheckpointError, ConfigError, MptrainError, first_line
from mptrain.telemetry.console import Fanout, make_console
from mptrain.telemetry.files import RunFiles, cannot_write, indented, strict_json
from mptrain.telemetry.records import Event, Reporter, RunInfo
from mptrain.telemetry.throughput import UNKNOWN
from mptrain.trainer.build import Run, build_run, describe_device, resolve_device
from mptrain.trainer.data_watch import skipped_files
from mptrain.trainer.endings import ending_of
from mptrain.trainer.environment_report import environment_report, versions
from mptrain.trainer.expectations import UNMET, Expectation, check_names, judged
from mptrain.trainer.materials import describe_data, describe_model
from mptrain.trainer.memory import peak_memory_bytes
from mptrain.trainer.memory_plan import held_bytes
from mptrain.trainer.plan_report import plan_report
from mptrain.trainer.resume import Change, changes_on_resume, parse_allowed
from mptrain.trainer.run_dir import CHECKPOINTS, ResumeFrom, candidates, find_resume, new_run_id, run_dir_for
from mptrain.trainer.run_lock import hold, last_status
from mptrain.trainer.signals import StopAtOnce, Undisturbed
from mptrain.trainer.trainer import Trainer


@dataclass(frozen=True)
class LaunchOptions:
    """What the command line adds to the config."""

    output_dir: Path = Path("runs")
    run_id: str | None = None
    resume: str | None = None
    allowed_changes: tuple[str, ...] = ()
    """KEY=REASON: what may differ from the resumed run's config, and why."""
    quiet: bool = False
    json_output: bool = False
    notices: tuple[str, ...] = ()
    """What loading the config had to say; shown and recorded with the run's own notices."""
    expectations: tuple[Expectation, ...] = ()
    """What the result must be for the run to end as ok."""


def launch(config: RunConfig, options: LaunchOptions, *, command: list[str]) -> dict[str, Any]:
    """Run `config` to its end and return result.json's content.

    Raises an MptrainError only for what must not create or touch a run directory; every later ending
    is in the result (`status`, `exit_code`, `error`). An unexpected exception is recorded as `crashed` and raised.
    """
    chosen = choose_run_dir(config, options)
    with hold(chosen.path):
        return _launch(config, options, chosen, command)


def _launch(config: RunConfig, options: LaunchOptions, chosen: Chosen, command: list[str]) -> dict[str, Any]:
    run_dir, began = chosen.path, time.perf_counter()
    console = make_console(quiet=options.quiet, json_output=options.json_output)
    files = RunFiles(run_dir, console.event)
    if chosen.is_new:
        _claim(run_dir)
    reporter = Fanout([files, console])
    trainer: Trainer | None = None
    crash: BaseException | None = None
    ending: MptrainError | None = None
    try:
        with StopAtOnce():
            if chosen.source is None:
                _record(files, config, command)
            prepared = _prepare(config, chosen, reporter, began)
            trainer, resumed = prepared.trainer, prepared.resumed
            info = _run_info(trainer, run_dir, resumed, (*options.notices, *chosen.notices, *prepared.notices))
            if resumed:
                finished = _finished_result(run_dir, trainer, resumed)
                if finished is not None:
                    finished = judged(finished, options.expectations)
                    said = f"{resumed.step} steps are done, {trainer.target} are asked for: nothing to train"
                    reporter.begin(replace(info, notices=(*info.notices, said)))
                    reporter.end(finished)
                    return finished
                _record(files, config, command)
            if options.expectations:
                check_names(options.expectations, _result(config, trainer, None, None, run_dir, 0.0))
            _begin(trainer, info, files, resumed, chosen)
        trainer.fit()
        _check_summary(trainer)
    except BaseException as error:
        ending = ending_of(error, training=trainer is not None, run=trainer.run if trainer else None)
        crash = error if ending is None else None
    with Undisturbed():
        lost = files.flush()
        if lost is not None and crash is None and ending is None:
            ending = lost
        result = _result(config, trainer, ending, crash, run_dir, time.perf_counter() - began)
        result = judged(result, options.expectations)
        try:
            reporter.end(result)
        except CapabilityError as error:
            if crash is None and ending is None:
                result |= {"status": error.status, "exit_code": error.exit_code, "error": str(error)}
    if crash is not None:
        raise crash
    return result


@dataclass(frozen=True)
class Chosen:
    """The folder of a run, and how it begins there."""

    path: Path
    source: ResumeFrom | None = None
    again: bool = False
    """The folder holds an earlier attempt that saved nothing."""
    changes: tuple[Change, ...] = ()
    allowed: Mapping[str, str] = field(default_factory=dict)
    notices: tuple[str, ...] = ()

    @property
    def is_new(self) -> bool:
        """Whether the folder must not have been another run's before."""
        return self.source is None and not self.again


def choose_run_dir(config: RunConfig, options: LaunchOptions) -> Chosen:
    """Return where a run goes and what it resumes; raise ConfigError or CheckpointError where it cannot."""
    found, allowed = None, parse_allowed(options.allowed_changes)
    if options.resume is not None:
        found = find_resume(options.resume, options.output_dir, config.name, options.run_id)
    elif allowed:
        raise ConfigError("--allow-change: there is nothing to change without --resume")
    if found:
        if options.run_id is not None and found.run_dir.name != options.run_id:
            raise ConfigError(f"--run-id: '{options.run_id}' is not the run that --resume names ({found.run_dir})")
        changes = changes_on_resume(config, found.run_dir, allowed)
        notices = tuple(f"resumed with {change}" for change in changes)
        return Chosen(found.run_dir, found, changes=tuple(changes), allowed=allowed, notices=notices)
    run_id = new_run_id() if options.run_id is None else options.run_id
    run_dir = run_dir_for(options.output_dir, config.name, run_id)
    if options.resume is None or not os.path.exists(run_dir / "config.yaml"):
        return Chosen(run_dir)
    return Chosen(run_dir, again=True, notices=(f"--resume auto: {run_dir} holds no checkpoint; starting afresh",))


class Prepared(NamedTuple):
    """A trainer that is ready to train."""

    trainer: Trainer
    resumed: Checkpoint | None
    notices: tuple[str, ...]


def _prepare(config: RunConfig, chosen: Chosen, reporter: Reporter, began: float) -> Prepared:
    """Return a trainer, restored from the first candidate that this run can take up."""
    if chosen.source is None:
        run = build_run(config)
        return Prepared(Trainer(run, reporter, _store(config, chosen.path), began=began), None, ())
    to_try, errors = candidates(chosen.source)
    reasons = [str(error) for error in errors]
    for checkpoint in to_try:
        try:
            state = checkpoints.load(checkpoint.path, device=resolve_device(config.device))
            run = build_run(config, steps_done=checkpoint.step)
            trainer = Trainer(run, reporter, _store(config, chosen.path), began=began)
            _restore(trainer, checkpoint, state, chosen.allowed)
        except CheckpointError as error:
            if not chosen.source.falls_back:
                raise
            reasons.append(str(error))
            continue
        return Prepared(trainer, checkpoint, tuple(f"skipped a checkpoint: {reason}" for reason in reasons))
    raise CheckpointError(
        f"--resume auto: {chosen.path} holds no checkpoint that can be used: {'; '.join(reasons)}; start a new run "
        "with another --run-id"
    )


def _restore(trainer: Trainer, checkpoint: Checkpoint, state: dict[str, Any], allowed: Mapping[str, str]) -> None:
    """Restore; raise CheckpointError for a state that verifies but is not what a trainer saves."""
    try:
        trainer.restore(state, allowed)
    except CheckpointError as error:
        raise CheckpointError(f"{checkpoint.path}: {error}") from error
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RuntimeError) as error:
        if ending_of(error, training=False) is not None:
            raise
        said = f"{type(error).__name__}: {first_line(error)}"
        raise CheckpointError(f"{checkpoint.path}: its content is not that of a run like this one ({said})") from error


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


def _record(files: RunFiles, config: RunConfig, command: list[str]) -> None:
    files.write("config.yaml", to_yaml(config))
    files.write("env.json", indented(environment_report(command, config.plugins)))


def _begin(trainer: Trainer, info: RunInfo, files: RunFiles, resumed: Checkpoint | None, chosen: Chosen) -> None:
    """Announce the run; what was recorded beyond the restored point, and how the run ended before, is dropped."""
    files.write("plan.json", indented(plan_report(trainer.run)))
    was_killed = not chosen.is_new and last_status(chosen.path) == "killed"
    trainer.reporter.begin(info)
    attempted, applied = [resumed.manifest[f"{kind}_steps"] if resumed else 0 for kind in ("attempted", "applied")]
    files.trim_after(attempted, applied, trainer.ledger.window.steps)
    files.remove_result()
    for notice in info.notices:
        files.event(Event("warning", attempted, applied, notice))
    for change in chosen.changes:
        files.event(Event("changed", attempted, applied, str(change), change._asdict()))
    if was_killed:
        said = "the process before this one was killed: it left no result"
        trainer.reporter.event(Event("killed", attempted, applied, said))


def _finished_result(run_dir: Path, trainer: Trainer, resumed: Checkpoint) -> dict[str, Any] | None:
    """Return the result of a run that ended well and has nothing left to train, so that resuming it loses no figure.

    What was expected of it then is forgotten.
    """
    try:
        result: dict[str, Any] = json.loads(read_regular(run_dir / "result.json"))
        done = result["status"] in ("ok", UNMET) and result["ended_by"] != "max_time"
        done = done and result["attempted_steps"] == resumed.manifest["attempted_steps"]
    except (OSError, ValueError, KeyError, TypeError):
        return None  # it was killed before it could write one
    if not done or resumed.step < trainer.target:
        return None
    return result | {"status": "ok", "exit_code": 0, "error": None}


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
        "main_metric": None,
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
    best, watch, task = trainer.best, trainer.data_watch, run.parts.task
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
        "ended_by": trainer.ended_by,
        "metrics": dict(trainer.metrics),
        "main_metric": {"name": task.main_metric, "higher_is_better": task.higher_is_better},
        "best": {"metric": task.main_metric, "value": best.value, "applied_steps": best.applied_steps}
        if trainer.metrics
        else None,
        "summary": trainer.summary,
        "samples_per_s": speed.samples_per_s,
        "tokens_per_s": _tokens_per_s(run, speed.samples_per_s),
        "step_time_ms": {"median": speed.step_time_median_ms, "p90": speed.step_time_p90_ms},
        "micro_batch": trainer.micro_batch.size,
        "peak_memory_bytes": peak_memory_bytes(run.device),
        "held_bytes": {"planned": run.memory.as_dict(), "measured": held_bytes(run.parts).as_dict()},
        "numerics": trainer.numerics.as_dict(),
        "data_wait_fraction": speed.data_wait_fraction,
        "loader_bound": asdict(watch.loader_bound) if watch.loader_bound else None,
        "skipped_files": skipped_files(run.splits.bad_files),
    }
