"""A run's config.yaml as settings by dotted key: `{"precision.mode": "fp16", "model.hidden": [64], ...}`.

Owns: a fast, safe reading of that one file. Must not: validate; a run wrote it, so it was valid there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import yaml

from mptrain.config.yaml_reader import MAX_NODES, read_scalar
from mptrain.durable import read_regular
from mptrain.errors import DataError, first_line

_SafeLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""libyaml's, where PyYAML was built with it: ten times as fast."""


class _Loader(_SafeLoader):  # type: ignore[misc]
    """Reads unquoted scalars as configs are read (YAML 1.2: `1e-3` is a number, `on` a text)."""

    yaml_implicit_resolvers: ClassVar = {None: [("!plain", re.compile(""))]}


_Loader.add_constructor("!plain", lambda _, node: read_scalar(node.value))


def read_settings(path: Path) -> dict[str, Any]:
    """Return the settings in a config.yaml; lists are values. Raises DataError for what is no mapping of keys."""
    try:
        tree = yaml.load(read_regular(path), Loader=_Loader)  # noqa: S506  (a SafeLoader)
        _check_size(tree)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise DataError(f"{path}:{line}: not valid YAML: {error.problem}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: not a config: {first_line(error)}") from None
    if not isinstance(tree, dict):
        raise DataError(f"{path}: {'is empty: its run never began' if tree is None else 'holds no mapping of keys'}")
    return dict(_flat(tree, ""))


def _check_size(tree: Any) -> None:
    """Raise ValueError for more values than a config has, aliases counted in full; so they cannot go in circles."""
    waiting, count = [tree], 0
    while waiting:
        value = waiting.pop()
        count += 1
        if count > MAX_NODES:
            raise ValueError(f"more than {MAX_NODES} values (aliases counted in full)")
        if isinstance(value, dict):
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value


def _flat(tree: dict[Any, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
