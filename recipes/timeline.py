"""How the gradients of a run sat in their format as it went on: `python -m recipes.timeline RUN_DIR [--rows 6]`.

Owns: the table, a row per stretch of the run, from the run's `events.jsonl`. Must not: run anything.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import msgspec

from mptrain.errors import ConfigError
from mptrain.report.records import EVENTS, Event, decode, read_lines
from mptrain.report.runs import CONFIG, SKIPS
from mptrain.telemetry.human import NOT_AVAILABLE
from recipes.shown import errors_as_lines, known_mean, markdown, percent

HEAD = ["steps", "gradient norm", "loss scale", "skipped", "underflow", "below normal", "zero gradients"]
_SHARES = ("underflow_share", "below_normal_share", "zero_share")


class Sample(msgspec.Struct):
    """The data of a `numerics` event; null where a figure was not counted or not finite."""

    attempted_step: int
    loss_scale: float
    grad_norm: float | None
    underflow_share: float | None
    below_normal_share: float | None
    zero_share: float | None


def read_timeline(run_dir: Path) -> tuple[list[Sample], list[int]]:
    """Return a run's samples and the attempted steps that it skipped.

    Raises ConfigError for a folder without samples, DataError for a damaged one.
    """
    if not (run_dir / CONFIG).is_file():
        raise ConfigError(f"{run_dir}: is no run's folder: it has no {CONFIG}; name the folder of one run")
    path = run_dir / "events.jsonl"
    events: list[Event] = [event for chunk in read_lines(path, EVENTS) for event in chunk]
    samples = [decode(path, event.data, Sample) for event in events if event.kind == "numerics"]
    if not samples:
        raise ConfigError(f"{run_dir}: has no samples of its gradients; run it with log.numerics_every above 0")
    return samples, [event.attempted_step for event in events if event.kind in SKIPS]


def timeline(samples: Sequence[Sample], skips: Sequence[int], rows: int) -> str:
    """Return the table as markdown, over `rows` stretches of equal length.

    Figures are means over the samples of a stretch (`log.numerics_every`); the loss scale is that of the last one.
    """
    last = max([*(sample.attempted_step for sample in samples), *skips])
    stretches = [(row * last // rows + 1, (row + 1) * last // rows) for row in range(rows)]
    return markdown(HEAD, [_row(samples, skips, *stretch) for stretch in stretches])


def _row(samples: Sequence[Sample], skips: Sequence[int], first: int, end: int) -> list[str]:
    inside = [sample for sample in samples if first <= sample.attempted_step <= end]
    norm = known_mean(sample.grad_norm for sample in inside)
    return [
        f"{first}-{end}",
        NOT_AVAILABLE if norm is None else f"{norm:.3g}",
        f"{inside[-1].loss_scale:g}" if inside else NOT_AVAILABLE,
        str(sum(first <= step <= end for step in skips)),
        *(percent(known_mean(getattr(sample, name) for sample in inside)) for name in _SHARES),
    ]


def main(arguments: list[str] | None = None) -> None:
    """Print a run's timeline."""
    parser = argparse.ArgumentParser(prog="python -m recipes.timeline", description="How a run's gradients went.")
    parser.add_argument("run_dir", type=Path, help="a run's folder")
    parser.add_argument("--rows", type=int, default=6, help="stretches of equal length")
    asked = parser.parse_args(arguments)
    with errors_as_lines():
        print(timeline(*read_timeline(asked.run_dir), asked.rows))


if __name__ == "__main__":
    main()
