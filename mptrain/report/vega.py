"""The plotting library, and a figure made ready for it: as a spec for print, or its script for a page.

Owns: the import of vl_convert, which brings Vega, Vega-Lite and its own renderer. Must not: write files.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

from mptrain.errors import CapabilityError, first_line
from mptrain.report.figure_parts import INVISIBLE, Figure
from mptrain.report.figure_theme import Theme, variant_colours, vega_config
from mptrain.report.model import Ladder

_COLUMN_WIDTH = 420  # pixels of the plot; with 12-pixel text legible when set 85 mm wide


def library() -> ModuleType:
    """Return vl_convert; raise CapabilityError with the remedy where it is missing."""
    try:
        import vl_convert
    except ImportError as error:
        why = first_line(error)
        raise CapabilityError(f"figures need vl-convert-python ({why}): pip install 'mptrain[report]'") from error
    module: ModuleType = vl_convert
    return module


def ladder_config(ladder: Ladder, theme: Theme, *, legend: bool) -> dict[str, Any]:
    """Return the Vega-Lite config in which a ladder's figures are drawn."""
    colours = variant_colours(theme, len(ladder.variants), ladder.baseline is not None)
    return vega_config(theme, colours, legend=legend)


def print_spec(ladder: Ladder, figure: Figure) -> dict[str, Any]:
    """Return a figure that stands alone: titled, with its key, on white; raise ValueError where it has no chart."""
    if figure.spec is None:
        raise ValueError(f"{figure.name} has no chart")
    spec = dict(figure.spec)
    spec["layer"] = [layer for layer in spec["layer"] if layer.get("name") != INVISIBLE]
    config = ladder_config(ladder, "light", legend=bool(figure.key))
    if figure.key:
        # A filled symbol without a stroke: dashes would fray it.
        symbol = {"symbolSize": 300} if figure.key_symbol == "stroke" else {"symbolSize": 90, "symbolStrokeWidth": 0}
        config["legend"] |= {"symbolType": figure.key_symbol, **symbol}
        colour = spec["encoding"]["color"] | {"legend": {"values": list(figure.key)}}
        spec["encoding"] = spec["encoding"] | {"color": colour}
    return {
        **spec,
        "width": _COLUMN_WIDTH,
        "padding": 10,
        "title": {"text": figure.title, "subtitle": ladder.title, "offset": 14},
        "description": f"{figure.text} {figure.detail}".strip(),
        "config": config,
    }
