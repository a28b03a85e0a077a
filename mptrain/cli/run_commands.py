"""`mptrain run`, `eval` and `export`: training, and what comes after it. Torch is imported inside the functions."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mptrain.cli.config_commands import Overrides
from mptrain.cli.output import print_json, print_problem, stdout_kept_for_json

if TYPE_CHECKING:
    from mptrain.config.schema import RunConfig
    from mptrain.trainer.launch import LaunchOptions


class ExportDtype(StrEnum):
    """Formats that `export` writes."""

    fp32 = "fp32"
    fp16 = "fp16"
    bf16 = "bf16"


RunDirectory = Annotated[Path, typer.Argument(metavar="RUN_DIR", help="A run's folder.")]
Best = Annotated[bool, typer.Option("--best", help="Take the best checkpoint, not the newest.")]
Expect = Annotated[
    list[str] | None,
    typer.Option(
        metavar="CONDITIONS",
        help="End with exit code 3 unless the result meets these, e.g. 'accuracy>=0.5,skipped_steps<=3'; repeatable.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else on stdout.")]


def run(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="A config file.")],
    overrides: Overrides = None,
    output_dir: Annotated[Path, typer.Option(help="New runs go to OUTPUT_DIR/<config name>/<run id>/.")] = Path("runs"),
    run_id: Annotated[str | None, typer.Option(help="Name this run's folder; the default is date and time.")] = None,
    resume: Annotated[
        str | None, typer.Option(metavar="auto|PATH", help="Continue a run folder, a checkpoint, or the newest (auto).")
    ] = None,
    allow_change: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=REASON", help="With --resume: let KEY differ from the run's own, and record why."),
    ] = None,
    max_steps: Annotated[
        int | None, typer.Option(min=1, help="Stop after this many applied steps; the schedule keeps its length.")
    ] = None,
    expect: Expect = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Build everything, train nothing, write nothing.")] = False,
    as_json: AsJson = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print warnings and errors only.")] = False,
) -> None:
    """Train what CONFIG describes."""
    from mptrain.trainer.signals import StopAtOnce, StoppedBySignal

    limit = [f"train.stop_at_step={max_steps}"] if max_steps is not None else []
    with stdout_kept_for_json(as_json):
        try:
            with StopAtOnce():  # `launch` takes over; torch alone takes seconds to import
                from mptrain.catalog import load_config
                from mptrain.trainer.expectations import parse_expectations

                expectations = parse_expectations(expect or ())
                loaded = load_config(config, [*(overrides or ()), *limit])
                from mptrain.trainer.launch import LaunchOptions, launch
        except StoppedBySignal as stopped:
            raise stopped.ending() from None

        notices = tuple(str(item) for item in loaded.dropped)
        options = LaunchOptions(
            output_dir=output_dir,
            run_id=run_id,
            resume=resume,
            allowed_changes=tuple(allow_change or ()),
            quiet=quiet,
            json_output=as_json,
            notices=notices,
            expectations=expectations,
        )
        result = _dry_run(loaded.config, options) if dry_run else launch(loaded.config, options, command=sys.argv)
    _print_problems(result)
    if as_json:
        print_json(result)
    raise typer.Exit(result["exit_code"])


def evaluate(
    run_dir: RunDirectory,
    overrides: Overrides = None,
    best: Best = False,
    predictions: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also write a line of JSON for each test sample to FILE.")
    ] = None,
    expect: Expect = None,
    as_json: AsJson = False,
) -> None:
    """Evaluate a run's checkpoint on its test data."""
    from mptrain.trainer.expectations import judged, parse_expectations

    expectations = parse_expectations(expect or ())
    with stdout_kept_for_json(as_json):
        from mptrain.trainer.saved import evaluate_run

        result = evaluate_run(run_dir, overrides or (), best=best, predictions=predictions)
    skipped = result["skipped_files"]
    for reason in skipped["examples"]:
        print(f"! left out: {reason}", file=sys.stderr)
    verdict = judged(_ENDED_WELL | result, expectations)
    _print_problems(verdict)
    _print_result(verdict if as_json else result | {"skipped_files": skipped["count"]}, as_json)
    raise typer.Exit(verdict["exit_code"])


def export(
    run_dir: RunDirectory,
    output: Annotated[Path, typer.Option(help="The safetensors file to write.")],
    dtype: Annotated[ExportDtype, typer.Option(help="Format of floating-point weights.")] = ExportDtype.fp32,
    best: Best = False,
    as_json: AsJson = False,
) -> None:
    """Write a run's weights as safetensors."""
    from mptrain.trainer.saved import export_run

    with stdout_kept_for_json(as_json):
        result = export_run(run_dir, output, dtype.value, best=best)
    _print_result(result, as_json)


def _dry_run(config: RunConfig, options: LaunchOptions) -> dict[str, Any]:
    from mptrain.trainer.dry_run import dry_run
    from mptrain.trainer.endings import known_endings
    from mptrain.trainer.launch import choose_run_dir

    choose_run_dir(config, options)
    with known_endings():
        result = dry_run(config)
    if not options.quiet and not options.json_output:
        print(f"{config.name}: would train {_length(config, result['total_steps'], result['steps_per_epoch'])}")
        for key in ("device", "model", "data"):
            print(f"  {key:<10} {result[key]}")
        print(f"  {'precision':<10} {result['precision']['line']}")
        for notice in result["notices"]:
            print(f"  {'NOTICE':<10} {notice}")
    return result


def _length(config: RunConfig, total_steps: int | None, steps_per_epoch: int | None) -> str:
    if total_steps is None:
        return f"{config.train.epochs} epochs, of how many steps only the data tell"
    return f"{total_steps} steps" + (f" ({steps_per_epoch} an epoch)" if steps_per_epoch else "")


_ENDED_WELL = {"schema": 1, "status": "ok", "exit_code": 0, "error": None}


def _print_problems(result: dict[str, Any]) -> None:
    for problem in (result["error"] or "").splitlines():
        print_problem(problem)


def _print_result(result: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(_ENDED_WELL | result)
        return
    for key, value in result.items():
        if isinstance(value, dict):
            value = "  ".join(f"{k} {v:.6g}" for k, v in value.items())
        print(f"{key:<14} {value}")
