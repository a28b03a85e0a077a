"""What YAML is accepted, what it means, and that everything else is one line naming file and line."""

import math
from typing import Any

import pytest

from mptrain.config.tree import Node, Origin
from mptrain.config.yaml_reader import MAX_NODES, parse_yaml
from mptrain.errors import ConfigError


def read(text: str) -> Node:
    return parse_yaml(text, lambda line: Origin("f.yaml", line))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3),
        ("1E3", 1000.0),
        ("1E-3", 1e-3),
        (".001", 0.001),
        ("5e-05", 5e-05),
        ("-.5", -0.5),
        ("1.", 1.0),
        ("+1", 1),
        ("-0", 0),
        ("0x1F", 31),
        ("0o17", 15),
        ("08", "08"),
        ("007", "007"),
        ("1_000", "1_000"),
        ("1:30", "1:30"),
        ("2024-01-02", "2024-01-02"),
        ("on", "on"),
        ("No", "No"),
        ("true", True),
        ("FALSE", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("'1'", "1"),
        ('"true"', "true"),
        ("cuda:0", "cuda:0"),
        ("! 5", "5"),
    ],
)
def test_scalars_mean_what_yaml_1_2_says(text: str, value: Any) -> None:
    result = read(f"a: {text}").plain()["a"]
    assert result == value
    assert type(result) is type(value)


def test_infinity_and_nan_are_numbers_for_the_schema_to_refuse() -> None:
    values = read("[.inf, -.Inf, .nan]").plain()
    assert values[:2] == [math.inf, -math.inf]
    assert math.isnan(values[2])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: 1\nb: 2\na: 3\n", "f.yaml:3: duplicate key 'a' (first on line 1)"),
        ("a:\n\tb: 1\n", "f.yaml:2: a tab is used for indentation"),
        ("a: 1\nb: [1,\n  2", "f.yaml:2: not valid YAML: a list, mapping or quoted text begins here and never ends"),
        ('a: 1\nb: "x', "f.yaml:2: not valid YAML: a list, mapping or quoted text begins here and never ends"),
        ("a:\n  b: 1\n c: 2\n", "f.yaml:3: not valid YAML: "),
        ("a: b: c\n", "check the indentation, or quote a text that contains ': '"),
        ("a: @x\n", "quote a text that starts with a special character"),
        ("a: &x [1, *x]\n", "f.yaml:1: *x refers to itself"),
        ("a: &x {b: {c: *x}}\n", "f.yaml:1: *x refers to itself"),
        ("a: *x\n", "*x has no anchor &x before it"),
        ("a: !!python/object/apply:os.system [ls]\n", "is not supported"),
        ("a: !!float 1\n", "is not supported"),
        ("a: &b {c: 1}\nd:\n  <<: *b\n", "f.yaml:3: merge keys (<<) are not supported; share settings with `extends"),
        ("a: 1\n---\nb: 2\n", "f.yaml:2: a second document starts here"),
        ("? [a]\n: 1\n", "a key must be plain text"),
        ("a: 99999999999999999999\n", "does not fit in 64 bits"),
        ("a: " + "9" * 5000, "does not fit in 64 bits"),
        ("a: 1\nb: \x00\n", "f.yaml:2: not a YAML text: character U+0000"),
        ('a: "\\UFFFFFFFF"\n', "out of range"),
        ('a: "\\uD800"\n', "surrogate"),
        ("%YAML 1." + "9" * 5000 + "\n---\na: 1\n", "out of range"),
        ("[" * 100_000, "nested deeper than 50 levels"),
        ("- " * 10_000, "nested deeper than 50 levels"),
        ("{a: " * 10_000, "nested deeper than 50 levels"),
    ],
)
def test_what_cannot_be_read_is_one_line(text: str, expected: str) -> None:
    with pytest.raises(ConfigError) as raised:
        read(text)
    (problem,) = raised.value.problems
    assert problem.startswith("f.yaml:")
    assert expected in problem
    assert "\n" not in problem
    assert len(problem) < 200


def test_an_alias_bomb_is_refused_before_it_goes_off() -> None:
    levels = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    levels += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
    with pytest.raises(ConfigError, match=f"more than {MAX_NODES} values"):
        read("\n".join(levels))


def test_aliases_cannot_nest_deeper_than_text_can() -> None:
    levels = ["a0: &a0 [x]", *(f"a{n}: &a{n} [*a{n - 1}]" for n in range(1, 200))]
    with pytest.raises(ConfigError, match="nested deeper than 50 levels"):
        read("\n".join(levels))


def test_every_value_knows_the_line_of_its_key_or_of_itself() -> None:
    root = read("a: 1\nb:\n  c:\n    2\n  d:\n    - 3\n    - {e: 4}\nf: &x {g: 5}\nh: *x\n")
    lines = {}

    def visit(path: str, node: Node) -> None:
        lines[path] = node.origin.line
        for key, child in node.children():
            visit(f"{path}.{key}".lstrip("."), child)

    visit("", root)
    expected = {"a": 1, "b": 2, "b.c": 3, "b.d": 5, "b.d.0": 6, "b.d.1": 7, "b.d.1.e": 7, "f": 8, "f.g": 8, "h": 9}
    assert expected.items() <= lines.items()


def test_nothing_at_all_is_null() -> None:
    assert read("").plain() is None
    assert read("# only a comment\n").plain() is None
    assert read("---\n").plain() is None
