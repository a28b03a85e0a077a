"""An experiment from its file to its table: real runs of one step, runs kept, and every recipe validated."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mptrain.catalog import load_config, to_yaml
from mptrain.errors import ConfigError
from recipes.compare import plan_runs
from recipes.table import markdown, summarise

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "recipes").rglob("*.yaml"))
EXPERIMENTS = [file for file in FILES if "\nvariants:" in file.read_text()]
BASE = """
model: {name: mlp, hidden: [4]}
data: {name: synthetic, input_shape: [3], num_outputs: 2, num_train: 64, num_test: 32, batch_size: 8}
task: classification
optimizer: sgd
schedule: constant
train: {max_steps: 1}
precision: fp32
"""
EXPERIMENT = """
config: base.yaml
seeds: 2
variants:
  calm: [optimizer.lr=0.01]
  wild: [optimizer.lr=0.02, "debug.plant=[{what: inf_grad, at: 1}]", train.max_consecutive_skips=1]
"""


def write(folder: Path, experiment: str = EXPERIMENT) -> Path:
    (folder / "base.yaml").write_text(BASE)
    path = folder / "experiment.yaml"
    path.write_text(experiment)
    return path


def compare(*arguments: object, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "recipes.compare", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True)


def test_two_variants_and_two_seeds_make_a_table_and_are_not_run_twice(tmp_path: Path) -> None:
    path, out = write(tmp_path), tmp_path / "out"
    done = compare(path, "--out", out, "--jobs", 2)
    assert done.returncode == 0, done.stderr
    recorded = json.loads((out / "experiment-results.json").read_text())
    assert [(run["variant"], run["seed"], run["status"]) for run in recorded["runs"]] == [
        ("calm", 0, "ok"),
        ("calm", 1, "ok"),
        ("wild", 0, "diverged"),
        ("wild", 1, "diverged"),
    ]
    calm = recorded["variants"]["calm"]
    accuracies = [run["metrics"]["accuracy"] for run in recorded["runs"] if run["variant"] == "calm"]
    assert calm["final"][0] == pytest.approx(sum(accuracies) / 2)
    assert recorded["variants"]["wild"]["skipped_steps"] == [1, 0]
    table = (out / "experiment-table.md").read_text()
    assert table.strip() == done.stdout.strip()
    assert "over 2 seeds" in table

    kept = {file: file.stat().st_mtime_ns for file in out.rglob("result.json")}
    assert compare(path, "--out", out).returncode == 0
    assert len(kept) == 4
    assert {file: file.stat().st_mtime_ns for file in out.rglob("result.json")} == kept


def test_overrides_come_on_top_of_each_variants_own(tmp_path: Path) -> None:
    planned = plan_runs(write(tmp_path), tmp_path / "out", 1, ["optimizer.lr=0.5", "train.max_steps=2"])
    assert [(run.config.optimizer.lr, run.config.train.max_steps) for run in planned] == [(0.5, 2), (0.5, 2)]


def test_several_experiments_have_a_table_each_and_seeds_count_from_where_they_are_told(tmp_path: Path) -> None:
    first, second, out = write(tmp_path), tmp_path / "second.yaml", tmp_path / "out"
    second.write_text(EXPERIMENT.replace("lr=0.01", "lr=0.03"))
    planned = plan_runs(first, out, 2, (), 5)
    assert [run.config.seed for run in planned] == [5, 6, 5, 6]
    done = compare(first, second, "data.num_test=16", "--out", out, "--seeds", 1, "--first-seed", 7, "--jobs", 2)
    assert done.returncode == 2  # both would use the same folders
    assert "another config" in done.stderr
    assert (out / "experiment-table.md").exists()
    assert json.loads((out / "experiment-results.json").read_text())["runs"][0]["seed"] == 7
    assert compare("data.num_test=16").returncode == 2


def test_a_folder_with_a_run_of_another_config_is_refused(tmp_path: Path) -> None:
    (planned, *_) = plan_runs(write(tmp_path), tmp_path / "out")
    assert planned.finished_result() is None
    planned.run_dir.mkdir(parents=True)
    (planned.run_dir / "config.yaml").write_text(to_yaml(planned.config))
    (planned.run_dir / "result.json").write_text('{"status": "ok"}')
    assert planned.finished_result() == {"status": "ok"}
    (changed, *_) = plan_runs(write(tmp_path, EXPERIMENT.replace("lr=0.01", "lr=0.03")), tmp_path / "out")
    with pytest.raises(ConfigError, match=r"calm-seed0 holds a run of another config; remove it, or choose another"):
        changed.finished_result()


@pytest.mark.parametrize(
    ("experiment", "says"),
    [
        ("config: base.yaml\n", "no experiment"),
        ("config: base.yaml\nvariants: {a: [optimizer.lr=0.1], b: [x]}\n", "b: override 'x'"),
        ("config: base.yaml\nvariants: {a: [modle=mlp]}\n", "a: override 'modle=mlp': modle: unknown key"),
        ("- 1\n", "no experiment"),
        ("config: [\n", "no experiment"),
    ],
)
def test_a_wrong_experiment_is_refused_before_anything_runs(tmp_path: Path, experiment: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        plan_runs(write(tmp_path, experiment), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def result(variant: str, **changes: Any) -> dict[str, Any]:
    return {
        "variant": variant,
        "status": "ok",
        "metrics": {"accuracy": 0.5},
        "best": {"metric": "accuracy"},
        "train_loss": 1.0,
        "skipped_steps": 0,
        "held_bytes": {"measured": {"total": 3 * 2**10}},
        "peak_memory_bytes": 2**20,
        "numerics": {"underflow_share": 0.25, "zero_share": 0.5},
        "device": "cpu (x, 1 threads)",
        "versions": {"mptrain": "1", "torch": "2", "python": "3"},
        **changes,
    }


def test_figures_are_means_and_sample_deviations_and_what_is_missing_says_so() -> None:
    runs = [
        result("a"),
        result("a", metrics={"accuracy": 0.7}, numerics={"underflow_share": 0.75, "zero_share": 0.5}),
        result("b", status="diverged", metrics={}, best=None, train_loss=None, numerics=None),
        result("b", status="env_error", metrics=None, best=None, train_loss=None, skipped_steps=None, device=None),
    ]
    assert markdown(summarise(runs), runs).splitlines() == [
        "| variant | accuracy | train loss | skipped steps | underflow | zero gradients | lost updates "
        "| held | peak memory | ended |",
        "|" + " --- |" * 10,
        "| a | 0.6 ± 0.14 | 1 ± 0 | 0 | 50 % | 50 % | n/a | 3 KiB | 1 MiB | ok |",
        "| b | n/a | n/a | 0 | 25 % | 50 % | n/a | 3 KiB | 1 MiB | 1 diverged, 1 env_error |",
        "",
        "Mean ± standard deviation over 2 seeds; cpu (x, 1 threads); mptrain 1, torch 2, python 3.",
    ]


def test_one_seed_has_no_deviation() -> None:
    runs = [result("a", train_loss=0.125)]
    assert "| a | 0.5 | 0.125 | 0 |" in markdown(summarise(runs), runs)


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: str(path.relative_to(ROOT / "recipes")))
def test_every_variant_of_every_recipe_is_valid(path: Path, tmp_path: Path) -> None:
    planned = plan_runs(path, tmp_path)
    assert len({run.run_dir for run in planned}) == len(planned) >= 2
    assert f"python -m recipes.compare {path.relative_to(ROOT)}" in path.read_text().split("\n\n")[0]


def test_every_recipe_has_a_readme_and_valid_configs_that_open_with_what_they_are() -> None:
    folders = [folder for folder in (ROOT / "recipes").iterdir() if folder.is_dir() and folder.name != "__pycache__"]
    assert sorted(folder.name for folder in folders) == [
        "airbench",
        "bf16_pure_stall",
        "conformer_librispeech",
        "deeplabv3_voc",
        "domains",
        "every_mode",
        "fp16_loss_scale",
        "gpt2_124m_openwebtext",
        "resnet50_imagenet",
        "retinanet_coco",
        "shrinking_gradients",
        "transformer_wmt14_ende",
    ]
    for folder in folders:
        assert (folder / "README.md").exists(), folder
    configs = [file for file in FILES if file not in EXPERIMENTS]
    assert len(configs) >= len(folders)
    for file in configs:
        load_config(file)
        first, *rest = file.read_text().splitlines()
        assert first == "# yaml-language-server: $schema=../../mptrain/config/run.schema.json"
        assert any("expect:" in line for line in rest)


def test_commands_of_the_readmes_name_what_exists_and_are_valid() -> None:
    text = "\n".join(path.read_text() for path in (ROOT / "recipes").rglob("README.md")).replace("\\\n", "")
    commands = re.findall(r"^python -m recipes\.compare (.*)$", text, re.M)
    experiments = {ROOT / name for command in commands for name in command.split() if name.endswith(".yaml")}
    assert experiments == set(EXPERIMENTS)
    runs = [shlex.split(line, comments=True) for line in re.findall(r"^mptrain run (.*)$", text, re.M)]
    assert runs
    for config, *overrides in runs:
        load_config(ROOT / config, overrides)
