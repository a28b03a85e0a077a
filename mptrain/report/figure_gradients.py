"""How large gradients are, against what their format can hold: one histogram a variant.

Owns: this spec. Must not: choose colours, or know formats: their bounds come with the histogram.
"""

from __future__ import annotations

import math
from typing import Any

from mptrain.report.figure_parts import Figure, absent, colour, x_axis
from mptrain.report.model import GradientHistogram, Ladder, Variant
from mptrain.telemetry import human

_NAME, _TITLE = "gradients", "Gradient magnitudes"
_NEAR = 16  # powers of two: a bound of the format farther than this from every gradient is told, not drawn


def gradients(ladder: Ladder) -> list[Figure]:
    """Return a histogram a variant, of the first of its runs that has one."""
    figures = []
    for number, variant in enumerate(ladder.variants):
        sampled = [(m.seed, m.gradients) for m in variant.members if m.gradients and any(m.gradients.counts)]
        if sampled:
            figures.append(_figure(ladder, variant, number, *sampled[0]))
    return figures or [absent(_NAME, _TITLE, "No run sampled its gradients (log.numerics_every is 0, or too long).")]


def _figure(ladder: Ladder, variant: Variant, number: int, seed: int | None, histogram: GradientHistogram) -> Figure:
    seen = [i for i, count in enumerate(histogram.counts) if count]
    first, last = histogram.first_exponent + seen[0], histogram.first_exponent + seen[-1]
    total = sum(histogram.counts) + histogram.zeros
    rows, cells = [], []
    for exponent in range(first, last + 1):
        count = histogram.counts[exponent - histogram.first_exponent]
        rows.append({"variant": variant.label, "x": exponent, "to": exponent + 1, "share": 100 * count / total})
        cells.append((f"2^{exponent} to 2^{exponent + 1}", count, 100 * count / total))
    cells.append(("zero", histogram.zeros, 100 * histogram.zeros / total))
    bounds = [math.log2(b) for b in (histogram.smallest_subnormal, histogram.smallest_normal, histogram.largest)]
    low = min([first - 1, *(b - 2 for b in bounds if first - _NEAR <= b <= last)])
    high = max([last + 2, *(b + 2 for b in bounds if first <= b <= last + _NEAR)])
    spec = _spec(ladder, rows, bounds, (low, high))
    name = f"{_NAME}-{number + 1}"
    columns = ("magnitude", "elements", "share (%)")
    text, detail = _words(histogram, seed, first, last, total)
    return Figure(name, f"{_TITLE}: {variant.label}", text, detail, spec, columns, tuple(cells))


def _spec(
    ladder: Ladder, rows: list[dict[str, Any]], bounds: list[float], shown: tuple[float, float]
) -> dict[str, Any]:
    low, high = shown
    subnormal, normal, largest = bounds
    bands = [
        ("lost", "outside", low, subnormal),
        ("subnormal", "subnormal", subnormal, normal),
        ("above largest", "outside", largest, high),
    ]
    layers: list[dict[str, Any]] = []
    for label, style, start, end in bands:
        start, end = max(start, low), min(end, high)
        if start >= end:
            continue
        data = {"values": [{"label": label}]}
        span = {"x": {"datum": start}, "x2": {"datum": end}}
        layers.append({"data": data, "mark": {"type": "rect", "style": style}, "encoding": span})
        note = {"type": "text", "style": "note", "angle": 270, "align": "right", "baseline": "top", "dx": -4, "dy": 3}
        at = {"x": {"datum": start}, "y": {"value": 0}, "text": {"field": "label"}}
        layers.append({"data": data, "mark": note, "encoding": at})
    x = x_axis("log2 of the magnitude", tickCount=8, format="d", grid=False)
    x["scale"] = {"domain": [low, high], "nice": False, "zero": False}
    y: dict[str, Any] = {
        "field": "share",
        "type": "quantitative",
        "axis": {"title": "share of elements (%)", "tickCount": 4},
    }
    # Room for the bands' names above the bars.
    y["scale"] = {"domain": [0, 1.5 * max(row["share"] for row in rows)], "nice": False}
    bar = {
        "mark": {"type": "rect", "tooltip": True},
        "encoding": {
            "x": x,
            "x2": {"field": "to"},
            "y": y,
            "y2": {"datum": 0},
            "color": colour(ladder) | {"legend": None},
            "tooltip": [{"field": "x", "title": "power of two"}, {"field": "share", "title": "share (%)"}],
        },
    }
    return {"data": {"values": rows}, "height": 200, "layer": [*layers, bar]}


def _words(histogram: GradientHistogram, seed: int | None, first: int, last: int, total: int) -> tuple[str, str]:
    counts = histogram.counts
    # The bin that a bound falls into lies below it only where the bound is the bin's upper end: bounds are powers of
    # two but for the largest, whose bin is still held.
    normal = math.floor(math.log2(histogram.smallest_normal)) - histogram.first_exponent
    smallest = math.floor(math.log2(histogram.smallest_subnormal)) - histogram.first_exponent
    largest = math.floor(math.log2(histogram.largest)) - histogram.first_exponent
    subnormal = sum(counts[max(0, smallest) : max(0, normal)]) / total
    above = sum(counts[max(0, largest + 1) :]) / total
    run = "" if seed is None else f" of seed {seed}"
    zero, below, beyond = (human.share(part) for part in (histogram.zeros / total, subnormal, above))
    held = f"2^{math.log2(histogram.smallest_subnormal):.0f} to {human.number(histogram.largest)}"
    scale = human.scale(histogram.loss_scale)
    text = (
        f"Newest sample{run}, as {histogram.format} holds it at a loss scale of {scale}. Zero: {zero}; subnormal: "
        f"{below}; above the largest: {beyond}."
    )
    detail = (
        f"Magnitudes go from 2^{first} to 2^{last + 1}. The format holds {held} (subnormal below "
        f"2^{math.log2(histogram.smallest_normal):.0f})."
    )
    return text, detail
