"""One run from a loaded config to result.json, whatever its end.

Owns: the run directory's files and the mapping of every ending to a status. Must not: train (`trainer.py`) or print
(`mptrain.telemetry`).
"""

from __future__ import annotations

import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mptrain import checkpoint as checkpoints
from mptrain.catalog import to_yaml
from mptrain.checkpoint import Checkpoint, CheckpointStore
from mptrain.config.schema import RunConfig
from mptrain.errors import ConfigError, DataError, Interrupted, MptrainError, OutOfMemoryError, first_line
from mptrain.telemetry.console import Fanout, make_console
from mptrain.telemetry.files import RunFiles, write_json
from mptrain.telemetry.records import Event, RunInfo
from mptrain.trainer.build import build_run, describe_data, describe_device, describe_model
from mptrain.trainer.environment_report import environment_report, versions
from mptrain.trainer.memory import peak_memory_bytes
from mptrain.trainer.resume import check_resumable
from mptrain.trainer.run_dir import CHECKPOINTS, find_resume, new_run_id, run_dir_for
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

    Raises ConfigError or CheckpointError only for what must not create or touch a run directory; every later ending
    is in the result (`status`, `exit_code`, `error`). An unexpected exception is recorded as `crashed` and raised.
    """
    run_dir, resumed = _choose_run_dir(config, options)
    files = RunFiles(run_dir)
    began = time.perf_counter()
    (run_dir / "config.yaml").write_text(to_yaml(config), encoding="utf-8")
    write_json(run_dir / "env.json", environment_report(command))
    console = make_console(quiet=options.quiet, json_output=options.json_output)
    reporter = Fanout([files, console])
    trainer: Trainer | None = None
    crash: BaseException | None = None
    ending: MptrainError | None = None
    try:
        run = build_run(config)
        write_json(run_dir / "plan.json", run.in_force.as_dict() | {"compile": config.train.compile})
        trainer = Trainer(run, reporter, _store(config, run_dir))
        info = _run_info(trainer, run_dir, resumed, options.notices)
        reporter.begin(info)
        for notice in info.notices:
            files.event(Event("warning", 0, 0, notice))
        if resumed:
            files.trim_after(resumed.manifest["attempted_steps"], resumed.step)
            trainer.restore(checkpoints.load(resumed.path, device=run.device))
        trainer.fit()
    except BaseException as error:
        ending = _as_ending(error)
        crash = error if ending is None else None
    result = _result(config, trainer, ending, crash, run_dir, time.perf_counter() - began)
    reporter.end(result)
    if crash is not None:
        raise crash
    return result


def _choose_run_dir(config: RunConfig, options: LaunchOptions) -> tuple[Path, Checkpoint | None]:
    found = find_resume(options.resume, options.output_dir, config.name, options.run_id) if options.resume else None
    if found:
        run_dir, resumed = found
        if options.run_id and run_dir.name != options.run_id:
            raise ConfigError(f"--run-id: '{options.run_id}' is not the run that --resume names ({run_dir})")
        check_resumable(config, run_dir)
        return run_dir, resumed
    run_dir = run_dir_for(options.output_dir, config.name, options.run_id or new_run_id())
    if (run_dir / "config.yaml").exists() and options.resume != "auto":
        raise ConfigError(f"--run-id: {run_dir} exists already; choose another id, or continue it with --resume auto")
    return run_dir, None


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
    )


def _as_ending(error: BaseException) -> MptrainError | None:
    """Return the error as an ending with an exit code, or None for a bug."""
    if isinstance(error, MptrainError):
        return error
    if isinstance(error, KeyboardInterrupt):
        return Interrupted("interrupted")
    out_of_memory = isinstance(error, torch.OutOfMemoryError | MemoryError)
    if out_of_memory or (isinstance(error, RuntimeError) and "can't allocate memory" in str(error)):
        return OutOfMemoryError(
            f"out of memory ({first_line(error)}); lower data.batch_size and raise train.accumulate by the same "
            "factor, or use precision=bf16"
        )
    if isinstance(error, RuntimeError) and "DataLoader worker" in str(error):
        return DataError(
            f"a loader process was killed ({first_line(error)}); the machine may have run out of memory: "
            "lower data.num_workers"
        )
    return None


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


def _training_result(trainer: Trainer) -> dict[str, Any]:
    run, counts, speed = trainer.run, trainer.ledger.counts, trainer.meter.overall()
    best = trainer.best
    return {
        "precision": run.in_force.as_dict(),
        "device": describe_device(run.device),
        "applied_steps": counts.applied,
        "attempted_steps": counts.attempted,
        "skipped_steps": counts.skipped,
        "last_skipped_step": counts.last_skipped,
        "final_loss_scale": trainer.final_loss_scale(),
        "train_loss": trainer.train_loss,
        "metrics": dict(trainer.metrics),
        "best": {"metric": run.parts.task.main_metric, "value": best.value, "applied_steps": best.applied_steps}
        if trainer.metrics
        else None,
        "summary": trainer.summary,
        "samples_per_s": speed.samples_per_s,
        "step_time_ms": {"median": speed.step_time_median_ms, "p90": speed.step_time_p90_ms},
        "peak_memory_bytes": peak_memory_bytes(run.device),
        "data_wait_fraction": speed.data_wait_fraction,
    }
