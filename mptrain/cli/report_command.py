"""`mptrain report`: which precision to use. Must not: import torch, nor what `--help` does not need."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mptrain import environment
from mptrain.cli.output import print_json
from mptrain.cli.run_commands import AsJson
from mptrain.errors import ConfigError, one_line

if TYPE_CHECKING:
    from mptrain.report.model import Report
    from mptrain.report.table import Tone

_STDOUT = Path("-")
_STYLES: dict[Tone, str] = {"title": "bold", "good": "green", "bad": "red", "unsure": "yellow", "aside": "dim"}


def report(
    run_dirs: Annotated[list[Path], typer.Argument(metavar="RUN_DIR...", help="Run folders, or folders above runs.")],
    baseline: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="What to compare with; may be repeated. [default: what ran in FP32]"),
    ] = None,
    metric: Annotated[
        str | None, typer.Option(metavar="NAME", help="Judge by this metric. [default: the task's main one]")
    ] = None,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Also write one self-contained page.")] = None,
    csv: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also write a row for each variant; - writes it to stdout.")
    ] = None,
    figures: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Also write every figure as SVG and PNG.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Compare runs over precisions and seeds, and say which precision to use.

    Runs that differ in their seed only are one variant; its metric, time and memory are means over seeds, and it is
    called better or worse only where chance and seed-to-seed noise do not explain the difference.
    """
    if as_json and csv == _STDOUT:
        raise ConfigError("--csv -: stdout holds one JSON object with --json; name a file")
    from mptrain.report.compare import compare

    found = compare(run_dirs, baseline or (), metric)
    print_left_out(found.problems)
    _write_files(found, html, csv, figures)
    if as_json:
        from mptrain.report.as_data import as_json as as_object

        print_json(as_object(found))
    elif csv != _STDOUT:
        print_report(found)


def _write_files(found: Report, html: Path | None, csv: Path | None, figures: Path | None) -> None:
    if html is not None:
        from mptrain.report.html import write_html

        write_html(found, html)
    if figures is not None:
        from mptrain.report.export import write_figures

        write_figures(found, figures)
    if csv is not None:
        from mptrain.report.as_data import as_csv

        if csv == _STDOUT:
            print(as_csv(found), end="")
        else:
            _write(csv, as_csv(found))


def _write(path: Path, text: str) -> None:
    from mptrain.durable import write_synced
    from mptrain.telemetry.files import cannot_write

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_synced(path, [text.encode()])
    except OSError as error:
        raise cannot_write(path, error, "--csv") from error


def print_left_out(problems: Sequence[str]) -> None:
    """Say on stderr which run folders could not be read, and why."""
    if sys.stderr is None:  # closed by whoever started this process
        return
    for problem in problems:
        print(f"note: left out: {one_line(problem)}", file=sys.stderr)


def print_report(found: Report) -> None:
    """Print tables and verdicts: to the width of a terminal and in colours there, whole and plain elsewhere."""
    from mptrain.report.table import text_lines

    if sys.stdout is None:
        return
    if not sys.stdout.isatty():
        print("\n".join(line.text for line in text_lines(found)))
        return
    lines = text_lines(found, shutil.get_terminal_size().columns)
    if environment.no_color() or environment.dumb_terminal():
        print("\n".join(line.text for line in lines))
        return
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False, soft_wrap=True)
    for line in lines:
        console.print(Text(line.text, _STYLES.get(line.tone, "")))
