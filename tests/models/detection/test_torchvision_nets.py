"""torchvision's detectors: the same losses and detections as their own, in FP32 whatever the model computes in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import get_model, resnet50
from torchvision.ops import FrozenBatchNorm2d

import mptrain.models
from mptrain.errors import ConfigError
from mptrain.interfaces import DataSpec, Detector
from mptrain.registry import MODELS

assert mptrain.models  # registers the entries

SIDE, CLASSES = 64, 3
SPEC = DataSpec((3, SIDE, SIDE), CLASSES, kind="detection")
OBJECTS = torch.tensor(
    [
        [[0, 10, 10, 40, 50, 0], [2, 30, 30, 60, 55, 0], [1, 0, 0, 64, 64, 1]],
        [[1, 5, 20, 25, 60, 0], [-1] * 6, [-1] * 6],
        [[-1] * 6] * 3,
    ],
    dtype=torch.float32,
)
NAMES = ["retinanet_resnet50_fpn", "fcos_resnet50_fpn", "fasterrcnn_resnet50_fpn", "ssdlite320_mobilenet_v3_large"]
V2 = ["retinanet_resnet50_fpn_v2", "fasterrcnn_resnet50_fpn_v2"]


def build(name: str, spec: DataSpec = SPEC, **options: Any) -> nn.Module:
    return MODELS.build(MODELS.config_type(name).model_validate({"name": name, **options}), spec)


def images() -> Tensor:
    return torch.rand(3, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))


def lists(first_class: int) -> list[dict[str, Tensor]]:
    rows = [image[(image[:, 0] >= 0) & (image[:, 5] == 0)] for image in OBJECTS]
    return [{"boxes": row[:, 1:5], "labels": row[:, 0].long() + first_class} for row in rows]


@pytest.mark.parametrize("name", NAMES)
def test_losses_and_detections_are_torchvisions_own(name: str) -> None:
    first_class = 0 if name.startswith(("retinanet", "fcos")) else 1
    # Neither resized nor normalised; SSD's boxes are relative to the image, which it would make 320x320.
    as_it_is = {"min_size": SIDE, "max_size": SIDE} if not name.startswith("ssd") else {}
    theirs = get_model(
        name,
        weights=None,
        weights_backbone=None,
        num_classes=CLASSES + first_class,
        image_mean=[0.0] * 3,
        image_std=[1.0] * 3,
        **as_it_is,
    )
    if name.startswith("ssd"):
        theirs.transform.min_size, theirs.transform.max_size, theirs.transform.fixed_size = (SIDE,), SIDE, (SIDE, SIDE)
    ours: Any = build(name)
    assert isinstance(ours, Detector)
    ours.net.load_state_dict(theirs.state_dict())

    torch.manual_seed(1)  # Faster R-CNN samples
    expected = theirs(list(images()), lists(first_class))
    torch.manual_seed(1)
    _ = [torch.rand(1) for _ in OBJECTS]  # theirs draws a size for each image
    losses = ours(images(), OBJECTS)
    assert {key: value.item() for key, value in losses.items()} == {key: v.item() for key, v in expected.items()}
    total = ours.loss(losses, OBJECTS)
    assert total.item() == pytest.approx(sum(value.item() for value in expected.values()))

    theirs.load_state_dict(ours.net.state_dict())  # BatchNorm has counted
    if first_class == 0:
        theirs.score_thresh = ours.net.score_thresh = 0.001  # an untrained net is sure of nothing
    with torch.no_grad():
        raw, found = theirs.eval()(list(images())), ours.eval().detections(ours(images()))
    assert sum(len(image["boxes"]) for image in raw) > 0
    for index, image in enumerate(raw):
        count = len(image["boxes"])
        assert torch.equal(found.boxes[index, :count], image["boxes"])
        assert torch.equal(found.scores[index, :count], image["scores"])
        assert torch.equal(found.classes[index, :count], image["labels"] - first_class)
        assert (found.classes[index, count:] == -1).all()
        assert found.classes.max() < CLASSES


@pytest.mark.parametrize("name", [*NAMES, *V2])
def test_what_is_lost_is_lost_in_fp32(name: str) -> None:
    model: Any = build(name)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = model(images(), OBJECTS)
    assert {value.dtype for value in losses.values()} == {torch.float32}
    low = model.to(torch.bfloat16)(images().bfloat16(), OBJECTS)
    assert {value.dtype for value in low.values()} == {torch.float32}
    with torch.no_grad():
        assert model.eval().detections(model(images().bfloat16())).boxes.dtype is torch.float32


PUBLISHED_PARAMETERS = {
    "retinanet_resnet50_fpn": (91, 34_014_999),
    "fcos_resnet50_fpn": (91, 32_269_600),
    "fasterrcnn_resnet50_fpn": (90, 41_755_286),
}
"""Outputs without the background, and parameters: what torchvision's weights say of themselves."""


