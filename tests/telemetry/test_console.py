"""Which console is chosen where, and several reporters at once."""

import subprocess
import sys

import pytest

from mptrain.telemetry.console import Fanout
from tests.telemetry.records import evaluation, overflow, progress, result, run_info
from tests.telemetry.terminal import Terminal, clean_environment

SCRIPT = [sys.executable, "-m", "tests.telemetry.scripted_run", "--planted"]


@pytest.mark.parametrize("environment", [{"CI": "true"}, {"TERM": "dumb"}])
def test_plain_on_a_terminal_that_should_not_be_redrawn(environment: dict[str, str]):
    with Terminal(**environment) as terminal:
        assert terminal.finish() == 0
        assert b"\x1b" not in terminal.raw
        assert b"epoch 1/4" in terminal.raw


def test_ci_false_is_not_ci():
    with Terminal(CI="false") as terminal:
        assert terminal.finish() == 0
        assert b"\x1b" in terminal.raw


@pytest.mark.parametrize("option", ["--quiet", "--json"])
def test_stdout_is_left_alone(option: str):
    done = subprocess.run([*SCRIPT, option], capture_output=True, text=True, check=True, env=clean_environment())
    assert done.stdout == ""
    assert done.stderr.splitlines() == [
        "!! PLANTED FAULT: inf_grad at 12 (a drill, not a result)",
        "!! NOTICE: fp16 convolutions are slow on this CPU; use precision=bf16",
    ]


def test_without_any_stdout():
    command = 'exec "$@" >&-'
    done = subprocess.run(["sh", "-c", command, "sh", *SCRIPT], stderr=subprocess.PIPE, text=True, check=True)
    assert "Traceback" not in done.stderr


def test_rich_is_not_imported_without_a_terminal():
    code = (
        "import sys; from mptrain.telemetry.console import make_console; "
        "make_console(quiet=False, json_output=False); sys.exit('rich' in sys.modules or 'torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL, check=True)


class Recorder:
    def __init__(self, *, fails: bool = False) -> None:
        self.calls: list[tuple[str, object]] = []
        self._fails = fails

    def begin(self, info):
        self.calls.append(("begin", info))

    def progress(self, progress):
        self.calls.append(("progress", progress))

    def window(self, progress):
        self.calls.append(("window", progress))

    def evaluated(self, evaluation):
        self.calls.append(("evaluated", evaluation))

    def event(self, event):
        self.calls.append(("event", event))

    def end(self, result):
        self.calls.append(("end", result))
        if self._fails:
            raise OSError("disk full")


def test_fanout_tells_everyone_everything():
    first, second = Recorder(), Recorder()
    fanout = Fanout([first, second])
    story = [
        ("begin", run_info()),
        ("progress", progress(1)),
        ("window", progress(2)),
        ("evaluated", evaluation()),
        ("event", overflow()),
        ("end", result()),
    ]
    for method, record in story:
        getattr(fanout, method)(record)
    assert first.calls == second.calls == story


def test_fanout_ends_everyone_even_if_one_fails():
    first, second = Recorder(fails=True), Recorder()
    with pytest.raises(OSError, match="disk full"):
        Fanout([first, second]).end(result())
    assert [name for name, _ in second.calls] == ["end"]
