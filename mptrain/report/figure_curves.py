"""What happened over the steps: loss, evaluation metric and loss scale, every run a line.

Owns: thinning for a page, and these three specs. Must not: choose colours, or read files.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Iterator
from typing import Any

from mptrain.report import words
from mptrain.report.figure_parts import (
    CHOSEN,
    INVISIBLE,
    Cell,
    Figure,
    absent,
    capital,
    colour,
    dash,
    faded,
    metric_factor,
    metric_text,
    metric_title,
    x_axis,
)
from mptrain.report.model import Curve, Ladder, Member, Variant
from mptrain.report.thinning import thinned
from mptrain.telemetry import human

_HOVER_POINTS = 2000  # invisible marks that carry the tooltips of one chart
_SKIP_MARKS = 200  # of one run
_TABLE_STEPS = 6
_SCALE_LABELS = 8
_CROSS = "M-1,-1L1,1M1,-1L-1,1"

Row = dict[str, Any]


def loss(ladder: Ladder, max_points: int) -> Figure:
    """Return the training loss over applied steps, each run thinned to `max_points`."""
    title = "Training loss"
    runs = _runs(ladder, lambda member: member.loss)
    if not runs:
        return absent("loss", title, "No run recorded a finite training loss.")
    rows = _rows(ladder, runs, max_points, 1.0)
    spec = _lines(ladder, rows, "training loss")
    columns, cells = _table(ladder, runs, 1.0)
    text = f"Training loss of {words.counted(len(runs), 'run')} over applied steps. {_last_values(ladder, runs)}"
    log = _positive(rows)
    return Figure("loss", title, text, "", spec, columns, cells, _key(runs), "stroke", may_be_log=log)


def metric(ladder: Ladder, max_points: int) -> Figure:
    """Return the evaluation metric over applied steps, each run thinned to `max_points`."""
    title = f"Evaluation: {ladder.metric}"
    runs = _runs(ladder, lambda member: member.metric_curve)
    if not runs:
        return absent("metric", title, "No run was evaluated with a finite result.")
    rows = _rows(ladder, runs, max_points, metric_factor(ladder))
    spec = _lines(ladder, rows, metric_title(ladder), dots=True)
    columns, cells = _table(ladder, runs, metric_factor(ladder))
    text = f"{capital(ladder.metric)} of {words.counted(len(runs), 'run')}, evaluated over applied steps. "
    text += _last_values(ladder, runs, lambda value: metric_text(ladder, value))
    log = _positive(rows) and not ladder.as_points
    return Figure("metric", title, text, "", spec, columns, cells, _key(runs), "stroke", may_be_log=log)


def loss_scale(ladder: Ladder, max_points: int) -> Figure:
    """Return the loss scale over applied steps on a log2 axis, with a cross at each skipped step."""
    title = "Loss scale and skipped steps"
    runs = [run for run in _runs(ladder, lambda member: member.loss_scale) if any(v and v > 0 for v in run[2].values)]
    if not runs:
        return absent("loss-scale", title, "No run scaled its loss.")
    rows = [row for row in _rows(ladder, runs, max_points, 1.0) if row["y"] is not None and row["y"] > 0]
    crosses = [cross for variant, member, curve in runs for cross in _skip_marks(variant, member, curve)]
    spec = _lines(ladder, rows, "loss scale")
    _powers_of_two(spec["encoding"]["y"], [row["y"] for row in rows])
    spec["layer"][0]["mark"]["interpolate"] = "step-after"
    if crosses:
        mark = {"type": "point", "shape": _CROSS, "size": 36, "strokeWidth": 1.8, "tooltip": True}
        spec["layer"].append({"data": {"values": crosses}, "mark": mark})
    columns, cells = _table(ladder, runs, 1.0)
    cells = tuple((*row, run[1].skipped_steps) for row, run in zip(cells, runs, strict=True))
    columns = (*columns, "skipped steps")
    text = f"Loss scale of {words.counted(len(runs), 'run')} over applied steps; a cross marks a skipped step. "
    text += _skips_text(ladder)
    return Figure("loss-scale", title, text, "", spec, columns, cells, _key(runs), "stroke")


def _powers_of_two(y: dict[str, Any], values: list[float]) -> None:
    """Make a y encoding a log2 axis that is labelled at whole powers of two only."""
    # A power of two of air, so that a scale that never moved is a line between two labels.
    low, high = math.floor(math.log2(min(values))) - 1, math.ceil(math.log2(max(values))) + 1
    every = max(1, round((high - low) / _SCALE_LABELS))
    y["scale"] = {"type": "log", "base": 2, "domain": [2.0**low, 2.0**high], "nice": False}
    labelled = [2.0**exponent for exponent in range(low, high + 1) if exponent % every == 0]
    y["axis"] |= {
        "values": labelled,
        "tickCount": len(labelled),  # else Vega drops values of a log axis
        "labelExpr": "'2^' + format(log(datum.value) / LN2, 'd')",
        "labelOverlap": False,
    }


def _key(runs: list[tuple[Variant, Member, Curve]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(variant.label for variant, _, _ in runs))


def _runs(ladder: Ladder, curve_of: Callable[[Member], Curve]) -> list[tuple[Variant, Member, Curve]]:
    """Return the runs whose curve has a point to draw."""
    runs = [(variant, member, curve_of(member)) for variant in ladder.variants for member in variant.members]
    return [run for run in runs if any(value is not None for value in run[2].values)]


def _rows(
    ladder: Ladder, runs: list[tuple[Variant, Member, Curve]], max_points: int, factor: float
) -> list[dict[str, Any]]:
    """Return one row a point; few are marked to carry a tooltip."""
    curves = [thinned([*zip(curve.steps, curve.values, strict=True)], max_points) for _, _, curve in runs]
    every = max(1, math.ceil(sum(map(len, curves)) / _HOVER_POINTS))
    rows = []
    for number, ((variant, member, _), points) in enumerate(zip(runs, curves, strict=True)):
        for i, (step, value) in enumerate(points):
            y = None if value is None else float(f"{value * factor:.5g}")  # what a pixel can show
            row: Row = {"variant": variant.label, "seed": member.seed, "run": number, "x": step, "y": y}
            if y is not None and (i % every == 0 or i == len(points) - 1):
                row["hover"] = 1
            rows.append(row)
    return rows


def _lines(ladder: Ladder, rows: list[dict[str, Any]], y_title: str, *, dots: bool = False) -> dict[str, Any]:
    runs = len({row["run"] for row in rows})
    encoding = {
        "x": x_axis("applied steps", tickCount=6, format=",d"),
        "y": {
            "field": "y",
            "type": "quantitative",
            "scale": {"zero": False},
            "axis": {"title": y_title, "tickCount": 6},
        },
        "color": colour(ladder),
        "detail": {"field": "run", "type": "nominal"},
        "opacity": faded(0.85 if runs <= 40 else 0.5),
        "tooltip": [
            {"field": "variant", "type": "nominal"},
            {"field": "seed", "type": "nominal"},
            {"field": "x", "type": "quantitative", "title": "step"},
            {"field": "y", "type": "quantitative", "title": y_title},
        ],
    }
    lines = {"mark": {"type": "line", "strokeWidth": 1.4}, "encoding": {"strokeDash": dash(ladder)}}
    hover: dict[str, Any] = {"mark": {"type": "point", "filled": True, "size": 22, "tooltip": True}}
    if not dots:
        hover["mark"] = {"type": "point", "filled": True, "size": 90, "tooltip": True}
        hover |= {"name": INVISIBLE, "encoding": {"opacity": {"value": 0}}}
    hover["transform"] = [{"filter": "datum.hover"}]
    layers = [lines, hover]
    return {"params": [CHOSEN], "data": {"values": rows}, "height": 280, "encoding": encoding, "layer": layers}


def _skip_marks(variant: Variant, member: Member, curve: Curve) -> Iterator[dict[str, Any]]:
    """Yield where the crosses lie: at the step that was not applied, on the run's line."""
    # A record of very many skips is thinned: each that is known stands for as many.
    each = (member.skipped_steps or len(member.skips)) / max(1, len(member.skips))
    ranked = [*enumerate(member.skips, 1)]
    for rank, attempted in thinned(ranked, _SKIP_MARKS):
        applied = max(0, attempted - round(rank * each))
        at = max(0, bisect.bisect_right(curve.steps, applied) - 1)
        value = curve.values[at]
        if value:
            yield {"variant": variant.label, "seed": member.seed, "run": -1, "x": applied, "y": value}


