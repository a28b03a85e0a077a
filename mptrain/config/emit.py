"""Resolved config -> YAML text that reads back to the same values, with an optional comment per line.

Owns: the layout. Must not: know the schema; it writes whatever plain mappings, lists and scalars it is given.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import yaml

from mptrain.config.tree import dotted
from mptrain.config.yaml_reader import read_scalar

Path = tuple[str | int, ...]
_PLAIN = re.compile(r"[A-Za-z0-9_./~+][\w./:+~-]*(?<!:)", re.ASCII)
COMMENT_COLUMN = 44


def emit_yaml(data: Mapping[str, Any], comment: Callable[[str], str] | None = None) -> str:
    """Return `data` as block YAML in its own key order; comment(dotted path) is put behind each value."""
    lines = []
    for path, text in _mapping(data, (), ""):
        note = comment(dotted(path)) if comment is not None and path else ""
        lines.append(f"{text:<{COMMENT_COLUMN}}  # {note}" if note else text)
    return "\n".join(lines) + "\n"


def _mapping(data: Mapping[str, Any], path: Path, indent: str) -> Iterator[tuple[Path, str]]:
    """Yield (path of the value on this line, line); the path of a line that only opens a section is empty."""
    for key, value in data.items():
        here = (*path, key)
        if isinstance(value, Mapping) and value:
            yield (), f"{indent}{scalar(key)}:"
            yield from _mapping(value, here, indent + "  ")
        elif isinstance(value, list | tuple) and any(isinstance(item, Mapping) for item in value):
            yield (), f"{indent}{scalar(key)}:"
            for index, item in enumerate(value):
                yield (*here, index), f"{indent}  - {flow(item)}"
        else:
            yield here, f"{indent}{scalar(key)}: {flow(value)}"


def flow(value: Any) -> str:
    """Return a value on one line."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{scalar(key)}: {flow(child)}" for key, child in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(flow(item) for item in value) + "]"
    return scalar(value)


def scalar(value: Any) -> str:
    """Return a scalar so that it reads back as itself; texts are quoted where they would read as something else."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    text = str(value)
    if _PLAIN.fullmatch(text) and _reads_as_text(text):
        return text
    quoted: str = yaml.safe_dump(text, default_style='"', width=float("inf"), allow_unicode=True)
    return quoted.rstrip("\n")


def _reads_as_text(text: str) -> bool:
    try:
        return isinstance(read_scalar(text), str)
    except ValueError:
        return False
