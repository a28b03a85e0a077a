"""How a report's figures read in a table or a sentence: as many digits as the interval has earned.

Owns: formats of metrics and differences. Must not: decide anything.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from mptrain.report.model import Estimate, Ladder
from mptrain.telemetry import human


def half_width(found: Estimate) -> float | None:
    """Return half the 95% interval; None from one seed."""
    return None if found.high is None else found.high - found.mean


def metric(ladder: Ladder, found: Estimate | None) -> str:
    """Return e.g. `87.1 ± 0.4%`, `1.204 ± 0.013`, `87.1%` (one seed) or `n/a`."""
    if found is None:
        return human.NOT_AVAILABLE
    percent = "%" if ladder.as_points else ""
    half = half_width(found)
    if half is None:
        return f"{100 * found.mean:.1f}%" if ladder.as_points else human.number(found.mean)
    return f"{_with_half(found.mean, half, ladder.as_points, signed=False)}{percent}"


def difference(ladder: Ladder, found: Estimate, *, unit: bool = True, magnitude: bool = False) -> str:
    """Return e.g. `+0.1 ± 0.4 points`; `magnitude` leaves the sign out."""
    mean, half = abs(found.mean) if magnitude else found.mean, half_width(found)
    signed = not magnitude
    text = _with_half(mean, half, ladder.as_points, signed) if half else _alone(mean, ladder.as_points, signed)
    return f"{text} points" if unit and ladder.as_points else text


def spread(ladder: Ladder, value: float) -> str:
    """Return a size of differences, e.g. `0.3 points`."""
    return f"{_alone(value, ladder.as_points, signed=False)}{' points' if ladder.as_points else ''}"


def _with_half(mean: float, half: float, as_points: bool, signed: bool) -> str:
    factor = 100.0 if as_points else 1.0
    mean, half = factor * mean, factor * half
    digits = _digits(half, 1 if as_points else 0) if half else _digits(mean, 1 if as_points else 3)
    return f"{mean:{'+' if signed else ''}.{digits}f} ± {half:.{digits}f}"


def _alone(value: float, as_points: bool, signed: bool) -> str:
    value = 100 * value if as_points else value
    return f"{value:{'+' if signed else ''}.{_digits(value, 1 if as_points else 0) + (not as_points)}f}"


def _digits(value: float, least: int) -> int:
    """Return how many decimals show the leading digits of `value`: two, where the first is a 1."""
    if not value:
        return least
    exponent = math.floor(math.log10(abs(value)))
    leading_one = abs(value) < 2 * 10.0**exponent
    return min(12, max(least, -exponent + leading_one))


def counted(number: int, thing: str) -> str:
    """Return e.g. `1 seed` or `5 seeds`."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def listed(items: Sequence[str]) -> str:
    """Return e.g. `a`, `a and b`, `a, b and c`; semicolons part items that hold commas."""
    comma = "; " if any("," in item for item in items) else ", "
    return f"{comma.join(items[:-1])} and {items[-1]}" if len(items) > 1 else items[0]
