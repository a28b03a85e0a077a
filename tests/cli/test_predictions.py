"""`mptrain eval --predictions`: a line for each test sample, the file whole or not at all; what cannot be written."""

from pathlib import Path

import pytest

from mptrain.cli.app import run as mptrain
from tests.cli.plugins import task
from tests.cli.small_run import strict
from tests.cli.test_bad_input import LONG, refused


@pytest.fixture
def saved(here):
    assert mptrain(["run", "small.yaml", "--run-id", "a", "--quiet"]) == 0
    return "runs/small/a"


def lines(path: str) -> list[dict]:
    return [strict(line) for line in Path(path).read_text().splitlines()]


def test_every_test_sample_has_its_line_in_order(saved, capsys):
    assert mptrain(["eval", saved, "--predictions", "new/p.jsonl", "data.eval_batch_size=7", "--json"]) == 0
    result = strict(capsys.readouterr().out)
    found = lines("new/p.jsonl")
    assert result["predictions"] == "new/p.jsonl"
    assert [record["index"] for record in found] == list(range(50))
    right = sum(record["predicted"] == record["target"] for record in found)
    assert right / 50 == result["metrics"]["accuracy"]
    assert [child.name for child in Path("new").iterdir()] == ["p.jsonl"]


def test_an_earlier_file_is_replaced(saved, capsys):
    Path("p.jsonl").write_text("old\n")
    assert mptrain(["eval", saved, "--predictions", "p.jsonl"]) == 0
    assert "predictions    p.jsonl" in capsys.readouterr().out
    assert len(lines("p.jsonl")) == 50


def test_what_is_no_file_is_refused(saved, capsys):
    code, line = refused(capsys, "eval", saved, "--predictions", ".", "--json")
    assert (code, "is a folder; name a file in it" in line) == (2, True)
    for path in (LONG, "small.yaml/p"):
        code, line = refused(capsys, "eval", saved, "--predictions", path)
        assert (code, "choose another --predictions" in line) == (4, True)


SCORES = "{'score': 1.0}"
BAD_TASKS = {
    "none": ("", "the task T has none; define predictions"),
    "too few": ("    def predictions(self, outputs, batch): return []\n", "0 predictions of a batch of 8 samples"),
    "tensors": (
        "    def predictions(self, outputs, batch): return [{'p': row} for row in outputs]\n",
        "its predictions must be plain numbers, texts and lists",
    ),
}


@pytest.mark.parametrize("case", sorted(BAD_TASKS))
def test_a_task_whose_predictions_cannot_be_written_is_one_line(here, case, capsys):
    more, words = BAD_TASKS[case]
    overrides = task(f"pred_{case.replace(' ', '_')}", SCORES, more=more)
    assert mptrain(["run", "small.yaml", "--run-id", "t", "--quiet", *overrides]) == 0
    capsys.readouterr()
    Path("p.jsonl").write_text("old\n")
    code, line = refused(capsys, "eval", "runs/small/t", "--predictions", "p.jsonl")
    assert (code, words in line) == (2, True)
    assert Path("p.jsonl").read_text() == "old\n"
    assert not Path(".p.jsonl.tmp").exists()


def test_numbers_that_are_none_are_flagged(here):
    more = "    def predictions(self, outputs, batch): return [{'p': float('nan')} for _ in outputs]\n"
    assert mptrain(["run", "small.yaml", "--run-id", "t", "--quiet", *task("pred_nan", SCORES, more=more)]) == 0
    assert mptrain(["eval", "runs/small/t", "--predictions", "p.jsonl"]) == 0
    assert lines("p.jsonl")[49] == {"index": 49, "p": None, "p_nonfinite": "nan"}
