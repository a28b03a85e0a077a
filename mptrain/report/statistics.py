"""Means, intervals, tests and the decision whether two precisions differ: plain numbers in, plain values out.

Owns: the arithmetic and the decision rule. Must not: know runs, files or words. docs/report.md explains the rule and
has its measured error rates; tests/report/test_statistics.py measures them.

The rule, for differences d = variant - baseline over seeds, mean m, 95% interval [low, high], noise floor f (sample
standard deviation of the baseline over its seeds), p adjusted over the ladder (Holm 1979):

    identical       every difference is 0
    better, worse   p < 0.05 and |m| > f
    same            -f < low and high < f, or p < 0.05 and |m| <= f (real, yet below the seed-to-seed spread)
    unclear         else

Both halves of `better` are needed: p alone would call a difference that no one would notice among seeds, |m| > f alone
would call chance. f itself is an estimate; the 95% interval (wider than the 90% of two one-sided tests, Schuirmann
1987) keeps `same` honest nevertheless: a true difference of 2 f is called `same` in less than 5% of all cases.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scipy.special import comb, stdtr, stdtrit  # type: ignore[import-untyped]

from mptrain.report.model import Comparison, Estimate, Outcome

ALPHA = 0.05
"""Family-wise error rate of `better` and `worse` within a ladder."""
_MOST_SEEDS = 1000
"""Beyond this, a number of seeds is no advice."""


@dataclass(frozen=True, slots=True)
class Difference:
    """A variant's metric minus the baseline's, before the ladder's other comparisons are known."""

    estimate: Estimate
    paired: bool
    p_value: float | None
    """Two-sided, not adjusted; None where there is nothing to test."""
    is_zero: bool
    """Paired, and every difference is exactly 0."""


def estimate(values: Sequence[float], largest: float | None = None) -> Estimate:
    """Return the mean of at least one value with its 95% interval by Student's t, none from one value.

    Values that differ by no more than rounding have no spread; `largest` is the largest magnitude that they were
    computed from (their own where None).
    """
    n, mean = len(values), math.fsum(values) / len(values)
    if n == 1:
        return Estimate(mean, None, None, None, 1)
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
    if max(values) - min(values) <= 4 * math.ulp(max(map(abs, values)) if largest is None else largest):
        deviation = 0.0
    half = _half_width(deviation / math.sqrt(n), n - 1)
    return Estimate(mean, mean - half, mean + half, deviation, n)


def difference(variant: Mapping[int, float], baseline: Mapping[int, float]) -> Difference:
    """Return the difference of two metrics by seed: paired over two or more seeds that both have, else Welch's.

    Equal seeds have equal initial weights and data order, so pairing takes out what the seed does to both.
    """
    shared = sorted(variant.keys() & baseline.keys())
    if len(shared) >= 2 or (shared and len(variant) == len(baseline) == 1):
        largest = max(abs(values[seed]) for values in (variant, baseline) for seed in shared)
        return _paired([variant[seed] - baseline[seed] for seed in shared], largest)
    return _welch(list(variant.values()), list(baseline.values()))


def _paired(differences: Sequence[float], largest: float) -> Difference:
    found = estimate(differences, largest)
    n, spread = found.n, found.deviation
    p_value: float | None = None
    if n > 1 and not spread:
        # Nothing to divide by: the metric is coarse, or seeds do not matter. All n signs agree by chance with 2^(1-n).
        p_value = 1.0 if found.mean == 0 else 2.0 ** (1 - n)
    elif spread:
        p_value = _two_sided(found.mean / (spread / math.sqrt(n)), n - 1)
    return Difference(found, True, p_value, n > 1 and not any(differences))


def _welch(variant: Sequence[float], baseline: Sequence[float]) -> Difference:
    """Return the difference of two means with Satterthwaite's degrees of freedom (Welch 1947)."""
    a, b = estimate(variant), estimate(baseline)
    mean, n = a.mean - b.mean, min(a.n, b.n)
    if a.deviation is None or b.deviation is None:
        return Difference(Estimate(mean, None, None, None, n), False, None, False)
    errors = (a.deviation**2 / a.n, b.deviation**2 / b.n)
    spread = math.hypot(a.deviation, b.deviation)
    if not sum(errors):
        # As above; here by chance one of the ways to deal the runs into two groups of these sizes.
        p_value = 1.0 if mean == 0 else min(1.0, 2 / float(comb(a.n + b.n, a.n, exact=True)))
        return Difference(Estimate(mean, mean, mean, 0.0, n), False, p_value, False)
    freedom = sum(errors) ** 2 / (errors[0] ** 2 / (a.n - 1) + errors[1] ** 2 / (b.n - 1))
    error = math.sqrt(sum(errors))
    half = _half_width(error, freedom)
    return Difference(
        Estimate(mean, mean - half, mean + half, spread, n), False, _two_sided(mean / error, freedom), False
    )


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Return p values adjusted for their number (Holm 1979); None stays None and counts for nothing."""
    ordered = sorted((p, index) for index, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (p, index) in enumerate(ordered):
        largest = max(largest, min(1.0, (len(ordered) - rank) * p))
        adjusted[index] = largest
    return adjusted


def decide(found: Difference, p_value: float | None, noise_floor: float | None, higher_is_better: bool) -> Comparison:
    """Return what a difference means (see the rule above); `p_value` is adjusted, `noise_floor` None from one seed."""
    outcome = _outcome(found, p_value, noise_floor, higher_is_better)
    needed = _seeds_needed(found.estimate, noise_floor) if outcome == "unclear" else None
    return Comparison(outcome, found.estimate, found.paired, p_value, needed)


def _outcome(found: Difference, p_value: float | None, floor: float | None, higher_is_better: bool) -> Outcome:
    mean, low, high = found.estimate.mean, found.estimate.low, found.estimate.high
    if found.is_zero:
        return "identical"
    if p_value is None or floor is None or low is None or high is None:
        return "unclear"
    if p_value < ALPHA:
        if abs(mean) <= floor:
            return "same"
        return "better" if (mean > 0) == higher_is_better else "worse"
    return "same" if -floor < low and high < floor else "unclear"


def _seeds_needed(found: Estimate, floor: float | None) -> int | None:
    """Return the smallest n whose interval would, at this mean and spread, exclude 0 or lie within the floor.

    At a mean of 0 that is t(0.975, n - 1) * s / sqrt(n) <= floor. None where no n up to a thousand would do.
    """
    if not floor or not found.deviation:
        return None
    reach, spread = max(floor - abs(found.mean), abs(found.mean)), found.deviation
    sizes = range(found.n + 1, _MOST_SEEDS + 1)
    first = bisect_left(sizes, True, key=lambda n: _half_width(spread / math.sqrt(n), n - 1) <= reach)
    return sizes[first] if first < len(sizes) else None


def _half_width(error: float, freedom: float) -> float:
    return float(stdtrit(freedom, 1 - ALPHA / 2)) * error


def _two_sided(t: float, freedom: float) -> float:
    return float(2 * stdtr(freedom, -abs(t)))
