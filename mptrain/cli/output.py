"""How the command line writes an error and its JSON. Must not: import anything heavy, or decide what is an error."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from mptrain.environment import dumb_terminal, no_color
from mptrain.errors import ConfigError, MptrainError, one_line
from mptrain.telemetry.plain import discard


def print_error(error: MptrainError) -> None:
    """Write an error to stderr, one `error:` line per problem."""
    problems = error.problems if isinstance(error, ConfigError) else [one_line(str(error))]
    for problem in problems:
        print_problem(problem)


def print_problem(text: str) -> None:
    """Write one `error:` line to stderr, in red on a terminal only."""
    if sys.stderr is None:  # closed by whoever started this process
        return
    colour = sys.stderr.isatty() and not no_color() and not dumb_terminal()
    label = "\x1b[31merror:\x1b[0m" if colour else "error:"
    try:
        print(f"{label} {text}", file=sys.stderr)
    except OSError:  # nobody reads it any more; the exit code still tells, if Python can write the rest at its end
        discard(sys.stderr)


@contextlib.contextmanager
def stdout_kept_for_json(wanted: bool) -> Iterator[None]:
    """Send what others print (a plugin, a library) to stderr where `wanted`: stdout holds one JSON object then."""
    with contextlib.redirect_stdout(sys.stderr) if wanted else contextlib.nullcontext():
        yield


def print_json(result: Mapping[str, Any]) -> None:
    """Print one object as one line of strict JSON."""
    import json

    from mptrain.telemetry.files import strict_json

    print(json.dumps(strict_json(result), allow_nan=False))


def failure(error: MptrainError) -> dict[str, Any]:
    """Return the JSON object of a command that failed before it had a result of its own."""
    return {"schema": 1, "status": error.status, "exit_code": error.exit_code, "error": str(error)}
