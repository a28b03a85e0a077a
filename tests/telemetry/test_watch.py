"""Following a run's folder: every record is told once and as it was, whatever happens to the files meanwhile."""

import json
import math
import shutil
import sys
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pytest

from mptrain.errors import DataError
from mptrain.telemetry.files import RunFiles, strict_json
from mptrain.telemetry.plain import PlainConsole
from mptrain.telemetry.watch import Follower, restored
from tests.telemetry.records import evaluation, numerics, overflow, progress, result, run_info


class RecordingView:
    """Keeps what it is told, with the time that its clock showed."""

    def __init__(self, clock):
        self.told, self.times, self._clock = [], [], clock

    def __getattr__(self, name):
        if name.startswith("_"):
            raise AttributeError(name)

        def tell(what):
            self.told.append((name, what))
            self.times.append(self._clock())

        return tell

    def steps(self):
        return [what.applied_steps for name, what in self.told if name == "window"]


@pytest.fixture
def views():
    return []


@pytest.fixture
def follower(tmp_path, views):
    def make(clock):
        views.append(RecordingView(clock))
        return views[-1]

    return Follower(tmp_path / "r", make)


@pytest.fixture
def files(tmp_path):
    return RunFiles(tmp_path / "r")


def test_a_run_is_told_as_it_was_recorded(follower, files, views):
    assert follower.take_in(running=True)  # model and data are being built
    assert not follower.has_begun
    info = run_info(planted=("inf_grad at 12",), notices=("slow",))
    files.begin(info)
    last = progress(50, loss=math.nan, numerics=numerics(headroom=-math.inf))
    files.event(overflow())
    files.window(last)
    assert follower.take_in(running=True)
    files.evaluated(evaluation())
    files.end(result(train_loss=math.inf))
    assert not follower.take_in(running=False)
    [view] = views
    names, told = zip(*view.told, strict=True)
    assert names == ("begin", "event", "window", "evaluated", "end")
    assert told[0] == info
    assert told[1] == overflow()
    assert math.isnan(told[2].loss)
    assert replace(told[2], loss=0.0, numerics=None) == replace(last, loss=0.0, numerics=None)
    assert told[2].numerics.headroom == -math.inf
    assert told[3] == evaluation()
    assert told[4]["train_loss"] == math.inf


def test_records_are_shown_at_their_own_time(follower, files, views):
    files.begin(run_info())
    for step in (1, 2):
        files.window(progress(step))
    follower.take_in(running=True)
    lines = (files._run_dir / "metrics.jsonl").read_text().splitlines()
    assert views[0].times[1:] == [datetime.fromisoformat(json.loads(line)["time"]).timestamp() for line in lines]


def test_both_files_are_told_in_the_order_of_time(follower, files, views):
    files.begin(run_info())
    for step in (1, 2, 3):
        files.event(overflow(step))
        files.window(progress(step))
    _at_times(files._run_dir / "events.jsonl", "12:00:01", "12:00:03", "12:00:05")
    _at_times(files._run_dir / "metrics.jsonl", "12:00:02", "12:00:04", "12:00:06")
    follower.take_in(running=True)
    assert [name for name, _ in views[0].told[1:]] == ["event", "window"] * 3


def _at_times(path: Path, *times: str) -> None:
    records = [json.loads(line) for line in path.read_text().splitlines()]
    for record, time in zip(records, times, strict=True):
        record["time"] = f"2026-01-01T{time}.000+00:00"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def test_a_line_that_is_being_written_waits(follower, files, views):
    files.begin(run_info())
    files.window(progress(1))
    follower.take_in(running=True)
    path = files._run_dir / "metrics.jsonl"
    line = path.read_text().replace('"applied_steps": 1,', '"applied_steps": 2,')
    with path.open("a") as file:
        for part in (line[:30], line[30:-1], line[-1]):
            assert views[0].steps() == [1]
            file.write(part)
            file.flush()
            follower.take_in(running=True)
    assert views[0].steps() == [1, 2]
    follower.take_in(running=True)
    assert views[0].steps() == [1, 2]


