"""`mptrain run`, `eval`, `export`, `env` through the real command line, in an empty folder."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mptrain.cli.app import run as mptrain
from mptrain.precision.modes import MODES
from tests.cli.small_run import result_of, strict


def records(run_id: str, file: str) -> list[dict]:
    return [strict(line) for line in Path("runs", "small", run_id, file).read_text().splitlines()]


def test_a_run_leaves_everything_a_script_needs(here, capsys):
    assert mptrain(["run", "small.yaml", "--run-id", "a", "--json"]) == 0
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    result = strict(out)
    assert result == result_of("a")
    assert (result["status"], result["exit_code"], result["applied_steps"], result["skipped_steps"]) == ("ok", 0, 24, 0)
    assert result["precision"]["mode"] == "fp32"
    assert result["metrics"]["samples"] == 50
    files = {p.name for p in Path("runs/small/a").iterdir()} - {"metrics.jsonl", "events.jsonl"}
    assert files == {"config.yaml", "env.json", "plan.json", "run.json", "result.json", "checkpoints"}
    assert result["main_metric"] == {"name": "accuracy", "higher_is_better": True}
    train = [r for r in records("a", "metrics.jsonl") if r["type"] == "train"]
    assert [r["attempted_steps"] for r in train] == [5, 10, 15, 20, 24]
    about = strict(Path("runs/small/a/run.json").read_text())
    assert (about["run_id"], about["total_steps"], about["steps_per_epoch"]) == ("a", 24, 12)
    assert (about["precision"][:4], about["emulated"]) == ("fp32", False)
    assert strict(Path("runs/small/a/env.json").read_text())["versions"]["torch"] == torch.__version__


def test_the_recorded_config_runs_again_to_the_same_weights(here):
    assert mptrain(["run", "small.yaml", "optimizer.lr=0.02", "--run-id", "a", "--quiet"]) == 0
    assert mptrain(["run", "runs/small/a/config.yaml", "--run-id", "b", "--quiet"]) == 0
    first, second = result_of("a"), result_of("b")
    assert first["train_loss"] == second["train_loss"]
    assert first["metrics"] == second["metrics"]


def test_eval_reproduces_the_metric_of_training(here, capsys):
    assert mptrain(["run", "small.yaml", "ema=0.9", "precision=bf16", "--run-id", "a", "--quiet"]) == 0
    capsys.readouterr()
    assert mptrain(["eval", "runs/small/a", "--json"]) == 0
    assert strict(capsys.readouterr().out)["metrics"] == result_of("a")["metrics"]


def test_eval_and_export_tell_of_a_newer_checkpoint_that_cannot_be_read(here, capsys, caplog):
    assert mptrain(["run", "small.yaml", "--run-id", "a", "--quiet", "checkpoint.every=6"]) == 0
    older, newer = sorted(Path("runs/small/a/checkpoints").iterdir())
    (newer / "manifest.json").unlink()
    capsys.readouterr()
    for command in (["eval", "runs/small/a"], ["export", "runs/small/a", "--output", "w.safetensors"]):
        caplog.clear()
        assert mptrain([*command, "--json"]) == 0
        assert strict(capsys.readouterr().out)["checkpoint"] == older.name
        assert caplog.messages == [f"skipped a checkpoint: {newer}: not a complete checkpoint (no manifest.json)"]
    (older / "manifest.json").write_text("{")
    assert mptrain(["eval", "runs/small/a"]) == 6
    err = capsys.readouterr().err
    assert f"holds no complete checkpoint: {older / 'manifest.json'}: damaged (" in err
    assert f"; {newer}: not a complete checkpoint" in err


@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16"])
def test_export_writes_plain_tensors_of_the_asked_format(here, dtype, capsys):
    assert mptrain(["run", "small.yaml", "--run-id", "a", "--quiet"]) == 0
    assert mptrain(["export", "runs/small/a", "--dtype", dtype, "--output", "out/weights.safetensors"]) == 0
    tensors = load_file("out/weights.safetensors")
    expected = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[dtype]
    assert {t.dtype for t in tensors.values() if t.is_floating_point()} == {expected}
    saved = torch.load(next(Path("runs/small/a/checkpoints").glob("*/model.pt")), weights_only=True)
    assert tensors.keys() == saved.keys()
    name = next(iter(saved))
    assert torch.equal(tensors[name], saved[name].to(expected))


def test_export_refuses_values_that_the_format_cannot_hold(here, capsys):
    assert mptrain(["run", "small.yaml", "--run-id", "a", "--quiet"]) == 0
    from mptrain.checkpoint import CheckpointStore, load

    store = CheckpointStore(Path("runs/small/a/checkpoints"))
    parts = load(store.latest().path)
    next(iter(parts["model"].values())).fill_(1e6)
    store.save(parts, step=99, applied_steps=99, attempted_steps=99, score=None)
    assert mptrain(["export", "runs/small/a", "--dtype", "fp16", "--output", "w.safetensors"]) == 2
    assert "values up to 1e+06, beyond the format's 65504; use bf16 or fp32" in capsys.readouterr().err
    assert not Path("w.safetensors").exists()


@pytest.mark.parametrize(
    ("plant", "code", "status"),
    [
        ("[{what: nan_loss, at: 4}, {what: nan_loss, at: 5}, {what: nan_loss, at: 6}]", 3, "diverged"),
        ("[{what: oom, at: 4}]", 5, "oom"),
        ("[{what: sigterm, at: 4}]", 75, "preempted"),
        ("[{what: inf_grad, at: 4}]", 0, "ok"),
    ],
)
def test_every_ending_has_its_code_and_its_result(here, plant, code, status, capsys):
    assert mptrain(["run", "small.yaml", f"debug.plant={plant}", "--run-id", "a", "--json"]) == code
    captured = capsys.readouterr()
    result = strict(captured.out)
    assert (result["status"], result["exit_code"]) == (status, code)
    assert result == result_of("a")
    assert result["planted"]
    assert "PLANTED" in captured.err
    assert (result["error"] is None) == (code == 0)
    assert "Traceback" not in captured.err


def test_a_planted_overflow_is_live_recorded_and_in_the_result(here, capsys):
    plant = "debug.plant=[{what: inf_grad, at: 7}]"
    assert mptrain(["run", "small.yaml", "precision=fp16", plant, "--run-id", "a"]) == 0
    out = capsys.readouterr().out
    assert "overflow at step 7" in out
    assert "skipped 1 (last at 7)" in out
    overflow = [e for e in records("a", "events.jsonl") if e["kind"] == "overflow"]
    assert [(e["attempted_step"], e["data"]["loss_scale"]) for e in overflow] == [(7, 65536.0)]
    result = result_of("a")
    assert (result["skipped_steps"], result["attempted_steps"], result["applied_steps"]) == (1, 25, 24)
    assert result["final_loss_scale"] == 32768.0
    assert result["planted"] == ["inf_grad at 7"]


def test_preempted_then_resumed_equals_uninterrupted(here, capsys):
    assert mptrain(["run", "small.yaml", "--run-id", "whole", "--quiet"]) == 0
    cut = "debug.plant=[{what: sigterm, at: 9}]"
    assert mptrain(["run", "small.yaml", cut, "--run-id", "cut", "--quiet"]) == 75
    assert mptrain(["run", "small.yaml", "--run-id", "cut", "--resume", "auto", "--quiet"]) == 0
    whole, resumed = result_of("whole"), result_of("cut")
    for key in ("train_loss", "metrics", "applied_steps", "attempted_steps"):
        assert whole[key] == resumed[key]
    losses = [(r["attempted_steps"], r["loss"]) for r in records("whole", "metrics.jsonl") if r["type"] == "train"]
    again = [(r["attempted_steps"], r["loss"]) for r in records("cut", "metrics.jsonl") if r["type"] == "train"]
    assert [item for item in again if item[0] >= 15] == [item for item in losses if item[0] >= 15]
    assert len({step for step, _ in again}) == len(again)


def test_resume_auto_starts_afresh_where_there_is_nothing(here):
    assert mptrain(["run", "small.yaml", "--resume", "auto", "--run-id", "a", "--quiet"]) == 0


def test_max_steps_then_resume_goes_on_with_the_same_schedule(here):
    assert mptrain(["run", "small.yaml", "schedule=cosine", "--run-id", "whole", "--quiet"]) == 0
    assert mptrain(["run", "small.yaml", "schedule=cosine", "--run-id", "a", "--max-steps", "10", "--quiet"]) == 0
    assert result_of("a")["applied_steps"] == 10
    assert mptrain(["run", "small.yaml", "schedule=cosine", "--resume", "runs/small/a", "--quiet"]) == 0
    assert result_of("a")["metrics"] == result_of("whole")["metrics"]


def test_resume_across_another_model_is_refused(here, capsys):
    assert mptrain(["run", "small.yaml", "--run-id", "a", "--quiet"]) == 0
    assert mptrain(["run", "small.yaml", "model.hidden=[32]", "--resume", "runs/small/a", "--quiet"]) == 2
    assert "model.hidden: was [16], is [32]" in capsys.readouterr().err


def test_an_existing_run_is_not_overwritten(here, capsys):
    assert mptrain(["run", "small.yaml", "--run-id", "a", "--quiet"]) == 0
    assert mptrain(["run", "small.yaml", "--run-id", "a", "--quiet"]) == 2
    assert "exists already" in capsys.readouterr().err


def test_dry_run_writes_nothing(here, capsys):
    assert mptrain(["run", "small.yaml", "--dry-run"]) == 0
    assert "would train 24 steps" in capsys.readouterr().out
    assert not Path("runs").exists()


def test_env_names_devices_precisions_and_versions(capsys):
    assert mptrain(["env"]) == 0
    out = capsys.readouterr().out
    assert "cpu" in out
    assert "tf32         no" in out
    assert torch.__version__ in out
    assert mptrain(["env", "--json"]) == 0
    report = strict(capsys.readouterr().out)
    precisions = report["devices"][0]["precisions"]
    assert precisions["fp32"]["support"] == "native"
    assert list(precisions) == list(MODES)
    assert all(found["support"] in ("native", "slow", "no") and found["reason"] for found in precisions.values())


BAD_CONFIGS = {
    "unknown key": (["precison=bf16"], 2, "did you mean 'precision'"),
    "wrong type": (["train.epochs=many"], 2, "train.epochs"),
    "nan rate": (["optimizer.lr=.nan"], 2, "optimizer.lr"),
    "negative rate": (["optimizer.lr=-1"], 2, "optimizer.lr"),
    "unknown model": (["model=resnet19"], 2, "did you mean 'resnet18'"),
    "unknown dataset": (["data=cifar11"], 2, "cifar10"),
    "bad precision": (["precision=fp61"], 2, "did you mean 'fp16'?"),
    "tf32 on a CPU": (["precision=tf32"], 4, "cpu cannot run tf32"),
    "batch larger than data": (["data.batch_size=97"], 2, "97"),
    "classes that do not match": (["model.num_classes=3"], 2, "model.num_classes: 3 outputs"),
    "missing data": (["data={name: arrays, path: nowhere.npz}"], 6, "nowhere.npz"),
    "missing dataset files": (["data={name: cifar10, root: nowhere}"], 6, "download=true"),
    "no such GPU": (["device=cuda:9"], 4, "device: 'cuda:9'"),
    "warm-up longer than the run": (["schedule={name: cosine, warmup_steps: 99}"], 2, "warmup_steps: 99"),
}


@pytest.mark.skipif(torch.cuda.is_available(), reason="asks for what a machine without a GPU lacks")
@pytest.mark.parametrize("case", sorted(BAD_CONFIGS))
def test_a_mistake_is_one_line_and_a_code(here, case, capsys):
    overrides, code, words = BAD_CONFIGS[case]
    assert mptrain(["run", "small.yaml", *overrides, "--quiet"]) == code
    err = capsys.readouterr().err
    assert words in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert "Traceback" not in err
    assert {p.name for p in Path().iterdir()} <= {"small.yaml", "runs"}
    for run_dir in Path("runs").glob("*/*"):
        assert strict((run_dir / "result.json").read_text())["exit_code"] == code


def test_a_config_error_is_json_too(here, capsys):
    assert mptrain(["run", "small.yaml", "precision=fp61", "--json"]) == 2
    captured = capsys.readouterr()
    assert strict(captured.out)["status"] == "config_error"
    assert "fp61" in captured.err


def start(*arguments: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "mptrain", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_signal_saves_and_exits_75(here, number):
    process = start("run", "small.yaml", "train.epochs=100000", "--run-id", "a")
    for line in process.stdout:
        if line.startswith("epoch"):
            break
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 75, err
    result = result_of("a")
    assert result["status"] == "preempted"
    assert Path("runs/small/a/checkpoints", f"step-{result['applied_steps']:08d}", "manifest.json").exists()


def test_sigkill_leaves_whole_lines_and_a_loadable_checkpoint(here):
    process = start("run", "small.yaml", "train.epochs=100000", "checkpoint.every=10", "--run-id", "a")
    manifest = Path("runs/small/a/checkpoints")
    deadline = time.monotonic() + 60
    while len(list(manifest.glob("step-*/manifest.json"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    process.communicate()
    records("a", "metrics.jsonl")
    saved = max(int(path.parent.name[5:]) for path in manifest.glob("step-*/manifest.json"))
    resume = ["run", "small.yaml", "train.epochs=100000", "--resume", "auto", "--run-id", "a", "--quiet"]
    assert mptrain([*resume, "--max-steps", str(saved + 5)]) == 0
    assert result_of("a")["applied_steps"] == saved + 5


@pytest.mark.parametrize(("mode", "bound"), [("fp64", 1e-12), ("fp32", 1e-6), ("bf16", 1e-2), ("fp16", 1e-3)])
def test_the_classroom_example_prints_its_weights_beside_fp64(here, mode, bound, capsys):
    config = Path(__file__).parents[2] / "configs" / "linear.yaml"
    assert mptrain(["run", str(config), f"precision={mode}", "--run-id", mode]) == 0
    out = capsys.readouterr().out
    assert "learned             weight 1.99" in out
    assert "least squares fp64  weight 1.9967178 -0.99565848 0.49956832  bias 0.24419486" in out
    assert result_of(mode, "linear")["summary"]["max_abs_difference"] < bound


def test_a_plugin_beside_a_config_elsewhere_is_found_again_from_the_run(here):
    folder = here / "elsewhere"
    folder.mkdir()
    (folder / "small.yaml").write_text(Path("small.yaml").read_text() + "plugins: [far_model]\n")
    (folder / "far_model.py").write_text(
        "from torch import nn\nfrom mptrain.config.schema import ModelConfig\nfrom mptrain.registry import MODELS\n"
        "@MODELS.register('far', config=ModelConfig, description='for a test')\n"
        "def build(config, spec):\n    return nn.Linear(8, 4)\n"
    )
    run = [sys.executable, "-m", "mptrain", "run", "elsewhere/small.yaml", "--run-id", "a", "--quiet", "model=far"]
    assert subprocess.run(run, check=False).returncode == 0
    record = strict(Path("runs/small/a/env.json").read_text())
    assert record["plugins"] == {"far_model": str(folder / "far_model.py")}
    done = subprocess.run(
        [sys.executable, "-m", "mptrain", "eval", "runs/small/a", "--json"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert strict(done.stdout)["metrics"] == result_of("a")["metrics"]
