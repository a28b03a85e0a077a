"""What every figure is made of: its value, its encodings, and the numbers in its words.

Owns: the `Figure` type and the pieces of Vega-Lite that several figures share. Must not: choose colours, or write
files. A run's names are only ever data here: none becomes part of a Vega expression.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from mptrain.report.figure_theme import variant_dashes
from mptrain.report.model import Estimate, Ladder
from mptrain.telemetry import human

Cell = str | int | float | None
CHOSEN = {"name": "chosen", "value": None}
"""The variant that the page's key picks out; None for all."""
INVISIBLE = "tooltips"
"""Name of a layer that is there for the pointer only."""


@dataclass(frozen=True, slots=True)
class Figure:
    """A chart, what one sees in it, and the figures behind it."""

    name: str
    """Part of a file name: lower case, with hyphens."""
    title: str
    text: str
    """What one sees, in words; where there is no chart, why."""
    detail: str
    """More of what one sees, for those who do not see the chart."""
    spec: dict[str, Any] | None
    """Vega-Lite without width and colours; None where there is nothing to draw."""
    columns: tuple[str, ...] = ()
    rows: tuple[tuple[Cell, ...], ...] = ()
    key: tuple[str, ...] = ()
    """The variants that it shows, where only colours tell them apart."""
    key_symbol: Literal["stroke", "circle"] = "circle"
    may_be_log: bool = False
    """The y axis may be switched to a log scale: every value is above zero."""


def absent(name: str, title: str, why: str) -> Figure:
    """Return the figure that says why there is none."""
    return Figure(name, title, why, "", None)


def labels(ladder: Ladder) -> list[str]:
    """Return the labels of the variants, in order."""
    return [variant.label for variant in ladder.variants]


def colour(ladder: Ladder) -> dict[str, Any]:
    """Return the encoding that gives each variant its colour."""
    return {"field": "variant", "type": "nominal", "scale": {"domain": labels(ladder)}}


def dash(ladder: Ladder) -> dict[str, Any]:
    """Return the encoding that tells variants of the same colour apart."""
    names = labels(ladder)
    scale = {"domain": names, "range": variant_dashes(len(names), ladder.baseline is not None)}
    return {"field": "variant", "type": "nominal", "scale": scale}


def faded(opacity: float = 1.0) -> dict[str, Any]:
    """Return the encoding that fades what is not of the chosen variant."""
    return {
        "condition": {"test": "chosen === null || chosen === datum.variant", "value": opacity},
        "value": opacity * 0.08,
    }


def variant_rows(names: Sequence[str]) -> dict[str, Any]:
    """Return the encoding that gives each variant a row; a label breaks after its first comma."""
    comma = "indexof(datum.label, ', ')"
    axis = {
        "title": None,
        "labelExpr": f"{comma} < 0 ? datum.label : [slice(datum.label, 0, {comma}), slice(datum.label, {comma} + 2)]",
        # Vega centres the first line only.
        "labelOffset": {"condition": {"test": f"{comma} >= 0", "value": -7}, "value": 0},
        "labelPadding": 8,
        "grid": False,
        "ticks": False,
        "domain": False,
    }
    return {"field": "variant", "type": "nominal", "scale": {"domain": list(names)}, "axis": axis}


def x_axis(title: str, field: str = "x", **axis: Any) -> dict[str, Any]:
    """Return a quantitative x encoding that need not begin at zero."""
    return {"field": field, "type": "quantitative", "scale": {"zero": False}, "axis": {"title": title, **axis}}


def metric_factor(ladder: Ladder) -> float:
    """Return what the metric is multiplied by to be shown: 100 for a share."""
    return 100.0 if ladder.as_points else 1.0


def metric_title(ladder: Ladder) -> str:
    """Return e.g. `accuracy (%), higher is better`."""
    unit = " (%)" if ladder.as_points else ""
    return f"{ladder.metric}{unit}, {'higher' if ladder.higher_is_better else 'lower'} is better"


def metric_text(ladder: Ladder, value: float | None) -> str:
    """Return a metric in words, e.g. `91.2%` or `1.2345`."""
    return human.percent(value) if ladder.as_points else human.number(value)


def ends(estimate: Estimate, factor: float = 1.0) -> dict[str, float | str]:
    """Return the mean and its interval as a row of data; without an interval the whisker has no length."""
    mean = estimate.mean * factor
    if estimate.low is None or estimate.high is None:
        return {"mean": mean, "low": mean, "high": mean, "interval": "none, from one run"}
    low, high = estimate.low * factor, estimate.high * factor
    return {"mean": mean, "low": low, "high": high, "interval": f"{low:.4g} to {high:.4g}"}


def interval_cells(estimate: Estimate, factor: float = 1.0) -> tuple[Cell, ...]:
    """Return mean, low, high and number of runs, as cells of a table."""
    bounds = (None if bound is None else bound * factor for bound in (estimate.low, estimate.high))
    return (estimate.mean * factor, *bounds, estimate.n)


def capital(text: str) -> str:
    """Return `text` with its first letter in upper case, for the start of a sentence."""
    return text[:1].upper() + text[1:]
