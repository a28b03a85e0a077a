"""Plain lines: whole, few, without a single control code, and no danger to the training."""

import io
import math
import subprocess
import sys

import pytest

from mptrain.telemetry.plain import PlainConsole, SilentConsole
from mptrain.telemetry.records import Event, Numerics
from tests.telemetry.records import evaluation, numerics, overflow, progress, result, run_info
from tests.telemetry.terminal import clean_environment

SCRIPT = [sys.executable, "-m", "tests.telemetry.scripted_run"]


class FakeClock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def out() -> io.StringIO:
    return io.StringIO()


def steps_shown(out: io.StringIO) -> list[int]:
    return [int(line.split("step ")[1].split("/")[0]) for line in out.getvalue().splitlines() if "epoch " in line[:6]]


def test_one_line_per_window(out: io.StringIO, clock: FakeClock):
    console = PlainConsole(out, clock)
    console.begin(run_info())
    console.window(progress(50))
    assert out.getvalue().splitlines()[-1] == (
        "epoch 1/4  step 50/312  loss 1.2345  lr 0.0400  scale 32768  skipped 1 (last at 12)  gnorm 1.23  "
        "245.1 samples/s  wait 0.3%  mem 1.2 GiB  eta 2:17"
    )


def test_what_a_run_does_not_have_is_not_shown(out: io.StringIO, clock: FakeClock):
    console = PlainConsole(out, clock)
    console.begin(run_info(emulated=True))
    none = dict.fromkeys(
        ("loss_scale", "grad_norm", "samples_per_s", "step_time_ms", "data_wait_fraction", "peak_memory_bytes")
    )
    console.window(progress(50, skipped_steps=0, last_skipped_step=None, loss=math.nan, **none))
    assert out.getvalue().splitlines()[-1] == (
        "epoch 1/4  step 50/312  loss nan  lr 0.0400  skipped 0  n/a samples/s (emulated)  wait n/a  eta n/a"
    )


@pytest.mark.parametrize(
    ("sample", "shown"),
    [
        (numerics(), "gnorm 1.23  subnormal 0.3%  headroom 2^6  245.1"),
        (numerics(headroom=-math.inf, below_normal_share=1e-5), "gnorm 1.23  subnormal <0.1%  headroom n/a  245.1"),
        (numerics(format="bf16"), "gnorm 1.23  245.1"),
        (numerics(format="bf16", lost_update_share=0.84), "gnorm 1.23  updates 84.0% lost  245.1"),
        (numerics(underflow_share=0.02), "headroom 2^6  underflow 2.0%  245.1"),
    ],
)
def test_the_newest_sample_of_gradients(sample: Numerics, shown: str, out: io.StringIO, clock: FakeClock):
    console = PlainConsole(out, clock)
    console.begin(run_info())
    console.window(progress(50, numerics=sample))
    assert shown in out.getvalue().splitlines()[-1]


def test_at_most_one_window_a_second_but_always_the_last(out: io.StringIO, clock: FakeClock):
    console = PlainConsole(out, clock)
    console.begin(run_info())
    for step in range(10, 60, 10):
        console.window(progress(step))
        clock.now += 0.3
    assert steps_shown(out) == [10, 50]
    console.window(progress(60))
    assert steps_shown(out) == [10, 50]
    console.evaluated(evaluation())
    assert steps_shown(out) == [10, 50, 60]
    console.window(progress(70))
    console.end(result())
    assert steps_shown(out) == [10, 50, 60, 70]
    console.end(result())
    assert steps_shown(out) == [10, 50, 60, 70]


def test_long_windows_do_not_look_dead(out: io.StringIO, clock: FakeClock):
    console = PlainConsole(out, clock)
    console.begin(run_info())
    for step in range(1, 101):
        clock.now += 1.0
        console.progress(progress(step))
    assert steps_shown(out) == [29, 59, 89]


def test_time_left_follows_the_pace_after_start_up(out: io.StringIO, clock: FakeClock):
    console = PlainConsole(out, clock)
    console.begin(run_info())
    console.window(progress(12, wall_s=500.0, step_time_ms=None))
    clock.now += 10
    console.window(progress(112, wall_s=600.0))
    assert out.getvalue().splitlines()[-2].endswith("eta n/a")
    assert out.getvalue().splitlines()[-1].endswith("eta 3:20")


