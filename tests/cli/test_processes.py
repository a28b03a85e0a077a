"""Processes of their own under signals, kills, closed streams, full disks and odd installations."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from mptrain.cli.app import run as mptrain
from tests.cli.plugins import NET, model, plugin
from tests.cli.small_run import result_of, strict

ENV = {**os.environ, "OMP_NUM_THREADS": "1"}
MPTRAIN = [sys.executable, "-m", "mptrain"]


def start(*arguments: str, **more) -> subprocess.Popen:
    """Start a run in a session of its own, so that whatever it leaves behind can be found."""
    command = [*MPTRAIN, "run", "small.yaml", *arguments]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, start_new_session=True, env=ENV, **streams, **more)


def wait_for_training(process: subprocess.Popen) -> None:
    for line in process.stdout:
        if line.startswith("epoch"):
            return
    raise AssertionError(process.stderr.read())


def wait_for_file(name: str, process: subprocess.Popen) -> None:
    while not Path(name).exists():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.02)


def session(leader: int) -> list[int]:
    """Return the living processes of a session."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it ended while we looked
        if int(fields[3]) == leader and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return found


def gone(leader: int) -> bool:
    deadline = time.monotonic() + 20
    while session(leader) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not session(leader)


LOADERS = ["data.num_workers=2", "data.cache=none", "train.epochs=100000", "--run-id", "a"]


def test_a_signal_leaves_no_loader_behind(here):
    process = start(*LOADERS)
    wait_for_training(process)
    os.killpg(process.pid, signal.SIGHUP)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, result_of("a")["status"]) == (75, "preempted"), err
    assert gone(process.pid)


def test_a_killed_loader_is_one_line(here):
    process = start(*LOADERS)
    wait_for_training(process)
    loader = next(pid for pid in session(process.pid) if pid != process.pid)
    os.kill(loader, signal.SIGKILL)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 6, err
    assert err.startswith("error: a loader process was killed (")
    assert err.count("\n") == 1
    assert result_of("a")["status"] == "data_error"
    assert gone(process.pid)


def test_a_second_interrupt_leaves_at_once(here):
    # The first evaluation never ends, so the second Ctrl-C meets a run that has not stopped for the first.
    body = "if not self.training and self.calls > 5: open('evaluating', 'w').close(); import time; time.sleep(60)"
    process = start("train.eval_every_steps=5", "--run-id", "a", *model("q4", "return Net()", NET.format(body=body)))
    wait_for_file("evaluating", process)
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, result_of("a")["status"]) == (130, "interrupted"), err
    assert "Traceback" not in err


def test_a_signal_before_the_first_step_is_a_result_too(here):
    slow = model("q5", "import time; open('building', 'w').close(); time.sleep(60)")
    process = start("--run-id", "a", *slow)
    wait_for_file("building", process)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, result_of("a")["status"]) == (75, "preempted")
    assert err == "error: stopped by SIGTERM before the first step; nothing is lost, start it again\n"


def test_a_signal_while_the_config_is_loaded_leaves_nothing_behind(here):
    process = start("--run-id", "a", *plugin("q6", "import os, signal\nos.kill(os.getpid(), signal.SIGUSR1)"))
    _, err = process.communicate(timeout=60)
    assert process.returncode == 75
    assert err == "error: stopped by SIGUSR1 before the first step; nothing is lost, start it again\n"
    assert not Path("runs").exists()


def test_one_folder_goes_to_one_of_two_runs(here):
    runs = [start("--run-id", "same", "--quiet") for _ in range(2)]
    codes = []
    for process in runs:
        process.communicate(timeout=60)
        codes.append(process.returncode)
    assert sorted(codes) == [0, 2]
    assert result_of("same")["status"] == "ok"


def test_standard_streams_that_are_closed_or_full(here):
    command = " ".join(MPTRAIN)
    script = f"""
        {command} run small.yaml --run-id a --json >&- ; echo $?
        {command} check small.yaml precision=fp61 >&- 2>&- ; echo $?
        {command} ls tasks 2>err >/dev/full ; echo $? ; cat err
    """
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, env=ENV, timeout=120)
    expected = ["0", "2", "4", "error: cannot write to standard output: No space left on device"]
    assert (done.stdout.splitlines(), done.stderr) == (expected, "")
    assert result_of("a")["status"] == "ok"


