"""torchvision's detectors on padded batches: what they match, sample and lose is computed in FP32 at least.

Their own resizing and normalising is left out: the data did both. Their own code reads the device in every training
step (boolean masks, sampling). Owns: fitting them to our batches. Must not: read weight files (see `models.weights`).
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from mptrain.errors import ConfigError
from mptrain.interfaces import DataSpec, Detections, at_least_fp32
from mptrain.models.detection.configs import ResNetDetectorConfig
from mptrain.models.detection.padded import pad_detections, trained_on
from mptrain.models.image_shape import image_shape
from mptrain.models.weights import load_backbone_weights
from mptrain.torchvision_import import import_torchvision

if TYPE_CHECKING:
    from mptrain.config.schema import ModelConfig

STAGES = ("layer4", "layer3", "layer2", "layer1", "conv1")
"""The stages of a ResNet, from its end."""


def torchvision_detector(config: ModelConfig, spec: DataSpec) -> nn.Module:
    """Build the detector for colour images (N, 3, H, W).

    Raises ConfigError for data that are no colour images, and as `models.weights` does.
    """
    channels, *_ = image_shape(config.name, spec)
    if channels != 3:
        raise ConfigError(
            f"model.name: {config.name} needs colour images, 3 channels, not {channels}; choose small_fcos"
        )
    one_stage = config.name.startswith(("retinanet", "fcos"))
    classes = config.num_classes or spec.num_outputs
    # The others have a class 0 for the background. torchvision downloads the backbone's weights unless told not to.
    net: nn.Module = import_torchvision("models").get_model(
        config.name, weights=None, weights_backbone=None, num_classes=classes if one_stage else classes + 1
    )
    if isinstance(config, ResNetDetectorConfig) and config.backbone_weights is not None:
        body = net.get_submodule("backbone.body")
        load_backbone_weights(body, "resnet50", config.backbone_weights)
        _freeze(body, config.trainable_stages, norms=not config.name.endswith("_v2"))
    kind = TwoStage if config.name.startswith("fasterrcnn") else OneStage
    return kind(net, first_class=0 if one_stage else 1)


def _freeze(body: nn.Module, trainable: int, *, norms: bool) -> None:
    """Freeze all but the last `trainable` stages of a ResNet and, with `norms`, all BatchNorms: as torchvision does."""
    stages = STAGES[:trainable] + (("bn1",) if trainable == len(STAGES) else ())
    for name, parameter in body.named_parameters():
        parameter.requires_grad_(name.startswith(stages))
    if norms:
        _freeze_norms(body)


def _freeze_norms(module: nn.Module) -> None:
    """Replace BatchNorms by ones that keep their statistics and weights."""
    frozen_norm = import_torchvision("ops").FrozenBatchNorm2d
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            frozen = frozen_norm(child.num_features, eps=child.eps)
            frozen.load_state_dict(child.state_dict())
            setattr(module, name, frozen)
        else:
            _freeze_norms(child)


class OneStage(nn.Module):
    """RetinaNet, FCOS or SSD: images (N, 3, H, W) and objects (N, boxes, 6) -> losses; in evaluation, detections."""

    def __init__(self, net: nn.Module, first_class: int) -> None:
        super().__init__()
        self.net, self._first_class = net, first_class
        net.transform = AsTheyAre()
        net.anchor_generator = Fp32Anchors(net.anchor_generator)
        net.get_submodule("head").register_forward_hook(_outputs_in_fp32)
        self._places = int(net.detections_per_img)  # type: ignore[arg-type]

    def forward(self, images: Tensor, objects: Tensor | None = None) -> Any:
        """Return the losses by name; in evaluation the detections; in training without targets the raw outputs."""
        if not self.training:
            return self.net(images)
        if objects is None:
            return self.net.head(list(self.net.backbone(images).values()))  # type: ignore[operator]
        return self.net(images, _as_lists(objects, images, self._first_class))

    def loss(self, outputs: dict[str, Tensor], objects: Tensor) -> Tensor:
        """Return the sum of the losses, 0-d."""
        del objects
        return torch.stack(list(outputs.values())).sum()

    def detections(self, outputs: list[dict[str, Tensor]]) -> Detections:
        """Return the detections in padded tables."""
        found = [(image["boxes"], image["scores"], image["labels"] - self._first_class) for image in outputs]
        return pad_detections(found, self._places)


class TwoStage(nn.Module):
    """Faster R-CNN: images (N, 3, H, W) and objects (N, boxes, 6) -> losses; in evaluation, detections."""

    def __init__(self, net: nn.Module, first_class: int) -> None:
        super().__init__()
        self.net, self._first_class = net, first_class
        net.transform = AsTheyAre()
        proposals, regions = net.get_submodule("rpn"), net.get_submodule("roi_heads")
        proposals.anchor_generator = Fp32Anchors(proposals.anchor_generator)
        proposals.get_submodule("head").register_forward_hook(_outputs_in_fp32)
        regions.get_submodule("box_predictor").register_forward_hook(_outputs_in_fp32)
        regions.box_roi_pool = Fp32Pooling(regions.box_roi_pool)
        self._places = int(regions.detections_per_img)  # type: ignore[arg-type]

    def forward(self, images: Tensor, objects: Tensor | None = None) -> Any:
        """Return the losses by name; in evaluation the detections. Without targets it trains on empty images."""
        if not self.training:
            return self.net(images)
        if objects is None:
            objects = images.new_full((len(images), 1, 6), -1.0, dtype=torch.float32)
        return self.net(images, _as_lists(objects, images, self._first_class))

    loss = OneStage.loss
    detections = OneStage.detections


class AsTheyAre(nn.Module):
    """In place of torchvision's resizing and normalising: images and boxes as they are."""

    def forward(self, images: Tensor, targets: Any = None) -> tuple[Any, Any]:
        """Return the batch as torchvision's ImageList, and the targets."""
        image_list = import_torchvision("models.detection.image_list").ImageList
        return image_list(images, [(images.shape[2], images.shape[3])] * len(images)), targets

    def postprocess(self, result: Any, sizes: Any, original_sizes: Any) -> Any:
        """Return the detections unchanged."""
        del sizes, original_sizes
        return result


