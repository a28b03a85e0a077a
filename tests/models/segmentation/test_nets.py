"""Segmentation networks: shapes, outputs and weights, the same as torchvision's own; what does not suit is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torchvision
from pydantic import ValidationError
from torch import nn

import mptrain.models
from mptrain.errors import ConfigError, DataError
from mptrain.interfaces import DataSpec
from mptrain.registry import MODELS

assert mptrain.models  # registers the entries

NETS = torchvision.models.list_models(module=torchvision.models.segmentation)


def build(name: str, shape: tuple[int, ...] = (3, 64, 64), **options: object) -> nn.Module:
    config = MODELS.config_type(name).model_validate({"name": name, **options})
    return MODELS.build(config, DataSpec(shape, 5, kind="segmentation"))


def backbone_file(path: Path, name: str) -> tuple[str, dict[str, torch.Tensor]]:
    torch.manual_seed(1)
    state = torchvision.models.get_model(name, weights=None).state_dict()
    torch.save(state, path)
    return str(path), state


@pytest.mark.parametrize("name", NETS)
def test_every_torchvision_network_is_built_without_a_download_and_fits_the_classes(name: str) -> None:
    with torch.device("meta"):
        model = build(name)
        outputs = model(torch.empty(2, 3, 64, 64))
    assert list(outputs) == (["out"] if name.startswith("lraspp") else ["out", "aux"])
    assert {tuple(value.shape) for value in outputs.values()} == {(2, 5, 64, 64)}


@pytest.mark.parametrize("name", ["fcn_resnet50", "deeplabv3_mobilenet_v3_large"])
def test_the_auxiliary_classifier_can_be_left_out(name: str) -> None:
    with torch.device("meta"):
        assert list(build(name, aux_loss=False)(torch.empty(2, 3, 64, 64))) == ["out"]
    with pytest.raises(ValidationError, match="aux_loss"):
        build("lraspp_mobilenet_v3_large", aux_loss=False)


def test_whole_weights_are_loaded_with_or_without_their_auxiliary_classifier(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    torch.manual_seed(1)
    name = "deeplabv3_mobilenet_v3_large"
    theirs = torchvision.models.get_model(name, weights=None, weights_backbone=None, num_classes=21, aux_loss=True)
    torch.save(theirs.state_dict(), tmp_path / "w.pt")
    ours = build(name, weights=str(tmp_path / "w.pt"), num_classes=21, aux_loss=False).eval()
    images = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(ours(images)["out"], theirs.eval()(images)["out"])
    assert not caplog.records
    fitted = build(name, weights=str(tmp_path / "w.pt"))
    assert "aux_classifier.4.bias, aux_classifier.4.weight, classifier.4.bias, classifier.4.weight" in caplog.text
    assert torch.equal(fitted.state_dict()["classifier.1.weight"], theirs.state_dict()["classifier.1.weight"])


@pytest.mark.parametrize(
    ("name", "backbone", "prefix", "layer"),
    [
        ("fcn_resnet50", "resnet50", "", "layer4.2.conv3.weight"),
        ("lraspp_mobilenet_v3_large", "mobilenet_v3_large", "features.", "16.0.weight"),
    ],
)
def test_backbone_weights_fill_the_backbone_and_nothing_else(
    tmp_path: Path, name: str, backbone: str, prefix: str, layer: str
) -> None:
    path, state = backbone_file(tmp_path / "b.pt", backbone)
    torch.manual_seed(2)
    plain = build(name).state_dict()
    torch.manual_seed(2)
    filled = build(name, backbone_weights=path).state_dict()
    assert torch.equal(filled[f"backbone.{layer}"], state[prefix + layer])
    changed = {key.split(".")[0] for key in plain if not torch.equal(plain[key], filled[key])}
    assert changed == {"backbone"}


def test_backbone_weights_that_do_not_suit_are_one_line(tmp_path: Path) -> None:
    path, _ = backbone_file(tmp_path / "b.pt", "resnet18")
    for options, error, says in (
        ({"backbone_weights": path}, ConfigError, "model.backbone_weights: .*b.pt is of another network"),
        ({"backbone_weights": str(tmp_path / "none.pt")}, DataError, "model.backbone_weights: there is no file"),
        ({"backbone_weights": "IMAGENET9"}, ConfigError, "neither a file nor one of resnet50's weights: IMAGENET1K_V1"),
        ({"backbone_weights": path, "weights": path}, ValidationError, "not both"),
    ):
        with pytest.raises(error, match=says):
            build("fcn_resnet50", **options)


def test_backbone_weights_of_other_shapes_are_one_line(tmp_path: Path) -> None:
    path, state = backbone_file(tmp_path / "b.pt", "resnet50")
    state["conv1.weight"] = torch.zeros(64, 1, 7, 7)
    torch.save(state, path)
    with pytest.raises(ConfigError, match=r"conv1\.weight is \(64, 1, 7, 7\) in the weights, \(64, 3, 7, 7\)"):
        build("fcn_resnet50", backbone_weights=path)


@pytest.mark.parametrize("size", [(8, 8), (9, 14), (48, 96)])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_unet_gives_a_class_for_every_pixel_of_any_size(size: tuple[int, int], channels: int) -> None:
    model = build("unet", (channels, *size), widths=[4, 6, 8, 10])
    outputs = model(torch.randn(2, channels, *size))
    assert outputs.shape == (2, 5, *size)
    outputs.sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_a_unet_passes_detail_across() -> None:
    torch.manual_seed(0)
    model = build("unet", (1, 16, 16), widths=[4, 8]).eval()
    with torch.no_grad():
        model.get_parameter("up.0.conv1.weight")[:, :8] = 0  # nothing from the scale below
        flat, dotted = torch.zeros(1, 1, 16, 16), torch.zeros(1, 1, 16, 16)
        dotted[0, 0, 8, 8] = 1
        changed = (model(flat) != model(dotted)).any(1)[0].nonzero()
    assert changed.min() == 4  # four 3x3 convolutions see four pixels around
    assert changed.max() == 12


@pytest.mark.parametrize(
    ("name", "shape", "says"),
    [
        ("unet", (64,), "needs images"),
        ("unet", (3, 3, 64), "3 scales halve the image 2 times, which needs 4 px or more, not 3"),
        ("fcn_resnet50", (64,), "needs images"),
        ("fcn_resnet50", (1, 64, 64), "needs colour images, 3 channels, not 1; choose unet"),
    ],
)
def test_data_that_does_not_suit_is_one_line(name: str, shape: tuple[int, ...], says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        build(name, shape)
    assert "\n" not in str(caught.value)
