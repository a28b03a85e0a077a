"""The decision rule: its error rates and power by simulation, its arithmetic against scipy.stats."""

import math
import random
import re
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from mptrain.report.statistics import decide, difference, estimate, holm
from tests.report import simulation

PAGE = (Path(__file__).parents[2] / "docs" / "report.md").read_text()
ROWS = {
    (int(n), float(correlation)): [float(cell) / 100 for cell in cells.split("|")]
    for n, correlation, cells in re.findall(r"^\| (\d+) \| ([\d.]+) \| ([\d. |]+) \|$", PAGE, re.M)
}
CASES = [(n, correlation) for n in simulation.SEEDS for correlation in (0.0, 0.9)]


def error(share, trials):
    """Return four standard errors of a simulated share."""
    return 4 * math.sqrt(max(share * (1 - share), 1 / trials) / trials)


@pytest.mark.parametrize(("n", "correlation"), CASES)
def test_without_a_difference_at_most_five_percent_of_ladders_call_one(n, correlation):
    found = simulation.false_calls(np.random.default_rng(n), n, correlation, 2000)
    assert found <= 0.05 + error(0.05, 2000) / 2
    assert found == pytest.approx(ROWS[n, correlation][0], abs=error(ROWS[n, correlation][0], 2000))


@pytest.mark.parametrize(("n", "correlation"), CASES)
def test_planted_differences_are_called_as_often_as_the_page_says(n, correlation):
    rng, trials = np.random.default_rng(10 + n), 500
    _, *better, _, _, same_at_two = ROWS[n, correlation]
    for planted, share in zip(simulation.PLANTED, better, strict=False):
        found = simulation.rates(rng, n, correlation, planted, trials)
        assert found.get("better", 0) == pytest.approx(share, abs=error(share, trials))
        assert found.get("worse", 0) <= 0.02
        if planted == 2.0:
            assert found.get("same", 0) == pytest.approx(same_at_two, abs=error(same_at_two, trials))


def test_the_page_promises_what_the_rule_must_keep():
    assert set(ROWS) == {(n, correlation) for n in simulation.SEEDS for correlation in simulation.CORRELATIONS}
    assert max(row[0] for row in ROWS.values()) <= 0.05
    assert max(row[-1] for row in ROWS.values()) <= 0.05  # called the same at twice the noise floor
    assert ROWS[5, 0.9][2] > 0.9  # two noise floors, five seeds that share most of their luck


def test_even_perfectly_correlated_runs_are_not_called_the_same_at_twice_the_floor():
    found = simulation.rates(np.random.default_rng(0), 3, 0.9999, 2.0, 2000)
    assert found.get("same", 0) <= 0.05


def by_seed(values):
    return dict(enumerate(values))


def judged(variant, baseline, *, higher_is_better=True):
    found = difference(variant, baseline)
    floor = estimate(list(baseline.values())).deviation
    return decide(found, found.p_value, floor, higher_is_better)


BASE = by_seed([0.90, 0.91, 0.92, 0.905, 0.915])


def moved(by, jitter=0.001):
    rng = random.Random(3)
    return {seed: value + by + rng.uniform(-jitter, jitter) for seed, value in BASE.items()}


def test_equal_runs_are_identical_and_never_better():
    assert judged(dict(BASE), BASE).outcome == "identical"
    assert judged(dict(BASE), BASE, higher_is_better=False).outcome == "identical"
    almost = {**BASE, 0: np.nextafter(BASE[0], 1)}
    assert judged(almost, BASE).outcome == "same"


@pytest.mark.parametrize(("by", "higher", "lower"), [(0.03, "better", "worse"), (-0.03, "worse", "better")])
def test_the_metric_s_direction_decides_what_better_is(by, higher, lower):
    assert judged(moved(by), BASE).outcome == higher
    assert judged(moved(by), BASE, higher_is_better=False).outcome == lower


def test_a_sure_difference_below_the_noise_floor_is_no_difference():
    found = judged(moved(0.003, jitter=0.0005), BASE)
    assert found.p_value < 0.05
    assert found.outcome == "same"


def test_one_seed_cannot_tell():
    found = judged({0: 0.5}, {0: 0.9})
    assert (found.outcome, found.p_value, found.seeds_needed) == ("unclear", None, None)
    assert found.difference.mean == pytest.approx(-0.4)
    assert found.difference.low is None
    assert judged({0: 0.9}, {0: 0.9}).outcome == "unclear"


