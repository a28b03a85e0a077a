"""Every error that mptrain raises on purpose, and the exit code each one means.

Owns: the error tree and its `exit_code` / `status`. Must not: print, exit, or import anything of mptrain.

    MptrainError                1  crashed       a bug, unless a subclass says otherwise
    |- ConfigError              2  config_error  usage, or a config that cannot be run
    |  `- UnknownNameError      2  config_error  a name that no registry entry has
    |- DivergedError            3  diverged      training stopped learning for a numerical reason
    |- CapabilityError          4  env_error     this machine cannot do what was asked
    |- OutOfMemoryError         5  oom           the device or host ran out of memory
    |- DataError                6  data_error    data missing or damaged
    |  `- CheckpointError       6  data_error    a checkpoint missing, damaged or foreign
    |- Preempted               75  preempted     asked to stop; state is saved, resume me
    `- Interrupted            130  interrupted   told to leave at once

The command line maps an error to its text and exit code in one place (`mptrain.cli.app`).
"""

from __future__ import annotations

from collections.abc import Iterable


def one_line(text: str) -> str:
    """Return `text` with line breaks, control characters and undecodable bytes escaped."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text, or its type where it has none."""
    text = str(error).strip()
    return one_line(text.splitlines()[0]) if text else type(error).__name__


class MptrainError(Exception):
    """Base of all errors raised on purpose; the text is one line a user can act on."""

    exit_code = 1
    status = "crashed"


class ConfigError(MptrainError):
    """A config or command line that cannot be run; holds every problem found, one line each."""

    exit_code = 2
    status = "config_error"

    def __init__(self, problems: str | Iterable[str]) -> None:
        self.problems = [one_line(text) for text in ([problems] if isinstance(problems, str) else problems)]
        super().__init__("\n".join(self.problems))


class UnknownNameError(ConfigError):
    """A name that no registry entry has; the text lists what exists."""


class DivergedError(MptrainError):
    """Training cannot go on: non-finite loss, loss scale at its floor, or skips without end."""

    exit_code = 3
    status = "diverged"


class CapabilityError(MptrainError):
    """This machine, or an absent optional package, cannot do what was asked."""

    exit_code = 4
    status = "env_error"


class OutOfMemoryError(MptrainError):
    """The device or the host ran out of memory."""

    exit_code = 5
    status = "oom"


class DataError(MptrainError):
    """Data is missing, damaged or does not fit what the config says of it."""

    exit_code = 6
    status = "data_error"


class CheckpointError(DataError):
    """A checkpoint is missing, damaged, or belongs to another run."""


class Preempted(MptrainError):
    """The run was asked to stop and saved itself; resume it to go on."""

    exit_code = 75
    status = "preempted"


class Interrupted(MptrainError):
    """The run was told to leave at once."""

    exit_code = 130
    status = "interrupted"


ENDINGS: tuple[type[MptrainError], ...] = (
    ConfigError,
    DivergedError,
    CapabilityError,
    OutOfMemoryError,
    DataError,
    Preempted,
    Interrupted,
)
"""One class for each exit code and status that a process may end with, a bug aside: to read an end back."""
