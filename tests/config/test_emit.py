"""Whatever is written reads back as itself."""

from typing import Any

import pytest

from mptrain.config.emit import emit_yaml
from mptrain.config.tree import Origin
from mptrain.config.yaml_reader import parse_yaml

TEXTS = [
    *("", " ", "a", "a b", "1", "1e-3", "1E3", ".5", "08", "0x1F", "true", "yes", "null", "~", "Null", ".nan", ".inf"),
    *("cuda:0", "C:\\data", "a: b", "a:", "#no", "a #b", "- a", "[x]", "{x}", "*x", "&x", "!x", "@x", "%x", "|", ">"),
    *("'q'", '"q"', "tab\there", "line\nbreak", "trailing ", "\u00e9", "\u2028", "\x7f", "\x85", "\U0001f600", "---"),
    *(
        "...",
        "<<",
        "?",
        "=",
        "-",
        "--",
        "+",
        "+1",
        "99999999999999999999",
        "2024-01-01",
        "x" * 500,
        "a b " * 100,
        "/a/b",
    ),
]


def back(text: str) -> Any:
    return parse_yaml(text, lambda line: Origin("emitted", line)).plain()


@pytest.mark.parametrize("text", TEXTS)
def test_texts_read_back(text: str) -> None:
    data = {"v": text, "list": [text], "items": [{"k": text}], text or "k": 1}
    assert back(emit_yaml(data)) == data
    assert back(emit_yaml(data, lambda path: f"f.yaml:1 of {path!r}")) == data


@pytest.mark.parametrize(
    "value", [None, True, False, 0, -1, 2**62, 1e-5, 1e-08, 1e300, 0.1, 1.0, -0.0, 16777216.0, [], {}]
)
def test_values_read_back_with_their_type(value: Any) -> None:
    data = {"v": value, "nested": {"deep": {"v": [value, [value]]}}, "items": [{"a": value, "b": [value]}]}
    result = back(emit_yaml(data))
    assert result == data
    assert type(result["v"]) is type(value)


def test_each_value_has_its_comment_and_sections_have_none() -> None:
    text = emit_yaml({"a": 1, "s": {"b": [1, 2]}, "items": [{"c": 3}]}, lambda path: f"<{path}>")
    lines = [line.split("#")[-1].strip() if "#" in line else line for line in text.splitlines()]
    assert lines == ["<a>", "s:", "<s.b>", "items:", "<items.0>"]
