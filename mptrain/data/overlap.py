"""Files that a pattern takes for training although they are for the test. Must not: open a file."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from mptrain.errors import ConfigError


def check_apart(train: Iterable[Path], test: Iterable[Path]) -> None:
    """Raise ConfigError where a file of `data.test` is also one of `data.train`.

    Where both are the same files, that is meant: a model that learns them by heart is a common trial.
    """
    learned, tested = ({path.resolve() for path in paths} for paths in (train, test))
    if learned != tested and (shared := sorted(learned & tested)):
        raise ConfigError(
            f"data.test: {shared[0]} is also a training file; narrow the pattern of data.train, or move the file"
        )
