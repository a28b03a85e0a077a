"""How the command line writes an error. Must not: import anything heavy, or decide what is an error."""

from __future__ import annotations

import sys

from mptrain.environment import dumb_terminal, no_color
from mptrain.errors import ConfigError, MptrainError, one_line


def print_error(error: MptrainError) -> None:
    """Write an error to stderr, one `error:` line per problem."""
    problems = error.problems if isinstance(error, ConfigError) else [one_line(str(error))]
    for problem in problems:
        print_problem(problem)


def print_problem(text: str) -> None:
    """Write one `error:` line to stderr, in red on a terminal only."""
    colour = sys.stderr.isatty() and not no_color() and not dumb_terminal()
    label = "\x1b[31merror:\x1b[0m" if colour else "error:"
    print(f"{label} {text}", file=sys.stderr)