def test_a_resumed_run_is_shown_anew(follower, files, views):
    files.begin(run_info())
    for step in (1, 2, 3):
        files.window(progress(step))
    follower.take_in(running=True)
    files.begin(run_info(first_step=1))
    files.trim_after(2, 1)  # progress(1) had made two attempts
    files.window(progress(2, loss=9.0))
    assert follower.take_in(running=True)
    assert follower.take_in(running=True)
    first, second = views
    assert first.steps() == [1, 2, 3]
    assert first.told[-1] == ("leave", "the run was taken up anew, or its folder vanished")
    assert second.told[0][1].first_step == 1
    assert second.steps() == [1, 2]
    assert second.told[-1][1].loss == 9.0


def test_records_that_are_trimmed_between_two_looks_are_told_anew(follower, files, views):
    files.begin(run_info())
    files.window(progress(1))
    files.window(progress(2))
    follower.take_in(running=True)
    files.trim_after(2, 1)
    follower.take_in(running=True)
    follower.take_in(running=True)
    assert [view.steps() for view in views] == [[1, 2], [1]]


def test_a_folder_that_vanishes(follower, files, views):
    files.begin(run_info())
    files.window(progress(1))
    follower.take_in(running=True)
    shutil.rmtree(files._run_dir)
    assert follower.take_in(running=False)
    assert not follower.take_in(running=False)
    assert views[0].told[-1][0] == "leave"


def test_a_folder_that_is_made_anew(follower, files, views):
    files.begin(run_info())
    files.window(progress(1))
    follower.take_in(running=True)
    shutil.rmtree(files._run_dir)
    files.window(progress(2))
    follower.take_in(running=True)
    follower.take_in(running=True)
    assert [view.steps() for view in views] == [[1], [2]]


def test_a_killed_run(follower, files, views):
    files.begin(run_info())
    files.window(progress(1))
    assert not follower.take_in(running=False)
    assert views[0].steps() == [1]
    assert views[0].told[-1] == (
        "leave",
        "killed: its process left no result; go on with mptrain run ... --resume auto",
    )


@pytest.mark.parametrize("line", ['{"time": "2026-01-01T00:00:00+00:00", "type": "train"}', '{"time": "yesterday"}'])
def test_records_of_something_else(follower, files, line):
    files.begin(run_info())
    (files._run_dir / "metrics.jsonl").write_text(line + "\n")
    with pytest.raises(DataError, match="its records are damaged, or of another version"):
        follower.take_in(running=True)


def test_plain_lines_of_the_past_keep_their_pace(tmp_path, capsys):
    """Windows a second apart are all printed, though they are read at once."""
    files = RunFiles(tmp_path / "r")
    files.begin(run_info())
    for step in range(1, 5):
        files.window(progress(step))
    seconds = ("00", "01", "01", "03")
    about = tmp_path / "r" / "run.json"
    about.write_text(json.dumps(json.loads(about.read_text()) | {"time": "2026-01-01T12:00:00.000+00:00"}))
    _at_times(tmp_path / "r" / "metrics.jsonl", *(f"12:00:{second}" for second in seconds))
    follower = Follower(tmp_path / "r", lambda clock: PlainConsole(sys.stdout, clock))
    assert not follower.take_in(running=False)
    printed = [line.split("  ")[1] for line in capsys.readouterr().out.splitlines() if line.startswith("epoch")]
    assert printed == ["step 1/312", "step 2/312", "step 4/312"]


def test_what_strict_json_flags_is_restored():
    values = {"a": math.inf, "b": {"c": -math.inf, "d": None}, "e": 1.0, "f_nonfinite": "nan"}
    assert {key: restored(strict_json(values))[key] for key in values} == values | {
        "b": {"c": -math.inf, "d": None, "c_nonfinite": "-inf"}
    }
