"""The loss of an anchor-free detector, with fixed shapes: no device read, no shape that depends on values.

    loss = (focal(classes) + GIoU(boxes) * centre-ness + BCE(centre-ness)) / locations on objects

Focal loss: Lin et al. 2017, arXiv 1708.02002, eq. 5. Assignment of locations, centre sampling and centre-ness: Tian et
al. 2019, FCOS, arXiv 1904.01355, section 3, and arXiv 2006.09214. GIoU: Rezatofighi et al. 2019, arXiv 1902.09630.
Owns: assignment and loss. Must not: know a network.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from mptrain.models.detection.padded import trained_on
from mptrain.torchvision_import import import_torchvision

LARGEST_REACH = 1e4
"""Strides from a location to a side of its box, at most: an untrained distance may be past the exponential's range."""
CENTRE_RADIUS = 1.5
"""A location learns an object when it is within this many strides of its centre, and inside its box."""


class DenseOutputs(NamedTuple):
    """Raw outputs at L locations of each image."""

    logits: Tensor
    """(N, L, classes)."""
    distances: Tensor
    """(N, L, 4): log of the distances to left, top, right, bottom, in strides."""
    centreness: Tensor
    """(N, L) logits."""
    locations: Tensor
    """FP32 (L, 2): x, y in pixels."""


class Assignment(NamedTuple):
    """What each location is to say."""

    positive: Tensor
    """bool (N, L): there is an object to learn here."""
    classes: Tensor
    """int64 (N, L); anything where not positive."""
    boxes: Tensor
    """(N, L, 4) xyxy in pixels; anything where not positive."""
    centreness: Tensor
    """(N, L) in 0..1; 0 where not positive."""


def assign(locations: Tensor, objects: Tensor, stride: int) -> Assignment:
    """Return for each location the smallest object whose box holds it and whose centre is near."""
    boxes = objects[..., 1:5].unsqueeze(1)  # (N, 1, boxes, 4)
    x, y = locations.unsqueeze(1).unbind(2)  # (L, 1) each
    x1, y1, x2, y2 = boxes.unbind(3)
    sides = torch.stack((x - x1, y - y1, x2 - x, y2 - y), 3)  # (N, L, boxes, 4)
    near = torch.maximum((x - (x1 + x2) / 2).abs(), (y - (y1 + y2) / 2).abs()) < CENTRE_RADIUS * stride
    holds = (sides.amin(3) > 0) & near & trained_on(objects).unsqueeze(1)
    area = ((x2 - x1) * (y2 - y1)).masked_fill(~holds, torch.inf)
    smallest = area.min(2)
    chosen = objects.gather(1, smallest.indices.unsqueeze(2).expand(-1, -1, objects.shape[2]))
    positive = smallest.values < torch.inf
    mine = sides.gather(2, smallest.indices[..., None, None].expand(-1, -1, 1, 4)).squeeze(2)
    left, top, right, bottom = mine.clamp(min=1e-6).unbind(2)
    ratios = torch.minimum(left, right) / torch.maximum(left, right)
    ratios = ratios * (torch.minimum(top, bottom) / torch.maximum(top, bottom))
    return Assignment(positive, chosen[..., 0].long(), chosen[..., 1:5], ratios.sqrt() * positive)


def decode(distances: Tensor, locations: Tensor, stride: int) -> Tensor:
    """Return boxes (N, L, 4) xyxy in pixels of log distances (N, L, 4) in strides."""
    reach = distances.clamp(max=math.log(LARGEST_REACH)).exp() * stride
    return torch.cat((locations - reach[..., :2], locations + reach[..., 2:]), 2)


def generalized_iou(a: Tensor, b: Tensor) -> Tensor:
    """Return the generalised IoU (...) of boxes (..., 4), in -1..1: arXiv 1902.09630, algorithm 1.

    torchvision's loss of that name gathers by a boolean mask, which reads the device.
    """
    shared = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(min=0).prod(-1)
    hull = (torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])).prod(-1).clamp(min=1e-6)
    union = ((a[..., 2:] - a[..., :2]).prod(-1) + (b[..., 2:] - b[..., :2]).prod(-1) - shared).clamp(min=1e-6)
    return shared / union - (hull - union) / hull


def dense_loss(outputs: DenseOutputs, objects: Tensor, stride: int, whole: Tensor | None = None) -> Tensor:
    """Return the loss of outputs in FP32 or FP64, 0-d; objects (N, boxes, 6).

    Normalised by the locations on objects in the whole micro-batch, the field's convention, not image by image. Of
    some of its images only, `whole` are all its objects.
    """
    target = assign(outputs.locations, objects, stride)
    everywhere = target if whole is None else assign(outputs.locations, whole, stride)
    count = everywhere.positive.sum().clamp(min=1)
    wanted = (torch.arange(outputs.logits.shape[2], device=objects.device) == target.classes.unsqueeze(2)) & (
        target.positive.unsqueeze(2)
    )
    focal = import_torchvision("ops").sigmoid_focal_loss(
        outputs.logits, wanted.to(outputs.logits.dtype), reduction="sum"
    )
    predicted = decode(outputs.distances, outputs.locations, stride)
    # Boxes of locations without an object are any: their loss is finite, and multiplied by a centre-ness of 0.
    distance = (1 - generalized_iou(predicted, target.boxes)) * target.centreness
    centreness = functional.binary_cross_entropy_with_logits(
        outputs.centreness, target.centreness, weight=target.positive.to(outputs.centreness.dtype), reduction="sum"
    )
    mean: Tensor = (focal + centreness) / count + distance.sum() / everywhere.centreness.sum().clamp(min=1e-6)
    return mean
