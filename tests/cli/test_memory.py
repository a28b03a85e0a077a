"""Processes with little memory: exit 5 tells what was in use and what would help; train.micro_batch=auto goes on."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mptrain.cli.app import run as mptrain
from tests.cli.small_run import result_of, strict

ENV = {**os.environ, "OMP_NUM_THREADS": "1"}
CONFIG = """\
model: {name: mlp, hidden: [4096, 64]}
data: {name: synthetic, input_shape: [8], num_outputs: 4, num_train: 24000, num_test: 64, batch_size: 12000}
task: classification
optimizer: {name: adamw, lr: 0.01}
schedule: constant
train: {epochs: 1}
device: cpu
log: {every: 1, numerics_every: 0}
"""
SPARE = 450 * 2**20
"""The whole batch keeps 590 MB of activations and makes as much again of their gradients; half of it fits."""
LIMITED = f"""
import re, resource, sys
import torch, mptrain.trainer.launch, mptrain.models.small, mptrain.optim.build, torchmetrics
from mptrain.cli.app import run
held = 1024 * int(re.search(r"VmData:\\s+(\\d+) kB", open("/proc/self/status").read())[1])
resource.setrlimit(resource.RLIMIT_DATA, (held + {SPARE}, held + {SPARE}))
sys.exit(run(sys.argv[1:]))
"""


def limited(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", LIMITED, "run", "large.yaml", "--json", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=ENV, timeout=300)


@pytest.fixture
def large(here):
    Path("large.yaml").write_text(CONFIG)


def told(run_id: str, kind: str) -> list[dict]:
    lines = Path("runs/large", run_id, "events.jsonl").read_text().splitlines()
    return [event for event in map(json.loads, lines) if event["kind"] == kind]


@pytest.mark.skipif(sys.platform != "linux", reason="limits a process's memory as Linux does")
def test_a_batch_that_does_not_fit_ends_the_run_or_is_cut(large):
    done = limited("--run-id", "whole")
    assert done.returncode == 5, done.stderr
    result = result_of("whole", "large")
    assert (result["status"], result["micro_batch"]) == ("oom", None)
    assert strict(done.stdout) == result
    assert done.stderr == f"error: {result['error']}\n"
    assert result["error"].startswith("out of memory (")
    assert re.search(r"training holds weights [\d.]+ MiB, gradients [\d.]+ MiB, moments [\d.]+ MiB; ", result["error"])
    assert re.search(
        r"this process: [\d.]+ [GMK]?i?B resident, peak [\d.]+ [GMK]?i?B, limit [\d.]+ [GMK]?i?B \(RLIMIT_DATA\)",
        result["error"],
    )
    assert result["error"].endswith(
        "Try train.micro_batch=auto (the same training, in pieces that fit); or precision=bf16; or "
        "data.batch_size=6000 with train.accumulate=2"
    )

    done = limited("--run-id", "cut", "train.micro_batch=auto")
    assert done.returncode == 0, done.stderr
    result = result_of("cut", "large")
    assert result["status"] == "ok"
    assert result["applied_steps"] == 2
    events = told("cut", "micro_batch")
    assert events
    assert result["micro_batch"] == events[-1]["data"]["to"] < 12000
    assert events[0]["message"] == "out of memory at 12000 samples: going on with 6000"

    assert mptrain(["run", "large.yaml", "--run-id", "free", "--quiet"]) == 0
    free = result_of("free", "large")
    assert result["train_loss"] == pytest.approx(free["train_loss"], rel=1e-4)
    assert result["metrics"]["loss"] == pytest.approx(free["metrics"]["loss"], rel=1e-3)


PLANT = "debug.plant=[{what: oom, at: 2}]"


@pytest.mark.parametrize(
    ("overrides", "ways"),
    [
        ([], ["train.micro_batch=auto", "precision=bf16", "data.batch_size=4 with train.accumulate=2"]),
        (
            ["train.accumulate=3"],
            ["train.micro_batch=auto", "precision=bf16", "data.batch_size=4 with train.accumulate=6"],
        ),
        (["precision=fp64"], ["train.micro_batch=auto", "precision=fp32", "data.batch_size=4 with"]),
        (["train.micro_batch=4"], ["train.micro_batch=2, or auto", "precision=bf16", "optimizer=sgd (frees"]),
        (["precision=bf16", "ema=0.9"], ["train.micro_batch=auto", "data.batch_size=4 with", "ema=null (frees"]),
        (
            ["precision=bf16-pure", "train.micro_batch=1", "optimizer={name: sgd, momentum: 0.0}"],
            ["a smaller model", "a machine or device with more memory", "ending other programs"],
        ),
        (
            ["precision=bf16", "train.micro_batch=1", "data.num_workers=2", "data.cache=none", "optimizer=sgd"],
            ["data.num_workers=1 (each", "precision=bf16-pure (", "optimizer.momentum=0 (frees"],
        ),
    ],
    ids=str,
)
def test_the_ways_out_are_three_that_this_run_has_not_taken(here, overrides, ways, capsys):
    model = "model.norm=none"
    assert mptrain(["run", "small.yaml", "--run-id", "a", "--quiet", model, PLANT, *overrides]) == 5
    error = result_of("a")["error"]
    assert capsys.readouterr().err.splitlines()[-1] == f"error: {error}"
    found = error.partition(". Try ")[2].split("; or ")
    assert len(found) == 3
    for way, wanted in zip(found, ways, strict=True):
        assert way.startswith(wanted)
    assert re.search(
        r"; this process: [\d.]+ [GMK]?i?B resident, peak [\d.]+ [GMK]?i?B, .*machine [\d.]+ [GMK]?i?B\.", error
    )


def test_a_size_beyond_all_memory_is_no_bug(here, capsys):
    assert mptrain(["run", "small.yaml", "--run-id", "a", "--quiet", f"model.num_classes={2**63 - 1}"]) == 5
    assert capsys.readouterr().err.startswith("error: out of memory (Storage size calculation overflowed")


def test_in_evaluation_the_way_out_is_a_smaller_evaluation(here, capsys):
    Path("crowded.py").write_text(
        """
import torch
from mptrain.config.schema import TaskConfig
from mptrain.registry import TASKS
from mptrain.tasks.classification import Classification
class Crowded(Classification):
    def outputs(self, model, batch):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")
@TASKS.register("crowded", config=TaskConfig, description="x")
def build(config, spec):
    return Crowded(spec.num_outputs, 0.0)
"""
    )
    assert mptrain(["run", "small.yaml", "--run-id", "a", "--quiet", "plugins=[crowded]", "task=crowded"]) == 5
    assert "Try data.eval_batch_size=4; or precision=bf16; or optimizer=sgd (frees" in result_of("a")["error"]


def test_auto_goes_on_and_says_so(here, capsys):
    assert mptrain(["run", "small.yaml", "--run-id", "a", "train.micro_batch=auto", PLANT]) == 0
    assert result_of("a")["micro_batch"] == 4
    shown = capsys.readouterr().out
    assert "out of memory at 8 samples: going on with 4" in shown
    assert "where memory runs out, BatchNorm (1 in this model) normalises over a piece at a time" in shown
