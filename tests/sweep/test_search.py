"""A search: trials whose values come from the ends of earlier ones, studies that go on, and pruning."""

import errno
import json
import os
import sys
from pathlib import Path

import pytest

from mptrain.cli.app import run as mptrain
from mptrain.errors import CapabilityError
from mptrain.sweep.child import Outcome
from mptrain.sweep.follow import Progress
from mptrain.sweep.request import read_request
from tests.sweep.conftest import swept

pytest.importorskip("optuna")

SPACE = ["small.yaml", "optimizer.lr=log:1e-4..1", "data.batch_size=4,8", "model.hidden=[4],[8]", "precision=fp32,bf16"]


def search(*arguments: str, trials: int = 4):
    from mptrain.sweep.search import OptunaSearch

    return OptunaSearch(read_request(arguments, searches=True), trials, Path("runs"))


def ok(value: float | None) -> Outcome:
    main = {"name": "accuracy", "higher_is_better": True}
    return Outcome("ok", 0, None, {"metrics": {"accuracy": value, "loss": 9.0}, "main_metric": main})


def full_disk(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def end(source, row, outcome: Outcome, evaluations: tuple[float, ...] = ()) -> None:
    row.progress = Progress(evaluations=list(evaluations), metric="accuracy")
    row.end(outcome)
    source.ended(row)


def test_values_are_drawn_from_ranges_and_lists(here):
    source = search(*SPACE)
    row = source.next()
    overrides = dict(text.split("=", 1) for text in row.run.overrides)
    assert list(overrides) == ["precision", "optimizer.lr", "data.batch_size", "model.hidden"]
    assert row.run.config.precision.mode == "fp32"
    assert 1e-4 <= row.run.config.optimizer.lr <= 1
    assert row.run.config.data.batch_size in (4, 8)
    assert tuple(row.run.config.model.hidden) in ((4,), (8,))
    assert row.run.run_id.startswith("precision-fp32_search-")
    assert row.run.label.startswith("precision=fp32 trial 0: optimizer.lr=")


def test_each_grid_point_has_its_study_and_higher_is_better(here):
    source = search(*SPACE, trials=3)
    for number in range(6):
        end(source, source.next(), ok(number / 10))
    assert source.next() is None
    found = source.findings()
    assert [(each["label"], each["trials"], each["best"]["value"]) for each in found] == [
        ("precision=fp32", {"complete": 3}, 0.2),
        ("precision=bf16", {"complete": 3}, 0.5),
    ]
    assert found[1]["best"]["overrides"] == list(source.rows[5].run.overrides)


def test_a_search_that_was_stopped_goes_on(here):
    first = search(*SPACE[:2], trials=4)
    rows = [first.next() for _ in range(3)]
    end(first, rows[0], ok(0.5))
    end(first, rows[1], Outcome("diverged", 3, "nan"))
    end(first, rows[2], Outcome("preempted", 75, "stopped"))
    again = search(*SPACE[:2], trials=4)
    assert [(row.state, row.finished_before) for row in again.rows] == [
        ("ok", True),
        ("diverged", True),
        ("waiting", False),
    ]
    redone = again.next()
    assert (redone.run.overrides, redone.run.run_id) == (rows[2].run.overrides, rows[2].run.run_id)
    fourth = again.next()
    assert fourth.run.overrides not in {row.run.overrides for row in rows}
    assert again.next() is None
    assert search(*SPACE[:2], "seed=1", trials=4).rows == []  # another search, other trials


def test_the_median_of_others_prunes(here):
    source = search(*SPACE[:2], trials=20)
    for _ in range(5):
        end(source, source.next(), ok(0.9), evaluations=(0.6, 0.8))
    good, bad = source.next(), source.next()
    good.progress = Progress(evaluations=[0.7])
    bad.progress = Progress(evaluations=[0.1])
    assert (source.is_hopeless(good), source.is_hopeless(bad)) == (False, True)
    bad.prune()
    source.ended(bad)
    assert source.findings()[0]["trials"] == {"complete": 5, "pruned": 1, "running": 1}


def test_a_real_search_prunes_a_real_run(here):
    """Five made-up trials learned everything at once: the sixth, a real run, cannot keep up."""
    long = ["small.yaml", "optimizer.lr=log:1e-4..1", "train.max_steps=100000", "train.eval_every_steps=20"]
    source = search(*long, trials=5)
    for _ in range(5):
        end(source, source.next(), ok(1.0), evaluations=(1.0,) * 100)
    result = swept(*long, "--search", "optuna", "--trials", "6")
    assert [run["status"] for run in result["runs"]] == ["ok"] * 5 + ["pruned"]
    pruned = Path(result["runs"][5]["run_dir"], "result.json")
    assert 20 <= json.loads(pruned.read_text())["applied_steps"] < 100_000
    assert result["search"][0]["trials"] == {"complete": 5, "pruned": 1}


def test_what_no_run_can_have_is_refused_before_any_runs(here, capfd):
    assert mptrain(["sweep", "small.yaml", "optimizer.lr=-1..1", "optimizer=adamw,nope", "--search", "optuna"]) == 2
    first, second = capfd.readouterr().err.splitlines()
    assert first == "error: override 'optimizer.lr=-1': optimizer.lr: must be greater than 0, not -1"
    assert second.startswith("error: override 'optimizer=nope'")
    assert not Path("runs").exists()


def test_a_dry_run_writes_nothing(here, capfd):
    assert mptrain(["sweep", *SPACE, "--search", "optuna", "--dry-run"]) == 0
    assert "0 runs" in capfd.readouterr().out
    assert not Path("runs").exists()


def test_a_journal_that_is_damaged_or_cannot_be_written_is_a_line(here, capfd, monkeypatch):
    source = search(*SPACE[:2])
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full_disk)
        with pytest.raises(CapabilityError, match=r"cannot write runs/search\.journal: No space left on device"):
            source.next()
    with Path("runs/search.journal").open("a") as journal:
        journal.write('{"op_code": 4, \n')
    assert mptrain(["sweep", *SPACE[:2], "--search", "optuna"]) == 6
    said = capfd.readouterr().err
    assert said.startswith("error: runs/search.journal: is damaged (JSONDecodeError: ")
    assert said.endswith("; move it away to search anew\n")


def test_without_optuna(here, capfd, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert mptrain(["sweep", *SPACE, "--search", "optuna"]) == 4
    expected = "error: --search optuna: it is not installed; pip install mptrain[search]\n"
    assert capfd.readouterr().err == expected
