"""Several configs in the same precisions as one table: `python -m recipes.overview RUN_DIR...`.

A row for each ladder of the report, a column for each of its variants.

Owns: that table. Must not: run anything, or group runs.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from mptrain.report import cells
from mptrain.report.model import Ladder, Variant
from mptrain.telemetry.human import NOT_AVAILABLE
from recipes.shown import errors_as_lines, known_mean, markdown, with_spread
from recipes.table import read_report


def overview(ladders: Sequence[Ladder]) -> str:
    """Return the table as markdown: final metric and wall seconds by variant, mean over the seeds; skips of all."""
    labels = list(dict.fromkeys(variant.label for ladder in ladders for variant in ladder.variants))
    head = ["config", "metric", *labels, *(f"{label}, s" for label in labels), "skipped steps"]
    return markdown(head, [_row(ladder, labels) for ladder in ladders])


def _row(ladder: Ladder, labels: Sequence[str]) -> list[str]:
    variants = {variant.label: variant for variant in ladder.variants}
    final = [with_spread(variants[label].metric) if label in variants else NOT_AVAILABLE for label in labels]
    seconds = [_seconds(variants.get(label)) for label in labels]
    skipped = {label: cells.skips(variant) for label, variant in variants.items()}
    told = ", ".join(f"{label}: {count}" for label, count in skipped.items() if count != "0")
    return [ladder.title, ladder.metric, *final, *seconds, told or "0"]


def _seconds(variant: Variant | None) -> str:
    mean = known_mean(member.wall_s for member in variant.members) if variant else None
    return NOT_AVAILABLE if mean is None else f"{mean:.0f}"


def main(arguments: list[str] | None = None) -> None:
    """Print the table of some runs."""
    parser = argparse.ArgumentParser(prog="python -m recipes.overview", description="Several configs as one table.")
    parser.add_argument("run_dirs", nargs="+", type=Path, metavar="RUN_DIR", help="run folders, or folders above runs")
    asked = parser.parse_args(arguments)
    with errors_as_lines():
        print(overview(read_report(asked.run_dirs).ladders))


if __name__ == "__main__":
    main()