def test_a_torchvision_that_does_not_import(here):
    Path("fake/torchvision").mkdir(parents=True)
    Path("fake/torchvision/__init__.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')\n")

    def mptrain_with_it(*arguments: str) -> subprocess.CompletedProcess[str]:
        env = ENV | {"PYTHONPATH": "fake"}
        return subprocess.run([*MPTRAIN, *arguments], capture_output=True, text=True, env=env, timeout=120)

    configs = Path(__file__).parents[2] / "configs"
    done = mptrain_with_it("run", str(configs / "resnet.yaml"), "--max-steps", "1", "--json")
    assert done.returncode == strict(done.stdout)["exit_code"] == 4
    assert done.stderr.startswith("error: torchvision cannot be imported (operator torchvision::nms does not exist)")
    assert done.stderr.count("\n") == 1
    assert mptrain_with_it("run", str(configs / "mlp.yaml"), "--max-steps", "1", "--quiet").returncode == 0
    assert "PROBLEM      torchvision cannot be imported" in mptrain_with_it("env").stdout


def test_a_disk_that_fills_up(here):
    # A limit on the size of a file fails like a full disk: with an error in the middle of writing.
    limit = "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (6000, 6000));"
    code = f"{limit} from mptrain.cli.app import run; sys.exit(run(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "run", "small.yaml", "--run-id", "a", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, env=ENV, timeout=120)
    assert (done.returncode, result_of("a")["status"]) == (4, "env_error"), done.stderr
    *told, error = done.stderr.splitlines()
    assert told
    assert all(line.startswith("! save_failed at step 24: cannot save (") for line in told)
    assert error.startswith("error: the last save failed: cannot save (")
    assert error.endswith("; there is no checkpoint")
    assert strict(done.stdout) == result_of("a")


@pytest.mark.parametrize("mode", ["fp64", "fp32", "bf16", "fp16", "auto"])
def test_odd_lengths_work(here, mode):
    """More micro-batches to a step than an epoch has, evaluations that never come, a stop long before the end."""
    odd = ["train.accumulate=100", "train.eval_every_steps=1000", "train.early_stop={patience: 1}"]
    assert mptrain(["run", "small.yaml", "--run-id", "a", "--quiet", f"precision={mode}", *odd]) == 0
    assert result_of("a")["applied_steps"] == 2
    assert torch.isfinite(torch.tensor(result_of("a")["train_loss"]))


def test_a_temporary_folder_whose_name_is_too_long_for_loaders(here):
    folder = here / ("t" * 80)
    folder.mkdir()
    done = subprocess.run(
        [*MPTRAIN, "run", "small.yaml", *LOADERS],
        capture_output=True,
        text=True,
        env=ENV | {"TMPDIR": str(folder)},
        timeout=60,
    )
    assert done.returncode == 4
    assert done.stderr.startswith(
        "error: data.num_workers: loader processes need a temporary folder whose name has at most 75"
    )
    assert done.stderr.count("\n") == 1


def test_a_batch_that_cannot_be_handed_over_ends_the_run(here):
    """Where a loader may open no more files, it can share no memory: its batch was dropped, and waited for."""
    Path("few.py").write_text(
        "import multiprocessing.resource_sharer as sharer\n"
        "def full(*_): raise OSError(24, 'Too many open files')\n"
        "sharer.DupFd.__init__ = full\n"
    )
    done = subprocess.run(
        [*MPTRAIN, "run", "small.yaml", *LOADERS, "plugins=[few]"], capture_output=True, text=True, env=ENV, timeout=60
    )
    assert done.returncode == 6
    *told, error = done.stderr.splitlines()
    assert "! a loader process cannot hand over a batch ([Errno 24] Too many open files)" in told
    assert error.startswith("error: a loader process was killed (")
    assert "Traceback" not in done.stderr
