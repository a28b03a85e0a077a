"""YAML text -> tree of values that know their line, with YAML 1.2 scalars and nothing executable.

Owns: what YAML is accepted. Works on the parser's events, without recursion, so no text can overflow the stack.
Must not: know the schema, or accept a text of which two readers could think differently (duplicate keys, tags, `<<`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import yaml

from mptrain.config.tree import Node, Origin
from mptrain.config.wording import shorten
from mptrain.errors import ConfigError

MAX_NODES = 10_000
"""Values in one text, aliases counted in full: ends alias bombs."""
MAX_DEPTH = 50

_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_INFINITY = re.compile(r"([-+]?)\.(inf|Inf|INF)")
_WORDS: dict[str, Any] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), float("nan")),
}

At = Callable[[int], Origin]
"""Line (from 1) -> origin."""


def read_scalar(text: str) -> Any:
    """Return what an unquoted YAML 1.2 scalar means; raise ValueError for a whole number beyond 64 bits.

    Numbers need no dot in `1e-3`, and keep a leading zero only as text (`08` is a name, not a number); only true and
    false are booleans; dates and `1:30` are text.
    """
    if text in _WORDS:
        return _WORDS[text]
    infinite = _INFINITY.fullmatch(text)
    if infinite:
        return float(f"{infinite[1]}inf")
    leading_zero = re.match(r"[-+]?0[0-9]", text)
    if _INT.fullmatch(text) and not leading_zero:
        number = int(text, 0) if len(text) < 30 else None
        if number is None or not -(2**63) <= number < 2**63:
            raise ValueError(f"the whole number {shorten(text)} does not fit in 64 bits")
        return number
    if _FLOAT.fullmatch(text) and not leading_zero:
        return float(text)
    return text


class _Shape(NamedTuple):
    """An anchored value with the number of values in it and their depth."""

    node: Node
    size: int
    height: int


@dataclass
class _Open:
    """A mapping or list whose end has not been seen yet."""

    origin: Origin
    line: int
    anchor: str | None
    items: Any
    size: int = 1
    height: int = 1
    key: str | None = None
    key_line: int = 0
    lines: dict[str, int] = field(default_factory=dict)


def parse_yaml(text: str, at: At) -> Node:
    """Return the one document in `text`; an empty one is a null node. Raise ConfigError naming the line."""
    try:
        return _Builder(at).build(yaml.parse(text, Loader=yaml.SafeLoader))
    except yaml.MarkedYAMLError as error:
        raise ConfigError(_syntax_problem(error, text, at)) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        char = f"character U+{error.character:04X}"
        raise ConfigError(f"{at(line)}: not a YAML text: {char} is not allowed here") from None
    except (ValueError, OverflowError):
        # PyYAML lets escapes such as "\UFFFFFFFF" and absurd %YAML versions through to chr() and int().
        raise ConfigError(f"{at(1)}: not valid YAML: an escape or directive is out of range") from None


def _syntax_problem(error: yaml.MarkedYAMLError, text: str, at: At) -> str:
    problem = error.problem or "cannot be parsed"
    unfinished = "<stream end>" in problem or "end of stream" in problem
    mark = (error.context_mark if unfinished else error.problem_mark) or error.problem_mark
    line = mark.line + 1 if mark else 1
    lines = text.splitlines()
    here = lines[line - 1] if line <= len(lines) else ""
    hint = ""
    if "'\\t'" in problem or re.match(r" *\t", here):
        return f"{at(line)}: a tab is used for indentation; YAML allows only spaces there"
    if "mapping values are not allowed" in problem:
        hint = "; check the indentation, or quote a text that contains ': '"
    elif "cannot start any token" in problem:
        hint = "; quote a text that starts with a special character"
    elif "<block" in problem:
        hint = "; check the indentation"
    elif unfinished:
        problem = "a list, mapping or quoted text begins here and never ends"
    return f"{at(line)}: not valid YAML: {problem}{hint}"


class _Builder:
    """Turns one document's events into nodes, with an explicit stack in place of recursion."""

    def __init__(self, at: At) -> None:
        self.at = at
        self.stack: list[_Open] = []
        self.anchors: dict[str, _Shape] = {}
        self.root: Node | None = None
        self.documents = 0

    def build(self, events: Iterator[yaml.Event]) -> Node:
        """Consume all events and return the root node."""
        for event in events:
            assert event.start_mark is not None
            line = event.start_mark.line + 1
            if isinstance(event, yaml.DocumentStartEvent):
                self.documents += 1
                if self.documents > 1:
                    raise self.problem(line, "a second document starts here; keep one config per file")
            elif isinstance(event, yaml.ScalarEvent):
                self.scalar(event, line)
            elif isinstance(event, yaml.AliasEvent):
                self.alias(str(event.anchor), line)
            elif isinstance(event, yaml.MappingStartEvent | yaml.SequenceStartEvent):
                self.open(event, line)
            elif isinstance(event, yaml.MappingEndEvent | yaml.SequenceEndEvent):
                self.close()
        return self.root if self.root is not None else Node(None, self.at(1))

    def problem(self, line: int, text: str) -> ConfigError:
        """Return the error for one line."""
        return ConfigError(f"{self.at(line)}: {text}")

    def origin(self, line: int) -> Origin:
        """Return where the next value comes from: the line of its key, or its own."""
        parent = self.stack[-1] if self.stack else None
        return self.at(parent.key_line if parent is not None and parent.key is not None else line)

    def refuse_tag(self, tag: str | None, line: int) -> None:
        """Refuse every explicit tag: they turn text into objects, or hide a type the schema states anyway."""
        if tag is not None and tag != "!":
            raise self.problem(line, f"tag {shorten(tag)!r} is not supported; write the plain value")

    def scalar(self, event: yaml.ScalarEvent, line: int) -> None:
        """Take a scalar as a key or a value."""
        self.refuse_tag(event.tag, line)
        plain = event.style is None and event.tag is None
        if any("\ud800" <= char <= "\udfff" for char in event.value):
            raise self.problem(line, "half of a surrogate pair is no character; use \\U with 8 digits")
        parent = self.stack[-1] if self.stack else None
        if parent is not None and isinstance(parent.items, dict) and parent.key is None:
            self.key(parent, event.value, plain, line)
            return
        try:
            value = read_scalar(event.value) if plain else event.value
        except ValueError as error:
            raise self.problem(line, str(error)) from None
        self.add(_Shape(Node(value, self.origin(line)), 1, 0), event.anchor, line)

    def key(self, parent: _Open, text: str, plain: bool, line: int) -> None:
        """Take a scalar as the next key of a mapping."""
        if plain and text == "<<":
            raise self.problem(line, "merge keys (<<) are not supported; share settings with `extends: base.yaml`")
        if text in parent.lines:
            raise self.problem(line, f"duplicate key '{shorten(text)}' (first on line {parent.lines[text]})")
        parent.key, parent.key_line, parent.lines[text] = text, line, line

    def alias(self, anchor: str, line: int) -> None:
        """Take `*anchor` as a value."""
        if any(level.anchor == anchor for level in self.stack):
            raise self.problem(line, f"*{shorten(anchor)} refers to itself")
        if anchor not in self.anchors:
            raise self.problem(line, f"*{shorten(anchor)} has no anchor &{shorten(anchor)} before it")
        shape = self.anchors[anchor]
        self.refuse_as_key(line)
        self.add(shape._replace(node=replace(shape.node, origin=self.origin(line))), None, line)

    def refuse_as_key(self, line: int) -> None:
        """Refuse anything but a scalar where a key is due."""
        parent = self.stack[-1] if self.stack else None
        if parent is not None and isinstance(parent.items, dict) and parent.key is None:
            raise self.problem(line, "a key must be plain text, not a list, mapping or alias")

    def open(self, event: yaml.MappingStartEvent | yaml.SequenceStartEvent, line: int) -> None:
        """Begin a mapping or list."""
        self.refuse_tag(event.tag, line)
        self.refuse_as_key(line)
        self.refuse_depth(len(self.stack) + 1, line)
        items: Any = {} if isinstance(event, yaml.MappingStartEvent) else []
        self.stack.append(_Open(self.origin(line), line, event.anchor, items))

    def close(self) -> None:
        """End the innermost mapping or list."""
        done = self.stack.pop()
        self.add(_Shape(Node(done.items, done.origin), done.size, done.height), done.anchor, done.line)

    def refuse_depth(self, depth: int, line: int) -> None:
        """Refuse what would nest too deep: everything downstream may then recurse over a tree."""
        if depth > MAX_DEPTH:
            raise self.problem(line, f"nested deeper than {MAX_DEPTH} levels")

    def add(self, shape: _Shape, anchor: str | None, line: int) -> None:
        """Put a finished value where it belongs."""
        node = shape.node
        if anchor is not None:
            self.anchors[anchor] = shape
        if not self.stack:
            self.root = node
            return
        self.refuse_depth(len(self.stack) + shape.height, line)
        parent = self.stack[-1]
        parent.size += shape.size
        parent.height = max(parent.height, shape.height + 1)
        if parent.size > MAX_NODES:
            raise self.problem(line, f"more than {MAX_NODES} values (aliases counted in full)")
        if parent.key is None:
            parent.items.append(node)
        else:
            parent.items[parent.key], parent.key = node, None
