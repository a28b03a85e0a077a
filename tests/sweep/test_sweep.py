"""Sweeps as a user runs them: real runs, with faults planted among them."""

import json
import subprocess
from pathlib import Path

import pytest

from mptrain.cli.app import run as mptrain
from tests.cli.plugins import model
from tests.sweep.conftest import CONFIG, ENV, MPTRAIN, swept

DIVERGES = "[train.max_nonfinite_losses=1, 'debug.plant=[{what: nan_loss, at: 3}]']"
RUNS_OUT = "['debug.plant=[{what: oom, at: 2}]']"


@pytest.fixture(scope="module")
def faulty(tmp_path_factory):
    """A folder in which a sweep has ended: two good runs, and one each that diverged, ran out of memory, was killed."""
    folder = tmp_path_factory.mktemp("faulty")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        Path("small.yaml").write_text(CONFIG)
        dies = json.dumps(model("dies_building", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"))
        Path("sweep.yaml").write_text(
            f"config: small.yaml\nvariants:\n  fp32: [precision=fp32]\n  nan: {DIVERGES}\n  oom: {RUNS_OUT}\n"
            f"  dies: {dies}\n  bf16: [precision=bf16]\n"
        )
        return folder, swept("sweep.yaml", "--jobs", "2", code=3)


def rows_of(result: dict) -> dict:
    return {Path(run["run_dir"]).name: run for run in result["runs"]}


def test_a_run_that_fails_is_a_row(faulty):
    rows = rows_of(faulty[1])
    assert {name: (row["status"], row["exit_code"]) for name, row in rows.items()} == {
        "fp32": ("ok", 0),
        "nan": ("diverged", 3),
        "oom": ("oom", 5),
        "dies": ("killed", 137),
        "bf16": ("ok", 0),
    }
    assert (faulty[1]["status"], faulty[1]["exit_code"]) == ("diverged", 3)  # of the first in the sweep's order
    assert faulty[1]["error"].startswith("3 of 5 runs failed; the first: nan: diverged (the loss was not finite")
    assert rows["dies"]["error"] == "killed by SIGKILL; the machine may have run out of memory"
    assert "out of memory (planted by debug.plant)" in rows["oom"]["error"]
    assert not any(row["finished_before"] for row in rows.values())


def test_what_has_ended_is_not_run_again(faulty, monkeypatch):
    monkeypatch.chdir(faulty[0])
    found = {name: row["found"] for name, row in rows_of(swept("sweep.yaml", "--dry-run")).items()}
    assert found == {**dict.fromkeys(("fp32", "nan", "oom", "bf16"), "finished"), "dies": "to resume"}
    retried = rows_of(swept("sweep.yaml", "--dry-run", "--retry-failed"))
    assert [name for name, row in retried.items() if row["found"] == "finished"] == ["fp32", "bf16"]


def test_a_shell_loop_gives_the_same_results(faulty, monkeypatch):
    monkeypatch.chdir(faulty[0])
    command = " ".join(MPTRAIN)
    script = f"for p in fp32 bf16; do {command} run small.yaml precision=$p --output-dir loop --json > $p.json; done"
    subprocess.run(["sh", "-c", script], check=True, env=ENV, timeout=120)
    for precision in ("fp32", "bf16"):
        alone, row = json.loads(Path(f"{precision}.json").read_text()), rows_of(faulty[1])[precision]["result"]
        for figure in ("train_loss", "metrics", "applied_steps", "precision", "final_loss_scale"):
            assert row[figure] == alone[figure], figure


def test_the_report_stands_at_the_end(faulty, monkeypatch):
    monkeypatch.chdir(faulty[0])
    Path("two.yaml").write_text("config: small.yaml\nvariants: {fp32: [precision=fp32], bf16: [precision=bf16]}\n")
    done = subprocess.run(
        [*MPTRAIN, "sweep", "two.yaml", "--html", "report.html"], capture_output=True, text=True, env=ENV, timeout=120
    )
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0].split()[:3] == ["1", "fp32", "ok"]
    assert lines[0].endswith("finished before")
    assert any(line.startswith("bf16: ") for line in lines)  # the verdict
    assert Path("report.html").read_text().startswith("<!")


def test_errors_of_a_user_are_lines(here, capfd):
    assert mptrain(["sweep", "small.yaml", "precision=fp61,fp32", "seed=0,,1", "--json"]) == 2
    out, err = capfd.readouterr()
    assert json.loads(out)["status"] == "config_error"
    assert err.startswith("error: 'seed=0,,1': a value is empty")
    for arguments, said in (
        (["small.yaml", "seed=0,1", "--gpus", "0,0"], "--gpus: '0,0' must list different GPUs"),
        (["small.yaml", "--trials", "3"], "--trials needs --search optuna"),
        (["precision=fp32"], "no config file given; name one"),
        (["small.yaml", "seed=0..1", "--submit", "sbatch"], "--submit: 'sbatch' has no {command}"),
        (["small.yaml", "seed=0..1", "--search", "optuna"], "--search: nothing to search"),
    ):
        assert mptrain(["sweep", *arguments]) == 2
        assert capfd.readouterr().err.startswith(f"error: {said}")
    assert not Path("runs").exists()


def test_the_sweep_itself_imports_no_torch():
    modules = "mptrain.sweep.runner, mptrain.sweep.search, mptrain.sweep.submit, mptrain.cli.sweep_view"
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules or 'optuna' in sys.modules)"
    assert subprocess.run([MPTRAIN[0], "-c", code], timeout=120).returncode == 0
    code = "import sys; from mptrain.cli.app import run; run(['sweep', '--help']); sys.exit('rich' in sys.modules)"
    assert subprocess.run([MPTRAIN[0], "-c", code], stdout=subprocess.DEVNULL, timeout=120).returncode == 0


def test_no_more_runs_after_a_failure_if_asked(here):
    """Beside a module of the user's, which hides nothing of Python's own."""
    Path("tokenize.py").write_text("raise RuntimeError('shadowed')\n")
    code = "from mptrain.cli.app import run; import sys; sys.exit(run(sys.argv[1:]))"
    command = [MPTRAIN[0], "-P", "-c", code, "sweep", "small.yaml", "debug.plant=[{what: oom, at: 1}],[]"]
    done = subprocess.run(
        [*command, "--stop-on-failure", "--json"], capture_output=True, text=True, env=ENV, timeout=120
    )
    runs = json.loads(done.stdout)["runs"]
    assert [(run["status"], run["exit_code"]) for run in runs] == [("oom", 5), ("waiting", None)], done.stderr
    assert done.returncode == 5
