"""`mptrain report` and `mptrain runs` as commands: exit codes, what goes where, and what they never import."""

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pyte
import pytest

from mptrain.cli.app import run as mptrain
from tests.cli.small_run import strict
from tests.report.folders import write_ladder, write_run

BASE = [0.900, 0.910, 0.920]


@pytest.fixture
def ladder(here):
    """Return the current folder, which has runs/ of three precisions."""
    write_ladder("runs", {"fp32": BASE, "bf16": [0.901, 0.9105, 0.9195], "fp16": [0.7, 0.71, 0.73]})
    return here


def test_a_table_and_verdicts_in_a_pipe(ladder, capsys):
    assert mptrain(["report", "runs"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "bf16: same accuracy within noise" in out
    assert "fp16: worse by 19.7 ± 1.4 points (3 seeds): do not use it." in out
    assert "\x1b" not in out


def test_a_folder_above_runs_is_the_runs(ladder, capsys):
    assert mptrain(["report", "runs", "--json"]) == 0
    above = strict(capsys.readouterr().out)
    assert mptrain(["report", *sorted(map(str, Path("runs").iterdir())), "--json"]) == 0
    assert strict(capsys.readouterr().out) == above


def test_json_is_one_object_and_the_files_are_written_beside_it(ladder, capsys):
    assert mptrain(["report", "runs", "--json", "--csv", "new/table.csv"]) == 0
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    assert strict(out)["ladders"][0]["baseline"] == "fp32"
    assert len(list(csv.DictReader(io.StringIO(Path("new/table.csv").read_text())))) == 3


def test_csv_to_stdout_is_nothing_but_csv(ladder, capsys):
    assert mptrain(["report", "runs", "--csv", "-"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["outcome"] for row in rows] == ["", "same", "worse"]
    assert mptrain(["report", "runs", "--csv", "-", "--json"]) == 2


def test_what_cannot_be_read_is_noted_and_the_rest_compared(ladder, capsys):
    (Path("runs") / "fp16-1" / "result.json").write_text("{")
    assert mptrain(["report", "runs"]) == 0
    out, err = capsys.readouterr()
    assert err.startswith("note: left out: runs/fp16-1/result.json: input data was truncated")
    assert "fp16 has no seed 1" in out


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["gone"], 2, "gone: does not exist"),
        (["empty", "gone"], 2, "empty: no run is in it"),
        (["runs", "--baseline", "precision=fp61"], 2, "no run has that value; there is bf16, fp16, fp32"),
        (["runs", "--metric", "acuracy"], 2, "did you mean 'accuracy'?"),
        (["damaged"], 6, "damaged/result.json"),
        (["runs", "--csv", "damaged/result.json/a.csv"], 4, "cannot write damaged/result.json/a.csv"),
        ([], 2, "RUN_DIR"),
    ],
)
def test_mistakes_are_one_line_and_have_their_exit_codes(ladder, capsys, arguments, code, said):
    Path("empty").mkdir()
    (write_run("damaged") / "result.json").write_text("{")
    assert mptrain(["report", *arguments]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert said in err
    assert all(line.startswith("error: ") for line in err.splitlines())
    assert mptrain(["report", *arguments, "--json"]) == code
    assert strict(capsys.readouterr().out)["exit_code"] == code


def python(code, cwd):
    return subprocess.run(
        [sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True, check=True, timeout=120
    ).stdout


def test_a_report_imports_no_torch_and_help_nothing_heavy(ladder):
    run = "from mptrain.cli.app import run; import sys; run({arguments}); print({{*sys.modules}} & {{*{names}}})"
    heavy = ["torch", "scipy.stats", "scipy.optimize", "rich", "matplotlib", "vl_convert", "pandas"]
    said = python(run.format(arguments=["report", "runs"], names=heavy), ladder)
    assert said.splitlines()[-1] == "set()"
    names = [*heavy, "numpy", "scipy", "msgspec", "yaml"]
    assert python(run.format(arguments=["report", "--help"], names=names), ladder).splitlines()[-1] == "set()"
    names = [*heavy, "numpy", "scipy"]
    assert python(run.format(arguments=["runs"], names=names), ladder).splitlines()[-1] == "set()"


def on_a_terminal(arguments, cwd, columns):
    """Return the screen that a command leaves, as lines of cells."""
    import fcntl
    import pty
    import struct
    import termios

    main, side = pty.openpty()
    fcntl.ioctl(side, termios.TIOCSWINSZ, struct.pack("HHHH", 60, columns, 0, 0))
    env = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "COLUMNS", "CI")}
    process = subprocess.Popen(
        [sys.executable, "-m", "mptrain", *arguments],
        cwd=cwd,
        env={**env, "TERM": "xterm-256color", "PYTHONPATH": str(Path(__file__).parents[2])},
        stdout=side,
        stderr=side,
    )
    os.close(side)
    screen = pyte.Screen(columns, 60)
    stream = pyte.ByteStream(screen)
    while True:
        try:
            content = os.read(main, 65536)
        except OSError:
            break
        if not content:
            break
        stream.feed(content)
    os.close(main)
    assert process.wait(60) == 0
    return screen