class Fp32Anchors(nn.Module):
    """An anchor generator whose anchors are FP32 whatever the features are: in BF16 a coordinate of 800 is 4 px off."""

    def __init__(self, generator: Any) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, images: Any, features: list[Tensor]) -> Any:
        """Return the anchors of each image."""
        shapes = [at_least_fp32(feature.new_empty((1, 1, *feature.shape[2:]))) for feature in features]
        # It keeps its anchors in the dtype, the device and the tensor mode of the last call: a copy keeps them apart.
        return copy.copy(self.generator)(images, shapes)


class Fp32Pooling(nn.Module):
    """RoI pooling in FP32, of FP32 boxes: its result has the dtype of the features."""

    def __init__(self, pooling: Any) -> None:
        super().__init__()
        self.pooling = pooling

    def forward(self, features: dict[str, Tensor], boxes: list[Tensor], image_shapes: Any) -> Tensor:
        """Return the pooled features (boxes, C, height, width)."""
        dtype = next(iter(features.values())).dtype
        pooled: Tensor = self.pooling(
            {name: at_least_fp32(feature) for name, feature in features.items()}, boxes, image_shapes
        )
        return pooled.to(dtype)


def _outputs_in_fp32(module: nn.Module, inputs: Any, outputs: Any) -> Any:
    """Raise a head's raw outputs to FP32, so that all that follows is computed in it: a forward hook."""
    del module, inputs
    return _in_fp32(outputs)


def _in_fp32(outputs: Any) -> Any:
    if isinstance(outputs, dict):
        return {name: _in_fp32(value) for name, value in outputs.items()}
    if isinstance(outputs, list | tuple):
        return type(outputs)(map(_in_fp32, outputs))
    return at_least_fp32(outputs)


def _as_lists(objects: Tensor, images: Tensor, first_class: int) -> list[dict[str, Tensor]]:
    """Return padded objects (N, boxes, 6) as torchvision takes them."""
    boxes, labels = objects[..., 1:5].to(at_least_fp32(images[:0]).dtype), objects[..., 0].long() + first_class
    rows = zip(boxes, labels, trained_on(objects), strict=True)
    return [{"boxes": box[wanted], "labels": label[wanted]} for box, label, wanted in rows]
