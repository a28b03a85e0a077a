"""Plans are made without weights, and without data where their config tells what they would be like."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from mptrain.cli.app import run as mptrain
from mptrain.config.schema import DataConfig
from mptrain.data.expected import expected_spec
from mptrain.errors import ConfigError, DataError
from mptrain.interfaces import DataSpec
from mptrain.registry import DATASETS
from mptrain.trainer.plan_report import plan_report, plan_reports
from mptrain.trainer.sketch import sketch_run
from tests.cli.small_run import strict
from tests.trainer.runs import build, config, registered


class ElsewhereConfig(DataConfig):
    """Images on another machine."""


class UnknownConfig(DataConfig):
    """Data of which only their files tell."""


@expected_spec.register
def _elsewhere(config: ElsewhereConfig) -> DataSpec:
    return DataSpec((3, 32, 32), 10)


def _not_here(config: DataConfig, seed: int) -> None:
    raise DataError("data.root: there is no folder /nowhere; put the images there")


@pytest.fixture(autouse=True)
def datasets() -> Iterator[None]:
    for name, cls in (("elsewhere", ElsewhereConfig), ("unknown", UnknownConfig)):
        DATASETS.register(name, config=cls, description="for tests")(_not_here)
    yield
    for name in ("elsewhere", "unknown"):
        del DATASETS._entries[name]


def elsewhere(**changes):
    data = {"name": "elsewhere", "batch_size": 8}
    return config({"data": data, "model": {"name": "resnet18"}, "train": {"max_steps": 20}} | changes)


def test_the_plan_of_absent_data_is_that_of_data_of_their_kind():
    present = {"name": "synthetic", "input_shape": [3, 32, 32], "num_outputs": 10, "num_train": 16, "batch_size": 8}
    (planned,) = plan_reports(elsewhere())
    (known,) = plan_reports(elsewhere(data=present))
    assert planned["notices"][0].startswith("the data are not here")
    assert "there is no folder /nowhere; put the images there" in planned["notices"][0]
    assert planned | {"notices": []} == known
    assert known["memory"]["activations"] > 0


def test_data_of_which_only_the_files_tell_are_an_error():
    with pytest.raises(DataError, match="no folder /nowhere"):
        sketch_run(elsewhere(data={"name": "unknown"}))


def test_a_length_in_epochs_is_unknown_and_so_are_the_phases_ends():
    phases = {"mode": "auto", "phases": [{"until": 0.5, "mode": "bf16"}, {"until": 1.0, "mode": "fp32"}]}
    train = {"epochs": 3, "max_steps": None}
    sketch = sketch_run(elsewhere(train=train, precision=phases, schedule={"name": "cosine", "warmup_steps": 10**6}))
    assert (sketch.total_steps, sketch.steps_per_epoch) == (None, None)
    assert [phase.until_step for phase in sketch.phases] == [None, None]
    assert [phase.in_force.mode for phase in sketch.phases] == ["bf16", "fp32"]


def test_a_length_in_steps_is_checked_against_the_schedule():
    with pytest.raises(ConfigError, match="leaves nothing of the run's 20 steps"):
        sketch_run(elsewhere(schedule={"name": "cosine", "warmup_steps": 20}))


def test_images_that_do_not_suit_the_model_are_refused_without_them():
    with pytest.raises(ConfigError, match="multiple of 14"):
        sketch_run(elsewhere(model={"name": "vit_h_14", "num_classes": 10}))


@pytest.mark.parametrize(
    "changes",
    [
        {"precision": {"mode": "bf16-master"}, "ema": 0.9},
        {"precision": {"mode": "fp16-pure", "rounding": "nearest"}, "train": {"max_steps": 20, "accumulate": 2}},
        {"precision": {"mode": "fp8", "backend": "emulated"}, "optimizer": {"name": "sgd", "lr": 0.1}},
        {"precision": {"mode": "fp32", "overrides": [{"match": "2", "dtype": "bf16"}]}},
        {"optimizer": {"name": "rmsprop", "lr": 0.1}, "train": {"epochs": 2, "max_steps": None}},
    ],
)
def test_a_plan_is_what_the_built_run_says(changes):
    built = plan_report(build(changes))
    (planned,) = plan_reports(config(changes))
    assert planned["memory"].pop("total_with_activations") > planned["memory"].pop("activations") > 0
    assert planned == built


def test_nothing_is_held_for_a_large_model():
    wide = config({"model": {"name": "mlp", "hidden": [2_000_000, 2_000_000]}})
    (report,) = plan_reports(wide)
    assert report["memory"]["weights"] > 16e12


def test_weights_are_not_read_for_a_plan():
    model = {"name": "resnet18", "weights": "/nowhere.pt"}
    assert sketch_run(elsewhere(model=model)).phases[0].activations
    present = {"name": "synthetic", "input_shape": [3, 32, 32], "num_outputs": 10, "num_train": 16, "batch_size": 8}
    with pytest.raises(DataError, match=r"no file /nowhere\.pt"):
        build({"model": model, "data": present})


class ByValues(nn.Module):
    """Decides by what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 4)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.layer(inputs if bool(inputs.sum() > 0) else -inputs)


