"""The block of lines that the live view keeps redrawing: a pure layout, from state to styled text.

Owns: what stands where at which width, and the sparkline. Must not: print, start threads, or read a clock.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field

from mptrain.telemetry import human, story
from mptrain.telemetry.records import Evaluation, Event, Progress, RunInfo
from mptrain.telemetry.throughput import LOADER_BOUND

Span = tuple[str, str]
"""Text and its rich style."""
Line = list[Span]

MAX_WIDTH = 96
"""Wider lines are no easier to read."""

PLAIN, DIM, STRONG = "", "dim", "bold"
ACCENT, GOOD, WARN, BAD, ALARM = "cyan", "green", "yellow", "bold red", "bold black on yellow"

_LABEL = 11
_TICKS = "▁▂▃▄▅▆▇█"


class Sparkline:
    """The course of a value over a whole run in bounded memory: when full, neighbours are merged into their mean."""

    CAPACITY = 48

    def __init__(self) -> None:
        self._points: list[float] = []
        self._stride = 1
        self._pending: list[float] = []

    def add(self, value: float) -> None:
        """Add the newest value."""
        self._pending.append(value)
        if len(self._pending) < self._stride:
            return
        self._points.append(sum(self._pending) / self._stride)
        self._pending = []
        if len(self._points) == self.CAPACITY:
            self._points = [(a + b) / 2 for a, b in zip(self._points[::2], self._points[1::2], strict=True)]
            self._stride *= 2

    def draw(self, width: int) -> str:
        """Return the last points as at most `width` characters; a non-finite one is an `x`."""
        points = self._points[:]
        while len(points) > width:
            points = [sum(pair) / len(pair) for pair in (points[i : i + 2] for i in range(0, len(points), 2))]
        finite = [point for point in points if math.isfinite(point)]
        if len(points) < 2 or not finite:
            return ""
        low, span = min(finite), (max(finite) - min(finite)) or 1.0
        top = len(_TICKS) - 1
        return "".join(_TICKS[round(top * (point - low) / span)] if math.isfinite(point) else "x" for point in points)


@dataclass
class State:
    """What the block shows; filled by the reporter's calls."""

    info: RunInfo
    progress: Progress | None = None
    elapsed_s: float = 0.0
    seconds_left: float | None = None
    evaluation: Evaluation | None = None
    best: float | None = None
    """Best main metric that this process has seen."""
    losses: Sparkline = field(default_factory=Sparkline)
    events: deque[Event] = field(default_factory=lambda: deque(maxlen=4))


def layout(state: State, width: int, height: int, *, unicode: bool) -> list[Line]:
    """Return the block's lines, at most `height`, each meant for `width` columns (the writer crops the rest)."""
    width = min(width, MAX_WIDTH)
    lines = [_header(state, width, unicode)]
    if state.info.planted:
        lines.append([(f" PLANTED FAULT: {', '.join(map(human.one_line, state.info.planted))} ", ALARM)])
    if state.progress is None:
        lines.append([("waiting for the first step", DIM)])
    else:
        lines += _bars(state.info, state.progress, state.seconds_left, width, unicode)
        lines += _figures(state, state.progress, width, unicode)
    if state.events:
        lines.append([])
        lines += [[(story.event(event), _event_style(event))] for event in state.events]
    return lines[:height]


def _header(state: State, width: int, unicode: bool) -> Line:
    rule, dot = ("─", " · ") if unicode else ("-", "  ")
    name = human.one_line(f"{state.info.name}/{state.info.run_id}")
    elapsed = f" {human.duration(state.elapsed_s)} "
    precision = human.one_line(state.info.precision)
    room = max(0, width - len(name) - len(elapsed) - 9)
    if len(precision) > room:
        precision = precision[: max(0, room - 3)].rstrip() + "..."
    left = len(name) + len(precision) + len(dot) + 5
    return [
        (rule * 2 + " ", DIM),
        (name, STRONG),
        (dot, DIM),
        (precision, ACCENT),
        (" " + rule * max(1, width - left - len(elapsed)), DIM),
        (elapsed, DIM),
    ]


