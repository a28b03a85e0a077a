"""The variants side by side: accuracy against speed, memory, and the differences against the baseline.

Owns: these specs. Must not: choose colours, or compute statistics.
"""

from __future__ import annotations

from typing import Any

from mptrain.report import words
from mptrain.report.figure_parts import (
    CHOSEN,
    Figure,
    absent,
    capital,
    colour,
    dash,
    ends,
    faded,
    interval_cells,
    labels,
    metric_factor,
    metric_title,
    variant_rows,
    x_axis,
)
from mptrain.report.model import Estimate, Ladder, Variant
from mptrain.telemetry import human

_ROW_HEIGHT = 36  # pixels: two lines of a label
_SHAPES = ["circle", "square", "triangle-up", "diamond", "triangle-down", "cross", "triangle-right"]


def accuracy_speed(ladder: Ladder) -> Figure:
    """Return the metric against the speed with 95% intervals; without speeds, the metric of each variant."""
    known = [(v, v.metric, v.samples_per_s) for v in ladder.variants if v.metric]
    if not known:
        return absent("accuracy-speed", f"{capital(ladder.metric)} and speed", "No run has a finite metric.")
    timed = [(variant, metric, speed) for variant, metric, speed in known if speed]
    return _metric_by_variant(ladder) if not timed else _scatter(ladder, timed)


def _scatter(ladder: Ladder, timed: list[tuple[Variant, Estimate, Estimate]]) -> Figure:
    factor = metric_factor(ladder)
    rows, cells = [], []
    for variant, metric, speed in timed:
        along = {f"speed_{key}": value for key, value in ends(speed).items()}
        rows.append({"variant": variant.label, **ends(metric, factor), **along})
        cells.append((variant.label, *interval_cells(metric, factor)[:3], *interval_cells(speed)[:3]))
    x = x_axis("samples/s", "speed_mean", tickCount=5)
    if any(speed.low is not None and speed.low < 0 for _, _, speed in timed):
        x["scale"] |= {"domainMin": 0}  # two seeds may leave room for less than nothing; the table has the figure
    y = x_axis(metric_title(ladder), "mean", tickCount=6)
    whisker = {"type": "rule", "strokeWidth": 1.4, "clip": True}
    dashed = {"strokeDash": dash(ladder) | {"legend": None}}
    shape = {"field": "variant", "type": "nominal", "scale": {"domain": labels(ladder), "range": _shapes(ladder)}}
    tooltip = _tooltip(("variant", "mean", "speed_mean"))
    spec = {
        "params": [CHOSEN],
        "data": {"values": rows},
        "height": 280,
        "encoding": {"color": colour(ladder), "opacity": faded()},
        "layer": [
            {"mark": whisker, "encoding": {"x": x, "y": y | {"field": "low"}, "y2": {"field": "high"}, **dashed}},
            {
                "mark": whisker,
                "encoding": {"x": x | {"field": "speed_low"}, "x2": {"field": "speed_high"}, "y": y, **dashed},
            },
            {
                "mark": {"type": "point", "filled": True, "size": 90},
                "encoding": {"x": x, "y": y, "shape": shape, "tooltip": tooltip},
            },
        ],
    }
    best = (max if ladder.higher_is_better else min)(timed, key=lambda item: item[1].mean)
    fastest = max(timed, key=lambda item: item[2].mean)
    text = (
        f"{capital(ladder.metric)} against samples per second, with 95% intervals. Best {ladder.metric}: "
        f"{best[0].label} ({words.metric(ladder, best[1])}); fastest: {fastest[0].label} "
        f"({fastest[2].mean:,.0f} samples/s)."
    )
    missing = [v.label for v in ladder.variants if v.metric and not v.samples_per_s]
    if missing:
        text += f" Without a speed of their own (emulated, or not measured), so not shown: {words.listed(missing)}."
    columns = ("variant", ladder.metric, "low", "high", "samples/s", "low", "high")
    title = f"{capital(ladder.metric)} against speed"
    key = tuple(variant.label for variant, _, _ in timed)
    return Figure("accuracy-speed", title, text, "", spec, columns, tuple(cells), key)


def _metric_by_variant(ladder: Ladder) -> Figure:
    factor = metric_factor(ladder)
    known = [(variant, variant.metric) for variant in ladder.variants if variant.metric]
    rows = [{"variant": variant.label, **ends(metric, factor)} for variant, metric in known]
    seeds = [
        {"variant": variant.label, "value": member.metric * factor, "seed": member.seed}
        for variant, _ in known
        for member in variant.members
        if member.metric is not None
    ]
    spec = _intervals(ladder, rows, [v.label for v, _ in known], metric_title(ladder))
    ticks = {"mark": {"type": "tick", "opacity": 0.55, "thickness": 1.5, "size": 12, "yOffset": 11}}
    ticks |= {"data": {"values": seeds}, "encoding": {"x": {"field": "value", "type": "quantitative"}}}
    spec["layer"].append(ticks)
    best = (max if ladder.higher_is_better else min)(known, key=lambda item: item[1].mean)
    text = (
        "No speed is shown: these runs were emulated, or their speed was not measured, so it would say nothing of real "
        f"hardware. {capital(ladder.metric)} of each variant: mean and 95% interval, seeds as ticks. "
        f"Best: {best[0].label} ({words.metric(ladder, best[1])})."
    )
    cells = tuple((variant.label, *interval_cells(metric, factor)) for variant, metric in known)
    columns = ("variant", ladder.metric, "low", "high", "runs")
    return Figure("accuracy-speed", f"{capital(ladder.metric)} of each variant", text, "", spec, columns, cells)