class ByInitialWeights(nn.Linear):
    """Computes with its initial weights on the host."""

    def __init__(self) -> None:
        super().__init__(8, 4)
        self.scale = float(self.weight.abs().max())


def test_activations_that_values_decide_are_not_told():
    with registered("by_values", lambda config, spec: ByValues()):
        (report,) = plan_reports(config({"model": {"name": "by_values"}}))
    assert (report["memory"]["activations"], report["memory"]["total_with_activations"]) == (None, None)
    (notice,) = report["notices"]
    assert notice.startswith("activations cannot be told: the model decides by tensor values")


def test_a_model_that_cannot_do_without_memory_is_planned_too():
    with registered("by_weights", lambda config, spec: ByInitialWeights()):
        (report,) = plan_reports(config({"model": {"name": "by_weights"}}))
    assert report["memory"]["weights"] == 4 * (8 * 4 + 4)


def test_samples_that_do_not_fit_are_a_config_error():
    with (
        registered("wrong", lambda config, spec: nn.Linear(7, 4)),
        pytest.raises(ConfigError, match="'wrong' does not take this data's samples"),
    ):
        plan_reports(config({"model": {"name": "wrong"}}))


CONFIG = """\
model: resnet18
data: {name: elsewhere, batch_size: 8}
task: classification
optimizer: sgd
schedule: cosine
train: {epochs: 2}
device: cpu
precision: bf16
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("far.yaml").write_text(CONFIG)
    return tmp_path


def test_a_dry_run_without_data_says_so_and_ends_well(here, capsys):
    assert mptrain(["run", "far.yaml", "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "far: would train 2 epochs, of how many steps only the data tell" in out
    assert "NOTICE     the data are not here, only their config was used: data.root: there is no folder /nowhere" in out
    assert "resnet18, 11.2 M parameters" in out
    assert mptrain(["run", "far.yaml", "--dry-run", "--json"]) == 0
    result = strict(capsys.readouterr().out)
    assert result["data_error"] == "data.root: there is no folder /nowhere; put the images there"
    assert (result["total_steps"], result["steps_per_epoch"]) == (None, None)
    assert not Path("runs").exists()
    assert mptrain(["run", "far.yaml", "--dry-run", "train={epochs: null, max_steps: 7}"]) == 0
    assert "far: would train 7 steps\n" in capsys.readouterr().out


def test_without_data_a_plan_notes_it_and_a_run_ends_with_6(here, capsys):
    assert mptrain(["plan", "far.yaml"]) == 0
    out = capsys.readouterr().out
    assert "note: the data are not here, the plan is for what they should be (data.root: there is no folder" in out
    assert "memory of the activations of 8 samples: " in out
    for command in (
        ["run", "far.yaml"],
        ["run", "far.yaml", "data=unknown", "--dry-run"],
        ["plan", "far.yaml", "data=unknown"],
    ):
        assert mptrain(command) == 6
        assert "error: data.root: there is no folder /nowhere" in capsys.readouterr().err


def test_a_dry_run_with_data_has_no_data_error(here, capsys):
    data = "data={name: synthetic, num_train: 16, num_test: 8, batch_size: 8}"
    assert mptrain(["run", "far.yaml", data, "--dry-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["data_error"] is None
    assert mptrain(["run", "far.yaml", data, "model.weights=nowhere.pt", "--dry-run"]) == 6
