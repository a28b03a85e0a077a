"""Tables of the page: the ladder's, and those behind the charts. All text is escaped here.

Owns: cells, and what a table sorts by. Must not: compute statistics, or read files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from mptrain.report import words
from mptrain.report.figure_parts import Cell, Figure, metric_text
from mptrain.report.model import Estimate, Ladder, Variant
from mptrain.telemetry import human

_NONE = "\u2013"


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
    variants = ladder.variants

    def numbers(title: str, cells: Iterable[_Shown]) -> _Column:
        return _Column(title, True, list(cells))

    return [
        _Column("variant", False, [_Shown(v.label + (" (baseline)" if v.is_baseline else "")) for v in variants]),
        numbers(ladder.metric, (_metric_cell(ladder, v.metric) for v in variants)),
        numbers("difference", (_difference_cell(ladder, v) for v in variants)),
        _Column("outcome", False, [_Shown(v.comparison.outcome if v.comparison else _NONE) for v in variants]),
        numbers(f"time to baseline's {ladder.metric}", (_mean(v.seconds_to_target, human.duration) for v in variants)),
        numbers("samples/s", (_mean(v.samples_per_s, lambda speed: f"{speed:,.0f}") for v in variants)),
        numbers("speed-up", (_ratio(v.speedup) for v in variants)),
        numbers("peak memory", (_mean(v.peak_memory_bytes, lambda size: human.size(round(size))) for v in variants)),
        numbers("memory ratio", (_ratio(v.memory_ratio) for v in variants)),
        numbers("skipped steps", (_mean(v.skipped_steps, lambda skips: f"{skips:g}") for v in variants)),
        numbers("final loss scale", (_loss_scale(v) for v in variants)),
        _Column("status", False, [_Shown(statuses_text(v.statuses)) for v in variants]),
    ]


def _metric_cell(ladder: Ladder, metric: Estimate | None) -> _Shown:
    if metric is None:
        return _Shown(_NONE)
    return _Shown(words.metric(ladder, metric), metric.mean)


def _difference_cell(ladder: Ladder, variant: Variant) -> _Shown:
    difference = variant.comparison.difference if variant.comparison else None
    if difference is None:
        return _Shown(_NONE)
    return _Shown(words.difference(ladder, difference, unit=False), difference.mean)


def _mean(estimate: Estimate | None, shown: Callable[[float], str]) -> _Shown:
    return _Shown(_NONE) if estimate is None else _Shown(shown(estimate.mean), estimate.mean)


def _ratio(value: float | None) -> _Shown:
    return _Shown(_NONE) if value is None else _Shown(f"{value:.2f}", value)


def _loss_scale(variant: Variant) -> _Shown:
    scales = sorted({m.final_loss_scale for m in variant.members if m.final_loss_scale is not None})
    if not scales:
        return _Shown(_NONE)
    ends = scales if len(scales) < 2 else [scales[0], scales[-1]]
    return _Shown(" to ".join(human.scale(scale) for scale in ends), scales[-1])


def statuses_text(statuses: Mapping[str, int]) -> str:
    """Return e.g. `3 ok` or `1 diverged, 2 ok`."""
    return ", ".join(f"{count} {status}" for status, count in sorted(statuses.items()))


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
    """Return which settings tell the variants apart; empty where none does."""
    keys = list(dict.fromkeys(key for variant in ladder.variants for key in variant.settings))
    columns = [_Column("variant", False, [_Shown(v.label) for v in ladder.variants])]
    for key in keys:
        columns.append(_Column(key, False, [_Shown(_plain(v.settings.get(key))) for v in ladder.variants]))
    columns.append(_Column("precision in force", False, [_Shown(v.precision) for v in ladder.variants]))
    return _table(f"Settings of {ladder.title}", columns)


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
        cells = [row[i] for row in figure.rows]
        columns.append(_Column(title, any(isinstance(c, (int, float)) for c in cells), [_cell(c) for c in cells]))
    return _table(figure.title, columns)


def _cell(cell: Cell) -> _Shown:
    if cell is None or isinstance(cell, str):
        return _Shown(cell or _NONE)
    return _Shown(human.number(cell), cell)


def _plain(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return "; ".join(_plain(item) for item in value)
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
