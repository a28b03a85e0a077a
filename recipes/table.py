"""The numerics of runs as a table for each ladder: `python -m recipes.table RUN_DIR...`.

`mptrain report` says which precision to use; this shows why: what underflowed, what updates were lost, what was held.
Runs, variants and their names are the report's.

Owns: that table. Must not: run anything, or group runs.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from mptrain.cli.report_command import print_left_out
from mptrain.report import cells
from mptrain.report.compare import compare
from mptrain.report.model import Ladder, Report, Variant
from mptrain.report.records import read_object
from mptrain.telemetry import human
from recipes.shown import errors_as_lines, known_mean, markdown, percent, with_spread

_NUMERICS = ("underflow", "zero gradients", "lost updates")


class Shares(msgspec.Struct):
    """Means over a run's samples (`log.numerics_every`); null where they were not counted."""

    underflow_share: float | None = None
    zero_share: float | None = None
    lost_update_share: float | None = None


class Held(msgspec.Struct):
    """Bytes that training keeps from step to step."""

    total: int


class HeldBytes(msgspec.Struct):
    """Those of result.json."""

    measured: Held


class Measured(msgspec.Struct):
    """What the table needs of result.json beside the report's figures."""

    schema: int
    numerics: Shares | None = None
    held_bytes: HeldBytes | None = None


def read_report(paths: Sequence[Path]) -> Report:
    """Return the report on the runs among and below `paths`; what could not be read is said on stderr.

    Raises ConfigError where there is no run, DataError where none can be read.
    """
    found = compare(paths)
    print_left_out(found.problems)
    return found


def table(ladder: Ladder) -> str:
    """Return a ladder's table as markdown, with the number of seeds, the device and the versions under it.

    Metric and loss are means over the runs that were trained to their end, shares and bytes over all that have them.
    Raises DataError for a result.json that is damaged.
    """
    head = ["variant", ladder.metric, "train loss", "skipped steps", *_NUMERICS, "held", "peak memory", "ended"]
    seeds = "/".join(str(count) for count in sorted({len(variant.members) for variant in ladder.variants}))
    versions = ", ".join(f"{name} {_fact(ladder, name)}" for name in ("mptrain", "torch", "python"))
    made_with = f"Mean ± standard deviation over {seeds} seeds; {_fact(ladder, 'device')}; {versions}."
    return f"{markdown(head, map(_row, ladder.variants))}\n\n{made_with}"


def _fact(ladder: Ladder, name: str) -> str:
    found: Any = ladder.environment.get(name, human.NOT_AVAILABLE)
    return ", ".join(map(str, found)) if isinstance(found, list) else str(found)


def _row(variant: Variant) -> list[str]:
    found = [read_object(Path(member.path, "result.json"), Measured) for member in variant.members]
    results = [result for result in found if result is not None]
    shares = [result.numerics for result in results if result.numerics]
    held = known_mean(result.held_bytes.measured.total for result in results if result.held_bytes)
    skipped = variant.skipped_steps
    return [
        variant.label,
        with_spread(variant.metric),
        with_spread(variant.train_loss),
        human.NOT_AVAILABLE if skipped is None else f"{skipped.mean:.3g}",
        *(percent(known_mean(getattr(each, name) for each in shares)) for name in Shares.__struct_fields__),
        human.NOT_AVAILABLE if held is None else f"{held / 2**10:.0f} KiB",  # one unit, so that rows compare
        cells.memory(variant),
        cells.statuses(variant),
    ]


def main(arguments: list[str] | None = None) -> None:
    """Print the table of every ladder among some runs."""
    parser = argparse.ArgumentParser(prog="python -m recipes.table", description="The numerics of runs.")
    parser.add_argument("run_dirs", nargs="+", type=Path, metavar="RUN_DIR", help="run folders, or folders above runs")
    asked = parser.parse_args(arguments)
    with errors_as_lines():
        print("\n\n".join(f"## {ladder.title}\n\n{table(ladder)}" for ladder in read_report(asked.run_dirs).ladders))


if __name__ == "__main__":
    main()
