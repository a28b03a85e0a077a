"""Tables of the page: the ladder's, and those behind the charts. All text is escaped here.

Owns: cells, and what a table sorts by. Must not: compute statistics, or read files.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from mptrain.report import cells, words
from mptrain.report.figure_parts import Cell, Figure, metric_text
from mptrain.report.model import Estimate, Ladder, Variant
from mptrain.telemetry import human

_NONE = human.NOT_AVAILABLE


@dataclass(frozen=True, slots=True)
class _Shown:
    """A cell: what it says, and the number it sorts by (None: by its text, after all numbers where it says nothing)."""

    text: str
    key: float | None = None


@dataclass(frozen=True, slots=True)
class _Column:
    title: str
    number: bool
    cells: list[_Shown]


def ladder_table(ladder: Ladder, caption: str) -> str:
    """Return the sortable table of a ladder, one row a variant."""
    return _table(caption, _ladder_columns(ladder), sortable=True)


def _ladder_columns(ladder: Ladder) -> list[_Column]:
    columns = [_Column("variant", False, [_Shown(v.label + " (baseline)" * v.is_baseline) for v in ladder.variants])]

    def add(title: str, text: Callable[[Variant], str], key: Callable[[Variant], float | None] | None = None) -> None:
        shown = [_Shown(text(v), None if key is None else key(v)) for v in ladder.variants]
        columns.append(_Column(title, key is not None, shown))

    add(ladder.metric, lambda v: words.metric(ladder, v.metric), lambda v: _mean(v.metric))
    if ladder.baseline is not None:
        add("difference", lambda v: cells.difference(ladder, v), _mean_difference)
        add("outcome", lambda v: v.comparison.outcome if v.comparison else "baseline")
        add(f"time {cells.target_title(ladder)}", cells.to_target, lambda v: _mean(v.seconds_to_target))
    add("samples/s", cells.samples_per_s, lambda v: _mean(v.samples_per_s))
    if ladder.baseline is not None:
        add("speed-up", cells.speedup, lambda v: v.speedup)
    add("peak memory", cells.memory, lambda v: _mean(v.peak_memory_bytes))
    if ladder.baseline is not None:
        add(
            "memory ratio",
            lambda v: _NONE if v.memory_ratio is None else f"{v.memory_ratio:.2f}",
            lambda v: v.memory_ratio,
        )
    add("skipped steps", cells.skips, _total_skips)
    add("final loss scale", cells.loss_scale, _largest_scale)
    add("runs", cells.statuses)
    return columns


def _mean(estimate: Estimate | None) -> float | None:
    return None if estimate is None else estimate.mean


def _mean_difference(variant: Variant) -> float | None:
    return _mean(variant.comparison.difference) if variant.comparison else None


def _total_skips(variant: Variant) -> float | None:
    known = [member.skipped_steps for member in variant.members if member.skipped_steps is not None]
    return sum(known) if known else None


def _largest_scale(variant: Variant) -> float | None:
    return max((m.final_loss_scale for m in variant.members if m.final_loss_scale is not None), default=None)


def runs_table(ladder: Ladder) -> str:
    """Return a table of all runs of a ladder, with what ended those that failed."""
    runs = [(variant, member) for variant in ladder.variants for member in variant.members]
    metric = [_Shown(_NONE) if m.metric is None else _Shown(metric_text(ladder, m.metric), m.metric) for _, m in runs]
    loss = [_Shown(_NONE if m.train_loss is None else human.number(m.train_loss), m.train_loss) for _, m in runs]
    columns = [
        _Column("variant", False, [_Shown(variant.label) for variant, _ in runs]),
        _Column("seed", True, [_Shown(_NONE if m.seed is None else str(m.seed), m.seed) for _, m in runs]),
        _Column("status", False, [_Shown(m.status) for _, m in runs]),
        _Column(ladder.metric, True, metric),
        _Column("training loss", True, loss),
        _Column("time", True, [_Shown(human.duration(m.wall_s), m.wall_s) for _, m in runs]),
        _Column("folder", False, [_Shown(m.path) for _, m in runs]),
        _Column("what ended it", False, [_Shown(m.error or _NONE) for _, m in runs]),
    ]
    return _table(f"Runs of {ladder.title}", columns, sortable=True)


def settings_table(ladder: Ladder) -> str:
    """Return which settings tell the variants apart; those that all share have a table of their own."""
    keys = dict.fromkeys(key for variant in ladder.variants for key in variant.settings if key not in ladder.common)
    columns = [_Column("variant", False, [_Shown(v.label) for v in ladder.variants])]
    for key in keys:
        columns.append(_Column(key, False, [_Shown(_plain(v.settings.get(key))) for v in ladder.variants]))
    return _table(f"Settings of {ladder.title}", columns)


def in_force_table(ladder: Ladder) -> str:
    """Return what each variant's settings came to."""
    columns = [
        _Column("variant", False, [_Shown(v.label) for v in ladder.variants]),
        _Column("precision in force", False, [_Shown(v.precision) for v in ladder.variants]),
    ]
    return _table(f"Precision in force in {ladder.title}", columns)


def mapping_table(caption: str, values: Mapping[str, Any]) -> str:
    """Return a table of names and values; a list is several values that differ among runs."""
    columns = [
        _Column("name", False, [_Shown(name) for name in values]),
        _Column("value", False, [_Shown(_plain(value)) for value in values.values()]),
    ]
    return _table(caption, columns)


def figure_table(figure: Figure) -> str:
    """Return the table of the figures behind a chart."""
    columns = []
    for i, title in enumerate(figure.columns):
        below = [row[i] for row in figure.rows]
        columns.append(_Column(title, any(isinstance(c, (int, float)) for c in below), [_cell(c) for c in below]))
    return _table(figure.title, columns)


def _cell(cell: Cell) -> _Shown:
    if cell is None or isinstance(cell, str):
        return _Shown(cell or _NONE)
    return _Shown(human.number(cell), cell)


def _plain(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return "; ".join(_plain(item) for item in value) or "none"
    if isinstance(value, Mapping):
        return ", ".join(f"{key}={_plain(item)}" for key, item in value.items())
    return _NONE if value is None else str(value)


def _table(caption: str, columns: Sequence[_Column], *, sortable: bool = False) -> str:
    """Return a table in a frame that scrolls, by keyboard too, where the page is narrower."""
    name = escape(caption, quote=True)
    head = "".join(_heading(column, sortable) for column in columns)
    body = "".join(f"<tr>{''.join(row)}</tr>\n" for row in zip(*map(_cells, columns), strict=True))
    return (
        f'<div class="scroll" role="region" aria-label="{name}" tabindex="0"><table>'
        f"<caption>{name}</caption><thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table></div>"
    )


def _heading(column: _Column, sortable: bool) -> str:
    kind = ' class="number"' if column.number else ""
    title = escape(column.title)
    if not sortable:
        return f'<th scope="col"{kind}>{title}</th>'
    return f'<th scope="col"{kind} aria-sort="none"><button type="button">{title}</button></th>'


def _cells(column: _Column) -> list[str]:
    kind = ' class="number"' if column.number else ""
    keys = ("" if cell.key is None else f' data-key="{cell.key!r}"' for cell in column.cells)
    return [f"<td{kind}{key}>{escape(cell.text)}</td>" for key, cell in zip(keys, column.cells, strict=True)]