def test_a_narrow_terminal_drops_columns_says_so_and_colours_outcomes(ladder):
    screen = on_a_terminal(["report", "runs"], ladder, 80)
    lines = [line.rstrip() for line in screen.display]
    text = "\n".join(lines)
    assert "not shown at this width: " in text
    assert "speed-up" in lines[2]
    row = next(index for index, line in enumerate(lines) if line.startswith("fp16: worse"))
    assert screen.buffer[row][0].fg == "red"
    row = next(index for index, line in enumerate(lines) if line.startswith("bf16: same"))
    assert screen.buffer[row][0].fg == "green"
    assert screen.buffer[0][0].bold


def test_runs_lists_every_run_the_newest_last(here, capsys):
    for age, (name, status) in enumerate([("new", "ok"), ("middle", "diverged"), ("old", "ok")]):
        folder = write_run(Path("runs", "small", name), "bf16", status=status)
        for file in folder.iterdir():
            os.utime(file, (1.7e9 - 100 * age, 1.7e9 - 100 * age))
    killed = write_run(Path("runs", "small", "killed"), "fp16", emulated=True)
    (killed / "result.json").unlink()
    damaged = write_run(Path("runs", "small", "damaged"))
    (damaged / "result.json").write_text("[]")
    assert mptrain(["runs"]) == 0
    out, err = capsys.readouterr()
    rows = [line.split() for line in out.splitlines()]
    assert [row[:2] for row in rows] == [
        ["run", "status"],
        ["small/old", "ok"],
        ["small/middle", "diverged"],
        ["small/new", "ok"],
        ["small/killed", "killed"],
    ]
    assert rows[4][2:] == ["fp16", "emulated", "40", "accuracy", "0.9000", "0", "s"]
    assert rows[3][2:6] == ["bf16", "40", "accuracy", "0.9000"]
    assert err.startswith("note: left out: runs/small/damaged/result.json: ")


@pytest.mark.parametrize("line", [b"\xff\xfe\n", b'{"type": "tr\xff"}\n', b'{"x": ' + b"[" * 10_000 + b"\n"])
def test_a_killed_run_with_foreign_lines_is_named(here, capsys, line):
    folder = write_run(Path("runs", "a"))
    (folder / "result.json").unlink()
    (folder / "metrics.jsonl").write_bytes(line)
    assert mptrain(["runs"]) == 0
    assert capsys.readouterr().err.startswith("note: left out: runs/a/metrics.jsonl: ")


def test_runs_as_json(sweep, capsys):
    assert mptrain(["runs", str(sweep), "--json"]) == 0
    found = strict(capsys.readouterr().out)
    by_name = {Path(run["run_dir"]).name: run for run in found["runs"]}
    result = json.loads((sweep / "small" / "fp16-1" / "result.json").read_text())
    expected = {"status": "ok", "precision": "fp16 emulated", "applied_steps": 20, "total_steps": 20}
    assert by_name["fp16-1"].items() >= expected.items()
    assert by_name["fp16-1"]["metric"] == result["metrics"]["accuracy"]
    assert by_name["fp8-0"]["status"] == "diverged"
    assert found["problems"] == []


def test_no_runs(here, capsys):
    assert mptrain(["runs"]) == 2
    assert "runs: is no folder" in capsys.readouterr().err
    Path("runs").mkdir()
    assert mptrain(["runs"]) == 0
    assert capsys.readouterr().out == "no runs below runs\n"