def _last_values(
    ladder: Ladder, runs: list[tuple[Variant, Member, Curve]], shown: Callable[[float], str] = human.number
) -> str:
    """Say which variant ends lowest and which highest, by the mean of their runs' last values."""
    means = {}
    for variant in ladder.variants:
        last = [_last(curve) for owner, _, curve in runs if owner is variant]
        if last:
            means[variant.label] = sum(last) / len(last)
    low, high = min(means, key=means.__getitem__), max(means, key=means.__getitem__)
    if len(means) == 1:
        return f"It ends at {shown(means[low])}."
    ends = f"{low} ends lowest ({shown(means[low])}), {high} highest ({shown(means[high])})"
    return f"By the mean of the last values, {ends}."


def _last(curve: Curve) -> float:
    return next(value for value in reversed(curve.values) if value is not None)


def _skips_text(ladder: Ladder) -> str:
    skips = {variant.label: sum(member.skipped_steps or 0 for member in variant.members) for variant in ladder.variants}
    said = [f"{label}: {count}" for label, count in skips.items() if count]
    return f"Skipped steps, all seeds together: {'; '.join(said)}." if said else "No step was skipped."


def _positive(rows: list[dict[str, Any]]) -> bool:
    return all(row["y"] is None or row["y"] > 0 for row in rows)


def _table(
    ladder: Ladder, runs: list[tuple[Variant, Member, Curve]], factor: float
) -> tuple[tuple[str, ...], tuple[tuple[Cell, ...], ...]]:
    """Return a row a run: the values at a few steps that are spread evenly, each the last known there."""
    first = min(curve.steps[0] for _, _, curve in runs)
    last = max(curve.steps[-1] for _, _, curve in runs)
    steps = sorted({round(first + (last - first) * i / (_TABLE_STEPS - 1)) for i in range(_TABLE_STEPS)})
    rows = []
    for variant, member, curve in runs:
        values = [_value_at(curve, step) for step in steps]
        rows.append((variant.label, member.seed, *(None if v is None else v * factor for v in values)))
    return ("variant", "seed", *(f"step {step}" for step in steps)), tuple(rows)


def _value_at(curve: Curve, step: int) -> float | None:
    at = bisect.bisect_right(curve.steps, step) - 1
    return None if at < 0 else curve.values[at]
