"""Data that hang, vanish or hold NaN in mid-run: a named reason, the right exit code, and no hang."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mptrain.cli.app import run as mptrain
from mptrain.data.order import EpochOrder
from tests.cli.plugins import data, model, task
from tests.cli.small_run import CONFIG, result_of
from tests.cli.test_bad_input import refused

ENV = {**os.environ, "OMP_NUM_THREADS": "1"}

STREAM = """
import time
from torch.utils.data import Dataset
from mptrain.interfaces import DataSpec, DataSplits, InMemory, Streamed, as_it_is
class Samples(Dataset):
    def __len__(self): return 96
    def __getitem__(self, index):
        {body}
        return torch.full((8,), float(index)), index % 4
"""
SPLITS = "x = torch.ones(8, 8); y = torch.ones(8, dtype=torch.int64)\n    return DataSplits({})".format(
    "DataSpec((8,), 4), Streamed(Samples()), InMemory(x, y, as_it_is)"
)


def stream(name: str, body: str) -> list[str]:
    """Write a dataset whose samples are read one by one; sample i is i, and `body` may spoil it."""
    overrides = data(name, SPLITS)
    Path(f"{name}.py").write_text(Path(f"{name}.py").read_text() + STREAM.format(body=body))
    return [*overrides, "data.batch_size=8"]


def ended(capsys, *overrides: str) -> tuple[int, str]:
    """Run a config that fails; return its exit code and its one line."""
    code, line = refused(capsys, "run", "small.yaml", "--run-id", "a", "--json", *overrides)
    assert result_of("a")["exit_code"] == code
    return code, line


@pytest.fixture
def free(here):
    """The small config without a dataset, so that plugins may give theirs."""
    Path("small.yaml").write_text("\n".join(line for line in CONFIG.splitlines() if not line.startswith("data:")))


def test_a_loader_that_hangs_ends_the_run(free):
    overrides = stream("hangs", "time.sleep(3600 if index == 50 else 0)")
    command = [sys.executable, "-m", "mptrain", "run", "small.yaml", "--run-id", "a", *overrides]
    done = subprocess.run(
        [*command, "data.num_workers=2", "data.read_timeout=1.5"], capture_output=True, text=True, env=ENV, timeout=100
    )
    assert (done.returncode, result_of("a")["status"]) == (6, "data_error"), done.stderr
    assert done.stderr == (
        "error: data.read_timeout: no batch came from the loader processes for 1.5 s; see whether the files' disk or "
        "network answers, raise data.read_timeout, or set it to 0 to wait for ever\n"
    )


@pytest.mark.parametrize("timeout", ["0", "600"])
def test_a_slow_loader_is_waited_for(free, timeout):
    overrides = stream("slow", "time.sleep(0.5 if index == 50 else 0)")
    more = ["data.num_workers=1", f"data.read_timeout={timeout}", "train.epochs=1"]
    assert mptrain(["run", "small.yaml", "--run-id", "a", "--quiet", *overrides, *more]) == 0


@pytest.mark.parametrize("workers", [0, 2])
def test_a_nan_in_the_input_is_named_with_its_samples(free, workers, capsys):
    overrides = stream("spoilt", "if index in (17, 40, 61): return torch.full((8,), float('nan')), index % 4")
    more = [f"data.num_workers={workers}", "train.max_nonfinite_losses=1", "data.shuffle=false"]
    code, line = ended(capsys, *overrides, *more)
    assert code == 3
    assert "the loss was not finite 1 times in a row, up to attempted step 3 " in line
    assert line.endswith(
        ". The data are the cause: its inputs hold NaN or infinity in training sample 17 (epoch 1); "
        "repair or remove them"
    )


def test_all_samples_of_the_step_are_looked_at(free, capsys):
    overrides = stream("spoilt2", "if index >= 32: return torch.full((8,), float('inf')), index % 4")
    more = ["train.accumulate=2", "train.max_nonfinite_losses=2", "data.shuffle=false", "data.num_workers=1"]
    code, line = ended(capsys, *overrides, *more)
    assert code == 3
    assert "in training samples 48, 49, 50, 51, 52, 53, 54, 55 and 8 more (epoch 1)" in line


def test_the_very_samples_are_named_where_they_are_shuffled_and_held(free, capsys):
    body = (
        "x = torch.arange(96.0).view(96, 1).repeat(1, 8); x[[11, 70]] = float('nan'); y = torch.arange(96) % 4\n"
        "    return DataSplits(DataSpec((8,), 4), InMemory(x, y, as_it_is), InMemory(x[:8], y[:8], as_it_is))"
    )
    overrides = data("shuffled", body)
    head = "from mptrain.interfaces import DataSpec, DataSplits, InMemory, as_it_is\n"
    Path("shuffled.py").write_text(head + Path("shuffled.py").read_text())
    code, line = ended(capsys, *overrides, "data.batch_size=8", "train.max_nonfinite_losses=1")
    assert code == 3
    first = next(i for i in EpochOrder(96, 8, True, True, 0).ids(0).tolist() if i in (11, 70))
    assert f"its inputs hold NaN or infinity in training sample {first} (epoch 1)" in line


def test_where_the_data_are_finite_that_is_said(here, capsys):
    plant = "debug.plant=[{what: nan_loss, at: 4}, {what: nan_loss, at: 5}, {what: nan_loss, at: 6}]"
    code, line = ended(capsys, "precision=bf16", plant)
    assert code == 3
    assert line.endswith("lower optimizer.lr, or set train.clip_norm. The inputs and targets of that step are finite")


def test_a_loss_that_goes_nan_under_bf16(here, capsys):
    # Real: the rate is far too high, and nothing is planted.
    more = ["precision=bf16", "optimizer={name: sgd, lr: 1e12}", "model.norm=none"]
    code, line = ended(capsys, *more)
    assert code == 3
    assert "not finite" in line
    assert result_of("a")["status"] == "diverged"


@pytest.mark.parametrize("workers", [0, 2])
def test_pictures_that_vanish_in_mid_run(here, workers, capsys):
    for split in ("train", "test"):
        for label, kind in enumerate(("ants", "bees")):
            folder = Path("pictures", split, kind)
            folder.mkdir(parents=True)
            for index in range(8):
                Image.new("RGB", (8, 8), (200 * label, 10, 10 * index)).save(folder / f"{index}.png")
    # They vanish after the first step, whoever reads.
    gone = """
