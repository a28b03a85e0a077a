"""Image files that cannot be read, through the command line: refused by name, or left out, reported and counted."""

import json
from pathlib import Path

import pytest
from PIL import Image

from mptrain.cli.app import run as mptrain
from tests.cli.small_run import result_of, strict
from tests.cli.test_bad_input import refused

CONFIG = """\
model: {name: mlp, hidden: [4]}
data: {name: image_folder, root: pictures, image_size: 8, batch_size: 4, drop_last: false}
task: classification
optimizer: {name: sgd, lr: 0.01}
schedule: constant
train: {epochs: 3}
device: cpu
log: {every: 1}
"""
WORKERS = pytest.mark.parametrize("workers", ["data.num_workers=0", "data.num_workers=2"])


@pytest.fixture
def pictures(here):
    """Ten pictures for training, of which three are damaged, and ten for the test, of which one is."""
    for split in ("train", "test"):
        for label, name in enumerate(("ants", "bees")):
            folder = Path("pictures", split, name)
            folder.mkdir(parents=True)
            for index in range(5):
                Image.new("RGB", (12, 10), (200 * label, 10, 10 * index)).save(folder / f"{index}.png")
    for bad in ("train/ants/0.png", "train/ants/3.png", "train/bees/2.png", "test/ants/4.png"):
        path = Path("pictures", bad)
        path.write_bytes(path.read_bytes()[:50])
    Path("small.yaml").write_text(CONFIG)


def bad_file_events(run_id: str) -> list[dict]:
    events = map(json.loads, Path("runs/small", run_id, "events.jsonl").read_text().splitlines())
    return [event for event in events if event["kind"] == "bad_file"]


@WORKERS
def test_raise_ends_the_run_naming_the_file(pictures, workers, capsys):
    code, line = refused(capsys, "run", "small.yaml", "--run-id", "a", "--json", workers)
    assert code == 6
    assert "pictures/train/" in line
    result = result_of("a")
    assert (result["status"], result["exit_code"], result["error"]) == ("data_error", 6, line.removeprefix("error: "))


@WORKERS
def test_skip_goes_on_without_them_and_counts_them(pictures, workers, capsys):
    assert mptrain(["run", "small.yaml", "--run-id", "a", "--quiet", workers, "data.on_error=skip"]) == 0
    result = result_of("a")
    assert result["skipped_files"]["count"] == len(result["skipped_files"]["examples"]) == 4
    assert result["metrics"]["samples"] == 9
    # Once for each file, though three epochs met three of them; the console says so too.
    events = bad_file_events("a")
    assert len({event["message"] for event in events}) == len(events) == 4
    assert all(event["message"].startswith("left out: data.root: pictures/") for event in events)
    assert capsys.readouterr().err.count("! bad_file at step") == 4
    # The same run, whoever reads.
    assert mptrain(["run", "small.yaml", "--run-id", "b", "data.on_error=skip"]) == 0
    shown = capsys.readouterr().out
    assert "! bad_file at step" in shown
    assert "skipped files  4 (see bad_file in events.jsonl)" in shown
    assert (result["train_loss"], result["metrics"]) == (result_of("b")["train_loss"], result_of("b")["metrics"])


def test_eval_counts_them_and_its_predictions_keep_the_index(pictures, capsys):
    assert mptrain(["run", "small.yaml", "--run-id", "a", "--quiet", "data.on_error=skip"]) == 0
    capsys.readouterr()
    assert mptrain(["eval", "runs/small/a", "--json", "--predictions", "p.jsonl"]) == 0
    captured = capsys.readouterr()
    skipped = strict(captured.out)["skipped_files"]
    assert skipped["count"] == 1
    assert "test/ants/4.png" in skipped["examples"][0]
    assert "! left out: data.root: pictures/test/ants/4.png" in captured.err
    records = [strict(line) for line in Path("p.jsonl").read_text().splitlines()]
    assert [record["index"] for record in records] == [0, 1, 2, 3, 5, 6, 7, 8, 9]
    assert [record["target"] for record in records] == ["ants"] * 4 + ["bees"] * 5
    assert mptrain(["eval", "runs/small/a"]) == 0
    assert "skipped_files  1\n" in capsys.readouterr().out
    assert refused(capsys, "eval", "runs/small/a", "data.on_error=raise")[0] == 6


def test_a_resumed_run_counts_and_reports_each_file_once(pictures, capsys):
    options = ["run", "small.yaml", "--quiet", "data.on_error=skip", "checkpoint.every=1"]
    assert mptrain([*options, "--run-id", "a", "debug.plant=[{what: sigterm, at: 4}]"]) == 75
    before = result_of("a")["skipped_files"]["count"]
    assert mptrain([*options, "--run-id", "a", "--resume", "auto"]) == 0
    assert mptrain([*options, "--run-id", "whole"]) == 0
    assert before == 3
    assert result_of("a")["skipped_files"] == result_of("whole")["skipped_files"]
    assert len(bad_file_events("a")) == len(bad_file_events("whole")) == 4
    assert result_of("a")["metrics"] == result_of("whole")["metrics"]


def test_a_run_without_bad_files_counts_none(here):
    assert mptrain(["run", "small.yaml", "--run-id", "a", "--quiet"]) == 0
    assert result_of("a")["skipped_files"] == {"count": 0, "examples": []}
