"""The lists and ranges of `key=a,b,c`: text of the command line -> values, each as one line of YAML.

Owns: where one value ends and the next begins. Must not: know which keys or values a config accepts.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from mptrain.config.emit import flow
from mptrain.config.load import parse_overrides
from mptrain.config.tree import Origin
from mptrain.config.wording import shorten
from mptrain.config.yaml_reader import parse_yaml
from mptrain.errors import ConfigError

MAX_RUNS = 10_000
"""Runs of one sweep, and values of one range."""
_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_RANGE = re.compile(rf"(log:)?({_NUMBER})\.\.({_NUMBER})")
_OPENING, _CLOSING = "[{", "]}"


@dataclass(frozen=True)
class Range:
    """All numbers from `low` to `high`, both included; whole numbers where both ends are."""

    low: float
    high: float
    log: bool = False
    """Drawn evenly on a logarithmic scale."""

    @property
    def is_whole(self) -> bool:
        """Whether it holds whole numbers only."""
        return isinstance(self.low, int) and isinstance(self.high, int)


@dataclass(frozen=True)
class Given:
    """One argument `key=...` of the command line."""

    key: str
    values: tuple[str | Range, ...]
    """Each a value as YAML on one line, or a range."""

    def listed(self) -> tuple[str, ...]:
        """Return all values, ranges of whole numbers written out; raise ConfigError for a range of others."""
        found: list[str] = []
        for value in self.values:
            if isinstance(value, str):
                found.append(value)
            elif value.is_whole and not value.log:
                found += [str(number) for number in range(int(value.low), int(value.high) + 1)]
            else:
                raise ConfigError(
                    f"{self.key}: a range of numbers is searched, not swept: list the values, or add --search optuna"
                )
        return tuple(found)


def read_argument(text: str) -> Given:
    """Return what an argument `key=a,b,c` gives; raise ConfigError with every problem in it."""
    key, equals, rest = text.partition("=")
    parts = split_values(rest)
    if not equals or not rest.strip():
        parse_overrides([text])  # raises, in the words of `mptrain run`
    values: list[str | Range] = []
    problems: list[str] = []
    for part in parts:
        try:
            values.append(_read_value(key, part, text))
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))
    return Given(key, tuple(values))


def _read_value(key: str, part: str, text: str) -> str | Range:
    if not part.strip():
        raise ConfigError(f"{shorten(text)!r}: a value is empty; write {key}=a,b (or '\"\"' for an empty text)")
    match = _RANGE.fullmatch(part.strip())
    if match:
        return _read_range(key, match)
    parse_overrides([f"{key}={part}"])  # raises for a key or a value that no override may have
    return canonical(part)


def canonical(text: str) -> str:
    """Return a YAML value in the one way that mptrain writes it, so that 1e-3 and 0.001 are the same value."""
    return flow(parse_yaml(text, lambda line: Origin(f"override {shorten(text)!r}")).plain())


def _read_range(key: str, match: re.Match[str]) -> Range:
    low, high = (_number(match[group]) for group in (2, 3))
    if not low < high:
        raise ConfigError(f"{key}: the range {match[0]} must begin below its end")
    if match[1] and low <= 0:
        raise ConfigError(f"{key}: the range {match[0]} must begin above 0 to be drawn on a logarithmic scale")
    found = Range(low, high, log=bool(match[1]))
    if found.is_whole and not found.log and high - low >= MAX_RUNS:
        raise ConfigError(f"{key}: the range {match[0]} has more than {MAX_RUNS:,} values")
    return found


def _number(text: str) -> float:
    return int(text) if re.fullmatch(r"[-+]?\d+", text) else float(text)


def split_values(text: str) -> list[str]:
    """Return the parts between commas that stand outside brackets, braces and quotes."""
    parts, begin, depth, quote, before = [], 0, 0, "", ","
    for place, char in enumerate(text):
        if quote:
            if char == quote and not (quote == '"' and before == "\\"):
                quote = ""
            # A backslash that is itself escaped escapes nothing.
            before = "" if before == "\\" and char == "\\" else char
            continue
        if char in "'\"" and before in ",[{:":
            quote = char
        elif char in _OPENING:
            depth += 1
        elif char in _CLOSING:
            depth -= 1
        elif char == "," and depth <= 0:
            parts.append(text[begin:place])
            begin = place + 1
        if not char.isspace():
            before = char
    return [*parts, text[begin:]]
