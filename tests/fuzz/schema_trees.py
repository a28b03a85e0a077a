"""Config trees drawn from the schema that `mptrain schema` prints: mostly right, here and there wrong.

Owns: what a right and a wrong value of each JSON Schema type is. Must not: write text, or know single keys.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from hypothesis import strategies as st

from mptrain.catalog import json_schema

SCHEMA = json_schema()
_DEFS: Mapping[str, Any] = SCHEMA["$defs"]

WRONG: tuple[Any, ...] = (
    *(None, True, "", "x", " ", "auto", "\0", "\u2028", "\x1b[31m", "é", "9" * 400, "a.b", "../x", "e9m99", "e4m3"),
    *(-1, 0, 1, 2.5, 1e308, -1e308, 5e-324, float("nan"), float("inf"), 2**31, 2**63 - 1, -(2**63), 2**64),
    *([], [1], ["x", None], {}, {"a": 1}, {"name": "mlp"}, {"": {}}, [[[[]]]], [{"match": "*", "dtype": "fp16"}]),
)
"""Values that are wrong almost anywhere; those that no number type holds and those that print badly among them."""
_ONE_IN = 12
"""One value in so many is wrong."""
_WHOLE = (1, 1, 2, 3, 4, 8)
_NUMBERS = (0.5, 1.0, 0.1, 0.9, 1e-3, 2, 16.0)
_TEXTS = ("x", "mlp", "cpu", "*", "re:.*", "re:(", "type:Linear", "e4m3", "timm/x", "small.yaml", "cuda:7")


@st.composite
def trees(draw: st.DrawFn, schema: Mapping[str, Any], one_in: int = _ONE_IN) -> Any:
    """Draw a value for `schema`; one in `one_in` values of the tree is drawn from WRONG."""
    if one_in and draw(st.integers(1, one_in)) == one_in:
        return draw(st.sampled_from(WRONG))
    schema = _followed(schema)
    if "anyOf" in schema:
        return draw(trees(draw(st.sampled_from(schema["anyOf"])), one_in))
    if "enum" in schema or "const" in schema:
        return draw(st.sampled_from(schema.get("enum", [schema.get("const")])))
    kind = schema.get("type")
    if kind == "object":
        return draw(_objects(schema, one_in))
    if kind == "array":
        return draw(st.lists(trees(schema.get("items", {}), one_in), max_size=3))
    plain = {"integer": _WHOLE, "number": _NUMBERS, "string": _TEXTS, "boolean": (True, False), "null": (None,)}
    return draw(st.sampled_from(plain.get(str(kind), WRONG)))


@st.composite
def _objects(draw: st.DrawFn, schema: Mapping[str, Any], one_in: int) -> dict[str, Any]:
    properties = schema.get("properties", {})
    keys = draw(st.lists(st.sampled_from(sorted(properties)), unique=True, max_size=5)) if properties else []
    keys += [key for key in ("name", *schema.get("required", ())) if key in properties and key not in keys]
    found = {key: draw(trees(properties[key], one_in)) for key in keys}
    if one_in and draw(st.integers(1, one_in)) == one_in:
        found[draw(st.sampled_from(("", "nmae", "lr", "epochs", "0", "a.b", "\u2028", "x" * 300)))] = 1
    return found


def leaves(schema: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield (dotted key, schema) of every key below `schema`, sections included; list items are not keys."""
    schema = _followed(schema)
    for option in schema.get("anyOf", []):
        yield from leaves(option, path)
    for key, child in schema.get("properties", {}).items():
        here = f"{path}.{key}" if path else key
        yield here, child
        yield from leaves(child, here)


def definition(name: str) -> Mapping[str, Any]:
    """Return a named definition of the schema, e.g. `model.mlp`."""
    found: Mapping[str, Any] = _DEFS[name]
    return found


def _followed(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    while "$ref" in schema:
        schema = _DEFS[schema["$ref"].rsplit("/", 1)[1]]
    return schema
