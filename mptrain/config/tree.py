"""A config as a tree of values that remember where they came from, and how layers of such trees merge.

Owns: `Origin`, `Node`, deep merge, shorthands. Must not: read files, parse text, or know what a valid config is.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from mptrain.config.schema import SHORTHANDS
from mptrain.errors import ConfigError

ENTRY_SECTIONS = tuple(path for path, key in SHORTHANDS.items() if key == "name")
"""Sections whose `name` selects a registry entry."""


@dataclass(frozen=True, order=True)
class Origin:
    """Where a value was written: a file and line, an override, or (line 0) something as a whole."""

    source: str
    line: int = 0

    def __str__(self) -> str:
        return f"{self.source}:{self.line}" if self.line else self.source


DEFAULT = Origin("default")


@dataclass(frozen=True)
class Node:
    """A scalar, a dict of nodes or a list of nodes; never changed once made, so trees may share nodes."""

    value: Any
    origin: Origin
    inherited_by: str | None = None
    """Set when a higher layer selected another registry entry: this value was meant for the one below it."""

    def plain(self) -> Any:
        """Return the value with plain dicts and lists all the way down."""
        if isinstance(self.value, dict):
            return {key: child.plain() for key, child in self.value.items()}
        if isinstance(self.value, list):
            return [child.plain() for child in self.value]
        return self.value

    def children(self) -> Iterator[tuple[str | int, Node]]:
        """Yield (key or index, child) of a dict or list; nothing for a scalar."""
        if isinstance(self.value, dict):
            yield from self.value.items()
        elif isinstance(self.value, list):
            yield from enumerate(self.value)

    def child(self, key: str | int) -> Node | None:
        """Return the child at a key or index, or None."""
        if isinstance(self.value, dict):
            return self.value.get(key)
        if isinstance(self.value, list) and isinstance(key, int) and key < len(self.value):
            item: Node = self.value[key]
            return item
        return None


def dotted(path: Collection[str | int]) -> str:
    """Return a path as users write it: ('train', 'epochs') -> 'train.epochs'."""
    return ".".join(str(part) for part in path)


def from_plain(value: Any, origin: Origin) -> Node:
    """Wrap plain mappings, lists, tuples and scalars into nodes that all have one origin."""
    if isinstance(value, Mapping):
        return Node({str(key): from_plain(child, origin) for key, child in value.items()}, origin)
    if isinstance(value, list | tuple):
        return Node([from_plain(child, origin) for child in value], origin)
    return Node(value, origin)


def expand_shorthands(root: Node) -> Node:
    """Write bare values out in full, so that layers merge key by key: `precision: bf16` -> {mode: bf16}."""
    for path, key in SHORTHANDS.items():
        root = _expand(root, path.split("."), path, key)
    return root


def _expand(node: Node, parts: list[str], path: str, key: str) -> Node:
    if not parts:
        if node.value is None or isinstance(node.value, dict | list):
            return node
        if path == "precision.loss_scale" and isinstance(node.value, int | float) and not isinstance(node.value, bool):
            return Node({"kind": Node("static", node.origin), "init_scale": node}, node.origin)
        return Node({key: node}, node.origin)
    child = node.value.get(parts[0]) if isinstance(node.value, dict) else None
    if child is None:
        return node
    return replace(node, value={**node.value, parts[0]: _expand(child, parts[1:], path, key)})


def merge(lower: Node, upper: Node, path: tuple[str, ...] = ()) -> Node:
    """Return `upper` laid over `lower`: mappings merge key by key, everything else is replaced.

    A mapping with only whole-number keys over a list edits the items at those places; raises ConfigError when one
    is not there. What a layer selecting another registry entry leaves of the old one is marked `inherited_by`.
    """
    if isinstance(lower.value, list) and isinstance(upper.value, dict) and upper.value:
        if all(key.isascii() and key.isdigit() for key in upper.value):
            return _edit_items(lower, upper, path)
        return upper
    if not isinstance(lower.value, dict) or not isinstance(upper.value, dict):
        return upper
    merged = dict(lower.value)
    if dotted(path) in ENTRY_SECTIONS:
        merged = _mark_inherited(lower, upper)
    for key, child in upper.value.items():
        merged[key] = merge(merged[key], child, (*path, key)) if key in merged else child
    return Node(merged, upper.origin)


def _edit_items(lower: Node, upper: Node, path: tuple[str, ...]) -> Node:
    items = list(lower.value)
    for key, child in upper.value.items():
        index = int(key)
        if index >= len(items):
            count = f"has {len(items)} item{'s' if len(items) != 1 else ''}, counted from 0"
            raise ConfigError(f"{child.origin}: {dotted((*path, key))}: {dotted(path)} {count}; there is no item {key}")
        items[index] = merge(items[index], child, (*path, key))
    return Node(items, lower.origin)


def _mark_inherited(lower: Node, upper: Node) -> dict[str, Node]:
    old, new = lower.value.get("name"), upper.value.get("name")
    if old is None or new is None or old.value == new.value:
        return dict(lower.value)
    return {key: replace(child, inherited_by=str(new.value)) for key, child in lower.value.items()}


@dataclass(frozen=True)
class Dropped:
    """A key left out because it belonged to the registry entry that a higher layer replaced."""

    path: str
    value: Any
    origin: Origin
    entry: str

    def __str__(self) -> str:
        return f"{self.path} ({self.origin}) left out: '{self.entry}' has no such key"


def drop_foreign(root: Node, known_keys: Callable[[str, str], Collection[str] | None]) -> tuple[Node, list[Dropped]]:
    """Leave out what was written for a replaced registry entry and the new one does not know.

    known_keys(section, entry name) returns the keys of that entry's Config, or None for an unknown name.
    """
    sections, dropped = dict(root.value), []
    for section in ENTRY_SECTIONS:
        node = sections.get(section)
        name = node.child("name") if node is not None else None
        known = known_keys(section, name.value) if name is not None and isinstance(name.value, str) else None
        if node is None or name is None or known is None:
            continue
        foreign = [key for key, child in node.value.items() if child.inherited_by is not None and key not in known]
        for key in foreign:
            child = node.value[key]
            dropped.append(Dropped(f"{section}.{key}", child.plain(), child.origin, name.value))
        kept = {key: child for key, child in node.value.items() if key not in foreign}
        sections[section] = replace(node, value=kept)
    return replace(root, value=sections), dropped
