"""`mptrain ls`: what a config can name. Must not: import torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import typer

from mptrain.config.wording import nearest
from mptrain.errors import ConfigError

KINDS = ("models", "datasets", "tasks", "optimizers", "schedules", "precisions")


def ls(
    kind: Annotated[
        str | None, typer.Argument(metavar="KIND", help=f"One of {', '.join(KINDS)}; all if left out.")
    ] = None,
) -> None:
    """List the names that configs can use."""
    if kind is not None and kind not in KINDS:
        near = nearest(kind, KINDS)
        hint = f" (did you mean {near!r}?)" if near else ""
        raise ConfigError(f"'{kind}' is not one of {', '.join(KINDS)}{hint}")
    tables = _descriptions()
    if kind is not None:
        _print_table(tables[kind], indent="")
        return
    for title, table in tables.items():
        print(f"{title}:")
        _print_table(table, indent="  ")


def _descriptions() -> Mapping[str, Mapping[str, str]]:
    """Return kind -> name -> description."""
    from mptrain.catalog import REGISTRIES, import_entry_points
    from mptrain.precision.modes import AUTO, MODES

    import_entry_points()
    tables = {reg.plural: {entry.name: entry.description for entry in reg} for reg in REGISTRIES.values()}
    precisions = {"auto": AUTO, **{mode.name: mode.description for mode in MODES.values()}}
    free = {"eXmY": "FP32, operands of products rounded to X exponent and Y mantissa bits, e.g. e4m3 (emulated)"}
    return {**tables, "precisions": precisions | free}


def _print_table(table: Mapping[str, str], indent: str) -> None:
    width = max((len(name) for name in table), default=0)
    for name, description in table.items():
        print(f"{indent}{name:<{width}}  {description}")
