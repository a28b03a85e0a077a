"""The built-in models: names, registration without torch, what is built, and what is refused."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torchvision
from pydantic import ValidationError
from torch import nn

import mptrain.models
from mptrain.errors import ConfigError
from mptrain.interfaces import DataSpec
from mptrain.registry import MODELS

assert mptrain.models  # registers the entries

RGB = DataSpec((3, 64, 64), 7)
GREY = DataSpec((1, 28, 28), 10)
NEWEST_KNOWN_TORCHVISION = (0, 29)


def build(spec: DataSpec, name: str, **options: object) -> nn.Module:
    return MODELS.build(MODELS.config_type(name).model_validate({"name": name, **options}), spec)


def test_every_torchvision_classification_model_is_registered() -> None:
    ours = {entry.name for entry in MODELS if "torchvision" in entry.flags}
    theirs = set(torchvision.models.list_models(module=torchvision.models))
    assert ours <= theirs
    if tuple(int(part) for part in torchvision.__version__.split(".")[:2]) <= NEWEST_KNOWN_TORCHVISION:
        assert ours == theirs


def test_importing_the_packages_leaves_torch_out() -> None:
    code = (
        "import sys, mptrain.models, mptrain.data, mptrain.tasks\n"
        "assert not {'torch', 'torchvision', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    "name",
    [
        "alexnet",
        "convnext_tiny",
        "densenet121",
        "efficientnet_b0",
        "efficientnet_v2_s",
        "googlenet",
        "maxvit_t",
        "mnasnet0_5",
        "mobilenet_v2",
        "mobilenet_v3_small",
        "resnet18",
        "resnext50_32x4d",
        "shufflenet_v2_x0_5",
        "squeezenet1_1",
        "swin_t",
        "swin_v2_t",
        "vgg11",
        "vgg11_bn",
        "vit_b_16",
        "vit_h_14",
        "wide_resnet50_2",
    ],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_one_of_each_family_fits_channels_and_classes(name: str, channels: int) -> None:
    side = 224
    with torch.device("meta"):
        model = build(DataSpec((channels, side, side), 7), name).eval()
        assert model(torch.empty(2, channels, side, side)).shape == (2, 7)


def test_regnet_fits_channels_and_classes() -> None:
    model = build(GREY, "regnet_x_400mf", num_classes=12).eval()
    with torch.no_grad():
        assert model(torch.randn(2, 1, 32, 32)).shape == (2, 12)


def test_replaced_first_convolution_keeps_the_spread_and_the_bias() -> None:
    torch.manual_seed(0)
    grey, colour = build(DataSpec((1, 64, 64), 7), "vgg11"), build(RGB, "vgg11")
    new, old = grey.get_submodule("features.0"), colour.get_submodule("features.0")
    assert isinstance(new, nn.Conv2d)
    assert isinstance(old, nn.Conv2d)
    assert new.in_channels == 1
    assert (new.padding, new.stride) == (old.padding, old.stride)
    assert float((new.weight.std() / old.weight.std()).detach()) == pytest.approx(1, abs=0.15)
    assert new.bias is not None


@pytest.mark.parametrize(("stem", "side"), [("imagenet", 7), ("small", 14), ("cifar", 28)])
def test_resnet_stems(stem: str, side: int) -> None:
    model = build(GREY, "resnet18", stem=stem)
    sizes = []
    model.layer1.register_forward_hook(lambda _m, _i, out: sizes.append(out.shape[-1]))
    with torch.no_grad():
        assert model(torch.randn(2, 1, 28, 28)).shape == (2, 10)
    assert sizes == [side]


def test_a_stem_is_refused_outside_resnets() -> None:
    with pytest.raises(ValidationError, match="stem"):
        build(GREY, "vgg11", stem="small")


def test_inception_trains_its_auxiliary_classifier_unless_told_not_to() -> None:
    with torch.device("meta"):
        full = build(DataSpec((3, 299, 299), 7), "inception_v3")
        assert full(torch.empty(2, 3, 299, 299)).aux_logits.shape == (2, 7)
        plain = build(DataSpec((3, 75, 75), 7), "inception_v3", aux_logits=False)
        assert plain(torch.empty(2, 3, 75, 75)).shape == (2, 7)


@pytest.mark.parametrize(
    ("name", "shape", "options", "says"),
    [
        ("resnet18", (64,), {}, "needs images"),
        ("inception_v3", (3, 298, 298), {}, "model.aux_logits=false"),
        ("inception_v3", (3, 74, 74), {"aux_logits": False}, "75 px or more, not 74"),
        ("vit_b_16", (3, 30, 30), {}, "multiple of 16"),
        ("maxvit_t", (3, 30, 30), {}, "cannot take images"),
        ("small_cnn", (784,), {}, "small_cnn needs images"),
        ("small_cnn", (1, 3, 28), {}, "3 blocks halve the image 2 times, which needs 4 px or more, not 3"),
        ("small_resnet", (784,), {}, "small_resnet needs images"),
        ("small_vit", (784,), {}, "small_vit needs images"),
        ("small_vit", (3, 32, 32), {}, "model.patch_size: 7 does not divide the data's images of 32x32"),
    ],
)
def test_data_that_does_not_suit_is_one_line(
    name: str, shape: tuple[int, ...], options: dict[str, object], says: str
) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        build(DataSpec(shape, 7), name, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("norm", ["none", "batch", "layer"])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_mlp(norm: str, activation: str) -> None:
    model = build(GREY, "mlp", hidden=[20, 12], norm=norm, activation=activation, dropout=0.1)
    assert model(torch.randn(4, 1, 28, 28)).shape == (4, 10)
    linears = [(m.in_features, m.out_features) for m in model.modules() if isinstance(m, nn.Linear)]
    assert linears == [(784, 20), (20, 12), (12, 10)]


def test_linear_is_one_matrix() -> None:
    model = build(DataSpec((5,), 2, kind="regression"), "linear", bias=False)
    assert [tuple(p.shape) for p in model.parameters()] == [(2, 5)]


def test_a_mismatched_torchvision_is_one_line(tmp_path: Path) -> None:
    fake = tmp_path / "torchvision"
    fake.mkdir()
    (fake / "__init__.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')\n")
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "from mptrain.errors import CapabilityError\n"
        "from mptrain.torchvision_import import import_torchvision\n"
        "for _ in range(2):\n"
        "    try:\n"
        "        import_torchvision('models')\n"
        "    except CapabilityError as error:\n"
        "        print(error)\n"
    )
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert out.count("nms does not exist") == 2
    assert len(out.splitlines()) == 2
    assert "pip install" in out
    assert "torch torchvision" in out
