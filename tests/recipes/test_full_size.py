"""The full-size recipes: valid, and planned without data or memory, at the published number of parameters."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mptrain.catalog import load_config
from mptrain.trainer.sketch import sketch_run

RECIPES = Path(__file__).parents[2] / "recipes"
PARAMETERS = {
    # torchvision's pages of the models: 42.0 M with the auxiliary head, 25.6 M.
    "deeplabv3_voc": 42.0e6,
    "resnet50_imagenet": 25.557e6,
    # torchvision: 34.0 M with 91 classes, here COCO's 80: 11 classes x 9 anchors x (9 x 256 + 1) weights fewer.
    "retinanet_coco": 34.015e6 - 11 * 9 * (9 * 256 + 1),
    # nanoGPT prints 124 M; with tied embeddings and 50,257 tokens.
    "gpt2_124m_openwebtext": 124.44e6,
    # Vaswani et al. 2017, table 3: 65 M, with 37,000 tokens.
    "transformer_wmt14_ende": 65e6,
    # Gulati et al. 2020, table 1: Conformer (M), 30.7 M with its LSTM decoder.
    "conformer_librispeech": 30.7e6,
}
TOLERANCE = {"transformer_wmt14_ende": 0.05, "conformer_librispeech": 0.15}


def test_there_is_one_for_each_domain():
    assert sorted(path.parent.name for path in RECIPES.glob("*/train.yaml")) == sorted(PARAMETERS)


@pytest.mark.parametrize("name", sorted(PARAMETERS))
def test_it_is_planned_without_its_data(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sketch = sketch_run(load_config(RECIPES / name / "train.yaml").config)
    assert sketch.data_error
    (phase,) = sketch.phases
    assert phase.in_force.mode == "bf16"
    parameters = phase.memory.weights / 4
    assert parameters == pytest.approx(PARAMETERS[name], rel=TOLERANCE.get(name, 1e-3))
    assert phase.activations > phase.memory.weights


def test_the_commands_say_that_the_data_are_not_here(tmp_path):
    recipe = str(RECIPES / "resnet50_imagenet" / "train.yaml")

    def mptrain(*arguments):
        command = [sys.executable, "-m", "mptrain", *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout

    assert re.search(
        r"activations of 256 samples: 1\d\.\d GiB; total .*\n.*the data are not here", mptrain("plan", recipe)
    )
    result = json.loads(mptrain("run", recipe, "--dry-run", "--json"))
    assert "data/imagenet/train" in result["data_error"]
    assert result["model"] == "resnet50, 25.6 M parameters"
    assert not list(tmp_path.iterdir())
