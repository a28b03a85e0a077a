"""timm's networks: fitted to the data, loaded from files, refused in one line."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

import mptrain.models
from mptrain.errors import CapabilityError, ConfigError, DataError
from mptrain.interfaces import DataSpec
from mptrain.registry import MODELS

timm = pytest.importorskip("timm")
assert mptrain.models  # registers the entries

GREY = DataSpec((1, 32, 32), 5)


def build(name: str, spec: DataSpec = GREY, **options: object) -> nn.Module:
    return MODELS.build(MODELS.config_type(name).model_validate({"name": name, **options}), spec)


@pytest.mark.parametrize("name", ["resnet18", "vit_tiny_patch16_224", "mobilenetv3_small_050", "convnext_atto"])
def test_networks_fit_channels_size_and_classes(name: str) -> None:
    with torch.device("meta"):
        model = build(f"timm/{name}")
        assert model(torch.empty(2, 1, 32, 32)).shape == (2, 5)
        assert build(f"timm/{name}", num_classes=9)(torch.empty(2, 1, 32, 32)).shape == (2, 9)


class Called(TorchFunctionMode):
    """Notes the functions that are called."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(func.__name__)
        return func(*args, **(kwargs or {}))


def test_attention_uses_the_fused_kernel() -> None:
    model = build("timm/vit_tiny_patch16_224")
    with Called() as called:
        model(torch.zeros(1, 1, 32, 32))
    assert "scaled_dot_product_attention" in called.names


def test_weights_are_read_from_a_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = build("timm/resnet18", DataSpec((3, 32, 32), 7))
    torch.save(source.state_dict(), tmp_path / "w.pt")
    with caplog.at_level(logging.WARNING):
        model = build("timm/resnet18", DataSpec((3, 32, 32), 5), weights=str(tmp_path / "w.pt"))
    assert torch.equal(model.state_dict()["layer1.0.conv1.weight"], source.state_dict()["layer1.0.conv1.weight"])
    assert "7 outputs, the model 5" in caplog.text
    with pytest.raises(DataError, match=r"no file .*absent\.pt"):
        build("timm/resnet18", weights="absent.pt")


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("resnet19", {}, "no network 'resnet19' .*did you mean timm/resnet18"),
        ("resnet18.a1_in2k", {}, "did you mean timm/resnet18.a1_in1k"),
        ("hf-hub:someone/something", {}, "no network 'hf-hub:someone/something'"),
        ("resnet18", {"weights": "IMAGENET1K_V1"}, r"give DEFAULT, .*resnet18\.a1_in1k"),
        ("twins_pcpvt_small", {}, r"cannot take images of \(1, 9, 9\)"),
    ],
)
def test_what_timm_does_not_have_is_one_line(name: str, options: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        build(f"timm/{name}", DataSpec((1, 9, 9), 5), **options)
    assert "\n" not in str(caught.value)


def test_data_that_are_no_images_are_refused() -> None:
    with pytest.raises(ConfigError, match="timm/resnet18 needs images"):
        build("timm/resnet18", DataSpec((8,), 5))


def test_a_download_that_fails_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # The hub's own offline mode stands for a machine without a network, where it retries for a minute.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(DataError, match=r"timm/resnet10t cannot be downloaded") as caught:
        build("timm/resnet10t", DataSpec((3, 32, 32), 5), weights="DEFAULT")
    assert "\n" not in str(caught.value)


def test_a_plan_downloads_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with torch.device("meta"):
        model = build("timm/resnet10t", DataSpec((3, 32, 32), 5), weights="DEFAULT")
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}


def test_a_missing_timm_names_the_extra() -> None:
    code = (
        "import sys; sys.modules['timm'] = None\n"
        "import mptrain.models\n"
        "from mptrain.interfaces import DataSpec\n"
        "from mptrain.registry import MODELS\n"
        "config = MODELS.config_type('timm/resnet18').model_validate({'name': 'timm/resnet18'})\n"
        "try:\n"
        "    MODELS.build(config, DataSpec((3, 32, 32), 5))\n"
        "except Exception as error:\n"
        "    print(type(error).__name__, error.exit_code, error)\n"
    )
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert out == f"{CapabilityError.__name__} 4 model.name: timm/resnet18 needs timm: pip install 'mptrain[timm]'\n"
