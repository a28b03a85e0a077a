"""How the gradients of a run sat in their format as it went on: `python -m recipes.timeline RUN_DIR [--rows 6]`.

Owns: the table, a row per stretch of the run, from the run's `events.jsonl`. Must not: run anything.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mptrain.telemetry.human import NOT_AVAILABLE

HEAD = ["steps", "gradient norm", "loss scale", "skipped", "underflow", "below normal", "zero gradients"]


def timeline(events: Sequence[dict[str, Any]], rows: int) -> str:
    """Return the markdown table of a run's events over `rows` stretches of equal length.

    Figures are means over the samples of a stretch (`log.numerics_every`); the loss scale is that of the last one.
    """
    samples = [event["data"] for event in events if event["kind"] == "numerics"]
    skips = [event["attempted_step"] for event in events if event["kind"] in ("overflow", "nonfinite_loss")]
    last = max([*(sample["attempted_step"] for sample in samples), *skips])
    lines = [HEAD, ["---"] * len(HEAD)]
    for row in range(rows):
        first, end = row * last // rows + 1, (row + 1) * last // rows
        inside = [sample for sample in samples if first <= sample["attempted_step"] <= end]
        skipped = sum(first <= step <= end for step in skips)
        lines.append([f"{first}-{end}", *_cells(inside, skipped)])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _cells(samples: Sequence[dict[str, Any]], skipped: int) -> list[str]:
    norm = _mean(samples, "grad_norm")
    return [
        NOT_AVAILABLE if norm is None else f"{norm:.3g}",
        f"{samples[-1]['loss_scale']:g}" if samples else NOT_AVAILABLE,
        str(skipped),
        *(_percent(_mean(samples, key)) for key in ("underflow_share", "below_normal_share", "zero_share")),
    ]


def _mean(samples: Sequence[dict[str, Any]], key: str) -> float | None:
    known = [sample[key] for sample in samples if sample[key] is not None]
    return statistics.fmean(known) if known else None


def _percent(share: float | None) -> str:
    return NOT_AVAILABLE if share is None else f"{100 * share:.3g} %"


def main(arguments: list[str] | None = None) -> None:
    """Print a run's timeline."""
    parser = argparse.ArgumentParser(prog="python -m recipes.timeline", description="How a run's gradients went.")
    parser.add_argument("run_dir", type=Path, help="a run's folder")
    parser.add_argument("--rows", type=int, default=6, help="stretches of equal length")
    asked = parser.parse_args(arguments)
    try:
        lines = (asked.run_dir / "events.jsonl").read_text().splitlines()
    except OSError as error:
        print(f"{asked.run_dir} is no run's folder: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    events = [json.loads(line) for line in lines]
    if not any(event["kind"] == "numerics" for event in events):
        print(f"{asked.run_dir} has no samples: run it with log.numerics_every above 0", file=sys.stderr)
        raise SystemExit(2)
    print(timeline(events, asked.rows))


if __name__ == "__main__":
    main()
