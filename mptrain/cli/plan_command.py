"""`mptrain plan`: what each module would get, and the bytes that training would hold."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from mptrain.cli.config_commands import Overrides

_MIB = 2**20


def plan(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="A config file.")],
    overrides: Overrides = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print plan.json's content.")] = False,
) -> None:
    """Show the format of every module, the reason, and the memory that weights, gradients and optimizer will take."""
    from mptrain.catalog import load_config
    from mptrain.trainer.endings import known_endings
    from mptrain.trainer.plan_report import plan_reports

    loaded = load_config(config, overrides or ())
    with known_endings():
        reports = plan_reports(loaded.config)
    if json_output:
        print(json.dumps(reports[0] if len(reports) == 1 else {"phases": reports}, indent=2))
        return
    for index, report in enumerate(reports):
        print(f"\n{_heading(report)}" if index else _heading(report))
        print(_table(report["modules"]))
        print(_memory(report["memory"]))
        for notice in report["notices"]:
            print(f"note: {notice}")


def _heading(report: dict[str, Any]) -> str:
    until = f", until step {report['until_step']}" if report["until_step"] else ""
    return f"{report['line']}; gradients reduced in {report['reduce_dtype']}{until}"


def _table(modules: list[dict[str, Any]]) -> str:
    """Return one aligned line per module."""
    head = ("module", "type", "parameters", "stored", "computed", "gradient", "reason")
    rows = [head, *(_row(module) for module in modules)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head) - 1)]
    lines = []
    for row in rows:
        cells = [
            cell.rjust(w) if c == 2 else cell.ljust(w) for c, (cell, w) in enumerate(zip(row, widths, strict=False))
        ]
        lines.append("  ".join([*cells, row[-1]]).rstrip())
    return "\n".join(lines)


def _row(module: dict[str, Any]) -> tuple[str, ...]:
    formats = module["formats"]
    computed = module["computed"]
    if formats:
        backward = dict.fromkeys((formats["grad_output_for_input"], formats["grad_output_for_weight"]))
        operands = dict.fromkeys((formats["input"], formats["weight"]))
        computed += f" ({'/'.join(operands)}, gradients {'/'.join(backward)})"
    return (
        module["name"] or "(model)",
        module["type"],
        f"{module['parameters']:,}",
        module["stored"],
        computed,
        module["gradient"],
        module["reason"],
    )


def _memory(memory: dict[str, int]) -> str:
    parts = [f"{name.replace('_', ' ')} {size / _MIB:.1f}" for name, size in memory.items() if size and name != "total"]
    return (
        f"memory held between steps, MiB: {', '.join(parts)}; total {memory['total'] / _MIB:.1f} (without activations)"
    )
