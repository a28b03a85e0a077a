"""How figures look: colours, dashes and type, for a light page, a dark page and a printed column.

Owns: the palette and the Vega-Lite config made of it. Must not: know what a figure shows. A spec names roles (`zero`,
`noise-floor`), never colours, so that the same spec is drawn light and dark.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

Theme = Literal["light", "dark"]

PAGE: dict[Theme, str] = {"light": "#ffffff", "dark": "#16191d"}
INK: dict[Theme, str] = {"light": "#1f2328", "dark": "#f0f3f6"}
MUTED: dict[Theme, str] = {"light": "#57606a", "dark": "#a3adb8"}
GRID: dict[Theme, str] = {"light": "#e6e9ed", "dark": "#2b3138"}
# Chosen by search: each has a contrast of 3 or more with the page (WCAG 1.4.11), and any two, the ink among them, are
# 30 or more apart in CIELAB, also as protanopes, deuteranopes and tritanopes see them (Machado et al. 2009).
VARIANTS: dict[Theme, tuple[str, ...]] = {
    "light": ("#3d8bea", "#a88a10", "#005f2a", "#ea6292", "#6714d8", "#8f1a86"),
    "dark": ("#2f78ff", "#f0bf10", "#7ceb95", "#c9506a", "#9c6ab8", "#dc2f10"),
}
DASHES: tuple[tuple[int, ...], ...] = ((1, 0), (6, 3), (2, 2), (8, 3, 2, 3))
"""Variants beyond the colours repeat them, with the next dash."""
FONT = "Helvetica Neue, Helvetica, Arial, Liberation Sans, sans-serif"


def variant_colours(theme: Theme, count: int, has_baseline: bool) -> list[str]:
    """Return one colour a variant: the baseline's, which is the first, is the ink."""
    colours = VARIANTS[theme]
    ink = [INK[theme]] if has_baseline else []
    return ink + [colours[i % len(colours)] for i in range(count - len(ink))]


def variant_dashes(count: int, has_baseline: bool) -> list[list[int]]:
    """Return one dash pattern a variant, in the same order."""
    ink = int(has_baseline)
    rounds = [0] * ink + [i // len(VARIANTS["light"]) for i in range(count - ink)]
    return [list(DASHES[r % len(DASHES)]) for r in rounds]


def vega_config(theme: Theme, colours: Sequence[str], *, legend: bool) -> dict[str, Any]:
    """Return the Vega-Lite config of one theme; `colours` are those of the variants, in order."""
    ink, muted, grid = INK[theme], MUTED[theme], GRID[theme]
    text = {
        "labelColor": muted,
        "titleColor": ink,
        "labelFontSize": 12,
        "titleFontSize": 12,
        "titleFontWeight": "normal",
    }
    return {
        "background": PAGE[theme],
        "font": FONT,
        "view": {"stroke": None},
        "range": {"category": list(colours)},
        # The figure as a whole has its text; a screen reader that walks thousands of marks helps nobody.
        "mark": {"aria": False},
        "axis": {
            **text,
            "aria": False,
            "domainColor": muted,
            "gridColor": grid,
            "tickColor": muted,
            "labelLimit": 260,
            "labelOverlap": "greedy",
            "titlePadding": 8,
        },
        "legend": {**text, "aria": False, "disable": not legend, "orient": "bottom", "columns": 2, "labelLimit": 190}
        | {"title": None, "symbolStrokeWidth": 2, "rowPadding": 3},
        "title": {"color": ink, "subtitleColor": muted, "anchor": "start", "fontSize": 13, "subtitleFontSize": 12},
        "style": {
            "zero": {"color": muted, "strokeDash": [4, 3]},
            "noise-floor": {"color": muted, "opacity": 0.18},
            "subnormal": {"color": muted, "opacity": 0.14},
            "outside": {"color": VARIANTS[theme][3], "opacity": 0.2},
            "note": {"color": muted, "fontSize": 11},
            "value": {"color": ink, "fontSize": 12},
        },
    }
