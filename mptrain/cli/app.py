"""The `mptrain` command: names its subcommands, and maps every way to end onto text and an exit code.

Owns: the wiring and the one place where an error becomes a line on stderr. Must not: import pydantic or torch, or
hold a command's logic; command modules import what is heavy inside their functions, so that `--help` is instant.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from mptrain import __version__
from mptrain.cli import (
    bench_command,
    config_commands,
    env_command,
    list_commands,
    plan_command,
    report_command,
    run_commands,
    runs_command,
    sample_command,
    sweep_command,
    verify_command,
    watch_command,
)
from mptrain.cli.output import failure, print_error, print_json, print_problem
from mptrain.errors import CapabilityError, ConfigError, Interrupted, MptrainError
from mptrain.startup import pause_collection

BROKEN_PIPE = 141
"""128 + SIGPIPE, what other programs end with when their reader has gone."""
_STDOUT_ERRORS = (errno.EPIPE, errno.ENOSPC, errno.EIO)
"""What printing fails with: no reader, a full disk behind a redirection, a terminal that has gone."""


class _Commands(TyperGroup):
    """Typer makes of Ctrl-C an exit code like any other; here it is an ending that is told, in JSON where asked for."""

    def invoke(self, ctx: typer.Context) -> Any:  # type: ignore[override]
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise typer.Abort from None


# No rich markup: plain help costs no import of rich, and reads the same in a terminal, a pipe and a log.
app = typer.Typer(
    cls=_Commands,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"mptrain {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    """Train in the lowest precision that still learns, and prove it."""


# Commands in the order of their use; each is a function of its group's module.
app.command("run")(run_commands.run)
app.command("eval")(run_commands.evaluate)
app.command("sample")(sample_command.sample)
app.command("export")(run_commands.export)
app.command("verify-resume")(verify_command.verify_resume)
app.command("check")(config_commands.check)
app.command("show")(config_commands.show)
app.command("plan")(plan_command.plan)
app.command("sweep")(sweep_command.sweep)
app.command("bench")(bench_command.bench)
app.command("report")(report_command.report)
app.command("runs")(runs_command.runs)
app.command("watch")(watch_command.watch)
app.command("schema")(config_commands.schema)
app.command("ls")(list_commands.ls)
app.command("env")(env_command.env)


def main() -> None:
    """Run the command line of this process and exit."""
    pause_collection()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files may have what its encoding has not
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code; every error has become text on stderr, and JSON with --json."""
    try:
        code = _run(list(arguments))
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError as error:  # of stdout: whatever else cannot be read or written is an MptrainError or a bug
        # The interpreter flushes stdout once more on its way out; let it find a place to write to.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        if isinstance(error, BrokenPipeError):
            return BROKEN_PIPE
        print_problem(f"cannot write to standard output: {error.strerror}")
        return CapabilityError.exit_code
    return code


def _run(arguments: list[str]) -> int:
    if not arguments:
        with contextlib.redirect_stdout(sys.stderr):
            app(args=["--help"], prog_name="mptrain", standalone_mode=False)
        return ConfigError.exit_code
    try:
        code = app(args=arguments, prog_name="mptrain", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except BaseException as error:
        # Typer turns a broken pipe into SystemExit(1), and the end of any file or stream into an interrupt.
        cause = error.__context__ if isinstance(error, SystemExit | typer.Abort) else None
        cause = cause or error
        if isinstance(cause, OSError) and cause.errno in _STDOUT_ERRORS and cause.filename is None:
            raise cause from None
        ending = _explain(cause)
    if "--json" in arguments:
        print_json(failure(ending))
    return ending.exit_code


def _explain(error: BaseException) -> MptrainError:
    """Write an error to stderr and return it as what it means for the exit code."""
    if isinstance(error, MptrainError):
        print_error(error)
        return error
    if isinstance(error, KeyboardInterrupt | typer.Abort):
        return Interrupted("interrupted")
    if isinstance(error, typer.TyperException):
        usage = ConfigError(f"{error.format_message().rstrip('.')}; see `mptrain --help`")
        print_error(usage)
        return usage
    traceback.print_exception(error)
    plugin = _plugin_at_fault(error)
    if plugin:
        print_problem(f"the code of {plugin} failed, see the lines above")
    else:
        print_problem("this is a bug in mptrain; please report it with the lines above and the command")
    return MptrainError(traceback.format_exception_only(error)[-1].strip())


def _plugin_at_fault(error: BaseException) -> str | None:
    """Return the innermost frame that belongs to a package which registered an entry, but to mptrain, as text."""
    from mptrain.catalog import REGISTRIES

    builders = (entry.build.__module__ for registry in REGISTRIES.values() for entry in registry)
    packages = {module.split(".")[0] for module in builders} - {"mptrain"}
    found = None
    for frame, line in traceback.walk_tb(error.__traceback__):
        module = str(frame.f_globals.get("__name__"))
        if module.split(".")[0] in packages:
            found = f"plugin '{module}' ({frame.f_code.co_filename}:{line})"
    return found
