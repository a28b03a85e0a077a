"""`mptrain verify-resume`: whether a run of a config, cut and resumed, is bit-equal to the uninterrupted one."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from mptrain.cli.config_commands import Overrides
from mptrain.cli.output import print_json, print_problem, stdout_kept_for_json
from mptrain.cli.run_commands import AsJson


def verify_resume(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="A config file.")],
    overrides: Overrides = None,
    steps: Annotated[int, typer.Option(min=2, help="Steps to train; the schedule keeps its length.")] = 20,
    cut: Annotated[
        int | None, typer.Option(min=1, help="Attempted step after which to stop and resume; half of the steps.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Cut and resume a run, and name any bit that differs.

    Trains CONFIG whole, to the cut, and on from the checkpoint, in three processes and in deterministic mode
    (train.deterministic=true). Exit 0: bit-equal; 3: not. Nothing is left but what it prints.
    """
    from mptrain.catalog import load_config
    from mptrain.trainer.verify_resume import verify_resume as verify

    with stdout_kept_for_json(as_json):
        loaded = load_config(config, overrides or ())
        result = verify(loaded.config, steps=steps, cut=cut, tell=_tell)
    if as_json:
        print_json(result)
    else:
        print(_table(result))
    if result["error"]:
        print_problem(result["error"])
    raise typer.Exit(result["exit_code"])


def _tell(words: str) -> None:
    """Say what is being done, to a person who waits."""
    if sys.stderr is not None and sys.stderr.isatty():
        print(f"{words} ...", file=sys.stderr)


def _table(result: dict[str, Any]) -> str:
    head = f"{result['name']}: {result['steps']} steps, cut after attempted step {result['cut']}, deterministic mode"
    lines = [head, f"  {result['precision']}; {result['device']}"]
    rows = [
        (each["label"], each["compared"], each["first_difference"] or "bit-equal")
        for each in result["components"].values()
    ]
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    lines += [f"  {label:<{widths[0]}}  {compared:<{widths[1]}}  {found}" for label, compared, found in rows]
    if not result["error"]:
        lines.append(result["verdict"])
    return "\n".join(lines)
