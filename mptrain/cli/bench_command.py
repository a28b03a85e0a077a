"""`mptrain bench`: what each precision would bring on this machine. Torch is imported inside the function."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from mptrain.cli.config_commands import Overrides
from mptrain.cli.output import print_json, print_problem, stdout_kept_for_json
from mptrain.cli.run_commands import AsJson


def bench(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="A config file.")],
    overrides: Overrides = None,
    precisions: Annotated[
        str | None,
        typer.Option(metavar="all|MODE,MODE,...", help="Default: what this device runs natively. all: also emulated."),
    ] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Interleaved rounds.")] = 5,
    seconds: Annotated[float, typer.Option(min=0.1, help="Time for each mode's timed steps, over all rounds.")] = 20.0,
    steps: Annotated[
        int | None, typer.Option(min=1, max=10_000, help="Timed steps a round, instead of a time.")
    ] = None,
    max_batch: Annotated[
        bool, typer.Option("--max-batch/--no-max-batch", help="Look for the largest micro-batch that fits.")
    ] = True,
    as_json: AsJson = False,
) -> None:
    """Time a training step in each precision, without training, and say why one is no faster."""
    from mptrain.catalog import load_config

    with stdout_kept_for_json(as_json):
        loaded = load_config(config, overrides or ())
        from mptrain.bench.measure import bench as measure
        from mptrain.bench.timing import Settings
        from mptrain.trainer.endings import known_endings

        settings = Settings(repeats=repeats, seconds=seconds, steps=steps)
        with known_endings():
            result = measure(loaded.config, precisions, settings, max_batch=max_batch, say=_say)
    if result["error"]:
        print_problem(result["error"])
    if as_json:
        print_json(result)
    else:
        from mptrain.bench.table import render

        print(render(result))
    raise typer.Exit(result["exit_code"])


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
