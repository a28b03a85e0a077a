"""Config file + the files it extends + overrides -> one tree of values that know where they came from.

Owns: reading files, `extends`, override syntax, the order of layers. Must not: validate (see `problems`), or know
the registries (see `mptrain.catalog`).
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from mptrain.config.tree import Node, Origin, expand_shorthands, merge
from mptrain.config.wording import nearest, shorten
from mptrain.config.yaml_reader import MAX_DEPTH, parse_yaml
from mptrain.errors import ConfigError

MAX_BYTES = 1_000_000


def load_tree(path: Path, overrides: Sequence[str] = ()) -> Node:
    """Return the merged tree of a config file with `extends` resolved and overrides on top.

    `name` defaults to the file's stem. Raises ConfigError naming file and line.
    """
    try:
        tree = _load_layers(path, ())
    except OSError as error:
        raise ConfigError(_reason(path, error)) from None
    name = Node(path.stem, Origin(f"{path}: the file's name"))
    tree = replace(tree, value={"name": name, **tree.value})
    layer = parse_overrides(overrides)
    return tree if layer is None else replace(merge(tree, layer), origin=tree.origin)


def _load_layers(path: Path, chain: tuple[Path, ...]) -> Node:
    """Return the tree of one file laid over the trees of the files it extends; `chain` led here."""
    root = _read_mapping(path)
    tree: Node | None = None
    for base, origin in _bases(root, path):
        if any(os.path.realpath(base) == os.path.realpath(seen) for seen in (*chain, path)):
            circle = " -> ".join(str(step) for step in (*chain, path, base))
            raise ConfigError(f"{origin}: extends: these files extend each other in a circle: {circle}")
        try:
            layer = _load_layers(base, (*chain, path))
        except OSError as error:
            raise ConfigError(f"{origin}: extends: {_reason(base, error)}") from None
        tree = layer if tree is None else merge(tree, layer)
    own = expand_shorthands(replace(root, value={key: child for key, child in root.value.items() if key != "extends"}))
    return own if tree is None else merge(tree, own)


def _bases(root: Node, path: Path) -> list[tuple[Path, Origin]]:
    """Return the files that `extends` names, relative to the file it stands in."""
    node = root.value.get("extends")
    if node is None:
        return []
    items = node.value if isinstance(node.value, list) else [node]
    for item in items:
        if not isinstance(item.value, str) or not item.value or "\0" in item.value:
            raise ConfigError(f"{item.origin}: extends: must be a file name or a list of file names")
    return [(Path(os.path.normpath(path.parent / item.value)), item.origin) for item in items]


def _read_mapping(path: Path) -> Node:
    """Return the mapping in a YAML file; raise OSError when it cannot be read, ConfigError when it is not one."""
    text = _read_text(path)
    root = parse_yaml(text, lambda line: Origin(str(path), line))
    if root.value is None:
        raise ConfigError(f"{path}: is empty; a config needs at least model, data, task, optimizer, schedule, train")
    if not isinstance(root.value, dict):
        kind = "a list" if isinstance(root.value, list) else "a single value"
        raise ConfigError(f"{root.origin}: holds {kind}; a config is a mapping of `key: value` lines")
    return replace(root, origin=Origin(str(path)))


def _read_text(path: Path) -> str:
    info = path.stat()
    if stat.S_ISDIR(info.st_mode):
        raise ConfigError(f"{path}: is a folder; name a config file in it")
    if not stat.S_ISREG(info.st_mode):
        raise ConfigError(f"{path}: is not a regular file; name a config file")
    if info.st_size > MAX_BYTES:
        raise ConfigError(f"{path}: has {info.st_size:,} bytes; a config may have at most {MAX_BYTES:,}")
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not UTF-8 text (byte {error.start}); save it as UTF-8") from None
    return text


def _reason(path: Path, error: OSError) -> str:
    """Return why a file cannot be read, with the nearest file that exists."""
    if not isinstance(error, FileNotFoundError):
        return f"{path}: cannot be read: {error.strerror}"
    folder = path.parent
    if not folder.is_dir():
        return f"{path}: does not exist (there is no folder {folder})"
    names = sorted(entry.name for entry in folder.iterdir() if entry.suffix in {".yaml", ".yml"})
    near = nearest(path.name, names)
    return f"{path}: does not exist" + (f" (did you mean {folder / near}?)" if near else "")


def is_override(argument: str) -> bool:
    """Tell an override `dotted.key=value` from a file name."""
    key, equals, _ = argument.partition("=")
    return bool(equals) and "/" not in key and "\\" not in key


def parse_overrides(overrides: Sequence[str]) -> Node | None:
    """Return one layer of all overrides (a later one wins), or None without any; raise ConfigError with all faults."""
    layer: Node | None = None
    problems: list[str] = []
    for text in overrides:
        try:
            override = _parse_override(text)
            layer = override if layer is None else merge(layer, override)
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(problems)
    return layer


def _parse_override(text: str) -> Node:
    key, equals, value = text.partition("=")
    origin = Origin(f"override {shorten(text)!r}")
    parts = key.split(".")
    if not equals:
        raise ConfigError(f"{origin}: has no '='; write it as dotted.key=value")
    if not all(re.fullmatch(r"\S+", part) for part in parts):
        raise ConfigError(f"{origin}: the key before '=' is empty, or a part of it is; write it as dotted.key=value")
    if len(parts) > MAX_DEPTH:
        raise ConfigError(f"{origin}: the key has more than {MAX_DEPTH} parts")
    if parts[0] == "extends":
        raise ConfigError(f"{origin}: extends works only inside a file")
    if not value.strip():
        raise ConfigError(f"{origin}: has no value; write {key}=null for none, or {key}='\"\"' for an empty text")
    node = parse_yaml(value, lambda _line: origin)
    for part in reversed(parts):
        node = Node({part: node}, origin)
    return expand_shorthands(node)
