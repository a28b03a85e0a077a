"""`mptrain plan`: what each module would get, and the bytes that training would hold."""

from __future__ import annotations

import json
import shutil
import sys
import textwrap
from pathlib import Path
from typing import Annotated, Any

import typer

from mptrain.cli.config_commands import Overrides
from mptrain.telemetry.human import size

_NARROWEST = 14
_REASON = 24
"""Columns that reasons get at least, where names can be cut."""


def plan(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="A config file.")],
    overrides: Overrides = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print plan.json's content, and activations.")] = False,
) -> None:
    """Show the format of every module, the reason, and the memory that weights, gradients and optimizer will take."""
    from mptrain.catalog import load_config
    from mptrain.trainer.endings import known_endings
    from mptrain.trainer.micro_batch import piece_sizes
    from mptrain.trainer.plan_report import plan_reports

    loaded = load_config(config, overrides or ())
    with known_endings():
        reports = plan_reports(loaded.config)
    if json_output:
        print(json.dumps(reports[0] if len(reports) == 1 else {"phases": reports}, indent=2))
        return
    at_a_time = max(piece_sizes({loaded.config.data.batch_size}, loaded.config.train.micro_batch))
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    for index, report in enumerate(reports):
        print(f"\n{_heading(report)}" if index else _heading(report))
        print(_table(report["modules"], width))
        print(_memory(report["memory"], at_a_time))
        for notice in report["notices"]:
            print(f"note: {notice}")


def _heading(report: dict[str, Any]) -> str:
    until = f", until step {report['until_step']}" if report["until_step"] else ""
    return f"{report['line']}; gradients reduced in {report['reduce_dtype']}{until}"


def _table(modules: list[dict[str, Any]], width: int | None) -> str:
    """Return one aligned line per module; a terminal of `width` columns that is too narrow gets fewer columns.

    Then types and sizes are left out, names keep their ends, and reasons are wrapped.
    """
    head = ("module", "type", "parameters", "stored", "computed", "gradient", "reason")
    lines = _aligned([head, *(_row(module) for module in modules)], right=2)
    if width is None or max(map(len, lines)) <= width:
        return "\n".join(lines)
    rows = [(row[0], *row[3:]) for row in (head, *(_row(module) for module in modules))]
    formats = sum(max(len(row[column]) for row in rows) + 2 for column in (1, 2, 3))
    longest = max(_NARROWEST, width - formats - 2 - _REASON)
    rows = [(_end_of(row[0], longest), *row[1:]) for row in rows]
    used = max(len(row[0]) for row in rows) + 2 + formats
    wrapped = []
    for row in rows:
        first, *rest = textwrap.wrap(row[-1], max(_NARROWEST, width - used))
        wrapped += [(*row[:-1], first), *(("", "", "", "", line) for line in rest)]
    return "\n".join([*_aligned(wrapped), "(types and sizes: a wider terminal, a pipe, or --json)"])


def _aligned(rows: list[tuple[str, ...]], right: int | None = None) -> list[str]:
    """Return rows as lines with columns of equal width, the one at `right` flush right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    lines = []
    for row in rows:
        cells = [
            cell.rjust(w) if column == right else cell.ljust(w)
            for column, (cell, w) in enumerate(zip(row[:-1], widths, strict=True))
        ]
        lines.append("  ".join([*cells, row[-1]]).rstrip())
    return lines


def _end_of(name: str, longest: int) -> str:
    return name if len(name) <= longest else f"...{name[3 - longest :]}"


def _row(module: dict[str, Any]) -> tuple[str, ...]:
    reason, formats = module["reason"], module["formats"]
    if formats:
        unrounded = formats["high_precision_grad_weight"]
        for_weight = formats["grad_output_for_input" if unrounded else "grad_output_for_weight"]
        backward = dict.fromkeys((formats["grad_output_for_input"], for_weight))
        operands = dict.fromkeys((formats["input"], formats["weight"]))
        reason += f": {'/'.join(operands)}, gradients {'/'.join(backward)}"
        reason += ", none for the weight's gradient" if unrounded else ""
    return (
        module["name"] or "(model)",
        module["type"],
        f"{module['parameters']:,}",
        module["stored"],
        module["computed"],
        module["gradient"],
        reason,
    )


def _memory(memory: dict[str, int | None], samples: int) -> str:
    """Return two lines: what is held between steps, and what computing on so many samples adds."""
    apart = ("total", "activations", "total_with_activations")
    parts = [f"{name.replace('_', ' ')} {size(held)}" for name, held in memory.items() if held and name not in apart]
    held, activations, both = (size(memory[name]) for name in apart)
    return (
        f"memory held between steps: {', '.join(parts)}; total {held}\n"
        f"memory of the activations of {samples} samples: {activations}; total {both}"
    )
