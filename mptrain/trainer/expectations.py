"""What `--expect` asks of a result: conditions such as `accuracy>=0.5`, read before training and judged after it.

Owns: the conditions' grammar, finding a figure in a result, and the words for what was missed. Must not: import torch,
train, or print.

A figure is named as in result.json, nested ones with dots (`step_time_ms.median`); a metric also by its name alone. A
condition on a figure that was not measured, or is not a number, is never met.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mptrain.config.wording import nearest, shorten
from mptrain.errors import ConfigError, DivergedError

UNMET = "unmet"
"""Status of a run that ended as asked, with figures that were not expected."""
UNMET_EXIT_CODE = DivergedError.exit_code

_COMPARE: Mapping[str, Callable[[Any, Any], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
    ">": operator.gt,
    "<": operator.lt,
}
_CONDITION = re.compile(r"\s*([^\s<>=!]+)\s*([<>=!]+)\s*([^<>=!]*?)\s*")
_NOT_FINITE = re.compile(r"[+-]?(nan|inf|infinity)", re.IGNORECASE)
_SPEEDS = ("samples_per_s", "tokens_per_s", "step_time_ms", "data_wait_fraction")
_OPEN_SECTIONS = ("metrics.", "summary.")
"""What only the end of a run tells the names of."""
_SURE = 0.9
"""How alike a name that is not known yet must be to one that is, to be a mistake and not a metric."""


@dataclass(frozen=True, slots=True)
class Expectation:
    """One condition on one figure."""

    name: str
    comparison: str
    wanted: float | str

    @property
    def text(self) -> str:
        """Return it as it is written."""
        return f"{self.name}{self.comparison}{_shown(self.wanted)}"

    def judge(self, result: Mapping[str, Any]) -> tuple[Any, str | None]:
        """Return the figure (None where there is none), and what is wrong with it (None where it is as expected)."""
        try:
            value = _find(result, self.name)
        except KeyError:
            return None, _no_figure(self.name, result)
        if isinstance(value, Mapping | list | tuple):
            return None, f"{self.name} is not one figure{_parts(self.name, value)}"
        if value is None:
            emulated = _find_or_none(result, "precision.backend") == "emulated"
            return None, f"it was not measured{' (emulated)' if emulated and self.name.startswith(_SPEEDS) else ''}"
        return value, None if self._is_met(value) else f"it is {_shown(value)}"

    def _is_met(self, value: Any) -> bool:
        if isinstance(value, bool | str):
            return self.comparison in ("==", "!=") and _COMPARE[self.comparison](_shown(value), _shown(self.wanted))
        if isinstance(self.wanted, str):  # a slip, e.g. the letter O for a zero, which != must not let through
            return False
        return not math.isnan(value) and _COMPARE[self.comparison](value, self.wanted)


def parse_expectations(options: Sequence[str]) -> tuple[Expectation, ...]:
    """Read conditions, several in one option separated by commas; raise ConfigError with all that are none."""
    found, problems = [], []
    for text in (part for option in options for part in option.split(",")):
        try:
            found.append(_parse(text))
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(problems)
    return tuple(found)


def _parse(text: str) -> Expectation:
    match = _CONDITION.fullmatch(text)
    if match is None or not match[3]:
        raise ConfigError(f"--expect: {shorten(text)!r} is no condition; write it as accuracy>=0.5")
    name, comparison, wanted = match.groups()
    if comparison not in _COMPARE:
        raise ConfigError(f"--expect: {shorten(text)!r} compares with '{comparison}'; use {' '.join(_COMPARE)}")
    number = _number(wanted)
    if number is None and (comparison not in ("==", "!=") or _NOT_FINITE.fullmatch(wanted)):
        raise ConfigError(f"--expect: {shorten(text)!r} needs a number after '{comparison}', not '{shorten(wanted)}'")
    return Expectation(name, comparison, wanted if number is None else number)


def _number(text: str) -> float | None:
    """Return the finite number that `text` is, an int where it is one; None for anything else."""
    try:
        number = float(text)
        return (int(text) if re.fullmatch(r"[+-]?\d+", text) else number) if math.isfinite(number) else None
    except ValueError:
        return None


def check_names(expectations: Sequence[Expectation], result: Mapping[str, Any]) -> None:
    """Raise ConfigError for names that are surely misspelt, judged by a result as it is before training.

    The names of metrics are known from the first evaluation on, but for the main one.
    """
    main = result["main_metric"]["name"]
    known = {main, *(name for name, _ in _figures(result))}
    problems = []
    for name in (expected.name for expected in expectations):
        near = None if name in known or name.startswith(_OPEN_SECTIONS) else nearest(name, known, _SURE)
        if near is not None:
            said = f"did you mean '{near}'? (for a metric of that name write metrics.{name})"
            problems.append(f"--expect: there is no figure '{shorten(name)}'; {said}")
    if problems:
        raise ConfigError(problems)


def judged(result: Mapping[str, Any], expectations: Sequence[Expectation]) -> dict[str, Any]:
    """Return `result` with `expectations`; where one is not met, a status of ok becomes unmet, with an error for each.

    A run that ended in another way keeps its status.
    """
    verdicts = [(expected.text, *expected.judge(result)) for expected in expectations]
    listed = [{"text": text, "value": value, "met": wrong is None} for text, value, wrong in verdicts]
    whole = {**result, "expectations": listed}
    missed = [f"expected {text}, {wrong}" for text, _, wrong in verdicts if wrong is not None]
    if missed and result["status"] == "ok":
        whole |= {"status": UNMET, "exit_code": UNMET_EXIT_CODE, "error": "\n".join(missed)}
    return whole


def _find(result: Mapping[str, Any], name: str) -> Any:
    """Return a figure by its dotted name, or a metric by its own; raise KeyError where there is none."""
    section: Any = result
    *path, last = name.split(".")
    for part in path:
        section = section.get(part) if isinstance(section, Mapping) else None
    if not isinstance(section, Mapping) or last not in section:
        section, last = result.get("metrics") or {}, name.removeprefix("metrics.")
    value = section[last]
    flag = section.get(f"{last}_nonfinite") if value is None else None
    return float(flag) if isinstance(flag, str) else value  # a result that was read back from its file


def _find_or_none(result: Mapping[str, Any], name: str) -> Any:
    try:
        return _find(result, name)
    except KeyError:
        return None


def _figures(section: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Give every figure that a condition could name, with its dotted name."""
    for name, value in section.items():
        if isinstance(value, Mapping):
            yield from _figures(value, f"{prefix}{name}.")
        elif not isinstance(value, list | tuple):
            yield prefix + name, value


def _no_figure(name: str, result: Mapping[str, Any]) -> str:
    metrics = list(result.get("metrics") or {})
    numbers = [key for key, value in _figures(result) if isinstance(value, int | float) and not isinstance(value, bool)]
    others = [key for key in numbers if not key.startswith("metrics.")]
    near = nearest(name, [*metrics, *others])
    hint = f"; did you mean '{near}'?" if near else ""
    return f"there is no such figure{hint} (metrics: {', '.join(metrics) or 'none'}; others: {', '.join(others)})"


def _parts(name: str, value: Any) -> str:
    """Return a hint at the figures within a section."""
    return f"; it has {', '.join(f'{name}.{part}' for part in value)}" if isinstance(value, Mapping) else ""


def _shown(value: Any) -> str:
    """Return a figure as text, with enough digits to tell it from what was wanted."""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.10g}" if isinstance(value, float) else str(value)
