"""Simulated ladders with planted differences, and how often each decision is made: the table of docs/report.md.

    python -m tests.report.simulation         prints that table (about 5 minutes)

A seed's metric is sqrt(c) * what the seed does to every precision + sqrt(1 - c) * noise, both standard normal: c is the
correlation between two precisions over seeds, and the true noise floor is 1.
"""

from collections import Counter

import numpy as np

from mptrain.report import statistics

SEEDS = (3, 5, 10)
CORRELATIONS = (0.0, 0.5, 0.9)
PLANTED = (1.0, 2.0, 3.0)
ALIKE = (0.0, 1.0, 2.0)
VARIANTS = 4


def outcomes(rng, n, correlation, planted):
    """Return the decisions of one ladder whose variants differ from the baseline by `planted` noise floors."""
    common = np.sqrt(correlation) * rng.standard_normal(n)
    rows = common + np.sqrt(1 - correlation) * rng.standard_normal((1 + len(planted), n))
    base, *variants = [dict(enumerate(row.tolist())) for row in rows + np.array([0.0, *planted])[:, None]]
    found = [statistics.difference(variant, base) for variant in variants]
    adjusted = statistics.holm([each.p_value for each in found])
    floor = statistics.estimate(list(base.values())).deviation
    return [
        statistics.decide(each, p, floor, higher_is_better=True).outcome
        for each, p in zip(found, adjusted, strict=True)
    ]


def false_calls(rng, n, correlation, ladders):
    """Return the share of ladders without any difference in which some variant is called better or worse."""
    wrong = sum(
        any(outcome in ("better", "worse") for outcome in outcomes(rng, n, correlation, [0.0] * VARIANTS))
        for _ in range(ladders)
    )
    return wrong / ladders


def rates(rng, n, correlation, planted, ladders):
    """Return how often each decision is made about one variant that differs by `planted` noise floors."""
    counts = Counter(outcomes(rng, n, correlation, [planted])[0] for _ in range(ladders))
    return {outcome: count / ladders for outcome, count in counts.items()}


def row(n, correlation, ladders):
    """Return one row of the table, as shares."""
    rng = np.random.default_rng([n, int(100 * correlation)])
    called = {size: rates(rng, n, correlation, size, ladders) for size in sorted({*PLANTED, *ALIKE})}
    better = [called[size].get("better", 0.0) for size in PLANTED]
    same = [called[size].get("same", 0.0) for size in ALIKE]
    return [false_calls(rng, n, correlation, ladders), *better, *same]


def main():
    """Print the table."""
    for n in SEEDS:
        for correlation in CORRELATIONS:
            cells = " | ".join(f"{100 * share:.1f}" for share in row(n, correlation, 10_000))
            print(f"| {n} | {correlation} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
