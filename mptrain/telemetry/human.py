"""How numbers and times read on a console: one format for each kind of quantity.

Owns: formats for people. Must not: be used for files (those hold plain numbers), or know what the numbers mean.
"""

from __future__ import annotations

import math

NOT_AVAILABLE = "n/a"


def duration(seconds: float | None) -> str:
    """Return e.g. `0:07`, `2:31`, `1:02:03` or `3d 04:05:06`."""
    if seconds is None:
        return NOT_AVAILABLE
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    days, h = divmod(hours, 24)
    if days:
        return f"{days}d {h:02}:{m:02}:{s:02}"
    return f"{h}:{m:02}:{s:02}" if h else f"{m}:{s:02}"


def size(num_bytes: int | None) -> str:
    """Return e.g. `512 B` or `1.2 GiB`."""
    if num_bytes is None:
        return NOT_AVAILABLE
    if num_bytes < 1024:
        return f"{num_bytes} B"
    value = float(num_bytes)
    for unit in ("KiB", "MiB", "GiB"):
        value /= 1024
        if value < 1023.95:
            return f"{value:.1f} {unit}"
    return f"{value / 1024:.1f} TiB"


def number(value: float | None) -> str:
    """Return a loss, metric or rate with about five digits, e.g. `1.2345`, `2.500e-05`, `nan`; a count whole."""
    if value is None:
        return NOT_AVAILABLE
    if isinstance(value, int):
        return str(value)
    magnitude = abs(value)
    if magnitude == 0 or (100 <= magnitude < 1e7 and float(value).is_integer()):
        return f"{value:.0f}"
    return f"{value:.4f}" if 1e-3 <= magnitude < 1e4 else f"{value:.3e}"


def norm(value: float | None) -> str:
    """Return a gradient norm with three digits, e.g. `1.23`."""
    return NOT_AVAILABLE if value is None else f"{value:#.3g}".rstrip(".")


def scale(value: float | None) -> str:
    """Return a loss scale, as an integer where it is one; `n/a` where the loss is not scaled."""
    if value is None:
        return NOT_AVAILABLE
    return str(int(value)) if float(value).is_integer() else f"{value:.4g}"


def speed(samples_per_s: float | None, *, emulated: bool) -> str:
    """Return e.g. `245.1 samples/s`; an emulated speed always says that it is one."""
    if samples_per_s is None:
        text = NOT_AVAILABLE
    elif samples_per_s < 1000:
        text = f"{samples_per_s:.1f}"
    else:
        text = f"{samples_per_s:,.0f}"
    return f"{text} samples/s{' (emulated)' if emulated else ''}"


def milliseconds(value: float | None, *, emulated: bool = False) -> str:
    """Return e.g. `0.27 ms`, `52.2 ms`, `1,234 ms`; an emulated time always says that it is one."""
    if value is None:
        text = NOT_AVAILABLE
    else:
        text = f"{value:.2f} ms" if value < 10 else f"{value:.1f} ms" if value < 100 else f"{value:,.0f} ms"
    return f"{text}{' (emulated)' if emulated else ''}"


def percent(fraction: float | None) -> str:
    """Return e.g. `0.3%`."""
    return NOT_AVAILABLE if fraction is None else f"{100 * fraction:.1f}%"


def share(fraction: float) -> str:
    """Return e.g. `3.0%`, and never `0.0%` for what is not nothing: `0%` or `<0.1%`."""
    if fraction == 0:
        return "0%"
    return "<0.1%" if fraction < 0.001 else percent(fraction)


def power_of_two(exponent: float | None) -> str:
    """Return e.g. `2^7` for 7.8: as many whole powers of two as there are; `n/a` for what is no finite number."""
    return NOT_AVAILABLE if exponent is None or not math.isfinite(exponent) else f"2^{math.floor(exponent)}"


def one_line(text: str) -> str:
    """Return `text` with line breaks, escape codes and all else that could move a cursor replaced by spaces."""
    return "".join(char if char.isprintable() else " " for char in text)
