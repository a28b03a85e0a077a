"""`mptrain watch`: a run that goes on in another process, on a real terminal and in a pipe."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mptrain.cli.app import run as mptrain
from mptrain.trainer.run_lock import hold, is_held
from tests.cli.small_run import as_another_user, result_of
from tests.telemetry.terminal import PATIENCE_S, Terminal

RUN = Path("runs/small/a")
WAITS_AT_12 = """\
import os, time
from mptrain.trainer import trainer
real = trainer.Trainer._after_attempt
def after(self):
    while self._launched == 12 and not os.path.exists("go"):
        time.sleep(0.02)
    return real(self)
trainer.Trainer._after_attempt = after
"""
"""A plugin: a run whose windows at steps 5 and 10 are recorded, and that goes on when the test says so."""


@pytest.fixture
def run_that_waits(here):
    Path("waits.py").write_text(WAITS_AT_12)
    command = [sys.executable, "-m", "mptrain", "run", "small.yaml", "--run-id", "a", "--quiet", "plugins=[waits]"]
    process = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"})
    deadline = time.monotonic() + PATIENCE_S
    while not (RUN / "metrics.jsonl").exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    yield process
    process.kill()
    process.wait()


def small(*arguments: str) -> int:
    return mptrain(["run", "small.yaml", "--run-id", "a", *arguments])


def test_the_live_view_of_a_run_in_another_process(run_that_waits):
    with Terminal("watch", "runs/small/a", module="mptrain") as terminal:
        terminal.wait_for(r"run .* 10/24")
        terminal.process.send_signal(signal.SIGINT)  # leaving does not touch the run
        assert terminal.finish() == 0
        assert terminal.text().endswith("left")
        assert "Traceback" not in terminal.text()
        assert not terminal.screen.cursor.hidden
    assert run_that_waits.poll() is None
    with Terminal("watch", "runs/small/a", module="mptrain") as terminal:
        terminal.wait_for(r"run .* 10/24")
        terminal.process.terminate()
        assert terminal.finish() == 0
        assert terminal.text().endswith("left")
        assert not terminal.screen.cursor.hidden
    with Terminal("watch", "runs", module="mptrain") as terminal:
        terminal.wait_for(r"run .* 10/24")
        before = {path.name for path in RUN.iterdir()}
        assert ".lock" in before  # the run's
        assert is_held(RUN)
        assert "small/a" in terminal.text()
        assert "not evaluated yet" in terminal.text()
        assert {path.name for path in RUN.iterdir()} == before
        Path("go").touch()
        assert terminal.finish() == 0
        shown = terminal.text()
        assert "eval  step 24  accuracy" in shown
        assert "status       ok" in shown
        assert "24 of 24, 0 skipped" in shown
        assert not terminal.screen.cursor.hidden
    assert run_that_waits.wait(PATIENCE_S) == 0
    assert result_of("a")["status"] == "ok"
    names = {"config.yaml", "env.json", "plan.json", "run.json", "metrics.jsonl", "events.jsonl", "result.json"}
    assert {path.name for path in RUN.iterdir()} == names | {"checkpoints"}


def test_a_run_that_is_killed_while_it_is_watched(run_that_waits):
    with Terminal("watch", "runs/small/a", module="mptrain") as terminal:
        terminal.wait_for(r"run .* 10/24")
        run_that_waits.kill()
        assert terminal.finish() == 0
        assert terminal.text().endswith("killed: its process left no result; go on with mptrain run ... --resume auto")


def test_a_finished_run_in_a_pipe_reads_as_its_own_log(here, capsys):
    assert small("precision=fp16", "debug.plant=[{what: inf_grad, at: 7}]") == 0
    own = capsys.readouterr().out.splitlines()
    before = {path: path.stat().st_mtime_ns for path in RUN.rglob("*")}
    assert mptrain(["watch", "runs/small/a"]) == 0
    watched = capsys.readouterr().out.splitlines()
    assert {path: path.stat().st_mtime_ns for path in RUN.rglob("*")} == before

    def without_windows(lines):  # how many are printed is a matter of milliseconds
        return [line for line in lines if not line.startswith("epoch ")]

    assert sorted(without_windows(watched)) == sorted(without_windows(own))
    assert "! overflow at step 7" in "\n".join(watched)


def test_a_folder_above_means_the_newest_run(here, capsys):
    assert small("--quiet") == 0
    assert mptrain(["run", "small.yaml", "--run-id", "b", "--quiet"]) == 0
    assert small("--quiet", "--resume", "auto", "train.epochs=3") == 0
    for above in (["runs"], ["runs/small"], []):
        capsys.readouterr()
        assert mptrain(["watch", *above]) == 0
        assert "files      runs/small/a" in capsys.readouterr().out


def test_no_run_is_exit_2(here, capsys):
    Path("empty").mkdir()
    for path in ("nowhere", "empty", "small.yaml"):
        assert mptrain(["watch", path]) == 2
        captured = capsys.readouterr()
        assert captured.err.startswith(f"error: {path}: ")
        assert captured.err.count("\n") == 1


def test_a_run_that_ended_before_it_began(here, capsys):
    assert small("--quiet", "device=cuda:99") != 0
    status = result_of("a")["status"]
    capsys.readouterr()
    assert mptrain(["watch", "runs/small/a"]) == 0
    assert capsys.readouterr().out == f"runs/small/a: {status} before the first step; see its result.json\n"


def test_damaged_records_are_one_line(here, capsys):
    assert small("--quiet") == 0
    train = '{"time": "2026-01-01T00:00:00+00:00", "type": "train"'
    deep = train + ', "deep": ' + '{"a": ' * 800 + "1" + "}" * 801 + "\n"
    no_epoch = json.dumps(json.loads((RUN / "run.json").read_text()) | {"steps_per_epoch": 0})
    contents = (
        ("run.json", no_epoch),
        ("metrics.jsonl", deep),
        ("result.json", '{"status": 5}'),
        ("metrics.jsonl", f"{train}}}\n"),
        ("run.json", '{"time": null}'),
    )
    for name, content in contents:
        (RUN / name).write_text(content)
        capsys.readouterr()
        assert mptrain(["watch", "runs/small/a"]) == 6
        captured = capsys.readouterr()
        assert captured.err.count("\n") == 1
        assert "its records are damaged" in captured.err


def test_records_that_another_user_keeps_to_themselves(here, capfd):
    RUN.mkdir(parents=True)
    (RUN / "config.yaml").touch()
    (RUN / "run.json").touch(0)
    assert as_another_user(RUN, lambda: mptrain(["watch", "."])) == 6
    assert as_another_user(RUN, lambda: mptrain(["runs", "."])) == 0
    assert capfd.readouterr().err.splitlines() == [
        "error: .: cannot read its records: Permission denied",
        "note: left out: run.json: cannot be read: Permission denied",
    ]


def test_a_run_that_has_not_begun_is_waited_for(here):
    RUN.mkdir(parents=True)
    (RUN / "config.yaml").touch()
    with hold(RUN.absolute()):
        watching = subprocess.Popen([sys.executable, "-m", "mptrain", "watch", "runs"], stdout=subprocess.PIPE)
        with pytest.raises(subprocess.TimeoutExpired):
            watching.wait(3)
    out, _ = watching.communicate(timeout=PATIENCE_S)
    assert watching.returncode == 0
    assert out.decode() == (
        "runs/small/a: killed: its process left no result; go on with mptrain run ... --resume auto\n"
    )


def test_watching_imports_no_torch(here):
    assert small("--quiet") == 0
    code = "import sys\nfrom mptrain.cli.app import run\nrun(['watch', 'runs'])\nsys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL).returncode == 0
