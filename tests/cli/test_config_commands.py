"""`check`, `show`, `schema`, `ls` and the shell around them, as real processes: text, streams, exit codes, imports."""

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from mptrain import __version__
from mptrain.catalog import load_config
from mptrain.precision.modes import MODES
from tests.config.files import PLAIN, write


def mptrain(*arguments: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mptrain", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=120)


def test_check_says_ok_for_each_file_and_applies_overrides_to_all(tmp_path: Path) -> None:
    write(tmp_path, "a.yaml", PLAIN)
    write(tmp_path, "b.yaml", "extends: a.yaml\nprecision: bf16\n")
    done = mptrain("check", "a.yaml", "b.yaml", "optimizer.lr=1e-3", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "a.yaml: ok\nb.yaml: ok\n", "")


def test_check_lists_all_problems_of_all_files(tmp_path: Path) -> None:
    write(tmp_path, "good.yaml", PLAIN)
    write(tmp_path, "bad.yaml", PLAIN + "precision: fp61\nsede: 1\n")
    done = mptrain("check", "bad.yaml", "good.yaml", "none.yaml", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == "good.yaml: ok\n"
    first, second, third = done.stderr.splitlines()
    assert first.startswith("error: bad.yaml:11: precision.mode: 'fp61' is not one of")
    assert second == "error: bad.yaml:12: sede: unknown key (did you mean 'seed'?)"
    assert third.startswith("error: none.yaml: does not exist")


@pytest.mark.parametrize("content", [b"", b"a:\n\tb: 1\n", b"- 1\n", b"\x00\xff\x89", b"a: &x [*x]\n", b"[" * 5000])
def test_junk_is_one_line_and_leaves_nothing_behind(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "junk.yaml").write_bytes(content)
    done = mptrain("check", "junk.yaml", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: junk.yaml:")
    assert done.stderr.count("\n") == 1
    assert os.listdir(tmp_path) == ["junk.yaml"]


def test_long_lines_are_not_wrapped(tmp_path: Path) -> None:
    write(tmp_path, "x.yaml", PLAIN + "extends_" + "x" * 200 + ": 1\n")
    done = mptrain("check", "x.yaml", cwd=tmp_path)
    assert len(done.stderr.splitlines()) == 1


def test_show_prints_yaml_that_loads_to_the_same_config(tmp_path: Path) -> None:
    path = write(tmp_path, "a.yaml", PLAIN)
    done = mptrain("show", path, "precision=fp16", "train.epochs=2")
    assert done.returncode == 0
    assert "  mode: fp16                                  # override 'precision=fp16'\n" in done.stdout
    assert f"# {path}:7\n" in done.stdout
    shown = write(tmp_path, "shown.yaml", done.stdout)
    assert load_config(shown).config == load_config(path, ["precision=fp16", "train.epochs=2"]).config


def test_schema_prints_json() -> None:
    assert json.loads(mptrain("schema").stdout)["$schema"].endswith("2020-12/schema")


def test_ls_prints_one_name_a_line() -> None:
    lines = mptrain("ls", "precisions").stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["auto", *MODES, "eXmY"]
    assert [line.split(maxsplit=1)[1] for line in lines[1:-1]] == [mode.description for mode in MODES.values()]
    everything = mptrain("ls").stdout.splitlines()
    headings = [line for line in everything if not line.startswith(" ")]
    assert headings == ["models:", "datasets:", "tasks:", "optimizers:", "schedules:", "precisions:"]
    assert any(line.startswith("  resnet18 ") for line in everything)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            ["ls", "modles"],
            "'modles' is not one of models, datasets, tasks, optimizers, schedules, precisions (did you",
        ),
        (["chek"], "No such command 'chek'"),
        (["check"], "Missing argument 'CONFIG|KEY=VALUE'"),
        (["check", "a.b=1"], "no config file given"),
        (["check", "--bild", "x.yaml"], "No such option: --bild"),
        (["show", "a.yaml", "oops"], "override 'oops': has no '='; write it as dotted.key=value"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_2(tmp_path: Path, arguments: list[str], expected: str) -> None:
    write(tmp_path, "a.yaml", PLAIN)
    done = mptrain(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith(f"error: {expected}")
    assert done.stderr.count("\n") == 1


def test_version_and_help() -> None:
    assert mptrain("--version").stdout == f"mptrain {__version__}\n"
    for flag in ("--help", "-h"):
        done = mptrain("check", flag)
        assert done.returncode == 0
        assert "{CONFIG|KEY=VALUE}..." in done.stdout


def test_a_reader_that_leaves_early_is_no_bug() -> None:
    # A pipe whose reading end is closed at once: every write to it fails.
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "mptrain", "ls"]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=120)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


def stderr_on_a_terminal(*arguments: str, env: dict[str, str]) -> bytes:
    """Return what a process writes to a pseudo-terminal as its stderr."""
    leader, follower = pty.openpty()
    command = [sys.executable, "-m", "mptrain", *arguments]
    process = subprocess.Popen(command, stderr=follower, stdout=subprocess.DEVNULL, env=os.environ | env)
    os.close(follower)
    written = b""
    try:
        while chunk := os.read(leader, 4096):
            written += chunk
    except OSError:
        pass  # Linux reports the closed other end as an I/O error.
    process.wait(timeout=120)
    os.close(leader)
    return written


def test_errors_are_red_on_a_terminal_only_and_no_color_is_honoured() -> None:
    red = stderr_on_a_terminal("ls", "x", env={"TERM": "xterm", "NO_COLOR": ""})
    assert red.startswith(b"\x1b[31merror:\x1b[0m 'x' is not one of")
    for env in ({"TERM": "xterm", "NO_COLOR": "1"}, {"TERM": "dumb", "NO_COLOR": ""}):
        assert stderr_on_a_terminal("ls", "x", env=env).startswith(b"error: 'x' is not one of")


def imported_by(*arguments: str | Path) -> set[str]:
    """Return the top-level packages that one command imports."""
    code = (
        "import sys; from mptrain.cli.app import run; code = run(sys.argv[1:]); assert code == 0, code;"
        "print('\\n' + ' '.join({name.split('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split())


def test_help_imports_nothing_heavy() -> None:
    assert not imported_by("--help") & {"pydantic", "torch", "yaml", "rich", "numpy"}


def test_config_commands_import_no_torch(tmp_path: Path) -> None:
    path = write(tmp_path, "a.yaml", PLAIN)
    for arguments in (["check", path], ["show", path], ["schema"], ["ls"]):
        imported = imported_by(*arguments)
        assert "pydantic" in imported
        assert not imported & {"torch", "torchvision", "torchmetrics", "numpy", "rich"}


def test_an_interrupt_is_130_without_a_traceback(tmp_path: Path) -> None:
    (tmp_path / "plugin_interrupts.py").write_text("raise KeyboardInterrupt\n")
    write(tmp_path, "a.yaml", "plugins: [plugin_interrupts]\n" + PLAIN)
    done = mptrain("check", "a.yaml", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")
    done = mptrain("sweep", "a.yaml", "seed=0,1", "--json", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (130, "")
    assert json.loads(done.stdout)["status"] == "interrupted"


def test_a_bug_shows_its_traceback_and_says_that_it_is_one() -> None:
    code = (
        "import mptrain.cli.list_commands as commands, mptrain.precision.modes as modes\n"
        "modes.MODES = None\n"
        "from mptrain.cli.app import run\n"
        "raise SystemExit(run(['ls']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert "Traceback (most recent call last)" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: this is a bug in mptrain")
