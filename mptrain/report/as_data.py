"""The report for programs: one JSON object, and CSV with one row a variant. docs/report.md describes both.

Owns: the names of keys and columns, which stay. Must not: format numbers; every figure is as computed.
"""

from __future__ import annotations

import csv
import io
import json
from dataclasses import asdict
from typing import Any

from mptrain.report.model import Estimate, Ladder, Member, Report, Variant
from mptrain.report.verdict import is_emulated

_CURVES = ("loss", "metric_curve", "loss_scale", "skips", "gradients")
"""What only figures show; metrics.jsonl of each run has it in full."""
_ESTIMATES = ("metric", "train_loss", "samples_per_s", "peak_memory_bytes", "seconds_to_target", "skipped_steps")
_PARTS = ("mean", "low", "high", "deviation", "n")


def as_json(report: Report) -> dict[str, Any]:
    """Return the whole report but for its curves, as plain values."""
    return {
        "schema": 1,
        "status": "ok",
        "exit_code": 0,
        "made_with": report.made_with,
        "ladders": [_ladder(ladder) for ladder in report.ladders],
        "problems": list(report.problems),
    }


def _ladder(ladder: Ladder) -> dict[str, Any]:
    names = ("title", "metric", "higher_is_better", "as_points", "noise_floor", "baseline", "recommendation")
    return {
        **{name: getattr(ladder, name) for name in names},
        "common": dict(ladder.common),
        "environment": dict(ladder.environment),
        "notes": list(ladder.notes),
        "variants": [_variant(variant) for variant in ladder.variants],
    }


def _variant(variant: Variant) -> dict[str, Any]:
    names = ("label", "precision", "is_baseline", "speedup", "memory_ratio", "verdict")
    return {
        **{name: getattr(variant, name) for name in names},
        "settings": dict(variant.settings),
        "statuses": dict(variant.statuses),
        **{name: _estimate(getattr(variant, name)) for name in _ESTIMATES},
        "comparison": asdict(variant.comparison) if variant.comparison else None,
        "runs": [_member(member) for member in variant.members],
    }


def _estimate(found: Estimate | None) -> dict[str, Any] | None:
    return asdict(found) if found else None


def _member(member: Member) -> dict[str, Any]:
    return {name: getattr(member, name) for name in member.__slots__ if name not in _CURVES}


def as_csv(report: Report) -> str:
    """Return a header and one row a variant; what is not known is empty."""
    rows = [_row(ladder, variant) for ladder in report.ladders for variant in ladder.variants]
    out = io.StringIO()
    writer = csv.DictWriter(out, rows[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def _row(ladder: Ladder, variant: Variant) -> dict[str, Any]:
    found = variant.comparison
    difference = found.difference if found else None
    scales = [member.final_loss_scale for member in variant.members if member.final_loss_scale is not None]
    row: dict[str, Any] = {
        "ladder": ladder.title,
        "variant": variant.label,
        "is_baseline": _bool(variant.is_baseline),
        "precision": variant.precision,
        "emulated": _bool(is_emulated(variant)),
        "runs": len(variant.members),
        "metric": ladder.metric,
        "higher_is_better": _bool(ladder.higher_is_better),
        "noise_floor": ladder.noise_floor,
    }
    for name in _ESTIMATES:
        row |= _parts(name, getattr(variant, name))
    row |= _parts("difference", difference)
    row |= {
        "paired": _bool(found.paired) if found else None,
        "p_value": found.p_value if found else None,
        "outcome": found.outcome if found else None,
        "seeds_needed": found.seeds_needed if found else None,
        "speedup": variant.speedup,
        "memory_ratio": variant.memory_ratio,
        "final_loss_scale_min": min(scales, default=None),
        "final_loss_scale_max": max(scales, default=None),
        "statuses": json.dumps(dict(variant.statuses)),
        "settings": json.dumps(dict(variant.settings)),
        "verdict": variant.verdict,
    }
    return row


def _parts(name: str, found: Estimate | None) -> dict[str, Any]:
    return {f"{name}_{part}": getattr(found, part) if found else None for part in _PARTS}


def _bool(value: bool) -> str:
    return "true" if value else "false"
