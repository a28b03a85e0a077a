"""`mptrain verify-resume` as a user runs it: real faults planted by plugins are named, and nothing is left behind."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from mptrain.cli.app import run as mptrain
from mptrain.precision.loss_scaler import DynamicLossScaler
from tests.cli.plugins import ENTRY, NET, model, plugin
from tests.cli.small_run import strict
from tests.cli.test_processes import ENV, MPTRAIN, gone, session

ROOT = Path(__file__).parents[2]
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))


@pytest.fixture
def scratch(here, monkeypatch):
    """The folder in which the command makes its temporary one; empty again after every test."""
    with tempfile.TemporaryDirectory() as name:  # here is too long a name for the sockets of loader processes
        monkeypatch.setenv("TMPDIR", name)
        monkeypatch.setenv("OMP_NUM_THREADS", "1")
        monkeypatch.setattr(tempfile, "tempdir", None)
        yield Path(name)
        assert ours(Path(name)) == []


def ours(folder):
    return [path.name for path in folder.glob("mptrain-verify-*")]


def verify(capsys, *arguments, config="small.yaml"):
    """Return the JSON object of a check and what it wrote to stderr."""
    code = mptrain(["verify-resume", str(config), "--steps", "6", *arguments, "--json"])
    captured = capsys.readouterr()
    result = strict(captured.out)
    assert result["exit_code"] == code
    return result, captured.err


def test_a_run_that_resumes_exactly(scratch, capsys):
    exact = ["precision=fp16", "ema=0.9", "train.accumulate=2", "data.cache=none", "data.num_workers=2"]
    overflows = "debug.plant=[{what: inf_grad, at: 2}, {what: inf_grad, at: 5}, {what: sigterm, at: 1}]"
    assert mptrain(["verify-resume", "small.yaml", "--steps", "6", "--cut", "2", *exact, overflows]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    head, _, *rows, said = captured.out.splitlines()
    assert head == "small: 6 steps, cut after attempted step 2, deterministic mode"
    assert said == "cut after attempted step 2 and resumed in a new process, the run is bit-equal to the whole one"
    assert {row.split()[-1] for row in rows} == {"bit-equal"}
    # Two of the attempts are skipped, so six steps take eight of them.
    assert rows[0].split() == ["batches", "6", "steps", "bit-equal"]
    assert not Path("runs").exists()


PATCH = """
from {module} import {owner}
{owner}.load_state_dict = lambda self, state: None
"""
COUNTER = NET.format(body="return self.layer(x) * (1 + self.calls / 100)")
BUFFER = """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(8, 4)
        self.register_buffer('warmth', torch.zeros(()), persistent=False)
    def forward(self, x):
        if self.training:
            self.warmth.add_(1.0)
        return self.layer(x) {use}
"""
GENERATOR = """
from mptrain.interfaces import Batch, DataSpec, DataSplits, InMemory
own = torch.Generator().manual_seed(0)
def noisy(batch, generator):
    noise = torch.randn(batch.inputs.shape, generator=own) if generator is not None else 0
    return Batch(batch.inputs + noise, batch.targets)
"""
SPLITS = """x, y = torch.randn(96, 8, generator=torch.Generator().manual_seed(1)), torch.arange(96) % 4
    return DataSplits(DataSpec((8,), 4), InMemory(x, y, noisy), InMemory(x, y, noisy))
