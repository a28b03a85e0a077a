"""The run directory's JSON: strict, whole lines, atomic, no step twice after a resume."""

import json
import math
import os
import shutil
import subprocess
import sys
import textwrap
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mptrain.errors import CapabilityError, DataError
from mptrain.telemetry.files import RunFiles, indented, strict_json
from mptrain.telemetry.records import Event, RunInfo
from tests.telemetry.records import evaluation, numerics, overflow, progress, result, run_info


def refuse_constant(text: str) -> Any:
    raise AssertionError(f"not strict JSON: {text}")


def read_lines(path: Path) -> list[dict[str, Any]]:
    text = path.read_text()
    assert text.endswith("\n")
    return [json.loads(line, parse_constant=refuse_constant) for line in text.splitlines()]


def test_a_run_is_recorded(tmp_path: Path):
    files = RunFiles(tmp_path / "runs" / "r1")
    files.begin(run_info())
    files.event(overflow())
    files.progress(progress(25))
    files.window(progress(50))
    files.evaluated(evaluation())
    files.end(result())

    window, evaluated = read_lines(tmp_path / "runs/r1/metrics.jsonl")
    assert window["type"] == "train"
    assert (window["attempted_steps"], window["applied_steps"], window["loss"]) == (51, 50, 1.23451)
    assert window["peak_memory_bytes"] == 1288490189
    assert evaluated["type"] == "eval"
    assert evaluated["metrics"] == {"loss": 0.41, "accuracy": 0.8512, "samples": 2000}
    [event] = read_lines(tmp_path / "runs/r1/events.jsonl")
    assert event["kind"] == "overflow"
    assert event["data"] == {"loss_scale": 32768.0}
    assert datetime.fromisoformat(event["time"]).utcoffset() == timedelta(0)
    assert json.loads((tmp_path / "runs/r1/result.json").read_text()) == result()
    about = json.loads((tmp_path / "runs/r1/run.json").read_text())
    assert (about.pop("schema"), datetime.fromisoformat(about.pop("time")).utcoffset()) == (1, timedelta(0))
    assert RunInfo(**about) == replace(run_info(), planted=[], notices=[])  # JSON has no tuples
    assert sorted(os.listdir(tmp_path / "runs/r1")) == ["events.jsonl", "metrics.jsonl", "result.json", "run.json"]


def test_non_finite_numbers_are_null_with_a_flag(tmp_path: Path):
    text = indented(
        {"a": math.nan, "b": {"c": -math.inf, "d": (1.0, math.inf, [math.nan])}, "e": [{"f": math.inf}], "g": 1.5}
    )
    written = json.loads(text, parse_constant=refuse_constant)
    assert written == {
        "a": None,
        "a_nonfinite": "nan",
        "b": {"c": None, "c_nonfinite": "-inf", "d": [1.0, None, [None]], "d_nonfinite": [None, "inf", ["nan"]]},
        "e": [{"f": None, "f_nonfinite": "inf"}],
        "g": 1.5,
    }


def test_non_finite_loss_in_a_window(tmp_path: Path):
    files = RunFiles(tmp_path)
    files.window(progress(loss=math.nan, grad_norm=math.inf))
    [window] = read_lines(tmp_path / "metrics.jsonl")
    assert (window["loss"], window["loss_nonfinite"]) == (None, "nan")
    assert (window["grad_norm"], window["grad_norm_nonfinite"]) == (None, "inf")
    assert "lr_nonfinite" not in window


def test_the_newest_sample_of_gradients_is_part_of_a_window(tmp_path: Path):
    files = RunFiles(tmp_path)
    files.window(progress(10))
    files.window(progress(20, numerics=numerics(headroom=-math.inf, amax=math.inf)))
    before, after = read_lines(tmp_path / "metrics.jsonl")
    assert before["numerics"] is None
    assert after["numerics"]["below_normal_share"] == 0.003
    assert after["numerics"]["histogram"] == {"first_exponent": -12, "counts": [3, 40, 7], "zeros": 2}
    assert (after["numerics"]["headroom"], after["numerics"]["headroom_nonfinite"]) == (None, "-inf")
    assert (after["numerics"]["amax"], after["numerics"]["amax_nonfinite"]) == (None, "inf")


@pytest.mark.parametrize(
    "value",
    [np.float64(1.0), np.float32(1.0), np.int64(1), torch.tensor(1.0), {1, 2}, Path("x"), b"x", [np.float64(1.0)]],
    ids=lambda value: type(value).__name__,
)
def test_only_plain_values_are_taken(value: Any):
    with pytest.raises(TypeError, match="not a plain JSON value"):
        indented({"outer": {"key": value}})


def test_keys_must_be_strings():
    with pytest.raises(TypeError, match="key must be a string"):
        strict_json({"a": {1: "x"}})


def test_text_of_any_kind_stays_on_one_line(tmp_path: Path):
    files = RunFiles(tmp_path)
    message = 'a\nb\r\u2028"\x1b[31m\ud800 é'
    files.event(Event("warning", 1, 1, message))
    assert (tmp_path / "events.jsonl").read_bytes().count(b"\n") == 1
    assert read_lines(tmp_path / "events.jsonl")[0]["message"] == message