@pytest.mark.parametrize("name", PUBLISHED_PARAMETERS)
def test_as_many_parameters_as_published(name: str) -> None:
    classes, count = PUBLISHED_PARAMETERS[name]
    with torch.device("meta"):
        model = build(name, num_classes=classes, backbone_weights="IMAGENET1K_V1")
    assert sum(parameter.numel() for parameter in model.parameters()) == count


def test_anchors_do_not_lose_precision_with_the_features() -> None:
    model: Any = build("retinanet_resnet50_fpn")
    batch, _ = model.net.transform(torch.zeros(1, 3, 800, 1344), None)
    anchors = [
        model.net.anchor_generator(batch, [torch.zeros(1, 8, 100, 168, dtype=dtype)] * 5)[0]
        for dtype in (torch.float32, torch.bfloat16)
    ]
    assert torch.equal(*anchors)
    assert anchors[0].max() > 1330


def test_an_outline_can_be_counted_and_leaves_the_model_alone() -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    model: Any = build("retinanet_resnet50_fpn")
    with torch.device("meta"):
        outline = build("retinanet_resnet50_fpn", backbone_weights="IMAGENET1K_V1")
        assert outline(torch.empty(2, 3, 800, 1344))["cls_logits"].shape == (2, 201600, CLASSES)
    with FakeTensorMode(allow_non_fake_inputs=True) as fake, torch.no_grad():
        state = {name: fake.from_tensor(value) for name, value in model.state_dict(keep_vars=True).items()}
        blank = fake.from_tensor(images())
        torch.func.functional_call(model, state, (blank,))
        model.net.anchor_generator(model.net.transform(blank, None)[0], [blank] * 5)
    assert model(images(), OBJECTS)["classification"].isfinite()


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "resnet50.pt"
    torch.save(resnet50().state_dict(), path)
    return path


@pytest.mark.parametrize(("name", "norms_learn"), [("retinanet_resnet50_fpn", False), (V2[0], True)])
def test_a_backbone_with_weights_is_frozen_as_torchvision_does(backbone: Path, name: str, norms_learn: bool) -> None:
    body = build(name, backbone_weights=str(backbone)).get_submodule("net.backbone.body")
    learned = {part.split(".")[0] for part, parameter in body.named_parameters() if parameter.requires_grad}
    assert learned == {"layer2", "layer3", "layer4"}
    norms = [m for m in body.modules() if isinstance(m, nn.BatchNorm2d | FrozenBatchNorm2d)]
    assert {isinstance(norm, nn.BatchNorm2d) for norm in norms} == {norms_learn}
    assert torch.equal(body.get_parameter("conv1.weight"), torch.load(backbone)["conv1.weight"])


def test_all_stages_can_be_trained(backbone: Path) -> None:
    model = build("retinanet_resnet50_fpn", backbone_weights=str(backbone), trainable_stages=5)
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_grey_images_are_refused() -> None:
    with pytest.raises(ConfigError, match="fcos_resnet50_fpn needs colour images, 3 channels, not 1"):
        build("fcos_resnet50_fpn", DataSpec((1, 64, 64), 3, kind="detection"))