"""
HIDDEN = "the model or the task keeps state that is in no checkpoint"


@pytest.mark.parametrize(
    ("fault", "components", "text"),
    [
        (lambda: model("v1", "return Net()", COUNTER), {"loss"}, f"losses: differs at attempted step 4: {HIDDEN}"),
        (
            lambda: model("v2", "return Net()", BUFFER.format(use="* (1 + self.warmth / 100)")),
            {"loss", "unsaved"},
            "the model buffer 'warmth' is in no checkpoint (persistent=False) and differs",
        ),
        (
            lambda: model("v3", "return Net()", NET.format(body="import time; x = x + time.time() % 1")),
            {"loss"},
            "not deterministic even without a cut: losses: differs before any cut at attempted step 1; look for",
        ),
        (
            lambda: [
                *plugin("v4", GENERATOR + ENTRY.format(base="DataConfig", kind="DATASETS", body=SPLITS)),
                "data={name: plug, batch_size: 8}",
            ],
            {"loader", "loss"},
            "batches: differs at attempted step 4: the dataset or a transform keeps state that is in no checkpoint",
        ),
        (
            lambda: plugin("v5", PATCH.format(module="mptrain.precision.loss_scaler", owner="DynamicLossScaler")),
            {"scaler"},
            "not restored: loss scale: scale and 1 more",
        ),
    ],
    ids=["counter", "buffer", "time", "generator", "scaler"],
)
def test_what_differs_is_named(fault, components, text, scratch, capsys, monkeypatch):
    # A plugin is imported by this process too: what it patches is put back for the tests that follow.
    monkeypatch.setattr(DynamicLossScaler, "load_state_dict", DynamicLossScaler.load_state_dict)
    common = ["ema=0.9", "precision={mode: fp16, loss_scale: {growth_interval: 2}}"]
    result, err = verify(capsys, *common, *fault())
    assert (result["exit_code"], result["status"]) == (3, "diverged")
    assert text in result["error"]
    assert err == f"error: {result['error']}\n"
    different = {name for name, each in result["components"].items() if not each["equal"]}
    assert components <= different


def test_a_buffer_that_changes_nothing_is_a_remark(scratch, capsys):
    result, err = verify(capsys, *model("v7", "return Net()", BUFFER.format(use="")))
    assert (result["exit_code"], result["error"], err) == (0, None, "")
    assert not result["components"]["unsaved"]["equal"]
    assert "'warmth' is in no checkpoint (persistent=False) and differed, without an effect" in result["verdict"]


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["--cut", "6"], 2, "--cut: 6 must be less than --steps, which is 6"),
        (["train.epochs=null", "train.max_steps=1"], 2, "train: the run has 1 step"),
        (["precision=fp61"], 2, "fp61"),
        (["model.num_classes=2"], 2, "model.num_classes: 2 outputs, but the largest training label is 3"),
        (["data={name: text_files, train: absent.txt}"], 6, "absent.txt"),
        (["device=cuda:99"], 4, "device: 'cuda:99' asked for"),
        (
            ["debug.plant=[{what: nan_loss, at: 1}, {what: nan_loss, at: 2}, {what: nan_loss, at: 3}]"],
            3,
            "not finite 3",
        ),
    ],
)
def test_a_run_that_fails_ends_as_it_would_by_itself(arguments, code, text, scratch, capsys):
    result, err = verify(capsys, *arguments)
    assert result["exit_code"] == code
    assert text in result["error"]
    assert err.startswith("error: ")
    assert err.count("\n") == 1


def test_a_bug_in_a_plugin_shows_its_lines(scratch, capsys):
    result, err = verify(
        capsys, *model("v8", "return Net()", NET.format(body="if self.calls > 3: raise KeyError('x')"))
    )
    assert (result["exit_code"], result["status"]) == (1, "crashed")
    assert "KeyError: 'x'" in err
    assert "v8.py" in err


def started(*arguments):
    command = [*MPTRAIN, "verify-resume", "small.yaml", *arguments]
    env = ENV | {"TMPDIR": os.environ["TMPDIR"]}
    return subprocess.Popen(
        command, start_new_session=True, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


SLEEPS = NET.format(body="if self.calls == 3: open(f'at-{os.getpid()}', 'w').close(); time.sleep(60)")


def hanging():
    """Start a check whose first run hangs in its third forward, with loaders of its own; return both processes."""
    workers = ["data.num_workers=2", "data.cache=none"]
    process = started(*workers, *model("v9", "return Net()", f"import os, time\n{SLEEPS}"))
    deadline = time.monotonic() + 100
    while not (found := list(Path().glob("at-*"))):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    trainer = int(found[0].name.removeprefix("at-"))
    assert len(session(trainer)) == 3
    return process, trainer


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 75), (signal.SIGHUP, 75)])
def test_a_signal_leaves_nothing_behind(number, code, scratch):
    process, trainer = hanging()
    assert len(ours(scratch)) == 1
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (code, "")
    assert err.count("\n") == 1
    assert "nothing was verified" in err
    assert gone(trainer)


def test_its_runs_end_with_it(scratch):
    process, trainer = hanging()
    process.kill()
    process.communicate(timeout=60)
    assert gone(trainer)
    for name in ours(scratch):  # a killed process cannot tidy up
        subprocess.run(["rm", "-r", scratch / name], check=True)


def test_a_run_that_is_killed_is_one_line(scratch):
    process, trainer = hanging()
    os.kill(trainer, signal.SIGKILL)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 5
    assert err == "error: a process of the check was killed; the machine may have run out of memory\n"


@pytest.mark.parametrize(
    ("limit", "text"), [(2000, "cannot write to"), (6000, "cannot write to"), (150_000, "cannot save")]
)
def test_a_full_disk_is_one_line(limit, text, scratch):
    """A limit on the size of a file fails like a full disk, for the config, the trace, and the checkpoint."""
    code = f"import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}));"
    code += "from mptrain.cli.app import run; sys.exit(run(sys.argv[1:]))"
    arguments = ["verify-resume", "small.yaml", "--steps", "4", "model.hidden=[3000]"]
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=ENV | {"TMPDIR": str(scratch)}, timeout=200)
    assert done.returncode == 4, done.stderr
    assert text in done.stderr
    assert "set TMPDIR to one with more space" in done.stderr
    assert done.stderr.count("\n") == 1


def test_the_command_itself_imports_no_torch():
    code = "import sys, mptrain.cli.verify_command, mptrain.trainer.verify_resume; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 0


def test_its_help(capsys):
    assert mptrain(["verify-resume", "--help"]) == 0
    said = capsys.readouterr().out
    assert {word.rstrip(",") for word in said.split() if word.startswith("--")} == {
        "--steps",
        "--cut",
        "--json",
        "--help",
    }
    assert mptrain(["--help"]) == 0
    commands = [
        line.split()[0] for line in capsys.readouterr().out.partition("Commands:")[2].splitlines() if line.strip()
    ]
    assert commands[:5] == ["run", "eval", "sample", "export", "verify-resume"]


@pytest.mark.slow
@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_resumes_exactly(path, scratch, capsys):
    small = ["data.batch_size=8", "data.eval_batch_size=200", "--steps", "4"]
    result, err = verify(capsys, *small, config=path)
    assert (result["exit_code"], result["error"]) == (0, None), err
    assert all(each["equal"] for name, each in result["components"].items() if name != "unsaved")
