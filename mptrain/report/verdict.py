"""What a comparison means, in one sentence a variant and one a ladder.

Owns: the words, and which figures count as faster or smaller. Must not: compute statistics (`statistics.py` decides).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from mptrain.config.wording import shorten
from mptrain.report import words
from mptrain.report.model import Comparison, Ladder, Variant
from mptrain.telemetry.throughput import LOADER_BOUND

FINISHED = ("ok", "unmet")
"""Statuses of a run that was trained to its end; `unmet` is one whose --expect was not met."""
CLEAR = 0.05
"""A speed or a memory that differs by less than this share is said to be the same."""
_ERROR_LENGTH = 120
_AS_GOOD = ("same", "identical", "better")
_FAILURES: Mapping[str, tuple[str, str]] = {
    "diverged": ("diverged", "do not use it"),
    "oom": ("ran out of memory", "it does not fit here"),
    "data_error": ("failed on its data", ""),
    "env_error": ("could not run here", ""),
    "config_error": ("could not run here", ""),
    "crashed": ("crashed", ""),
    "killed": ("was killed", "go on with --resume auto"),
    "preempted": ("was stopped", "go on with --resume auto"),
    "interrupted": ("was stopped", "go on with --resume auto"),
}
"""Status -> what became of the run, and what to do; where that is nothing, its own error is quoted."""


def is_loader_bound(variant: Variant) -> bool:
    """Say whether the variant's runs waited for data most of all."""
    waits = [member.data_wait_fraction for member in variant.members if member.data_wait_fraction is not None]
    return bool(waits) and sum(waits) / len(waits) > LOADER_BOUND


def is_emulated(variant: Variant) -> bool:
    """Say whether the variant's arithmetic was emulated, so that its speed says nothing."""
    return any(member.emulated for member in variant.members)


def variant_verdict(ladder: Ladder, variant: Variant) -> str:
    """Return the sentence about one variant."""
    if variant.comparison is None:
        return f"{variant.label}: {_alone(ladder, variant)}."
    if variant.comparison.outcome == "failed":
        return f"{variant.label}: {_failure(variant, ladder.metric)}."
    quality = _quality(ladder, variant.comparison)
    costs = [] if variant.comparison.outcome in ("worse", "unclear") else _costs(variant)
    advice = _advice(ladder, variant)
    return f"{variant.label}: {', '.join([quality, *costs])}{f': {advice}' if advice else ''}."


def _alone(ladder: Ladder, variant: Variant) -> str:
    if variant.metric is None:
        if any(status not in FINISHED for status in variant.statuses):
            return _failure(variant, ladder.metric)
        return f"no finite {ladder.metric}"
    seeds = words.counted(variant.metric.n, "seed")
    said = f"{ladder.metric} {words.metric(ladder, variant.metric)} ({seeds})"
    if not variant.is_baseline:
        return said
    floor = ladder.noise_floor
    spread = f", {words.spread(ladder, floor)} from seed to seed" if floor else ""
    lost = sum(count for status, count in variant.statuses.items() if status not in (*FINISHED, "running"))
    failed = f"; {_failure(variant, ladder.metric)}" if lost else ""
    return f"the baseline, {said}{spread}{failed}"


def _failure(variant: Variant, metric: str) -> str:
    """Return e.g. `diverged in 2 of 3 seeds: do not use it`."""
    total = sum(variant.statuses.values())
    failed = {status: count for status, count in variant.statuses.items() if status not in (*FINISHED, "running")}
    if not failed:
        if variant.statuses.get("running"):
            return f"still running in {variant.statuses['running']} of {words.counted(total, 'seed')}"
        missing = sum(member.metric is None for member in variant.members)
        return f"no finite {metric} in {missing} of {words.counted(total, 'seed')}: do not use it"
    kinds = {status: _FAILURES.get(status, (status, "")) for status in failed}
    said = [f"{kinds[status][0]} in {count} of {words.counted(total, 'seed')}" for status, count in failed.items()]
    advice = next(iter(kinds.values()))[1]
    errors = [member.error for member in variant.members if member.status in failed and member.error]
    if not advice and errors:
        advice = shorten(errors[0].splitlines()[0], _ERROR_LENGTH).rstrip(".")
    return f"{words.listed(said)}{f': {advice}' if advice else ''}"


def _quality(ladder: Ladder, found: Comparison) -> str:
    name = ladder.metric
    if found.difference is None:
        return f"cannot tell: {name} is not known for both it and {ladder.baseline}"
    seeds = words.counted(found.difference.n, "seed")
    if not found.paired and found.difference.n > 1:
        seeds = f"{seeds} or more each, not shared"
    by = words.difference(ladder, found.difference)
    if found.outcome == "identical":
        return f"identical {name} in {seeds}"
    if found.outcome in ("better", "worse"):
        in_metric = "" if ladder.as_points else f" in {name}"
        magnitude = words.difference(ladder, found.difference, magnitude=True)
        return f"{found.outcome} by {magnitude}{in_metric} ({seeds})"
    if found.outcome == "unclear":
        return _unclear(by, found, ladder)
    low, high, floor = found.difference.low, found.difference.high, ladder.noise_floor
    if low is None or high is None or floor is None or (-floor < low and high < floor):
        return f"same {name} within noise ({by}, {seeds})"
    return f"same {name} but for less than the seed-to-seed spread ({by}, {seeds})"


