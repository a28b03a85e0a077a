"""The report as text: per ladder a table, a sentence for each variant, the recommendation, and notes.

Owns: columns, and which of them a narrow terminal does without. Must not: colour (a line's tone says what it is), or
print.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

from mptrain.report import cells, words
from mptrain.report.model import Ladder, Report, Variant
from mptrain.telemetry import human

Tone = Literal["title", "plain", "good", "bad", "unsure", "aside"]
_GAP = "  "
_LABEL_WIDTH = 44
_TONES: dict[str, Tone] = {
    "identical": "good",
    "same": "good",
    "better": "good",
    "worse": "bad",
    "failed": "bad",
    "unclear": "unsure",
}


class Line(NamedTuple):
    """A line of text and what it is."""

    text: str
    tone: Tone = "plain"


class _Column(NamedTuple):
    """One column of the table: its header, cells, and how soon a narrow terminal drops it (0: never)."""

    header: str
    cells: list[str]
    dropped: int

    @property
    def width(self) -> int:
        return max(map(len, (self.header, *self.cells)))


def text_lines(report: Report, width: int | None = None) -> list[Line]:
    """Return the report as lines of at most `width` columns where that can be; None shows every column, unwrapped."""
    lines: list[Line] = []
    for ladder in report.ladders:
        lines += [*_ladder(ladder, width), Line("")]
    return [Line(human.one_line(line.text), line.tone) for line in lines[:-1]]


def _ladder(ladder: Ladder, width: int | None) -> Iterator[Line]:
    better = "higher" if ladder.higher_is_better else "lower"
    yield Line(f"{ladder.title}: {ladder.metric}, {better} is better", "title")
    yield Line("")
    columns, missing = _fitting(_columns(ladder), width)
    yield Line(_row(columns, [column.header for column in columns]), "aside")
    for index in range(len(ladder.variants)):
        yield Line(_row(columns, [column.cells[index] for column in columns]))
    if missing:
        said = f"not shown at this width: {', '.join(missing)} (a pipe, --csv and --json have all)"
        yield from _wrapped(said, width, "aside")
    yield Line("")
    for variant in ladder.variants:
        tone = _TONES[variant.comparison.outcome] if variant.comparison else "plain"
        yield from _wrapped(variant.verdict, width, tone)
    if ladder.recommendation:
        yield Line("")
        yield from _wrapped(ladder.recommendation, width, "title")
    for note in ladder.notes:
        yield from _wrapped(f"note: {note}", width, "aside")


def _wrapped(text: str, width: int | None, tone: Tone) -> Iterator[Line]:
    lines = textwrap.wrap(text, width, subsequent_indent="  ", break_on_hyphens=False) if width else [text]
    for line in lines:
        yield Line(line, tone)


def _fitting(columns: list[_Column], width: int | None) -> tuple[list[_Column], list[str]]:
    """Return the columns that fit into `width`, and the headers of those that do not, the least important first."""
    missing: list[str] = []
    while width is not None and sum(column.width + len(_GAP) for column in columns) - len(_GAP) > width:
        droppable = [column for column in columns if column.dropped]
        if not droppable:
            break
        least = min(droppable, key=lambda column: column.dropped)
        columns = [column for column in columns if column is not least]
        missing.append(least.header)
    return columns, missing


def _row(columns: Sequence[_Column], cells: Sequence[str]) -> str:
    """Return one line; the first column is text, the last too, those between are numbers."""
    padded = [
        cell.ljust(column.width) if index in (0, len(columns) - 1) else cell.rjust(column.width)
        for index, (column, cell) in enumerate(zip(columns, cells, strict=True))
    ]
    return _GAP.join(padded).rstrip()


def _columns(ladder: Ladder) -> list[_Column]:
    variants = ladder.variants
    columns = [
        _Column("variant", [_label(variant, ladder) for variant in variants], 0),
        _Column(ladder.metric, [words.metric(ladder, variant.metric) for variant in variants], 0),
        _Column("difference", [cells.difference(ladder, variant) for variant in variants], 7),
        _Column(cells.target_title(ladder), [cells.to_target(variant) for variant in variants], 3),
        _Column("samples/s", [cells.samples_per_s(variant) for variant in variants], 5),
        _Column("speed-up", [cells.speedup(variant) for variant in variants], 6),
        _Column("memory", [cells.memory(variant) for variant in variants], 4),
        _Column("skips", [cells.skips(variant) for variant in variants], 2),
        _Column("loss scale", [cells.loss_scale(variant) for variant in variants], 1),
        _Column("runs", [cells.statuses(variant) for variant in variants], 0),
    ]
    return columns if ladder.baseline else [column for column in columns if not _needs_baseline(column, ladder)]


def _needs_baseline(column: _Column, ladder: Ladder) -> bool:
    return column.header in ("difference", "speed-up", cells.target_title(ladder))


def _label(variant: Variant, ladder: Ladder) -> str:
    label = human.one_line(variant.label)
    short = label if len(label) <= _LABEL_WIDTH else f"{label[: _LABEL_WIDTH - 3]}..."
    return f"{short} *" if variant.is_baseline and len(ladder.variants) > 1 else short