def test_differences_that_do_not_vary_are_judged_by_their_signs():
    base = by_seed([0.5, 0.625, 0.75])
    found = judged({seed: value + 0.25 for seed, value in base.items()}, base)
    assert (found.outcome, found.p_value) == ("unclear", 0.25)
    base = by_seed([0.5, 0.625, 0.75, 0.5, 0.625, 0.75])
    found = judged({seed: value + 0.25 for seed, value in base.items()}, base)
    assert (found.outcome, found.p_value) == ("better", 2**-5)
    small = judged({seed: value + 0.03125 for seed, value in base.items()}, base)
    assert small.outcome == "same"


def test_rounding_is_no_spread():
    base = by_seed([0.1, 0.3, 0.6])
    variant = {seed: value + 0.7 for seed, value in base.items()}
    assert len({variant[seed] - base[seed] for seed in base}) > 1  # by rounding
    found = judged(variant, base)
    assert (found.outcome, found.p_value) == ("unclear", 0.25)
    assert estimate([0.1, 0.1, 0.1]).deviation == 0


def test_a_baseline_without_spread_calls_nothing_the_same():
    base = by_seed([0.5, 0.5, 0.5])
    found = judged(by_seed([0.5, 0.5, 0.4995]), base)
    assert (found.outcome, found.seeds_needed) == ("unclear", None)
    assert judged(by_seed([0.25, 0.2501, 0.2499]), base).outcome == "worse"


def test_unpaired_runs_without_spread_are_judged_by_the_ways_to_deal_them():
    found = difference({10: 0.5, 11: 0.5, 12: 0.5}, by_seed([0.25, 0.25, 0.25]))
    assert (found.paired, found.p_value) == (False, pytest.approx(2 / 20))


def test_the_number_of_seeds_that_would_tell():
    rng = random.Random(0)
    base = by_seed([rng.gauss(0, 1) for _ in range(4)])
    found = judged({seed: value + rng.gauss(0, 1) for seed, value in base.items()}, base)
    assert found.outcome == "unclear"
    n, floor = found.seeds_needed, estimate(list(base.values())).deviation
    spread, mean = found.difference.deviation, abs(found.difference.mean)

    def half(count):
        return stats.t.ppf(0.975, count - 1) * spread / math.sqrt(count)

    reach = max(floor - mean, mean)
    assert n > 4
    assert half(n) <= reach < half(n - 1)


@pytest.mark.parametrize("n", [2, 3, 5, 10])
def test_paired_figures_are_scipy_s(n):
    rng = random.Random(n)
    a, b = ([rng.gauss(mean, 1) for _ in range(n)] for mean in (0.5, 0))
    found, theirs = difference(by_seed(a), by_seed(b)), stats.ttest_rel(a, b)
    interval = theirs.confidence_interval(0.95)
    assert found.paired
    assert found.p_value == pytest.approx(theirs.pvalue, rel=1e-9)
    assert (found.estimate.low, found.estimate.high) == pytest.approx((interval.low, interval.high), rel=1e-9)
    assert found.estimate.n == n


@pytest.mark.parametrize(("n", "m"), [(2, 2), (3, 5), (10, 4)])
def test_unpaired_figures_are_scipy_s(n, m):
    rng = random.Random(n)
    a, b = [rng.gauss(0.5, 1) for _ in range(n)], [rng.gauss(0, 3) for _ in range(m)]
    found = difference({100 + seed: value for seed, value in enumerate(a)}, by_seed(b))
    theirs = stats.ttest_ind(a, b, equal_var=False)
    interval = theirs.confidence_interval(0.95)
    assert not found.paired
    assert found.p_value == pytest.approx(theirs.pvalue, rel=1e-9)
    assert (found.estimate.low, found.estimate.high) == pytest.approx((interval.low, interval.high), rel=1e-9)


@pytest.mark.parametrize("n", [2, 3, 7, 30])
def test_intervals_of_means_are_scipy_s(n):
    rng = random.Random(n)
    values = [rng.gauss(3, 2) for _ in range(n)]
    found = estimate(values)
    theirs = stats.t.interval(0.95, n - 1, loc=np.mean(values), scale=stats.sem(values))
    assert (found.low, found.high) == pytest.approx(theirs, rel=1e-9)


def test_pairs_are_seeds_that_both_have():
    base = by_seed([0.1, 0.2, 0.4])
    found = difference({1: 0.3, 2: 0.5, 7: 99.0}, base)
    assert (found.paired, found.estimate.n) == (True, 2)
    assert found.estimate.mean == pytest.approx(0.1)
    assert not difference({2: 0.5, 7: 0.6, 8: 0.7}, base).paired  # one shared seed is no pair to test


def test_holm():
    assert holm([0.01, None, 0.04, 0.03]) == [pytest.approx(0.03), None, pytest.approx(0.06), pytest.approx(0.06)]
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []
