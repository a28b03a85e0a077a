"""The cost of statistics is measured in pairs, of which only the second step is sampled."""

from benchmarks.numerics_cost import WARM_UP, time_flags, time_steps
from tests.trainer.runs import build


def test_only_the_second_step_of_a_pair_is_sampled():
    pairs = 3
    run = build({"train": {"max_steps": WARM_UP + 2 * pairs + 1}, "log": {"numerics_every": 2}})
    measured, original = [], run.parts.numerics.after_unscale

    def after_unscale():
        measured.append(run.parts.numerics._due)
        original()

    run.parts.numerics.after_unscale = after_unscale
    plain, sampled = time_steps(run, pairs)
    assert len(plain) == len(sampled) == pairs
    assert all(seconds > 0 for seconds in plain + sampled)
    assert measured[WARM_UP : WARM_UP + 2 * pairs] == [False, True] * pairs
    assert len(time_flags(run, 4)) == 4
