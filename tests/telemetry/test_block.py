"""The live block's layout at every size, and the sparkline."""

import math

import pytest

from mptrain.telemetry.block import Sparkline, State, layout
from mptrain.telemetry.records import Event
from tests.telemetry.records import evaluation, numerics, overflow, progress, run_info


def full_state(**changes) -> State:
    state = State(run_info(planted=("inf_grad at 12",)), progress(100, **changes), 50.0, 106.0, evaluation(), 0.8512)
    for step in range(20):
        state.losses.add(2.0 - step / 20)
        state.events.append(overflow(step))
    return state


def drawn(state: State, width: int, height: int = 50, *, unicode: bool = True) -> list[str]:
    return ["".join(text for text, _ in line).rstrip() for line in layout(state, width, height, unicode=unicode)]


@pytest.mark.parametrize("width", [60, 72, 80, 96])
def test_nothing_is_wider_than_the_terminal(width: int):
    lines = [line for line in drawn(full_state(), width) if "overflow" not in line]
    assert max(map(len, lines)) <= width
    assert len(lines) == 10


def test_every_size_can_be_drawn():
    for width in range(1, 200):
        for height in (1, 5, 30):
            assert 1 <= len(layout(full_state(), width, height, unicode=True)) <= height


def test_only_ascii_where_the_terminal_has_nothing_else():
    text = "\n".join(drawn(full_state(), 80, unicode=False))
    assert text.isascii()
    assert "####" in text


def test_before_the_first_step():
    text = "\n".join(drawn(State(run_info()), 80))
    assert "waiting for the first step" in text
    assert "loss  " not in text


def test_not_measured_yet_reads_so():
    text = "\n".join(drawn(full_state(samples_per_s=None, step_time_ms=None, data_wait_fraction=None), 80))
    assert "n/a samples/s" in text
    assert "step time  n/a" in text
    assert "data wait  n/a" in text


def test_the_newest_sample_of_gradients_has_cells_of_its_own():
    with_sample = drawn(full_state(numerics=numerics(underflow_share=0.02)), 80)
    without = drawn(full_state(), 80)
    text = "\n".join(with_sample)
    assert all(f"{label:<11}{value}" in text for label, value in {"subnormal": "0.3%", "headroom": "2^6"}.items())
    assert "underflow  2.0%" in text
    assert len(with_sample) == len(without) + 2  # two columns
    assert max(len(line) for line in with_sample if "overflow" not in line) <= 80


def test_text_of_others_cannot_move_the_cursor():
    state = full_state()
    state.events.append(Event("warning", 1, 1, "a\x1b[2Jb\rc\nd"))
    assert drawn(state, 80)[-1] == "warning at step 1: a [2Jb c d"


def test_sparkline_follows_the_whole_run():
    spark = Sparkline()
    for step in range(10_000):
        spark.add(1e4 - step)
    curve = spark.draw(20)
    assert 10 <= len(curve) <= 20
    assert list(curve) == sorted(curve, reverse=True)
    assert (curve[0], curve[-1]) == ("█", "▁")


def test_sparkline_marks_what_is_not_finite():
    spark = Sparkline()
    for value in (2.0, math.nan, 1.0, math.inf):
        spark.add(value)
    assert spark.draw(10) == "█x▁x"
    assert Sparkline().draw(10) == ""


def test_constant_loss_is_flat():
    spark = Sparkline()
    for _ in range(5):
        spark.add(1.0)
    assert spark.draw(10) == "▁▁▁▁▁"
