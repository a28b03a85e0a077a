"""What a ladder's table says of a variant, cell by cell: the same words in the terminal and on the page.

Owns: these texts. Must not: lay them out, or compute statistics.
"""

from __future__ import annotations

from mptrain.report import words
from mptrain.report.model import Ladder, Variant
from mptrain.report.verdict import is_emulated
from mptrain.telemetry import human


def target_title(ladder: Ladder) -> str:
    """Return the header of the time until the baseline's mean metric."""
    base = next((variant for variant in ladder.variants if variant.is_baseline), None)
    if base is None or base.metric is None:
        return "to *"
    return f"to {human.percent(base.metric.mean) if ladder.as_points else human.number(base.metric.mean)}"


def difference(ladder: Ladder, variant: Variant) -> str:
    """Return the difference against the baseline, without its unit."""
    if variant.is_baseline:
        return "baseline"
    found = variant.comparison.difference if variant.comparison else None
    return words.difference(ladder, found, unit=False) if found else human.NOT_AVAILABLE


def to_target(variant: Variant) -> str:
    """Return the mean time to the baseline's metric, and how many runs got there where not all did."""
    found = variant.seconds_to_target
    if found is None:
        return human.NOT_AVAILABLE
    finished = sum(member.metric is not None for member in variant.members)
    short = f" ({found.n}/{finished})" if found.n < finished else ""
    return f"{human.duration(found.mean) if found.mean >= 10 else f'{found.mean:.1f} s'}{short}"


def samples_per_s(variant: Variant) -> str:
    """Return the mean speed; an emulated one says nothing."""
    if is_emulated(variant):
        return "emulated"
    found = variant.samples_per_s
    return human.speed(found.mean if found else None, emulated=False).removesuffix(" samples/s")


def speedup(variant: Variant) -> str:
    """Return the speed over the baseline's."""
    return human.NOT_AVAILABLE if variant.speedup is None else f"{variant.speedup:.2f}x"


def memory(variant: Variant) -> str:
    """Return the mean peak memory."""
    found = variant.peak_memory_bytes
    return human.size(round(found.mean) if found else None)


def skips(variant: Variant) -> str:
    """Return the skipped steps of all runs together."""
    known = [member.skipped_steps for member in variant.members if member.skipped_steps is not None]
    return str(sum(known)) if known else human.NOT_AVAILABLE


def loss_scale(variant: Variant) -> str:
    """Return the final loss scales: one, or the lowest and the highest."""
    scales = sorted({member.final_loss_scale for member in variant.members if member.final_loss_scale is not None})
    if not scales:
        return "none"
    ends = [human.scale(scale) for scale in (scales[0], scales[-1])]
    return ends[0] if len(scales) == 1 else f"{ends[0]}-{ends[1]}"


def statuses(variant: Variant) -> str:
    """Return e.g. `3 ok` or `1 diverged, 2 ok`."""
    return ", ".join(f"{count} {status}" for status, count in variant.statuses.items())
