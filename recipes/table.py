"""Puts the results of an experiment's runs into one table: a row per variant, over its seeds.

Owns: the figures and their words. Must not: run anything or read files.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mptrain.telemetry.human import NOT_AVAILABLE

Spread = tuple[float, float | None] | None
"""Mean and sample standard deviation over seeds (None for one seed); None where no seed has the figure."""


def summarise(runs: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return variant -> its figures over seeds, from results (`result.json`) that carry a `variant`."""
    variants = dict.fromkeys(run["variant"] for run in runs)
    return {variant: _figures([run for run in runs if run["variant"] == variant]) for variant in variants}


def _figures(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    numerics = [run.get("numerics") or {} for run in runs]
    metric = next((run["best"]["metric"] for run in runs if run.get("best")), None)
    return {
        "metric": metric,
        "final": spread(run["metrics"][metric] if run.get("metrics") else None for run in runs),
        "train_loss": spread(run.get("train_loss") for run in runs),
        "skipped_steps": spread(run.get("skipped_steps") for run in runs),
        "underflow_share": spread(found.get("underflow_share") for found in numerics),
        "zero_share": spread(found.get("zero_share") for found in numerics),
        "lost_update_share": spread(found.get("lost_update_share") for found in numerics),
        "held_bytes": spread((run.get("held_bytes") or {}).get("measured", {}).get("total") for run in runs),
        "peak_memory_bytes": spread(run.get("peak_memory_bytes") for run in runs),
        "statuses": dict(Counter(run["status"] for run in runs)),
    }


def spread(values: Iterable[float | None]) -> Spread:
    """Return mean and deviation of what is known of `values`."""
    known = [value for value in values if value is not None]
    if not known:
        return None
    return statistics.fmean(known), statistics.stdev(known) if len(known) > 1 else None


def markdown(rows: Mapping[str, Mapping[str, Any]], runs: Sequence[Mapping[str, Any]]) -> str:
    """Return the table as markdown, with the number of seeds, the device and the versions under it."""
    metric = next((row["metric"] for row in rows.values() if row["metric"]), "metric")
    head = ["variant", metric, "train loss", "skipped steps", "underflow", "zero gradients", "lost updates"]
    head += ["held", "peak memory", "ended"]
    lines = [head, ["---"] * len(head), *(_cells(name, row) for name, row in rows.items())]
    table = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    counts = "/".join(str(count) for count in sorted({sum(row["statuses"].values()) for row in rows.values()}))
    devices = ", ".join(sorted({run["device"] for run in runs if run.get("device")})) or NOT_AVAILABLE
    versions = runs[0]["versions"]
    made_with = ", ".join(f"{name} {versions[name]}" for name in ("mptrain", "torch", "python"))
    return f"{table}\n\nMean ± standard deviation over {counts} seeds; {devices}; {made_with}.\n"


def _cells(name: str, row: Mapping[str, Any]) -> list[str]:
    held, peak = row["held_bytes"], row["peak_memory_bytes"]
    return [
        name,
        with_spread(row["final"]),
        with_spread(row["train_loss"]),
        NOT_AVAILABLE if row["skipped_steps"] is None else f"{row['skipped_steps'][0]:.3g}",
        _percent(row["underflow_share"]),
        _percent(row["zero_share"]),
        _percent(row["lost_update_share"]),
        NOT_AVAILABLE if held is None else f"{held[0] / 2**10:.0f} KiB",
        NOT_AVAILABLE if peak is None else f"{peak[0] / 2**20:.0f} MiB",
        _ended(row["statuses"]),
    ]


def with_spread(value: Spread) -> str:
    """Return it in words."""
    if value is None:
        return NOT_AVAILABLE
    mean, deviation = value
    return f"{mean:.4g}" if deviation is None else f"{mean:.4g} ± {deviation:.2g}"


def _percent(share: Spread) -> str:
    return NOT_AVAILABLE if share is None else f"{100 * share[0]:.3g} %"


def _ended(statuses: Mapping[str, int]) -> str:
    if len(statuses) == 1:
        return next(iter(statuses))
    return ", ".join(f"{count} {status}" for status, count in statuses.items())
