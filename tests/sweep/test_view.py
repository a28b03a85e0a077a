"""What a person sees of a sweep: plain lines, and which of many runs a screen has room for."""

import io
import os
import sys
import time
from pathlib import Path

import pytest

from mptrain.cli.app import run as mptrain
from mptrain.cli.sweep_view import LiveTable, PlainLines, counts, status_lines, visible
from mptrain.sweep.child import Child, Outcome
from mptrain.sweep.follow import Progress
from mptrain.sweep.plan import Choice, PlannedRun, make_plan
from mptrain.sweep.request import read_request
from mptrain.sweep.runner import Row
from mptrain.sweep.slots import make_slots, num_cores
from mptrain.sweep.summary import summarise

RESULT = {
    "metrics": {"accuracy": 0.75},
    "main_metric": {"name": "accuracy", "higher_is_better": True},
    "train_loss": 1.25,
    "skipped_steps": 2,
}


def rows_of(count: int) -> list[Row]:
    request = read_request(["small.yaml", f"seed=0..{count - 1}"])
    return [Row(run) for run in make_plan(request.configs, request.axes).runs]


def test_plain_lines(here):
    row = rows_of(2)[0]
    out, now = io.StringIO(), [0.0]
    view = PlainLines(out, lambda: now[0])
    row.state, row.progress = "running", Progress(40, 0, 10, 1.5, 1, 99.0, 3.0, "accuracy", [0.5])
    view.began(row)
    view.refresh([row])
    now[0] = 30.0
    view.refresh([row])
    view.refresh([row])
    row.seconds = 61.0
    row.end(Outcome("diverged", 3, "the loss is nan\nmore", RESULT))
    view.ended(row)
    assert out.getvalue().splitlines() == [
        "run 1  seed=0  begins in runs/small/seed-0",
        "run 1  seed=0  running  step 10/40  loss 1.5000  accuracy 0.5000  skipped 1  samples/s 99  eta 0:09",
        "1 runs: 1 running",
        "run 1  seed=0  diverged (the loss is nan)  loss 1.2500  accuracy 0.7500  skipped 2  1:01",
    ]


def test_fifty_runs_fit_a_screen(here):
    rows = rows_of(50)
    for number, row in enumerate(rows[:20]):
        row.began, row.seconds = 10.0 * number, 5.0
        row.end(Outcome("ok", 0, None, RESULT))
    for row in rows[20:22]:
        row.state, row.began = "running", time.monotonic()
    shown = visible(rows, 10)
    assert [row.run.number for row in shown] == [21, 22, 20, 19, 18, 17, 16, 15, 14, 13]
    assert visible(rows, 60) == rows
    assert counts(rows) == "50 runs: 20 ok, 2 running, 28 waiting; about 1:15 to go"
    assert len(status_lines(rows)) == 50


@pytest.mark.parametrize(("columns", "has_figures"), [(120, True), (80, True), (72, True), (40, False)])
def test_where_room_is_short_labels_are_cut_and_no_number_is(here, capsys, monkeypatch, columns, has_figures):
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TERM", "xterm")
    [row] = make_plan([Path("small.yaml")], [(Choice(("seed=1",), "a-name-that-is-long" * 3),)]).runs
    row = Row(row, "running", progress=Progress(40_000, 0, 10_000, 1.2345, 17, 99.0, 3.0, "accuracy", [0.5678]))
    view = LiveTable()
    view.refresh([row])
    view.close()
    shown = capsys.readouterr().out
    assert all((text in shown) == has_figures for text in ("1.2345", "0.5678", " 17 ", "0:09"))
    assert "10000/40000" in shown
    assert "1  a-name-th" in shown


def test_slots_share_cores_and_take_gpus_in_turn(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    (alone,) = make_slots(None, None)
    assert "OMP_NUM_THREADS" not in alone.environment
    pair = make_slots(2, None)
    assert [slot.environment["OMP_NUM_THREADS"] for slot in pair] == [str(max(1, num_cores() // 2))] * 2
    gpus = make_slots(None, "0, GPU-ab")
    assert [slot.environment["CUDA_VISIBLE_DEVICES"] for slot in gpus] == ["0", "GPU-ab"]
    assert [slot.environment["CUDA_VISIBLE_DEVICES"] for slot in make_slots(3, "0,1")] == ["0", "1", "0"]
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert make_slots(2, None)[0].environment["OMP_NUM_THREADS"] == "7"


def test_gpus_that_torch_does_not_see(here, capfd):
    assert mptrain(["sweep", "small.yaml", "seed=0,1", "--gpus", "99"]) == 4
    assert capfd.readouterr().err == "error: --gpus: torch sees 0 of the 1 in '99' here; see `mptrain env`\n"
    assert not Path("runs").exists()


def test_a_run_that_could_say_nothing(here, monkeypatch):
    monkeypatch.setattr(PlannedRun, "command", lambda self: [sys.executable, "-c", "import sys; sys.exit(4)"])
    outcome = Child(rows_of(2)[0].run, dict(os.environ)).outcome()
    assert (outcome.status, outcome.exit_code) == ("env_error", 4)
    assert outcome.error == "it ended with code 4 and could say nothing in stderr.log; is the disk full?"


def summary_of(*outcomes: tuple[str, int] | None, stopped_by: str | None = None, **options) -> tuple:
    rows = rows_of(len(outcomes))
    for row, outcome in zip(rows, outcomes, strict=True):
        if outcome is not None:
            row.end(Outcome(*outcome, "why"))
    result = summarise(rows, stopped_by, **options)
    return result["status"], result["exit_code"], result["error"]


def test_the_exit_code_of_a_sweep(here):
    good, bad, worse, stopped = ("ok", 0), ("diverged", 3), ("oom", 5), ("preempted", 75)
    assert summary_of(good, good) == ("ok", 0, None)
    assert summary_of(good, worse, bad) == ("oom", 5, "2 of 3 runs failed; the first: seed=1: oom (why)")
    assert summary_of(bad, None) == ("diverged", 3, "1 of 2 runs failed; the first: seed=0: diverged (why)")
    to_go = "stopped by SIGTERM with 2 of 3 runs to go; the same command goes on"
    assert summary_of(bad, stopped, None, stopped_by="SIGTERM") == ("preempted", 75, to_go)
    assert summary_of(good, good, stopped_by="SIGINT") == ("ok", 0, None)  # all had ended when it came
    assert summary_of(good, good, stopped_by="SIGINT", total=20)[1] == 75
    assert summary_of(bad, good, tolerated=("diverged",))[1] == 0
    assert summary_of(bad, ("pruned", 0), tolerated=("diverged",))[1] == 3