def _unclear(by: str, found: Comparison, ladder: Ladder) -> str:
    assert found.difference is not None
    n = found.difference.n
    if n == 1:
        return f"one seed cannot tell ({by}); three or more would"
    more = f"; about {found.seeds_needed} seeds would" if found.seeds_needed else ""
    low, high = found.difference.low, found.difference.high
    if low is not None and high is not None and low < high and (low > 0 or high < 0):
        direction = "better" if (found.difference.mean > 0) == ladder.higher_is_better else "worse"
        others = sum(each.comparison is not None for each in ladder.variants)
        chance = f"among {others} comparisons that can be chance"
        return (
            f"probably {direction}: {by} over {words.counted(n, 'seed')}, but {chance}{more + ' tell' if more else ''}"
        )
    if not more and not ladder.noise_floor:
        more = f"; {ladder.baseline} is the same in every seed, so nothing tells what is close enough to be the same"
    return f"cannot tell: {by} over {words.counted(n, 'seed')}{more}"


def _costs(variant: Variant) -> list[str]:
    """Return speed and memory against the baseline, as far as they are known."""
    parts = []
    if is_emulated(variant):
        parts.append("emulated, so its speed says nothing")
    elif variant.speedup is not None:
        parts.append(_speed(variant.speedup))
    ratio = variant.memory_ratio
    if ratio is not None and abs(ratio - 1) >= CLEAR and not is_emulated(variant):
        parts.append(f"{ratio:.2f} of the memory" if ratio < 1 else f"{ratio:.1f} times the memory")
    return parts


def _speed(speedup: float) -> str:
    if speedup >= 1 + CLEAR:
        return f"{speedup:.{1 if speedup >= 1.15 else 2}f} times faster"
    return "as fast" if speedup > 1 - CLEAR else f"{speedup:.2g} times the speed"


def _advice(ladder: Ladder, variant: Variant) -> str:
    assert variant.comparison is not None
    outcome = variant.comparison.outcome
    if outcome == "worse":
        return "do not use it"
    if outcome == "unclear":
        return ""
    if is_emulated(variant):
        return "it learns as well" if outcome != "better" else "it learns better"
    if _is_faster(variant):
        return "use it"
    if variant.speedup is not None and is_loader_bound(variant):
        return "the loader sets the pace, precision cannot help"
    if _is_smaller(variant):
        return "use it where memory is short"
    if variant.speedup is None:
        return ""
    return f"use it if {ladder.metric} counts more than time" if outcome == "better" else "no gain here"


def _is_faster(variant: Variant) -> bool:
    return variant.speedup is not None and variant.speedup >= 1 + CLEAR


def _is_smaller(variant: Variant) -> bool:
    return variant.memory_ratio is not None and variant.memory_ratio <= 1 - CLEAR


def recommendation(ladder: Ladder) -> str:
    """Return which variant to use, in one sentence; empty where there is no baseline to compare with."""
    base = next((variant for variant in ladder.variants if variant.is_baseline), None)
    others = [variant for variant in ladder.variants if variant.comparison is not None]
    if base is None or not others:
        return ""
    if base.metric is None:
        return (
            f"No advice: the baseline {base.label} has no {ladder.metric} to compare with; name another by --baseline."
        )
    native = [variant for variant in others if not is_emulated(variant)]
    good = [variant for variant in native if _outcome(variant) in _AS_GOOD]
    fastest = max(filter(_is_faster, good), key=lambda variant: variant.speedup or 0, default=None)
    if fastest is not None:
        return f"Use {fastest.label}: {', '.join([_as_good(ladder, fastest), *_costs(fastest)])}."
    stay = f"Stay with {base.label}"
    smallest = min(filter(_is_smaller, good), key=lambda variant: variant.memory_ratio or 0, default=None)
    if smallest is not None:
        costs = ", ".join(_costs(smallest))
        return f"{stay}, or use {smallest.label} where memory is short: {_as_good(ladder, smallest)}, {costs}."
    waiting = max(
        (variant for variant in native if _outcome(variant) == "unclear" and _is_faster(variant)),
        key=lambda variant: variant.speedup or 0,
        default=None,
    )
    if waiting is not None:
        return f"{stay} for now: {waiting.label} is {_speed(waiting.speedup or 0)}, but {_wait(waiting)}."
    if good and all(map(is_loader_bound, good)):
        return f"{stay}: the loader sets the pace, precision cannot help; try data.num_workers or data.cache."
    emulated = [variant.label for variant in others if is_emulated(variant) and _outcome(variant) in _AS_GOOD]
    if emulated:
        learns, them = ("learns", "it") if len(emulated) == 1 else ("learn", "them")
        said = f"{words.listed(emulated)} {learns} as well, which pays on hardware that runs {them} natively"
        return f"{stay} on this device; {said}."
    return f"{stay}: {_why_not(others)}."


def _outcome(variant: Variant) -> str:
    return variant.comparison.outcome if variant.comparison else ""


def _as_good(ladder: Ladder, variant: Variant) -> str:
    return f"better {ladder.metric}" if _outcome(variant) == "better" else f"{ladder.metric} is as good"


def _wait(variant: Variant) -> str:
    assert variant.comparison is not None
    found = variant.comparison.difference
    if found is None:
        return "whether it learns as well is not known yet"
    needed = variant.comparison.seeds_needed
    more = f" (about {needed} would)" if needed else ""
    return f"{words.counted(found.n, 'seed')} cannot tell whether it learns as well{more}"


def _why_not(others: Iterable[Variant]) -> str:
    outcomes = {_outcome(variant) for variant in others}
    if outcomes <= {"worse", "failed"}:
        return "nothing else learns as well"
    if "unclear" in outcomes:
        return "nothing else is shown to be as good"
    return "nothing that learns as well is faster or smaller"
