"""A small FCOS-like detector: a convnet, one feature map at stride 8 that also sees stride 16, and a two-branch head.

Owns: the network and the decoding of its outputs. Must not: compute losses (see `fcos_loss`), or register anything.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from mptrain.errors import ConfigError
from mptrain.interfaces import DataSpec, Detections, at_least_fp32
from mptrain.models.detection.fcos_loss import DenseOutputs, decode, dense_loss
from mptrain.models.detection.padded import pad_detections
from mptrain.models.image_shape import image_shape
from mptrain.torchvision_import import import_torchvision

if TYPE_CHECKING:
    from mptrain.models.detection.configs import SmallFcosConfig

STRIDE = 8
NORM_GROUPS = 8
PRIOR = 0.01
"""Initial probability of every class everywhere: arXiv 1708.02002, section 4.1."""
MIN_SCORE = 0.05
CANDIDATES = 1000
"""Boxes that enter the suppression of each image, at most."""
NMS_IOU = 0.6
PLACES = 100
"""Detections per image, at most: what COCO evaluates. These four as FCOS has them."""


def small_fcos(config: SmallFcosConfig, spec: DataSpec) -> nn.Module:
    """Return the detector; raise ConfigError for data that are no images, or for a head its norms do not divide."""
    channels, *_ = image_shape(config.name, spec)
    if config.head_width % NORM_GROUPS:
        raise ConfigError(f"model.head_width: {config.head_width} is no multiple of {NORM_GROUPS}; choose one that is")
    return SmallFcos(channels, config.widths, config.head_width, config.num_classes or spec.num_outputs)


class SmallFcos(nn.Module):
    """Images (N, C, H, W) -> DenseOutputs at (H / 8) * (W / 8) locations."""

    def __init__(self, channels: int, widths: tuple[int, ...], head_width: int, classes: int) -> None:
        super().__init__()
        self.stages = nn.ModuleList(
            Stage(before, after) for before, after in zip((channels, *widths), widths, strict=False)
        )
        self.lateral8 = nn.Conv2d(widths[2], head_width, 1)
        self.lateral16 = nn.Conv2d(widths[3], head_width, 1)
        self.class_branch = Branch(head_width)
        self.box_branch = Branch(head_width)
        self.class_logits = nn.Conv2d(head_width, classes, 3, padding=1)
        self.box_distances = nn.Conv2d(head_width, 4, 3, padding=1)
        self.box_centreness = nn.Conv2d(head_width, 1, 3, padding=1)
        nn.init.normal_(self.class_logits.weight, std=0.01)
        nn.init.constant_(self.class_logits.bias, math.log(PRIOR / (1 - PRIOR)))  # type: ignore[arg-type]

    def forward(self, images: Tensor, objects: Tensor | None = None) -> DenseOutputs:
        """Return the outputs at every location; the targets change nothing."""
        del objects
        hidden = self.stages[1](self.stages[0](images))
        at8 = self.stages[2](hidden)
        at16 = self.stages[3](at8)
        coarse = functional.interpolate(self.lateral16(at16), size=at8.shape[-2:], mode="nearest")
        features = self.lateral8(at8) + coarse
        for_class, for_box = self.class_branch(features), self.box_branch(features)
        return DenseOutputs(
            _per_location(self.class_logits(for_class)),
            _per_location(self.box_distances(for_box)),
            _per_location(self.box_centreness(for_box)).squeeze(2),
            _locations(features.shape[2], features.shape[3], features.device),
        )

    def loss(self, outputs: DenseOutputs, objects: Tensor) -> Tensor:
        """Return the mean loss over the locations on objects, 0-d, in FP32 or FP64."""
        return dense_loss(DenseOutputs(*map(at_least_fp32, outputs)), objects, STRIDE)

    def part_of_loss(self, outputs: DenseOutputs, objects: Tensor, whole: Tensor) -> Tensor:
        """Return what some images add to the mean loss over the locations on all the objects of `whole`, 0-d."""
        return dense_loss(DenseOutputs(*map(at_least_fp32, outputs)), objects, STRIDE, whole)

    def detections(self, outputs: DenseOutputs) -> Detections:
        """Return the best boxes of each image after non-maximum suppression within each class."""
        outputs = DenseOutputs(*map(at_least_fp32, outputs))
        boxes = decode(outputs.distances, outputs.locations, STRIDE)
        scores = (outputs.logits.sigmoid() * outputs.centreness.sigmoid().unsqueeze(2)).sqrt()
        return pad_detections([_best(*image) for image in zip(boxes, scores, strict=True)], PLACES)


class Stage(nn.Module):
    """Two 3x3 convolutions, the first with stride 2, each with BatchNorm and ReLU."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)

    def forward(self, images: Tensor) -> Tensor:
        """Map (N, inputs, H, W) to (N, outputs, H / 2, W / 2), rounded up."""
        hidden = functional.relu(self.norm1(self.conv1(images)))
        return functional.relu(self.norm2(self.conv2(hidden)))


class Branch(nn.Module):
    """Two 3x3 convolutions with GroupNorm and ReLU."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm1 = nn.GroupNorm(NORM_GROUPS, width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm2 = nn.GroupNorm(NORM_GROUPS, width)

    def forward(self, features: Tensor) -> Tensor:
        """Map (N, width, H, W) to the same shape."""
        hidden = functional.relu(self.norm1(self.conv1(features)))
        return functional.relu(self.norm2(self.conv2(hidden)))


def _per_location(features: Tensor) -> Tensor:
    """Return (N, C, H, W) as (N, H * W, C)."""
    return features.flatten(2).transpose(1, 2)


def _locations(height: int, width: int, device: torch.device) -> Tensor:
    """Return the centres (x, y) of the feature map's cells in pixels, FP32 (H * W, 2), row by row."""
    y, x = torch.meshgrid(torch.arange(height, device=device), torch.arange(width, device=device), indexing="ij")
    return (torch.stack((x, y), 2).flatten(0, 1).float() + 0.5) * STRIDE


def _best(boxes: Tensor, scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return up to PLACES boxes (n, 4), scores (n,) and classes (n,) of boxes (L, 4) and scores (L, classes)."""
    found = torch.topk(scores.flatten(), min(CANDIDATES, scores.numel()))
    enough = found.values > MIN_SCORE
    values, places = found.values[enough], found.indices[enough]
    chosen, classes = boxes[places // scores.shape[1]], places % scores.shape[1]
    kept = import_torchvision("ops").batched_nms(chosen, values, classes, NMS_IOU)[:PLACES]
    return chosen[kept], values[kept], classes[kept]