def memory(ladder: Ladder) -> Figure:
    """Return bars of peak memory."""
    title = "Peak memory"
    known = [(v, v.peak_memory_bytes) for v in ladder.variants if v.peak_memory_bytes]
    if not known:
        return absent("memory", title, "No run measured its peak memory.")
    large = max(memory.mean for _, memory in known) >= 2**30
    unit, factor = ("GiB", 2.0**-30) if large else ("MiB", 2.0**-20)
    rows = [
        {"variant": v.label, **ends(memory, factor), "label": human.size(round(memory.mean))} for v, memory in known
    ]
    axis = x_axis(f"peak memory ({unit})", "mean", tickCount=5)
    names = [variant.label for variant, _ in known]
    # Room beyond the longest bar for its figure, on a phone too.
    axis["scale"] = {
        "zero": True,
        "domain": [0, max(memory.mean for _, memory in known) * factor * 1.6],
        "nice": False,
    }
    value = {"mark": {"type": "text", "align": "left", "dx": 6, "style": "value"}}
    bar = {"mark": {"type": "bar", "height": 16}, "encoding": {"color": colour(ladder) | {"legend": None}}}
    spec = {
        "data": {"values": rows},
        "height": _ROW_HEIGHT * len(names),
        "encoding": {"x": axis, "y": variant_rows(names), "tooltip": _tooltip(("variant", "label"))},
        "layer": [bar, value | {"encoding": {"text": {"field": "label"}}}],
    }
    least, most = min(known, key=lambda item: item[1].mean), max(known, key=lambda item: item[1].mean)
    text = f"Mean peak memory: from {human.size(round(least[1].mean))} ({least[0].label}) "
    text += f"to {human.size(round(most[1].mean))} ({most[0].label})."
    cells = tuple((variant.label, *interval_cells(memory, factor)) for variant, memory in known)
    return Figure("memory", title, text, "", spec, ("variant", f"mean ({unit})", "low", "high", "runs"), cells)


def differences(ladder: Ladder) -> Figure:
    """Return a forest plot of the differences against the baseline, with the noise floor as a band around zero."""
    title = "Difference to the baseline"
    if ladder.baseline is None:
        return absent("differences", title, "There is no baseline to compare with.")
    known = [
        (v, v.comparison, v.comparison.difference) for v in ladder.variants if v.comparison and v.comparison.difference
    ]
    if not known:
        return absent(
            "differences", title, f"No other variant has a {ladder.metric} to compare with {ladder.baseline}."
        )
    factor = metric_factor(ladder)
    rows = [{"variant": variant.label, **ends(difference, factor)} for variant, _, difference in known]
    better = "to the right" if ladder.higher_is_better else "to the left"
    unit = " (percentage points)" if ladder.as_points else ""
    spec = _intervals(ladder, rows, [v.label for v, _, _ in known], f"difference in {ladder.metric}{unit}")
    zero = {"data": {"values": [{}]}, "mark": {"type": "rule", "style": "zero"}, "encoding": {"x": {"datum": 0}}}
    spec["layer"].insert(0, zero)
    text = f"{capital(ladder.metric)} minus that of {ladder.baseline}, mean and 95% interval; {better} is better. "
    if ladder.noise_floor:
        floor = ladder.noise_floor * factor
        band = {"x": {"datum": -floor}, "x2": {"datum": floor}}
        spec["layer"].insert(
            0, {"data": {"values": [{}]}, "mark": {"type": "rect", "style": "noise-floor"}, "encoding": band}
        )
        size = words.spread(ladder, ladder.noise_floor)
        text += f"Band: the noise floor, the seed-to-seed spread of the baseline (± {size}). "
    detail = " ".join(f"{v.label}: {words.difference(ladder, d)}, {c.outcome}." for v, c, d in known)
    cells = tuple((v.label, *interval_cells(d, factor), c.p_value, c.outcome) for v, c, d in known)
    columns = ("variant", f"difference{unit}", "low", "high", "seeds", "adjusted p", "outcome")
    return Figure("differences", title, text.strip(), detail, spec, columns, cells)


def _intervals(ladder: Ladder, rows: list[dict[str, Any]], names: list[str], title: str) -> dict[str, Any]:
    """Return dots with whiskers, one row a variant; `rows` hold mean, low and high."""
    x = x_axis(title, "mean", tickCount=6)
    hue = colour(ladder) | {"legend": None}
    y = variant_rows(names)
    whisker = {"mark": {"type": "rule", "strokeWidth": 2}}
    whisker |= {"encoding": {"x": x | {"field": "low"}, "x2": {"field": "high"}, "y": y, "color": hue}}
    dot = {"mark": {"type": "point", "filled": True, "size": 80, "opacity": 1}}
    dot |= {"encoding": {"x": x, "y": y, "color": hue, "tooltip": _tooltip(("variant", "mean", "interval"))}}
    return {"data": {"values": rows}, "height": _ROW_HEIGHT * len(names), "layer": [whisker, dot]}


def _tooltip(fields: tuple[str, ...]) -> list[dict[str, str]]:
    texts = ("variant", "label", "interval")
    return [{"field": field, "type": "nominal" if field in texts else "quantitative"} for field in fields]


def _shapes(ladder: Ladder) -> list[str]:
    return [_SHAPES[i % len(_SHAPES)] for i in range(len(ladder.variants))]