def test_events(out: io.StringIO, clock: FakeClock):
    console = PlainConsole(out, clock)
    console.begin(run_info())
    start = len(out.getvalue().splitlines())
    console.event(overflow(3))
    console.event(Event("scale_change", 3, 2, "65536 -> 32768"))
    console.event(Event("numerics", 3, 2, "largest gradient 0.1"))
    console.event(Event("checkpoint", 3, 2, "saved checkpoints/step-2\nin 0.1 s"))
    for step in (4, 5, 6):
        console.event(overflow(step))
    clock.now += 1.0
    console.event(overflow(7))
    console.event(overflow(8))
    console.end(result())
    text = "gradients overflowed; loss scale 65536 -> 32768"
    assert out.getvalue().splitlines()[start : start + 4] == [
        f"! overflow at step 3: {text}",
        "  checkpoint at step 3: saved checkpoints/step-2 in 0.1 s",
        f"! overflow at step 7: {text}  (and 3 more since the last such line)",
        "  and 1 more overflow (see events.jsonl)",
    ]


def test_banner_and_summary(out: io.StringIO, clock: FakeClock):
    console = PlainConsole(out, clock)
    console.begin(run_info(planted=("inf_grad at 5",), notices=("slow here",), first_step=100))
    lines = out.getvalue().splitlines()
    assert lines[0] == "run        resnet/r1"
    assert "precision  fp16: weights fp32, compute fp16, loss scale dynamic from 65536" in lines
    assert "length     312 steps, 78 per epoch, resumed at step 100" in lines
    assert "!! PLANTED FAULT: inf_grad at 5 (a drill, not a result)" in lines
    assert "!! NOTICE: slow here" in lines
    console.evaluated(evaluation())
    assert out.getvalue().splitlines()[-1] == "eval  step 78  accuracy 0.8512  loss 0.4100  samples 2000  best  1.2 s"
    console.end(result(status="diverged", exit_code=3))
    assert out.getvalue().splitlines()[-9:] == [
        "status       diverged (exit code 3)",
        "metrics      accuracy 0.8875  loss 0.3300  samples 2000",
        "train loss   0.3123",
        "steps        312 of 312, 1 skipped, loss scale 32768",
        "time         2:56",
        "speed        245.1 samples/s, step 520 ms median, 541 ms p90, data wait 0.3%",
        "peak memory  1.2 GiB",
        "planted      inf_grad at 5",
        "result       runs/resnet/r1/result.json",
    ]


def test_the_speed_of_a_language_model_is_in_tokens_too(out: io.StringIO, clock: FakeClock):
    console = PlainConsole(out, clock)
    console.begin(run_info())
    console.end(result(tokens_per_s=15686.4))
    assert "speed        245.1 samples/s, 15,686 tokens/s, step 520 ms median" in out.getvalue()


def test_run_that_failed_early(out: io.StringIO, clock: FakeClock):
    PlainConsole(out, clock).end({"status": "env_error", "exit_code": 4})
    assert out.getvalue() == ""
    console = PlainConsole(out, clock)
    console.begin(run_info())
    console.end({"status": "oom", "exit_code": 5})
    assert "status  oom (exit code 5)" in out.getvalue()
    assert "speed   n/a samples/s" in out.getvalue()


def test_silence_but_for_alarms():
    err = io.StringIO()
    console = SilentConsole(err)
    console.begin(run_info(planted=("oom at 5",)))
    console.window(progress(50))
    console.event(overflow())
    console.event(Event("warning", 5, 5, "something is off"))
    console.end(result())
    assert err.getvalue().splitlines() == [
        "!! PLANTED FAULT: oom at 5 (a drill, not a result)",
        "! warning at step 5: something is off",
    ]


def test_stream_that_cannot_write_every_letter():
    raw = io.BytesIO()
    console = PlainConsole(io.TextIOWrapper(raw, encoding="ascii"), FakeClock())
    console.begin(run_info(data="modèle 数"))
    assert b"mod\\xe8le \\u6570" in raw.getvalue()


def test_through_a_pipe_no_control_codes_and_whole_lines():
    done = subprocess.run([*SCRIPT, "--planted"], capture_output=True, check=True, env=clean_environment(COLUMNS="80"))
    assert done.stderr == b""
    assert b"\x1b" not in done.stdout
    assert b"\r" not in done.stdout
    windows = [line for line in done.stdout.decode().splitlines() if line.startswith("epoch")]
    assert windows
    assert all(len(line) > 100 and "eta " in line for line in windows)


def test_lines_arrive_while_the_run_goes_on():
    with subprocess.Popen(
        [*SCRIPT, "--pause"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=clean_environment()
    ) as process:
        assert process.stdout is not None
        lines = []
        while not lines or "eval  step 312" not in lines[-1]:  # the process now waits for its stdin
            lines.append(process.stdout.readline())
            assert lines[-1]
        process.communicate("\n")
    assert process.returncode == 0


def test_reader_that_goes_away_does_not_end_the_training():
    with subprocess.Popen(
        [*SCRIPT, "--pause", "--last-words"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=clean_environment(),
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdin is not None
        process.stdout.readline()
        process.stdout.close()
        process.stdin.write("\n")
        process.stdin.close()
        assert process.stderr.read() == ""
        assert process.wait(60) == 0
