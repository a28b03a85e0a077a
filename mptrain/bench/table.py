"""A bench's result as text of 80 columns, for terminals and pipes alike. Must not: import torch, or compute figures."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from mptrain.telemetry.human import NOT_AVAILABLE, percent, size

_WIDTH = 80


def render(result: Mapping[str, Any]) -> str:
    """Return the whole text."""
    return "\n".join(_lines(result))


def _lines(result: Mapping[str, Any]) -> Iterator[str]:
    yield from _head(result)
    timed = [mode for mode in result["modes"] if mode["rounds"]]
    tokens = any(mode["tokens_per_s"] for mode in timed)
    unit = "tokens/s" if tokens else "samples/s"
    yield ""
    head: tuple[str, ...] = ("precision", "step ms (p10-p90)", unit, "speed-up (range)", "MFU", "memory")
    yield from _table([head, *(_speed_row(mode, tokens=tokens) for mode in timed)])
    yield ""
    head = ("share of the step", "forward", "backward", "optimizer", "casts", "products", "fits")
    yield from _table([head, *(_share_row(mode) for mode in timed)])
    failed = [mode for mode in result["modes"] if not mode["rounds"]]
    if failed:
        yield ""
    for mode in failed:
        yield from _item(mode["name"], f"{mode['status']}: {mode['error']}")
    yield ""
    for text, names in _grouped((mode["explanation"], mode["name"]) for mode in timed if mode["explanation"]):
        yield from _item(names, text)
    yield from _foot(result)


def _head(result: Mapping[str, Any]) -> Iterator[str]:
    hardware, settings = result["hardware"], result["settings"]
    batch = f"{result['batch_size']} samples"
    if result["accumulate"] > 1:
        batch = f"{result['accumulate']} micro-batches of {batch}"
    torch = f"torch {result['versions']['torch']}, mptrain {result['versions']['mptrain']}"
    yield from _item("config", f"{result['name']}: {result['model']}, a step of {batch}")
    yield from _item("device", f"{result['device']}: {hardware['name']}; {torch}")
    yield from _item(
        "method",
        f"{settings['repeats']} interleaved rounds; {settings['warmup_steps']} warm-up steps left out of each; "
        "mptrain's own step on one batch of the data that stays on the device",
    )


def _speed_row(mode: Mapping[str, Any], *, tokens: bool) -> tuple[str, ...]:
    step, ratio = mode["step_time_ms"], mode["speed_up"]
    rate = mode["tokens_per_s"] if tokens else mode["samples_per_s"]
    return (
        mode["name"],
        f"{_short(step['median_ms'])} ({_short(step['p10_ms'])}-{_short(step['p90_ms'])})",
        NOT_AVAILABLE if mode["emulated"] else _short(rate),
        f"{ratio['median']:.2f} ({ratio['min']:.2f}-{ratio['max']:.2f})"
        if ratio
        else NOT_AVAILABLE
        if mode["emulated"] or mode["mode"] != "fp32"
        else "1",
        NOT_AVAILABLE if mode["mfu"] is None else f"{100 * mode['mfu']:.0f}%",
        size(mode["memory"]["peak_bytes"]),
    )


def _share_row(mode: Mapping[str, Any]) -> tuple[str, ...]:
    shares, largest = mode["shares"] or {}, mode["largest_micro_batch"]
    samples = largest and largest["samples"]
    return (
        mode["name"],
        *(percent(shares.get(name)) for name in ("forward", "backward", "optimizer", "casts", "products")),
        NOT_AVAILABLE if samples is None else f"{samples:,}",
    )


def _foot(result: Mapping[str, Any]) -> Iterator[str]:
    loader, rates = result["loader"], result["rates"]
    fastest = max((mode["samples_per_s"] or 0.0 for mode in result["modes"] if not mode["emulated"]), default=0.0)
    bound = (
        f": fewer than the {_short(fastest)} of the fastest step, so that in training the loader sets the pace"
        if loader["loader_bound"]
        else ", with nothing else running: enough"
    )
    yield from _item("loader", f"{_short(loader['samples_per_s'])} samples/s{bound}")
    large = ", ".join(f"{fmt} {_flops(rate)}" for fmt, rate in rates["flops_per_s"].items())
    counted = result["products"]["flops_per_step"]
    text = f"large products, measured: {large or NOT_AVAILABLE}"
    text += f"; the step's products: {_flops(counted, unit='FLOP')}" if counted else "; the step's products: n/a"
    if result["products"]["uncounted"]:
        text += f"; products not counted, no MFU: {', '.join(result['products']['uncounted'])}"
    yield from _item("rates", text)
    how = next((mode["memory"]["how"] for mode in result["modes"] if mode["memory"]["how"]), None)
    fits = next((m["largest_micro_batch"]["how"] for m in result["modes"] if m["largest_micro_batch"]), None)
    said = [f"memory: {how}"] if how else []
    said += [f"fits: the largest micro-batch, {fits}"] if fits else []
    if said:
        yield from _item("columns", "; ".join(said))
    for reason, names in _grouped((each["reason"], each["mode"]) for each in result["left_out"]):
        yield from _item("left out", f"{names} ({reason}); name what you want with --precisions")
    for notice, names in _grouped(
        (notice, mode["name"]) for mode in result["modes"] for notice in _notices(mode, result)
    ):
        yield from _item("note", notice if notice.startswith(names) else f"{names}: {notice}")
    for warning in result["warnings"]:
        yield from _item("warning", warning)


def _notices(mode: Mapping[str, Any], result: Mapping[str, Any]) -> Iterator[str]:
    yield from mode["notices"]
    at_once = mode["micro_batch"]
    if at_once is not None and at_once < result["batch_size"]:
        yield f"computes {at_once} samples at a time"


def _grouped(pairs: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """Yield each text once, with the names that it is said of."""
    names: dict[str, list[str]] = {}
    for text, name in pairs:
        names.setdefault(text, []).append(name)
    for text, said_of in names.items():
        yield text, ", ".join(said_of)


def _item(label: str, text: str) -> list[str]:
    """Return a labelled paragraph; a label too long for its column has the first line for itself."""
    column = 12
    first = f"{label:<{column}}" if len(label) < column else ""
    lines = textwrap.wrap(text, _WIDTH, initial_indent=first or " " * column, subsequent_indent=" " * column)
    return lines if first else [label, *lines]


def _table(rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    """Yield aligned lines, the first column flush left and the others right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        cells = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        yield "  ".join([row[0].ljust(widths[0]), *cells]).rstrip()


def _short(value: float) -> str:
    """Return about three digits, e.g. `0.123`, `4.56`, `78.9`, `1,235`."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.3g}"


def _flops(value: float, unit: str = "FLOP/s") -> str:
    """Return e.g. `118 GFLOP/s`."""
    power = min(int(math.log10(value)) // 3, 5) if value >= 1 else 0
    return f"{_short(value / 1000**power)} {('', 'k', 'M', 'G', 'T', 'P')[power]}{unit}"
