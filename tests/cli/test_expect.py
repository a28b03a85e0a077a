"""`--expect`: any figure of a result as a gate, judged at the end, after a resume, and by `mptrain eval`."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from mptrain.cli.app import run as mptrain
from mptrain.errors import ConfigError
from mptrain.telemetry.files import strict_json
from mptrain.trainer.expectations import judged, parse_expectations
from tests.cli.small_run import result_of, strict

RESULT = {
    "status": "ok",
    "exit_code": 0,
    "error": None,
    "precision": {"mode": "fp16", "backend": "emulated", "autocast": True},
    "skipped_steps": 3,
    "loss_scale_history": [[1, 2.0]],
    "samples_per_s": None,
    "final_loss_scale": None,
    "step_time_ms": {"median": 12.5, "p90": None},
    "metrics": {"accuracy": 0.41, "loss": float("nan"), "f1.macro": 0.25, "samples": 50, "skipped_steps": 99},
}


def run(*arguments: str) -> int:
    return mptrain(["run", "small.yaml", "--run-id", "a", *arguments])


def complaints(conditions: str, result: dict = RESULT) -> list[str]:
    error = judged(result, parse_expectations([conditions]))["error"]
    return error.splitlines() if error else []


@pytest.mark.parametrize(
    "condition",
    [
        *("accuracy>=0.41", "accuracy<=0.41", "accuracy==0.41", "accuracy>0.4", "accuracy<.5", "accuracy!=4.1e-2"),
        *("metrics.accuracy > 0.4", "  accuracy >= 4e-1 ", "f1.macro==0.25", "metrics.f1.macro==0.25"),
        *("skipped_steps==3", "metrics.skipped_steps==99", "samples==50", "samples==50.0"),
        *("step_time_ms.median<20", "precision.mode==fp16", "precision.mode!=bf16", "precision.autocast==true"),
    ],
)
def test_conditions_that_are_met(condition):
    judgement = judged(RESULT, parse_expectations([condition]))
    assert (judgement["status"], judgement["exit_code"], judgement["error"]) == ("ok", 0, None)
    assert [each["met"] for each in judgement["expectations"]] == [True]


@pytest.mark.parametrize(
    ("condition", "said"),
    [
        ("accuracy>=0.5", "it is 0.41"),
        ("accuracy>=0.4100000001", "it is 0.41"),
        ("accuracy>0.41", "it is 0.41"),
        ("skipped_steps<3", "it is 3"),
        ("loss<1", "it is nan"),
        ("loss!=1", "it is nan"),
        ("precision.mode==bf16", "it is fp16"),
        ("precision.autocast!=true", "it is true"),
        ("skipped_steps==few", "it is 3"),
        ("skipped_steps!=O", "it is 3"),
        ("loss!=few", "it is nan"),
        ("precision.mode>=16", "it is fp16"),
        ("samples_per_s>=100", "it was not measured (emulated)"),
        ("step_time_ms.p90<100", "it was not measured (emulated)"),
        ("final_loss_scale>1", "it was not measured"),
        ("loss_scale_history>1", "loss_scale_history is not one figure"),
        ("step_time_ms<100", "step_time_ms is not one figure; it has step_time_ms.median, step_time_ms.p90"),
    ],
)
def test_conditions_that_are_not_met(condition, said):
    assert complaints(condition) == [f"expected {condition}, {said}"]
    assert complaints(condition, strict_json(RESULT)) == [f"expected {condition}, {said}"]  # as its file has it


def test_all_that_was_missed_is_said_at_once():
    judgement = judged(RESULT, parse_expectations(["accuracy>=0.5,skipped_steps<=3", "skipped_steps<1"]))
    assert judgement["error"] == "expected accuracy>=0.5, it is 0.41\nexpected skipped_steps<1, it is 3"
    assert (judgement["status"], judgement["exit_code"]) == ("unmet", 3)
    assert judgement["expectations"] == [
        {"text": "accuracy>=0.5", "value": 0.41, "met": False},
        {"text": "skipped_steps<=3", "value": 3, "met": True},
        {"text": "skipped_steps<1", "value": 3, "met": False},
    ]


def test_a_figure_that_is_not_there_is_told_from_those_that_are():
    [said] = complaints("acuracy>=0.5")
    assert said.startswith(
        "expected acuracy>=0.5, there is no such figure; did you mean 'accuracy'? (metrics: accuracy,"
    )
    assert "skipped_steps" in said
    assert "did you mean" not in complaints("bleu>=20")[0]


def test_a_run_that_ended_otherwise_keeps_its_status():
    diverged = RESULT | {"status": "diverged", "exit_code": 3, "error": "the loss is nan"}
    judgement = judged(diverged, parse_expectations(["accuracy>=0.5"]))
    assert (judgement["status"], judgement["error"]) == ("diverged", "the loss is nan")
    assert judgement["expectations"] == [{"text": "accuracy>=0.5", "value": 0.41, "met": False}]


def test_every_mistake_in_the_conditions_is_told():
    with pytest.raises(ConfigError) as caught:
        parse_expectations(["accuracy=0.5,skipped_steps<=few,accuracy,>=3,a>=nan,a!=NaN,a==-inf", "", "a>=1,,b=>2"])
    assert caught.value.problems == [
        "--expect: 'accuracy=0.5' compares with '='; use >= <= == != > <",
        "--expect: 'skipped_steps<=few' needs a number after '<=', not 'few'",
        "--expect: 'accuracy' is no condition; write it as accuracy>=0.5",
        "--expect: '>=3' is no condition; write it as accuracy>=0.5",
        "--expect: 'a>=nan' needs a number after '>=', not 'nan'",
        "--expect: 'a!=NaN' needs a number after '!=', not 'NaN'",
        "--expect: 'a==-inf' needs a number after '==', not '-inf'",
        "--expect: '' is no condition; write it as accuracy>=0.5",
        "--expect: '' is no condition; write it as accuracy>=0.5",
        "--expect: 'b=>2' compares with '=>'; use >= <= == != > <",
    ]


def test_conditions_are_read_before_anything_heavy_is_imported():
    code = "import mptrain.trainer.expectations, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_a_run_as_a_gate(here, capsys):
    assert run("--json", "--expect", "accuracy>=0,skipped_steps==0") == 0
    result = strict(capsys.readouterr().out)
    assert [each["met"] for each in result["expectations"]] == [True, True]

    # The finished run is judged again, by what is asked now; its figures stay.
    assert run("--json", "--resume", "auto", "--expect", "accuracy>=0", "--expect", "accuracy>1,applied_steps<24") == 3
    captured = capsys.readouterr()
    unmet = strict(captured.out)
    assert unmet == result_of("a")
    assert (unmet["status"], unmet["exit_code"]) == ("unmet", 3)
    accuracy = result["metrics"]["accuracy"]
    errors = [f"expected accuracy>1, it is {accuracy:.10g}", "expected applied_steps<24, it is 24"]
    assert unmet["error"].splitlines() == errors
    assert [line for line in captured.err.splitlines() if "error" in line] == [f"error: {text}" for text in errors]

    assert run("--quiet", "--resume", "auto") == 0
    assert result_of("a") == result | {"expectations": []}


def test_a_run_that_misses_says_so_on_the_console(here, capsys):
    assert run("--expect", "accuracy>=2") == 3
    captured = capsys.readouterr()
    assert "status       unmet (exit code 3)" in captured.out
    assert captured.err.startswith("error: expected accuracy>=2, it is 0.")
    assert run("--resume", "auto", "train.epochs=3", "--quiet", "--expect", "applied_steps==36") == 0


def test_emulated_speed_meets_nothing(here, capsys):
    emulated = ["precision={mode: fp16, backend: emulated}", "train={epochs: null, max_steps: 4}"]
    assert run(*emulated, "--quiet", "--expect", "samples_per_s>=0,precision.mode==fp16") == 3
    assert capsys.readouterr().err.endswith("expected samples_per_s>=0, it was not measured (emulated)\n")


def test_what_is_surely_misspelt_is_refused_before_training(here, capsys):
    assert run("--quiet", "--expect", "acuracy>=0.5,step_time_ms.medain<9,metrics.acuracy>0,other>=0") == 2
    lines = capsys.readouterr().err.splitlines()
    assert [line.split("; ")[1].split("?")[0] for line in lines] == [
        "did you mean 'accuracy'",
        "did you mean 'step_time_ms.median'",
    ]
    assert not Path("runs/small/a/metrics.jsonl").exists()


def test_a_mistake_in_a_condition_leaves_no_folder(here, capsys):
    assert run("--json", "--expect", "accuracy>=many") == 2
    assert strict(capsys.readouterr().out)["status"] == "config_error"
    assert not Path("runs").exists()


def test_a_run_that_diverged_is_not_called_unmet(here, capsys):
    plant = "debug.plant=[{what: nan_loss, at: 4}, {what: nan_loss, at: 5}, {what: nan_loss, at: 6}]"
    assert run("--quiet", plant, "--expect", "accuracy>=2") == 3
    assert result_of("a")["status"] == "diverged"
    assert "expected" not in capsys.readouterr().err


def test_eval_as_a_gate(here, capsys):
    assert run("--quiet") == 0
    assert mptrain(["eval", "runs/small/a", "--expect", "accuracy>=0,precision==fp32"]) == 0
    capsys.readouterr()
    assert mptrain(["eval", "runs/small/a", "--json", "--expect", "accuracy>=2"]) == 3
    captured = capsys.readouterr()
    result = strict(captured.out)
    assert (result["status"], result["exit_code"], result["expectations"][0]["met"]) == ("unmet", 3, False)
    assert captured.err == f"error: expected accuracy>=2, it is {result['metrics']['accuracy']:.10g}\n"
    assert mptrain(["eval", "runs/small/a", "--expect", "accuracy"]) == 2


def test_the_command_of_the_docs(here, capsys):
    root = Path(__file__).parents[2]
    line = re.search(r"^mptrain (run configs/ci_smoke.yaml .*)$", (root / "docs" / "ci.md").read_text(), re.M)
    (here / "configs").symlink_to(root / "configs")
    arguments = shlex.split(line[1].replace("samples_per_s>=100", "samples_per_s>0"))  # a busy machine has no speed
    assert mptrain(arguments) == 0
    result = strict(capsys.readouterr().out)
    assert [each["met"] for each in result["expectations"]] == [True, True, True]
