"""Hostile and clumsy use: the answer is a code, one line, strict JSON where asked for, and never a traceback."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mptrain.cli.app import run as mptrain
from mptrain.cli.output import print_problem
from tests.cli.plugins import NET, data, model, plugin, schedule, task
from tests.cli.small_run import CONFIG, result_of, strict

LONG = "x" * 300


def refused(capsys, *arguments: str) -> tuple[int, str]:
    """Run a command that fails; check the form of its failure; return its exit code and its one line."""
    code = mptrain(arguments)
    captured = capsys.readouterr()
    assert code not in (0, 1), captured
    assert "Traceback" not in captured.err
    errors = [line for line in captured.err.splitlines() if not line.startswith(("!! ", "! "))]
    assert len(errors) == 1, errors
    assert errors[0].startswith("error: ")
    if "--json" in arguments:
        assert captured.out.count("\n") == 1
        result = strict(captured.out)
        assert result["exit_code"] == code
        assert result["error"] in errors[0]
    else:
        assert captured.out == ""
    for run_dir in Path("runs").glob("*/*/config.yaml"):
        assert run_dir.with_name("result.json").exists()
    return code, errors[0]


def events_of(run_id: str) -> list[dict]:
    return [strict(line) for line in Path("runs/small", run_id, "events.jsonl").read_text().splitlines()]


BAD_USAGE = {
    "no config": (["run"], 2, "Missing argument 'CONFIG'"),
    "unknown command": (["ruin"], 2, "No such command 'ruin'"),
    "unknown option": (["run", "small.yaml", "--bogus"], 2, "No such option: --bogus"),
    "no steps": (["run", "small.yaml", "--max-steps", "0"], 2, "--max-steps"),
    "steps in words": (["run", "small.yaml", "--max-steps", "x"], 2, "--max-steps"),
    "an id that climbs": (["run", "small.yaml", "--run-id", "../x"], 2, "--run-id: '../x' must be letters"),
    "an id that climbs to resume": (["run", "small.yaml", "--resume", "auto", "--run-id", ".."], 2, "--run-id: '..'"),
    "an empty id": (["run", "small.yaml", "--run-id", ""], 2, "--run-id: '' must be letters"),
    "a long id": (["run", "small.yaml", "--run-id", LONG], 2, "--run-id: 'xxx"),
    "a unicode id": (["run", "small.yaml", "--run-id", "é"], 2, "--run-id: 'é'"),
    "output into a file": (["run", "small.yaml", "--output-dir", "small.yaml"], 4, "Not a directory"),
    "a long output folder": (["run", "small.yaml", "--output-dir", LONG], 4, "File name too long"),
    "resume of nothing": (["run", "small.yaml", "--resume", "nowhere"], 6, "--resume: nowhere does not exist"),
    "resume of no run": (["run", "small.yaml", "--resume", "."], 6, "--resume: . holds no complete checkpoint"),
    "resume of a file": (["run", "small.yaml", "--resume", "small.yaml"], 6, "small.yaml is a file"),
    "an empty resume": (["run", "small.yaml", "--resume", ""], 2, "--resume: is empty"),
    "a long resume": (["run", "small.yaml", "--resume", LONG], 6, "does not exist"),
    "a dry run of a bad id": (["run", "small.yaml", "--dry-run", "--run-id", "a/b"], 2, "--run-id: 'a/b'"),
    "a dry resume": (["run", "small.yaml", "--dry-run", "--resume", "nowhere"], 6, "nowhere does not exist"),
    "a dry run too large": (["run", "small.yaml", "--dry-run", "model.hidden=[99999999999]"], 5, "smaller model"),
    "a model too large": (["run", "small.yaml", "model.hidden=[99999999999]"], 5, "use a smaller model"),
    "a batch of one": (
        ["run", "small.yaml", "--quiet", "data.batch_size=1"],
        2,
        "data.batch_size: the model normalises",
    ),
    "a tail of one": (
        ["run", "small.yaml", "--quiet", "data.batch_size=19", "data.drop_last=false"],
        2,
        "data.drop_last=true",
    ),
    "eval of nothing": (["eval", "nowhere"], 6, "nowhere: not a run directory"),
    "export of nothing": (["export", "nowhere", "--output", "w"], 6, "nowhere: not a run directory"),
    "a config error": (["run", "small.yaml", "precision=fp61"], 2, "did you mean 'fp16'?"),
}


@pytest.mark.parametrize("as_json", [False, True])
@pytest.mark.parametrize("case", sorted(BAD_USAGE))
def test_bad_usage(here, case, as_json, capsys):
    arguments, code, words = BAD_USAGE[case]
    found, line = refused(capsys, *arguments, *(["--json"] if as_json else []))
    assert found == code
    assert words in line
    assert {path.name for path in Path().iterdir()} <= {"small.yaml", "runs"}


def test_check_build_says_that_a_model_is_too_large(here, capsys):
    code, line = refused(capsys, "check", "small.yaml", "--build", "model.hidden=[99999999999]")
    assert (code, "use a smaller model" in line) == (5, True)


def test_no_arguments_show_the_help_as_usage_error(capsys):
    assert mptrain([]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("Usage: mptrain")


def test_paths_in_a_config_are_relative_to_the_current_folder(here, capsys):
    import numpy as np

    split = {"inputs": np.eye(8, dtype="float32"), "targets": np.arange(8) % 4}
    Path("other").mkdir()
    np.savez("other/x.npz", **{f"{name}_{key}": value for name in ("train", "test") for key, value in split.items()})
    Path("other/c.yaml").write_text(CONFIG.replace(CONFIG.splitlines()[1], "data: {name: arrays, path: other/x.npz}"))
    assert mptrain(["run", "other/c.yaml", "--quiet", "data.batch_size=4"]) == 0
    os.chdir("other")
    code, line = refused(capsys, "run", "c.yaml", "--quiet", "data.batch_size=4")
    assert code == 6
    assert str(Path("other/x.npz").absolute()) in line


class TestSavedRuns:
    """Runs that are finished, cut short, changed or damaged."""

    @pytest.fixture
    def saved(self, here):
        assert mptrain(["run", "small.yaml", "--run-id", "a", "--quiet"]) == 0
        return Path("runs/small/a")

    def test_eval_refuses_overrides_that_change_the_model(self, saved, capsys):
        for override in ("model.hidden=[17]", "data.num_outputs=5", "data.input_shape=[9]"):
            code, line = refused(capsys, "eval", str(saved), override, "--json")
            assert code == 2
            assert "leave out the override" in line

    def test_export_to_what_is_no_file(self, saved, capsys):
        assert refused(capsys, "export", str(saved), "--output", ".", "--json")[0] == 2
        assert refused(capsys, "export", str(saved), "--output", LONG)[0] == 4
        assert refused(capsys, "export", str(saved), "--output", "small.yaml/w")[0] == 4

    def test_eval_and_export_in_json_say_that_they_are_ok(self, saved, capsys):
        for command in (["eval", str(saved)], ["export", str(saved), "--output", "w"]):
            assert mptrain([*command, "--json"]) == 0
            result = strict(capsys.readouterr().out)
            assert (result["status"], result["exit_code"], result["error"]) == ("ok", 0, None)

    def test_a_run_without_checkpoints(self, here, capsys):
        assert mptrain(["run", "small.yaml", "--run-id", "n", "--quiet", "checkpoint.enabled=false"]) == 0
        for command in (["eval"], ["eval", "--best"], ["export", "--output", "w"], ["run", "small.yaml", "--resume"]):
            assert refused(capsys, *command, "runs/small/n")[0] == 6

    def test_best_of_a_run_that_was_never_evaluated(self, here, capsys):
        plant = "debug.plant=[{what: sigterm, at: 9}]"
        assert mptrain(["run", "small.yaml", "--run-id", "p", "--quiet", plant]) == 75
        capsys.readouterr()
        assert "no evaluated checkpoint" in refused(capsys, "eval", "runs/small/p", "--best")[1]

    @pytest.mark.parametrize("extra", [[], ["--max-steps", "3"], ["optimizer.lr=0.5"]])
    def test_resuming_a_finished_run_says_so_and_keeps_its_result(self, saved, extra, capsys):
        before = {name: (saved / name).read_bytes() for name in ("result.json", "config.yaml", "metrics.jsonl")}
        capsys.readouterr()
        assert mptrain(["run", "small.yaml", "--resume", str(saved), *extra]) == 0
        assert "24 steps are done" in capsys.readouterr().out
        assert {name: (saved / name).read_bytes() for name in before} == before

    def test_what_changed_on_resume_is_recorded(self, here, capsys):
        cut = ["run", "small.yaml", "--run-id", "p", "--quiet"]
        assert mptrain([*cut, "debug.plant=[{what: sigterm, at: 9}]"]) == 75
        assert mptrain([*cut, "--resume", "auto", "optimizer.lr=0.5", "precision=bf16"]) == 0
        assert "resumed with optimizer.lr changed 0.01 -> 0.5" in capsys.readouterr().err
        events = events_of("p")
        messages = [event["message"] for event in events if event["kind"] == "warning"]
        assert "resumed with precision.mode changed 'auto' -> 'bf16'" in messages
        assert [event["kind"] for event in events].count("precision_change") == 1
        assert result_of("p")["precision"]["mode"] == "bf16"

    @pytest.mark.parametrize(
        "change",
        ["seed=3", "data.batch_size=4", "data.num_train=50", "optimizer=sgd", "train.accumulate=2", "ema=0.9"],
    )
    def test_what_would_make_the_state_meaningless_is_refused(self, saved, change, capsys):
        before = (saved / "result.json").read_bytes()
        assert mptrain(["run", "small.yaml", "--resume", str(saved), change]) == 2
        lines = capsys.readouterr().err.splitlines()
        assert all("cannot be resumed across this change" in line for line in lines)
        assert any(change.partition("=")[0].split(".")[0] in line for line in lines)
        assert (saved / "result.json").read_bytes() == before

    def test_starting_afresh_where_nothing_was_saved_is_said_and_leaves_one_record(self, here, capsys):
        again = ["run", "small.yaml", "--run-id", "n", "--quiet", "checkpoint.enabled=false", "--resume", "auto"]
        assert mptrain(again) == 0
        metrics = Path("runs/small/n/metrics.jsonl").read_text().count("\n")
        assert mptrain(again) == 0
        assert "holds no checkpoint; starting afresh" in capsys.readouterr().err
        assert Path("runs/small/n/metrics.jsonl").read_text().count("\n") == metrics

    def test_auto_takes_the_run_that_saved_last_whatever_its_id(self, here):
        for run_id in ("b", "a"):
            cut = f"debug.plant=[{{what: sigterm, at: {9 if run_id == 'b' else 11}}}]"
            assert mptrain(["run", "small.yaml", "--run-id", run_id, "--quiet", cut]) == 75
        assert mptrain(["run", "small.yaml", "--resume", "auto", "--quiet"]) == 0
        assert (result_of("a")["status"], result_of("b")["status"]) == ("ok", "preempted")

    @pytest.mark.parametrize("content", [b"", b"[1]", b"\xff\xfe junk", b"model: mlp\ndata: 3\n"])
    def test_a_damaged_config(self, saved, content, capsys):
        (saved / "config.yaml").write_bytes(content)
        for command in (["eval", str(saved)], ["run", "small.yaml", "--resume", str(saved)]):
            assert mptrain(command) == 2
            err = capsys.readouterr().err
            assert all(line.startswith("error: runs/small/a/config.yaml") for line in err.splitlines())

    def test_a_lost_config(self, saved, capsys):
        (saved / "config.yaml").unlink()
        for command in (["eval", str(saved)], ["run", "small.yaml", "--resume", str(saved)]):
            assert refused(capsys, *command)[0] == 6

    @pytest.mark.parametrize("line", [b"{}\n", b"[]\n", b"junk\n"])
    def test_a_damaged_record(self, saved, line, capsys):
        (saved / "metrics.jsonl").write_bytes(line + (saved / "metrics.jsonl").read_bytes())
        (saved / "result.json").unlink()
        code, text = refused(capsys, "run", "small.yaml", "--resume", str(saved), "train.epochs=3", "--json")
        assert code == 6
        assert "metrics.jsonl:1: not a record" in text
        assert result_of("a")["status"] == "data_error"

    def test_a_damaged_checkpoint(self, saved, capsys):
        weights = next(saved.glob("checkpoints/*/model.pt"))
        weights.write_bytes(weights.read_bytes()[:100])
        for command in (["eval", str(saved)], ["export", str(saved), "--output", "w"]):
            code, line = refused(capsys, *command, "--json")
            assert (code, "model.pt: damaged" in line) == (6, True)

    def test_a_checkpoint_without_weights(self, saved, capsys):
        manifest = next(saved.glob("checkpoints/*/manifest.json"))
        manifest.write_text(json.dumps(strict(manifest.read_text()) | {"files": {}}))
        for command in (["eval", str(saved)], ["export", str(saved), "--output", "w"]):
            code, line = refused(capsys, *command)
            assert (code, "lists no model.pt" in line) == (6, True)

    def test_weights_of_another_model(self, saved, capsys):
        assert mptrain(["run", "small.yaml", "--run-id", "b", "--quiet", "model.hidden=[4]"]) == 0
        shutil.rmtree(saved / "checkpoints")
        shutil.copytree("runs/small/b/checkpoints", saved / "checkpoints")
        code, line = refused(capsys, "eval", str(saved))
        assert (code, "it belongs to another run" in line) == (6, True)


BAD_PLUGINS: dict[str, tuple[Callable[[], list[str]], str]] = {
    "absent": (lambda: ["plugins=[not_there]"], "cannot import 'not_there'"),
    "syntax": (lambda: plugin("p1", "def f(:\n"), "SyntaxError"),
    "exits": (lambda: plugin("p2", "raise SystemExit(0)\n"), "SystemExit: 0"),
    "duplicate": (
        lambda: plugin("p3", "@MODELS.register('mlp', config=ModelConfig, description='x')\ndef f(c, s): ...\n"),
        "model 'mlp' is already registered",
    ),
    "model of nothing": (lambda: model("p4", "return None"), "model: 'plug' built a NoneType, not a Module"),
    "model in half": (lambda: model("p5", "return nn.Linear(8, 4).half()"), "weight (torch.float16, cpu)"),
    "model without memory": (lambda: model("p6", "return nn.Linear(8, 4, device='meta')"), "(torch.float32, meta)"),
    "model without parameters": (lambda: model("p7", "return nn.Identity()"), "has no trainable parameter"),
    "model of another width": (lambda: model("p8", "return nn.Linear(8, 3)"), "its output is shape (8, 3)"),
    "model that fits no data": (lambda: model("p9", "return nn.Linear(9, 4)"), "does not take this data's samples"),
    "data of nothing": (lambda: data("p10", "return 3"), "data: 'plug' built a int, not a DataSplits"),
    "negative rate": (lambda: schedule("p11", "-1.0"), "makes the learning rate -0.01 at step 0"),
    "rate not a number": (lambda: schedule("p12", "float('nan')"), "makes the learning rate nan at step 0"),
    "no main metric": (lambda: task("p13", "{'other': 1.0}"), "lack its main metric 'score'"),
    "task of its own": (
        lambda: task("p16", "{}", base="object"),
        "lacks what mptrain.interfaces.Task gives; derive it",
    ),
    "task without a metric": (
        lambda: task("p17", "{}", more="    metrics = Task.metrics\n"),
        "built a T that lacks metrics; derive it from mptrain.interfaces.Task and define main_metric",
    ),
    "metric in words": (lambda: task("p14", "{'score': 'high'}"), "its metric 'score' is 'high', not a number"),
    "summary of tensors": (
        lambda: task("p15", "{'score': 1.0}", "{'w': torch.ones(3)}"),
        "its summary must be plain numbers",
    ),
}


@pytest.mark.parametrize("case", sorted(BAD_PLUGINS))
def test_a_plugin_that_breaks_the_contract_is_one_line(here, case, capsys):
    make, words = BAD_PLUGINS[case]
    code, line = refused(capsys, "run", "small.yaml", "--json", *make())
    assert code == 2
    assert words in line


def test_metrics_may_be_tensors_and_may_not_be_numbers(here, capsys):
    values = "{'score': torch.tensor(0.5), 'other': float('nan')}"
    assert mptrain(["run", "small.yaml", "--json", *task("q1", values)]) == 0
    result = strict(capsys.readouterr().out)
    assert result["metrics"] == {"score": 0.5, "other": None, "other_nonfinite": "nan"}


@pytest.mark.parametrize("failure", ["KeyError('boom')", "SystemExit(9)", "EOFError()", "RuntimeError('a\\nb')"])
def test_code_of_a_plugin_that_fails_is_named_and_recorded(here, failure, capsys):
    fails = model("q2", "return Net()", NET.format(body=f"if self.calls == 5: raise {failure}"))
    assert mptrain(["run", "small.yaml", "--run-id", "a", "--json", *fails]) == 1
    captured = capsys.readouterr()
    assert "Traceback" in captured.err  # whoever wrote the plugin needs it
    assert captured.err.splitlines()[-1].startswith("error: the code of plugin 'q2' (")
    assert strict(captured.out)["status"] == result_of("a")["status"] == "crashed"


def test_what_others_print_stays_out_of_the_json(here, capsys):
    prints = model("q3", "return Net()", "print('hello')\n" + NET.format(body="print('forward')"))
    assert mptrain(["run", "small.yaml", "--json", *prints]) == 0
    captured = capsys.readouterr()
    assert captured.out.count("\n") == 1
    assert strict(captured.out)["status"] == "ok"
    assert {"hello", "forward"} <= set(captured.err.splitlines())


def test_names_that_stdout_has_no_letters_for(tmp_path):
    (tmp_path / "é").mkdir()
    (tmp_path / "é" / "config.yaml").touch()
    done = subprocess.run(
        [sys.executable, "-m", "mptrain", "runs", tmp_path],
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"\\xe9    killed" in done.stdout


def test_an_error_on_a_terminal_that_has_gone_leaves_nothing_to_fail_later(monkeypatch):
    master, slave = os.openpty()
    os.close(master)
    with open(slave, "w", buffering=1) as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        print_problem("the disk is full")
        terminal.flush()  # as Python does at its end, whose exit code would be 120