def _bars(info: RunInfo, progress: Progress, seconds_left: float | None, width: int, unicode: bool) -> list[Line]:
    epoch, epochs, epoch_step = story.epoch_position(info, progress)
    done = progress.steps_done / info.total_steps
    # Padded to what they can grow to, so that the bars keep their length.
    digits = len(str(info.total_steps))
    of_epoch = f"{epoch_step:>{digits}}/{info.steps_per_epoch}"
    of_run = f"{progress.steps_done:>{digits}}/{info.total_steps} {int(100 * done):>4}%"
    rows = [
        (f"epoch {epoch}/{epochs}", epoch_step / info.steps_per_epoch, of_epoch),
        ("run", done, f"{of_run}  eta {human.duration(seconds_left):<7}"),
    ]
    label_width = max(_LABEL, *(len(label) + 1 for label, _, _ in rows))
    room = max(4, width - label_width - 2 - max(len(text) for _, _, text in rows))
    full, empty = ("━", "─") if unicode else ("#", "-")
    lines: list[Line] = []
    for label, fraction, text in rows:
        filled = int(room * min(1.0, fraction))
        style = GOOD if fraction >= 1 else ACCENT
        lines.append(
            [
                (f"{label:<{label_width}}", DIM),
                (full * filled, style),
                (empty * (room - filled), DIM),
                (f"  {text}", PLAIN),
            ]
        )
    return lines


def _figures(state: State, progress: Progress, width: int, unicode: bool) -> list[Line]:
    emulated = state.info.emulated
    # What the widest usual texts need; a terminal that has less gets one column.
    left, right = (40, 29) if emulated else (30, 28)
    columns = 2 if width >= left + right else 1
    left = max(left, width // 2)
    cells = [
        ("loss", _loss(state, progress, left - _LABEL - 1, unicode)),
        ("lr", [_value(human.number(progress.lr))]),
        _metric(state),
        ("grad norm", [_value(human.norm(progress.grad_norm))]),
        ("speed", [_value(human.speed(progress.samples_per_s, emulated=emulated))]),
        ("step time", [_value(human.milliseconds(progress.step_time_ms, emulated=emulated))]),
        ("data wait", _data_wait(progress)),
        ("memory", [_value(human.size(progress.peak_memory_bytes)), (" peak", DIM)]),
        ("skipped", [(story.skipped(progress), WARN if progress.skipped_steps else STRONG)]),
        ("loss scale", [_value(human.scale(progress.loss_scale))]),
    ]
    if progress.numerics is not None:
        cells += [(label, [_value(text)]) for label, text in story.numerics(progress.numerics)]
    lines: list[Line] = []
    for start in range(0, len(cells), columns):
        line: Line = []
        for label, spans in cells[start : start + columns]:
            used = _LABEL + sum(len(text) for text, _ in spans)
            line += [(f"{label:<{_LABEL}}", DIM), *spans, (" " * max(1, left - used), PLAIN)]
        lines.append(line)
    return lines


def _value(text: str) -> Span:
    return text, DIM if text.startswith(human.NOT_AVAILABLE) else STRONG


def _loss(state: State, progress: Progress, room: int, unicode: bool) -> Line:
    text = human.number(progress.loss)
    style = STRONG if math.isfinite(progress.loss) else BAD
    course = state.losses.draw(min(24, room - len(text) - 1)) if unicode else ""
    return [(text, style), (f" {course}", ACCENT)]


def _metric(state: State) -> tuple[str, Line]:
    if state.evaluation is None:
        return "metric", [("not evaluated yet", DIM)]
    name = state.evaluation.main_metric
    spans: Line = [(human.number(state.evaluation.metrics[name]), STRONG)]
    if state.best is not None:
        spans.append((f" best {human.number(state.best)}", GOOD if state.evaluation.improved else PLAIN))
    return human.one_line(name)[: _LABEL - 1], spans


def _data_wait(progress: Progress) -> Line:
    text = human.percent(progress.data_wait_fraction)
    if progress.data_wait_fraction is not None and progress.data_wait_fraction > LOADER_BOUND:
        return [(text, WARN), (" loader-bound", WARN)]
    return [_value(text)]


def _event_style(event: Event) -> str:
    if event.kind == "nonfinite_loss":
        return BAD
    return WARN if event.kind in story.LOUD_EVENTS else DIM
