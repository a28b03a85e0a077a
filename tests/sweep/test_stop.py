"""Stopping a sweep: what Ctrl-C, SIGTERM and SIGKILL leave, and going on from there. No process is left behind."""

import fcntl
import json
import os
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import pyte
import pytest

from tests.cli.plugins import NET, model
from tests.sweep.conftest import ENV, MPTRAIN, living, swept
from tests.telemetry.terminal import clean_environment

SLOW = "import os, time; time.sleep(0.05) if os.path.exists('slow') else None"
PATIENCE_S = 120.0
# A process of its own session, whose terminal is its standard input: what a Ctrl-C on it reaches.
ON_TERMINAL = """\
import fcntl, os, sys, termios
os.setsid()
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""


@pytest.fixture
def slow(here):
    """Arguments of a sweep of two runs that take long while the file `slow` is there."""
    Path("slow").touch()
    body = model("slow_net", "return Net()", NET.format(body=SLOW))
    return ["small.yaml", "seed=0..1", *body, "train.max_steps=600", "train.eval_every_steps=300"]


def wait_until(seen, what: str):
    deadline = time.monotonic() + PATIENCE_S
    while not (found := seen()):
        assert time.monotonic() < deadline, f"not in time: {what}"
        time.sleep(0.05)
    return found


def pids_at_work(count: int) -> list[int]:
    """Wait until so many runs have recorded a step; return their processes."""
    wait_until(lambda: len(list(Path("runs").rglob("metrics.jsonl"))) >= count, "runs that train")
    return [json.loads(path.read_text())["pid"] for path in Path("runs").rglob(".lock")]


def start(*arguments: str) -> subprocess.Popen:
    command = [*MPTRAIN, "sweep", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENV)


def test_sigterm_is_passed_on(slow):
    process = start(*slow, "--json")
    pids = pids_at_work(1)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=PATIENCE_S)
    result = json.loads(out)
    assert (process.returncode, result["status"]) == (75, "preempted"), err
    assert [run["status"] for run in result["runs"]] == ["preempted", "waiting"]
    assert result["error"] == "stopped by SIGTERM with 2 of 2 runs to go; the same command goes on"
    assert len(pids) == 1
    assert not living(pids)


def test_a_sweep_that_is_killed_takes_its_runs_along(slow):
    process = start(*slow, "--json")
    pids = pids_at_work(1)
    process.kill()
    process.communicate()
    wait_until(lambda: not living(pids), "the run's end")
    assert json.loads(next(Path("runs").rglob("result.json")).read_text())["status"] == "preempted"


class Terminal:
    """`mptrain sweep` on a pseudo-terminal, and what a person sees there."""

    def __init__(self, *arguments: str, columns: int = 110, rows: int = 24) -> None:
        self._master, slave = os.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self._screen = pyte.Screen(columns, rows)
        self._stream = pyte.ByteStream(self._screen)
        command = [sys.executable, "-c", ON_TERMINAL, *MPTRAIN, "sweep", *arguments]
        self.process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, env=clean_environment())
        os.close(slave)

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._master)

    def press_ctrl_c(self) -> None:
        os.write(self._master, b"\x03")

    def text(self) -> str:
        return "\n".join(line.rstrip() for line in self._screen.display)

    def read(self) -> bool:
        """Feed the screen with what has come; return False at the end."""
        if not select.select([self._master], [], [], 0.05)[0]:
            return True
        try:
            self._stream.feed(os.read(self._master, 65536))
        except OSError:  # the last writer has gone
            return False
        return True

    def wait_for(self, pattern: str) -> str:
        deadline = time.monotonic() + PATIENCE_S
        while not re.search(pattern, self.text()):
            assert self.read(), f"the sweep ended first:\n{self.text()}"
            assert time.monotonic() < deadline, f"not seen in time:\n{self.text()}"
        return self.text()

    def finish(self) -> int:
        while self.read():
            pass
        return self.process.wait(PATIENCE_S)


def test_ctrl_c_in_the_live_table_and_the_same_command_goes_on(slow):
    with Terminal(*slow, "--jobs", "2") as terminal:
        terminal.wait_for(r"1  seed=0 +running +[━·]+ \d+/600 +\d\.\d+")
        terminal.wait_for(r"2  seed=1 +running +[━·]+ \d+/600 +\d\.\d+")
        assert "2 runs: 2 running" in terminal.text()
        pids = pids_at_work(2)
        terminal.press_ctrl_c()
        assert terminal.finish() == 75
        text = terminal.text()
    assert re.search(r"1  seed=0  preempted", text)
    assert "error: stopped by SIGINT with 2 of 2 runs to go; the same command goes on" in text
    assert len(pids) == 2
    assert not living(pids)
    done = {path.parent: json.loads(path.read_text())["applied_steps"] for path in Path("runs").rglob("result.json")}
    Path("slow").unlink()
    result = swept(*slow, "--jobs", "2")
    assert [(run["status"], run["finished_before"]) for run in result["runs"]] == [("ok", False)] * 2
    for run_dir, steps in done.items():  # each went on where it was, and did not begin again
        assert json.loads((run_dir / "run.json").read_text())["first_step"] == steps > 0


def test_a_second_ctrl_c_kills(here):
    """The runs do not heed the first: their step never ends."""
    body = "if self.calls > 30: open('stuck', 'w').close(); import time; time.sleep(600)"
    arguments = ["small.yaml", "seed=0..1", *model("stuck_net", "return Net()", NET.format(body=body))]
    with Terminal(*arguments, "train.max_steps=100") as terminal:
        terminal.wait_for("1 running")
        wait_until(lambda: terminal.read() and Path("stuck").exists(), "a run that is stuck")
        pids = pids_at_work(1)
        terminal.press_ctrl_c()
        terminal.wait_for("press Ctrl-C again to kill them")
        terminal.press_ctrl_c()
        assert terminal.finish() == 130
        assert "error: interrupted twice; the runs were killed" in terminal.text()
    assert len(pids) == 1
    assert not living(pids)
