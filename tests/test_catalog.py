"""Configs against the real registries: what is valid, and how every mistake is put into words."""

import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mptrain.catalog import REGISTRIES, annotated_yaml, config_from_mapping, load_config, to_yaml
from mptrain.config.precision import PRECISION_MODES
from mptrain.config.schema import ModelConfig, RunConfig
from mptrain.config.tree import Origin
from mptrain.config.yaml_reader import parse_yaml
from mptrain.errors import ConfigError, UnknownNameError
from mptrain.registry import MODELS, Registry
from tests.config.files import PLAIN, write


def problems(path: Path, *overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as raised:
        load_config(path, overrides)
    return raised.value.problems


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    return write(tmp_path, "plain.yaml", PLAIN)


def test_values_defaults_and_overrides_know_where_they_came_from(plain: Path) -> None:
    loaded = load_config(plain, ["precision=fp16", "optimizer.lr=5e-05"])
    config, origins = loaded.config, {path: str(origin) for path, origin in loaded.origins.items()}
    assert (config.name, config.model.name, config.optimizer.lr, config.precision.mode) == (
        "plain",
        "resnet18",
        5e-05,
        "fp16",
    )
    assert origins["model.stem"] == f"{plain}:1"
    assert origins["train.epochs"] == f"{plain}:10"
    assert origins["optimizer.lr"] == "override 'optimizer.lr=5e-05'"
    assert origins["precision.mode"] == "override 'precision=fp16'"
    assert origins["train.accumulate"] == "default"
    assert origins["name"] == f"{plain}: the file's name"


def test_the_resolved_config_loads_back_equal(plain: Path, tmp_path: Path) -> None:
    for overrides in (
        [],
        ["precision.loss_scale=1024", "ema=0.99", "debug.plant=[{what: oom, at: 3}]", "optimizer=adamw"],
    ):
        config = load_config(plain, overrides).config
        text = to_yaml(config)
        assert load_config(write(tmp_path, "resolved.yaml", text)).config == config
        raw = parse_yaml(text, lambda line: Origin("x", line)).plain()
        assert config_from_mapping(raw, source="x") == config
        assert list(raw) == list(RunConfig.model_fields)


def test_show_is_valid_yaml_that_says_what_was_left_out(plain: Path, tmp_path: Path) -> None:
    loaded = load_config(plain, ["optimizer=adamw"])
    text = annotated_yaml(loaded)
    assert text.startswith(f"# optimizer.momentum ({plain}:7) left out: 'adamw' has no such key\n")
    assert load_config(write(tmp_path, "shown.yaml", text)).config == loaded.config


# override -> how the one line about it goes on after "override '...': "
WRONG_VALUES = {
    "precision.mode=fp61": f"precision.mode: 'fp61' is not one of {', '.join(PRECISION_MODES)}, or a format eXmY (did",
    "precison=bf16": "precison: unknown key (did you mean 'precision'?)",
    "optimizer.momentun=0.5": "optimizer.momentun: unknown key (did you mean 'momentum'?)",
    "lr=0.1": "lr: unknown key; 'lr' belongs to optimizer.lr",
    "train.batch_size=3": "train.batch_size: unknown key; 'batch_size' belongs to data.batch_size",
    "log.zzz=1": "log.zzz: unknown key; this section has every",
    "optimizer.lr=.nan": "optimizer.lr: must be a finite number, not .nan",
    "optimizer.lr=-.inf": "optimizer.lr: must be a finite number, not -.inf",
    "optimizer.lr=-1": "optimizer.lr: must be greater than 0, not -1",
    "optimizer.lr=0": "optimizer.lr: must be greater than 0, not 0",
    "optimizer.lr=true": "optimizer.lr: must be a number, not true",
    "optimizer.lr=abc": "optimizer.lr: must be a number, not the text 'abc'",
    "optimizer.lr='1e-3'": "optimizer.lr: must be a number, not the text '1e-3' (remove the quotes)",
    "optimizer.lr=[1]": "optimizer.lr: must be a number, not a list",
    "optimizer.lr=null": "optimizer.lr: must be a number, not null",
    "train.epochs=1e1": "train.epochs: must be a whole number, not 10.0 (write 10)",
    "train.epochs=2.5": "train.epochs: must be a whole number, not 2.5",
    "train.compile=yes": "train.compile: must be true or false, not the text 'yes' (write true)",
    "train.compile=1": "train.compile: must be true or false, not 1",
    "train=[1]": "train: must be a mapping of keys, not a list",
    "precision=[1]": "precision: must be a mapping of keys or a bare mode, not a list",
    "precision=null": "precision: must be a mapping of keys or a bare mode, not null",
    "precision.loss_scale=dyn": (
        "precision.loss_scale.kind: 'dyn' is not one of auto, dynamic, static, none, histogram (did you"
    ),
    "precision.loss_scale=0": "precision.loss_scale.init_scale: must be greater than 0, not 0",
    "ema=1": "ema.decay: must be less than 1, not 1",
    "seed=-1": "seed: must be at least 0, not -1",
    "device=gpu": "device: 'gpu' does not fit; expected: auto (a GPU if there is one), cpu, cuda or cuda:N",
    "name=7": "name: must be text, not 7 (put it in quotes)",
    "model=resnet81": "model.name: 'resnet81' is not a known model (did you mean 'resnet18'",
    "model=7": "model.name: must be text, not 7 (put it in quotes)",
    "data=mnits": "data.name: 'mnits' is not a known dataset (did you mean 'mnist'",
    "debug.plant={what: oom, at: 1}": "debug.plant: must be a list, not a mapping",
    "debug.plant=[{what: oom}]": "debug.plant.0.at: is missing; expected: The attempted step (from 1) it happens at",
    "plugins=x": "plugins: must be a list, not the text 'x'",
    "train.early_stop={}": "train.early_stop.patience: is missing; expected: Evaluations in a row",
    "train.max_steps=5": "train: give exactly one of train.epochs and train.max_steps",
    "train.epochs=null": "train: give exactly one of train.epochs and train.max_steps",
}


@pytest.mark.parametrize("override", WRONG_VALUES)
def test_a_wrong_value_is_one_line_with_its_source_and_remedy(plain: Path, override: str) -> None:
    (problem,) = problems(plain, override)
    assert problem.startswith(f"override {override!r}: {WRONG_VALUES[override]}")


def test_all_problems_come_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    text = PLAIN.replace("1e-1", ".nan").replace("epochs: 4", "epochs: four").replace("stem: small", "stme: small")
    path = write(tmp_path, "bad.yaml", text + "precision: fp61\n")
    assert [line.rsplit("/", 1)[-1].split(": ")[:2] for line in problems(path, "seed=x")] == [
        ["bad.yaml:1", "model.stme"],
        ["bad.yaml:6", "optimizer.lr"],
        ["bad.yaml:10", "train.epochs"],
        ["bad.yaml:11", "precision.mode"],
        ["override 'seed=x'", "seed"],
    ]


def test_missing_sections_are_named_with_their_meaning(tmp_path: Path) -> None:
    path = write(tmp_path, "x.yaml", "seed: 1\nmodel: {stem: small}\n")
    lines = problems(path)
    assert f"{path}:2: model.name: is missing; expected: Name of the registry entry (see `mptrain ls`)" in lines
    assert f"{path}: data: is missing; expected: The dataset and its loading (see `mptrain ls datasets`)" in lines
    # Without a name nobody can say which keys the model has.
    assert len(lines) == 1 + len(["data", "task", "optimizer", "schedule", "train"])


def test_a_mapping_is_checked_like_a_file() -> None:
    with pytest.raises(ConfigError) as raised:
        config_from_mapping({"name": "x", "train": {"epochs": math.nan}}, source="runs/a/config.yaml")
    assert "runs/a/config.yaml: train.epochs: must be a whole number, not .nan" in raised.value.problems


PLUGIN = """
from mptrain.config.schema import ModelConfig
from mptrain.registry import MODELS, Registry


class TinyConfig(ModelConfig):
    width: int | str = 3
    '''Width.'''


@MODELS.register("{name}", config=TinyConfig, description="a test's own model")
def build(config, spec):
    raise NotImplementedError
"""


@pytest.fixture
def own_entry(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Forget entries, modules and search path that a test's plugins leave behind."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(MODELS, "_entries", dict(MODELS._entries))
    return monkeypatch


@pytest.mark.usefixtures("own_entry")
def test_a_plugin_beside_the_config_adds_its_entries(tmp_path: Path) -> None:
    (tmp_path / "own_models_beside.py").write_text(PLUGIN.format(name="tiny_beside"))
    text = PLAIN.replace("{name: resnet18, stem: small}", "{name: tiny_beside, width: 5}")
    path = write(tmp_path, "x.yaml", "plugins: [own_models_beside]\n" + text)
    config = load_config(path).config
    assert config.model.model_dump() == {"name": "tiny_beside", "num_classes": None, "width": 5}
    (problem,) = problems(path, "model.width=[1]")
    assert problem.endswith("model.width: must be a whole number, not a list or must be text, not a list")


@pytest.mark.usefixtures("own_entry")
@pytest.mark.parametrize(
    ("name", "source", "expected"),
    [
        (
            "plugin_absent",
            None,
            "ModuleNotFoundError: No module named 'plugin_absent'; it is neither beside the config",
        ),
        ("plugin_broken", "import json\n\n1 / 0\n", "ZeroDivisionError: division by zero"),
        ("plugin_syntax", "def f(:\n", "SyntaxError: invalid syntax"),
        ("plugin_exits", "raise SystemExit('bye')\n", "SystemExit: bye"),
        ("plugin_twice", PLUGIN.format(name="resnet18"), "ValueError: model 'resnet18' is already registered"),
        (".relative", None, "TypeError: "),
        ("''", None, "ValueError: Empty module name"),
    ],
)
def test_a_plugin_that_cannot_be_imported_is_one_line(
    tmp_path: Path, name: str, source: str | None, expected: str
) -> None:
    if source is not None:
        (tmp_path / f"{name}.py").write_text(source)
    (problem,) = problems(write(tmp_path, "x.yaml", f"seed: 1\nplugins:\n  - {name}\n"))
    assert problem.startswith(f"{tmp_path}/x.yaml:3: plugins: cannot import {name.strip(chr(39))!r}: {expected}")


def test_sections_and_registries_agree() -> None:
    assert all(len(registry) for registry in REGISTRIES.values())
    for section, registry in REGISTRIES.items():
        assert issubclass(registry.base, RunConfig.model_fields[section].annotation or object)
        for entry in registry:
            undescribed = [key for key, field in entry.config.model_fields.items() if not field.description]
            assert not undescribed, f"{entry.name}: {undescribed}"


def test_an_installed_package_joins_by_its_entry_point(tmp_path: Path) -> None:
    (tmp_path / "joining.py").write_text(
        "from mptrain.config.schema import ModelConfig\n"
        "from mptrain.registry import MODELS\n"
        "@MODELS.register('joined', config=ModelConfig, description='from an installed package')\n"
        "def build(config, spec): ...\n"
    )
    info = tmp_path / "joining-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: joining\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[mptrain.plugins]\njoining = joining\n")
    done = subprocess.run(
        [sys.executable, "-m", "mptrain", "ls", "models"],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "joined" in done.stdout
    assert "from an installed package" in done.stdout


def test_a_family_takes_every_name_that_begins_with_it():
    registry = Registry("model", "models", ModelConfig)
    registry.register("hub/*", config=ModelConfig, description="any of a hub")(lambda config: config.name)
    assert registry.build(ModelConfig(name="hub/some-net")) == "hub/some-net"
    assert registry.find("hub/") is None
    assert registry.find("hub/*") is None
    assert registry.find("hubby/x") is None
    with pytest.raises(UnknownNameError, match="hub"):
        registry.get("hub")