import pathlib
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(192, 2)
    def forward(self, x):
        if self.training:
            for path in pathlib.Path("pictures/train").glob("*/*.png"): path.unlink()
        return self.layer(x.flatten(1))
"""
    Path("small.yaml").write_text(
        "data: {name: image_folder, root: pictures, image_size: 8, batch_size: 2}\n"
        + "\n".join(line for line in CONFIG.splitlines() if not line.startswith(("data:", "model:")))
    )
    overrides = [*model("vanish", "return Net()", gone), f"data.num_workers={workers}"]
    code, line = ended(capsys, *overrides)
    assert code == 6
    assert "pictures/train/" in line
    assert result_of("a")["status"] == "data_error"


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(
    ("act", "words"),
    [
        ("os.unlink('train.bin')", "train.bin cannot be read any more (No such file or directory)"),
        ("os.truncate('train.bin', 64)", "train.bin was cut short while the run reads it"),
    ],
)
def test_token_files_that_vanish_in_mid_run(here, workers, act, words):
    # In a process of its own: a mapped file that is cut short is a bus error where nobody looks.
    np.random.default_rng(0).integers(0, 50, 40_000).astype("<u2").tofile("train.bin")
    np.random.default_rng(1).integers(0, 50, 400).astype("<u2").tofile("test.bin")
    net = f"""
import os
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.tokens, self.head, self.calls = nn.Embedding(50, 8), nn.Linear(8, 50), 0
    def forward(self, x):
        self.calls += self.training
        if self.calls == 3 and self.training: {act}
        return self.head(self.tokens(x))
"""
    Path("small.yaml").write_text(
        "data: {name: token_files, train: train.bin, test: test.bin, vocab_size: 50, context: 16, batch_size: 8}\n"
        "task: language_modelling\n"
        + "\n".join(line for line in CONFIG.splitlines() if not line.startswith(("data:", "model:", "task:")))
    )
    overrides = [*model("vanish2", "return Net()", net), f"data.num_workers={workers}"]
    command = [sys.executable, "-m", "mptrain", "run", "small.yaml", "--run-id", "a", "--quiet", *overrides]
    done = subprocess.run(command, capture_output=True, text=True, env=ENV, timeout=120)
    assert (done.returncode, result_of("a")["status"]) == (6, "data_error"), done.stderr
    (line,) = [line for line in done.stderr.splitlines() if not line.startswith("! loader_bound")]
    assert line.startswith(f"error: data: {words}")
    assert 3 <= result_of("a")["attempted_steps"] < 100


@pytest.mark.parametrize(
    ("loss", "words"),
    [
        ("return model(batch.inputs).detach().square().mean()", "loss is not connected to any of the"),
        ("return torch.tensor(1.0)", "loss is not connected to any of the"),
        ("return model(batch.inputs).square().mean(1)", "its loss must be one number, a 0-d tensor, and is a tensor"),
    ],
)
@pytest.mark.parametrize("size", ["null", "3"])
def test_a_loss_that_teaches_nothing_is_named(here, loss, words, size, capsys):
    overrides = task("odd", "{'score': 1.0}", more=f"    def loss(self, model, batch): {loss}\n")
    code, line = ended(capsys, f"train.micro_batch={size}", *overrides)
    assert code == 2
    assert words in line
    assert result_of("a")["status"] == "config_error"


@pytest.mark.parametrize("shape", ["(len(x), 3)", "(len(x),)", "(len(x) + 1, 4)", "(len(x), 4, 2)"])
def test_a_model_that_returns_the_wrong_shape_is_named(here, shape, capsys):
    net = f"""
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
    def forward(self, x): return self.weight * torch.ones({shape})
"""
    code, line = ended(capsys, *model("odd2", "return Net()", net))
    assert code == 2
    assert line.startswith("error: model: its output is shape (")


def test_zero_gradients_end_a_run_with_exit_3(here, capsys):
    overrides = task(
        "zero", "{'score': 1.0}", more="    def loss(self, model, batch): return (0 * model(batch.inputs)).mean()\n"
    )
    more = ["train.max_zero_gradients=5", "train.micro_batch=3"]
    code, line = ended(capsys, *overrides, *more)
    assert code == 3
    assert "all gradients were exactly 0 in 5 steps in a row" in line