def test_resume_leaves_each_step_once(tmp_path: Path):
    whole = RunFiles(tmp_path / "whole")
    broken = RunFiles(tmp_path / "broken")
    for step in (10, 20, 30, 40):
        for files in (whole, broken):
            files.window(progress(step))
            files.evaluated(evaluation(applied_steps=step))
            files.event(Event("checkpoint", step + 1, step, "saved"))
    with (tmp_path / "broken/metrics.jsonl").open("a") as file:
        file.write('{"type": "train", "attem')  # the machine died here

    resumed = RunFiles(tmp_path / "broken")
    resumed.trim_after(attempted_steps=21, applied_steps=20)
    for step in (30, 40):
        resumed.window(progress(step))
        resumed.evaluated(evaluation(applied_steps=step))
        resumed.event(Event("checkpoint", step + 1, step, "saved"))

    for name in ("metrics.jsonl", "events.jsonl"):
        expected, got = (read_lines(tmp_path / run / name) for run in ("whole", "broken"))
        for record in expected + got:
            del record["time"]
        assert got == expected


def test_trim_goes_on_with_an_open_file_and_without_any_file(tmp_path: Path):
    files = RunFiles(tmp_path)
    files.trim_after(5, 5)
    assert os.listdir(tmp_path) == []
    files.window(progress(10))
    files.window(progress(20))
    files.trim_after(11, 10)
    files.window(progress(15))
    assert [line["applied_steps"] for line in read_lines(tmp_path / "metrics.jsonl")] == [10, 15]


def test_damage_within_the_file_is_named(tmp_path: Path):
    files = RunFiles(tmp_path)
    files.window(progress(10))
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b"\x00garbage\n" + path.read_bytes())
    before = path.read_bytes()
    with pytest.raises(DataError, match=r"metrics\.jsonl:1: not a record of this file; remove the line"):
        files.trim_after(20, 20)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["metrics.jsonl"]


@pytest.mark.parametrize("put", [os.mkfifo, lambda path: path.symlink_to(path.with_name("elsewhere"))])
def test_a_pipe_is_not_waited_for_and_a_link_to_nothing_not_written_through(tmp_path: Path, put: Any):
    files = RunFiles(tmp_path)
    put(tmp_path / "events.jsonl")
    with pytest.raises(DataError, match=r"events\.jsonl: is not a regular file; move it away"):
        files.trim_after(20, 20)
    assert os.listdir(tmp_path) == ["events.jsonl"]


def test_a_link_in_the_way_of_a_temporary_file_is_not_written_through(tmp_path: Path):
    files = RunFiles(tmp_path / "run")
    (tmp_path / "run/.result.json.tmp").symlink_to(tmp_path / "elsewhere")
    files.write("result.json", "new")
    assert (tmp_path / "run/result.json").read_text() == "new"
    assert not (tmp_path / "elsewhere").exists()


def test_failed_write_leaves_the_old_file(tmp_path: Path):
    files = RunFiles(tmp_path)
    files.write("result.json", "old")
    (tmp_path / ".result.json.tmp").mkdir()  # in the way of the temporary file
    with pytest.raises(CapabilityError, match=r"cannot write .*result\.json: .*--output-dir"):
        files.write("result.json", "new")
    assert (tmp_path / "result.json").read_text() == "old"


def test_run_directory_that_cannot_be_made(tmp_path: Path):
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(CapabilityError, match="--output-dir"):
        RunFiles(tmp_path / "runs" / "r1")


def test_a_full_disk_leaves_whole_lines_and_the_rest_waits_for_room(tmp_path: Path):
    script = """
        import resource, sys
        from pathlib import Path
        from mptrain.telemetry.files import RunFiles
        from tests.telemetry.records import progress
        warnings = []
        files = RunFiles(Path(sys.argv[1]), warnings.append)
        resource.setrlimit(resource.RLIMIT_FSIZE, (5000, resource.RLIM_INFINITY))
        for step in range(20):
            files.window(progress(step))
        print(files.flush(), end="|")
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        files.window(progress(20))
        print(files.flush(), *[event.message for event in warnings], sep="|")
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), str(tmp_path)], capture_output=True, text=True, check=True
    )
    full, then, warning = done.stdout.strip().split("|")
    assert "records of" in full
    assert "could not be written (" in full
    assert then == "None"
    assert warning.endswith("; training goes on, records wait for free space")
    assert [record["applied_steps"] for record in read_lines(tmp_path / "metrics.jsonl")] == list(range(21))


def test_a_folder_that_vanishes_is_made_anew_and_the_end_says_so(tmp_path: Path):
    warnings: list[Event] = []
    files = RunFiles(tmp_path / "run", warnings.append)
    files.write("config.yaml", "name: x\n")
    files.window(progress(1))
    shutil.rmtree(tmp_path / "run")
    files.window(progress(2))
    assert (tmp_path / "run/config.yaml").read_text() == "name: x\n"
    assert [record["applied_steps"] for record in read_lines(tmp_path / "run/metrics.jsonl")] == [2]
    [event] = read_lines(tmp_path / "run/events.jsonl")
    assert (
        event["message"]
        == warnings[0].message
        == f"{tmp_path / 'run'} vanished; training goes on, in a folder made anew"
    )
    error = files.flush()
    assert isinstance(error, CapabilityError)
    assert "its earlier records are lost" in str(error)


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
def test_killed_run_leaves_whole_lines(tmp_path: Path):
    script = """
        import itertools, sys
        from pathlib import Path
        from mptrain.telemetry.files import RunFiles
        from tests.telemetry.records import progress
        files = RunFiles(Path(sys.argv[1]))
        print("ready", flush=True)
        for step in itertools.count():
            files.window(progress(step))
    """
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script), str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        path = tmp_path / "metrics.jsonl"
        while not path.exists() or path.stat().st_size < 100_000:
            assert process.poll() is None
        process.kill()
    steps = [record["applied_steps"] for record in read_lines(path)]
    assert steps == list(range(len(steps)))
