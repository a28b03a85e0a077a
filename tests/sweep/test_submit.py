"""Runs handed to a scheduler: a fake one of shell, and submitit's own for this machine."""

import json
import shlex
import stat
import sys
import time
from pathlib import Path

import pytest

from mptrain.errors import CapabilityError, ConfigError
from mptrain.sweep.plan import make_plan
from mptrain.sweep.request import read_request
from mptrain.sweep.submit import fill, make_submit
from tests.sweep.conftest import sweep, swept

SCHEDULER = """\
#!/bin/sh
# Takes a name and a command of one word, runs that in the background, and says which job it is.
echo "$1" >> jobs
sh -c "$2" > "$1.out" 2>&1 &
echo "Submitted batch job 17"
"""


def a_run(*arguments: str):
    request = read_request(arguments)
    return make_plan(request.configs, request.axes).runs[0]


def wait_for(*paths: str) -> None:
    deadline = time.monotonic() + 60
    while not all(Path(path).exists() for path in paths):
        assert time.monotonic() < deadline, f"not in time: {paths}"
        time.sleep(0.1)


def test_runs_are_handed_over_once_and_found_finished(here):
    Path("schedule").write_text(SCHEDULER)
    Path("schedule").chmod(stat.S_IRWXU)
    arguments = ["small.yaml", "precision=fp32", "seed=0", "--submit", "./schedule {name} {command}"]
    first = swept(*arguments)
    assert [(run["status"], run["exit_code"]) for run in first["runs"]] == [("submitted", None)]
    run_dir = Path(first["runs"][0]["run_dir"])
    record = json.loads((run_dir / "submitted.json").read_text())
    assert (record["scheduler"], record["command"][-1]) == ("Submitted batch job 17", "--quiet")
    wait_for(f"{run_dir}/result.json")
    time.sleep(0.5)  # it lets go of its folder a moment later
    assert [run["status"] for run in swept(*arguments)["runs"]] == ["ok"]
    assert Path("jobs").read_text() == "small-precision-fp32_seed-0\n"


def test_what_has_not_begun_is_not_submitted_again(here):
    arguments = ["small.yaml", "seed=0,1", "--submit", "echo {run_dir} >> jobs; : {command}"]
    for _ in range(2):
        out, _ = sweep(*arguments)
    assert "submitted  before, and it has not begun since; remove runs/small/seed-1/submitted.json" in out
    assert Path("jobs").read_text().split() == ["runs/small/seed-0", "runs/small/seed-1"]


def test_a_scheduler_that_refuses_is_a_failed_row(here):
    result = swept("small.yaml", "seed=0,1", "--submit", "echo no such queue >&2; false {command}", code=4)
    assert [run["status"] for run in result["runs"]] == ["env_error", "env_error"]
    assert "ended with code 1: no such queue" in result["runs"][0]["error"]
    assert not list(Path("runs").rglob("submitted.json"))


@pytest.mark.parametrize("template", ["run {command}", "run '{command}'", 'run "{command}"'])
def test_a_command_is_one_word_however_it_is_quoted(here, template):
    run = a_run("small.yaml", "precision={mode: bf16-pure, rounding: kahan}", "model.name='mlp'")
    program, word = shlex.split(fill(template, run))
    assert (program, shlex.split(word)) == ("run", run.command())


def test_what_goes_on_in_the_background_is_not_waited_for(here):
    background = "(for i in $(seq 200); do [ -e go ] && break; sleep 0.1; done; touch ended) &"
    said = make_submit(f"printf 'job \\377'; {background} : {{command}}", Path())(a_run("small.yaml"))
    assert not Path("ended").exists()
    assert said == "job \ufffd"
    Path("go").touch()
    wait_for("ended")


def test_words_names_and_other_braces(here):
    run = a_run("small.yaml", "precision={mode: bf16}")
    filled = shlex.split(fill("x --name {name} -o {run_dir}/log ${HOME} {words}", run))
    assert filled == ["x", "--name", f"small-{run.run_id}", "-o", f"{run.run_dir}/log", "${HOME}", *run.command()]


def test_a_template_must_have_the_command():
    with pytest.raises(ConfigError, match=r"has no \{command\}"):
        make_submit("sbatch run.sh", Path())


def test_submitit(here):
    pytest.importorskip("submitit")
    arguments = ["small.yaml", "seed=7", "--submit", "submitit cluster=local timeout_min=3"]
    result = swept(*arguments)
    assert [run["status"] for run in result["runs"]] == ["submitted"]
    wait_for("runs/small/seed-7/result.json")
    time.sleep(0.5)
    assert [run["status"] for run in swept(*arguments)["runs"]] == ["ok"]
    for wrong, said in (("nonsense", "must be KEY=VALUE"), ("cluster=nowhere", "nowhere")):
        with pytest.raises(ConfigError, match=said):
            make_submit(f"submitit {wrong}", Path())


def test_without_submitit(monkeypatch):
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(CapabilityError, match="--submit submitit: it is not installed; pip install mptrain"):
        make_submit("submitit", Path())
