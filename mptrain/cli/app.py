"""The `mptrain` command: names its subcommands, and maps every way to end onto text and an exit code.

Owns: the wiring and the one place where an error becomes a line on stderr. Must not: import pydantic or torch, or
hold a command's logic; command modules import what is heavy inside their functions, so that `--help` is instant.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated

import typer

from mptrain import __version__
from mptrain.cli import config_commands, env_command, list_commands, run_commands
from mptrain.cli.output import print_error, print_problem
from mptrain.errors import MptrainError

BROKEN_PIPE = 141
"""128 + SIGPIPE, what other programs end with when their reader has gone."""

# No rich markup: plain help costs no import of rich, and reads the same in a terminal, a pipe and a log.
app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
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
app.command("export")(run_commands.export)
app.command("check")(config_commands.check)
app.command("show")(config_commands.show)
app.command("schema")(config_commands.schema)
app.command("ls")(list_commands.ls)
app.command("env")(env_command.env)


def main() -> None:
    """Run the command line of this process and exit."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code; every error has become text on stderr."""
    try:
        code = app(args=list(arguments), prog_name="mptrain", standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except MptrainError as error:
        print_error(error)
        return error.exit_code
    except typer.TyperException as error:
        print_problem(f"{error.format_message().rstrip('.')}; see `mptrain --help`")
        return 2
    except typer.Abort:
        return 130
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        return _reader_gone()
    except SystemExit as stop:
        # Typer turns a broken pipe into SystemExit(1), which would read as a bug.
        if isinstance(stop.__context__, BrokenPipeError):
            return _reader_gone()
        raise
    except Exception:
        traceback.print_exc()
        print_problem("this is a bug in mptrain; please report it with the lines above and the command")
        return 1


def _reader_gone() -> int:
    # The interpreter flushes stdout once more on its way out; let it find a place to write to.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return BROKEN_PIPE
