"""ThroughputMeter under a fake clock: what counts as training time, and what does not."""

import pytest

from mptrain.telemetry.throughput import Speed, ThroughputMeter, WindowSpeed

STEP_S = 0.1
BATCH = 32


def run_steps(meter: ThroughputMeter, now: float, steps: int, *, step_s: float = STEP_S, wait_s: float = 0.0) -> float:
    """Mark one window of `steps` steps that ends `steps * step_s` later; return that time."""
    now += steps * step_s
    meter.mark(now, steps=steps, samples=steps * BATCH, data_wait_s=wait_s)
    return now


def warm_meter() -> ThroughputMeter:
    meter = ThroughputMeter(warmup_steps=0)
    meter.restart(0.0)
    return meter


def test_one_window():
    meter = ThroughputMeter(warmup_steps=0)
    meter.restart(100.0)
    speed = meter.mark(102.0, steps=4, samples=128, data_wait_s=0.5)
    assert speed == WindowSpeed(samples_per_s=64.0, step_time_ms=500.0, data_wait_fraction=0.25)
    assert meter.overall() == Speed(64.0, 500.0, 500.0, 0.25)


def test_slow_first_step_evaluation_and_save_change_nothing():
    plain = ThroughputMeter()
    plain.restart(0.0)
    now = run_steps(plain, 0.0, 3)
    for _ in range(4):
        now = run_steps(plain, now, 10, wait_s=0.25)

    disturbed = ThroughputMeter()
    disturbed.restart(0.0)
    now = run_steps(disturbed, 10.0, 1)  # a 10 s compile before the first step ends
    now = run_steps(disturbed, now, 2)
    assert disturbed.warmup_left == 0
    now = run_steps(disturbed, now, 10, wait_s=0.25)
    disturbed.restart(now := now + 60.0)  # evaluation
    now = run_steps(disturbed, now, 10, wait_s=0.25)
    now = run_steps(disturbed, now, 10, wait_s=0.25)
    disturbed.restart(now := now + 7.0)  # save
    run_steps(disturbed, now, 10, wait_s=0.25)

    expected = plain.overall()
    assert expected.samples_per_s == pytest.approx(BATCH / STEP_S)
    assert expected.data_wait_fraction == pytest.approx(0.25)
    for field in Speed.__slots__:
        assert getattr(disturbed.overall(), field) == pytest.approx(getattr(expected, field))


def test_window_that_begins_in_the_warm_up_is_left_out_whole():
    meter = ThroughputMeter(warmup_steps=3)
    meter.restart(0.0)
    assert meter.mark(10.0, steps=50, samples=50, data_wait_s=0.0) is None
    assert meter.overall() == Speed(None, None, None, None)
    assert meter.mark(11.0, steps=10, samples=10, data_wait_s=0.0) == WindowSpeed(10.0, 100.0, 0.0)


def test_steps_since_the_last_mark_are_lost_by_a_restart():
    meter = warm_meter()
    run_steps(meter, 0.0, 10)
    meter.restart(50.0)
    run_steps(meter, 50.0, 10)
    assert meter.overall().samples_per_s == pytest.approx(BATCH / STEP_S)


def test_skipped_steps_cost_time_but_are_no_progress():
    meter = warm_meter()
    speed = meter.mark(1.0, steps=10, samples=8 * BATCH, data_wait_s=0.0)
    assert speed is not None
    assert speed.samples_per_s == 8 * BATCH
    assert speed.step_time_ms == 100.0


def test_median_and_p90_are_weighted_by_steps():
    meter = warm_meter()
    now = run_steps(meter, 0.0, 85, step_s=0.010)
    now = run_steps(meter, now, 10, step_s=0.020)
    run_steps(meter, now, 5, step_s=1.0)
    overall = meter.overall()
    assert overall.step_time_median_ms == pytest.approx(10.0)
    assert overall.step_time_p90_ms == pytest.approx(20.0)
    assert overall.samples_per_s == pytest.approx(100 * BATCH / (0.85 + 0.2 + 5.0))


def test_window_without_steps_keeps_its_time_for_the_next():
    meter = warm_meter()
    assert meter.mark(1.0, steps=0, samples=0, data_wait_s=0.0) is None
    speed = meter.mark(2.0, steps=2, samples=10, data_wait_s=0.0)
    assert speed == WindowSpeed(5.0, 1000.0, 0.0)


@pytest.mark.parametrize("end", [5.0, 4.999])
def test_window_without_time_has_no_speed(end: float):
    meter = ThroughputMeter(warmup_steps=0)
    meter.restart(5.0)
    assert meter.mark(end, steps=1, samples=1, data_wait_s=0.0) is None
    assert meter.overall() == Speed(None, None, None, None)
    speed = meter.mark(end + 2.0, steps=2, samples=10, data_wait_s=0.0)
    assert speed is not None
    assert speed.samples_per_s == pytest.approx(5.0)


def test_data_wait_is_at_most_the_window():
    meter = warm_meter()
    speed = meter.mark(1.0, steps=1, samples=1, data_wait_s=1.001)
    assert speed is not None
    assert speed.data_wait_fraction == 1.0


def test_mark_before_any_restart_is_refused():
    with pytest.raises(RuntimeError, match="restart"):
        ThroughputMeter().mark(1.0, steps=1, samples=1, data_wait_s=0.0)
