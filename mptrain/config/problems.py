"""What is wrong with a config, in a user's words: one line per problem with source, line, dotted path and remedy.

Owns: the wording of every validation error. Must not: validate, print, or know any registry.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from mptrain.config.migration import renamed_key
from mptrain.config.schema import SHORTHANDS, RunConfig
from mptrain.config.tree import ENTRY_SECTIONS, Node, Origin, dotted
from mptrain.config.wording import nearest, shorten
from mptrain.config.yaml_reader import read_scalar

Path = tuple[str | int, ...]
Sections = Mapping[tuple[str, ...], type[BaseModel]]
"""Section path (list indices left out) -> the class that describes it."""


def sections(entries: Mapping[str, type[BaseModel]], root: type[BaseModel] = RunConfig) -> Sections:
    """Return every section of what `root` describes; `entries` gives the selected entry's Config of a section."""
    found: dict[tuple[str, ...], type[BaseModel]] = {}

    def visit(path: tuple[str, ...], cls: type[BaseModel]) -> None:
        found[path] = cls
        for key, field in cls.model_fields.items():
            inner = entries.get(key) if not path and key in entries else _section_class(field.annotation)
            if inner is not None:
                visit((*path, key), inner)

    visit((), root)
    return found


def _section_class(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    inner = (_section_class(argument) for argument in get_args(annotation))
    return next((cls for cls in inner if cls is not None), None)


def describe(
    error: ValidationError, tree: Node, entries: Mapping[str, type[BaseModel]], root: type[BaseModel] = RunConfig
) -> list[str]:
    """Return one line per problem, sorted by file and line; `entries` holds the entry sections that could be told."""
    known = sections(entries, root)
    texts: dict[Path, list[str]] = {}
    for detail in error.errors(include_url=False):
        path = _path(detail, tree)
        unknown_entry = root is RunConfig and bool(path) and path[0] in ENTRY_SECTIONS and path[0] not in entries
        if detail["type"] == "extra_forbidden" and unknown_entry:
            continue
        text = _phrase(detail, path, known)
        if text not in texts.setdefault(path, []):
            texts[path].append(text)
    lines = [(_origin(tree, path), path, " or ".join(found)) for path, found in texts.items()]
    lines.sort(key=lambda line: (line[0].source.startswith("override "), line[0]))
    return [
        ": ".join(part for part in (str(origin), shorten(dotted(path), 120), text) if part)
        for origin, path, text in lines
    ]


def _path(detail: ErrorDetails, tree: Node) -> Path:
    """Return where in the tree an error is; what pydantic adds to name a member of a union is left out."""
    path: list[str | int] = []
    node: Node | None = tree
    for part in detail["loc"]:
        child = node.child(part) if node is not None else None
        if child is not None:
            path.append(part)
            node = child
    if detail["type"] == "missing":
        path.append(detail["loc"][-1])
    if detail["type"] == "unknown_name":
        path.append("name")
    return tuple(path)


def _origin(tree: Node, path: Path) -> Origin:
    """Return the origin of the value at `path`, or of the nearest section around it."""
    node = tree
    for part in path:
        child = node.child(part)
        if child is None:
            break
        node = child
    return node.origin


def _field(path: Path, known: Sections) -> FieldInfo | None:
    keys = tuple(part for part in path if isinstance(part, str))
    cls = known.get(keys[:-1])
    return cls.model_fields.get(keys[-1]) if cls is not None and keys else None


def _phrase(detail: ErrorDetails, path: Path, known: Sections) -> str:
    kind, value, context = detail["type"], detail["input"], detail.get("ctx", {})
    if kind == "extra_forbidden":
        return _unknown_key(path, known)
    if kind == "literal_error":
        return _not_one_of(value, str(context["expected"]))
    field = _field(path, known)
    meaning = (field.description or "").rstrip(".") if field is not None else ""
    if kind == "missing":
        return f"is missing; expected: {meaning}" if meaning else "is missing"
    if kind == "string_pattern_mismatch":
        return f"{shown(value)} does not fit; expected: {meaning or context['pattern']}"
    if kind in {"value_error", "assertion_error"}:
        return str(context["error"])
    if kind in _TYPES:
        bare = f" or a bare {SHORTHANDS[dotted(path)]}" if kind == "model_type" and dotted(path) in SHORTHANDS else ""
        return f"must be {_TYPES[kind]}{bare}, not {shown_kind(value)}{_type_hint(kind, value)}"
    if kind in _LIMITS:
        return f"must {_LIMITS[kind].format(**context)}, not {shown(value)}"
    return str(detail["msg"]).replace("Input should be", "must be")


_TYPES: Mapping[str, str] = {
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "text",
    "model_type": "a mapping of keys",
    "model_attributes_type": "a mapping of keys",
    "dict_type": "a mapping of keys",
    "mapping_type": "a mapping of keys",
    "list_type": "a list",
    "tuple_type": "a list",
    "set_type": "a list",
    "frozen_set_type": "a list",
    "none_required": "null",
    "finite_number": "a finite number",
    "path_type": "a path",
    "is_instance_of": "of another type",
}
_LIMITS: Mapping[str, str] = {
    "greater_than": "be greater than {gt:g}",
    "greater_than_equal": "be at least {ge:g}",
    "less_than": "be less than {lt:g}",
    "less_than_equal": "be at most {le:g}",
    "multiple_of": "be a multiple of {multiple_of}",
    "too_short": "have at least {min_length} items",
    "too_long": "have at most {max_length} items",
    "string_too_short": "have at least {min_length} characters",
    "string_too_long": "have at most {max_length} characters",
}


def shown(value: Any) -> str:
    """Return a value as it would be written in YAML, shortened."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and not math.isfinite(value):
        return ".nan" if math.isnan(value) else f"{'-' if value < 0 else ''}.inf"
    return shorten(repr(value))


def shown_kind(value: Any) -> str:
    """Return what kind of value this is, and which, in a user's words."""
    if isinstance(value, str):
        return f"the text {shown(value)}"
    if isinstance(value, Mapping):
        return "a mapping" if value else "an empty mapping"
    if isinstance(value, list | tuple):
        return "a list"
    return shown(value)


def _type_hint(kind: str, value: Any) -> str:
    if kind == "int_type" and isinstance(value, float) and value.is_integer():
        return f" (write {int(value)})" if abs(value) < 2**53 else ""
    if kind == "bool_type" and isinstance(value, str) and value.lower() in {"on", "yes", "off", "no"}:
        return f" (write {'true' if value.lower() in {'on', 'yes'} else 'false'})"
    if kind in {"int_type", "float_type"} and isinstance(value, str) and _reads_as_number(value):
        return " (remove the quotes)"
    if kind == "string_type" and isinstance(value, int | float):
        return " (put it in quotes)"
    return ""


def _reads_as_number(text: str) -> bool:
    try:
        return isinstance(read_scalar(text), int | float)
    except ValueError:
        return True


def _not_one_of(value: Any, expected: str) -> str:
    choices = [choice.strip("'") for choice in expected.replace(" or ", ", ").split(", ")]
    near = nearest(str(value), choices)
    hint = f" (did you mean {near!r}?)" if near else ""
    return f"{shown(value)} is not one of {', '.join(choices)}{hint}"


def _unknown_key(path: Path, known: Sections) -> str:
    """Say where a key belongs: a near one of the same section, else the section that has it."""
    key, section = str(path[-1]), tuple(part for part in path[:-1] if isinstance(part, str))
    keys = list(known[section].model_fields) if section in known else []
    is_config = known.get(()) is RunConfig
    if is_config and section in ((), ("train",), ("precision",)) and (answer := renamed_key(key)):
        return answer
    near = nearest(key, keys, cutoff=0.7)
    kind = "config" if is_config else "file of this kind"
    owners = [dotted((*owner, key)) for owner, cls in known.items() if owner != section and key in cls.model_fields]
    if near:
        return f"unknown key (did you mean {near!r}?)"
    if owners and len(owners) <= 3:
        return f"unknown key; {shown(key)} belongs to {' or '.join(owners)}"
    return f"unknown key; {'this section has' if section else f'a {kind} has'} {', '.join(keys) or 'no keys'}"


def entry_classes(tree: Node, config_type: Callable[[str, str], type[BaseModel] | None]) -> dict[str, type[BaseModel]]:
    """Return the selected entry's Config class of each section whose `name` is a known one."""
    found = {}
    for section in ENTRY_SECTIONS:
        node = tree.child(section)
        name = node.child("name") if node is not None else None
        cls = config_type(section, name.value) if name is not None and isinstance(name.value, str) else None
        if cls is not None:
            found[section] = cls
    return found
