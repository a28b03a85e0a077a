"""Learning the class of every pixel: cross-entropy, mean IoU, pixel accuracy, IoU per class.

Pixels whose target is IGNORED_PIXEL count nowhere. Owns: the loss and an exact confusion
matrix. Must not: read the device before `compute` and `predictions`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from mptrain.interfaces import IGNORED_PIXEL, Batch, Metrics, Task, at_least_fp32, forward
from mptrain.tasks.outputs import checked_shape

MAX_NAMED = 32
"""Up to this many classes, the metrics list each class's IoU."""


class Segmentation(Task):
    """Cross-entropy on logits (N, classes, H, W).

    torchvision's networks give a dict of `out` and maybe `aux`, which is read too: `aux_weight` is the share of the
    auxiliary classifier's loss. `class_names` may be empty.
    """

    main_metric = "mean_iou"
    higher_is_better = True

    def __init__(self, num_classes: int, aux_weight: float, class_names: Sequence[str] = ()) -> None:
        self._num_classes, self._aux_weight = num_classes, aux_weight
        self._names = [*class_names, *(str(index) for index in range(len(class_names), num_classes))]

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the mean cross-entropy over the micro-batch's counted pixels, 0-d, in FP32 or FP64.

        0 where no pixel counts. `train.accumulate` weighs micro-batches by their samples, not by their counted pixels.
        Raises ConfigError on outputs of the wrong shape.
        """
        return self.part_of_loss(model, batch, batch)

    def part_of_loss(self, model: nn.Module, part: Batch, whole: Batch) -> Tensor:
        """See Task: the whole's mean is per counted pixel."""
        main, auxiliary = _parts(forward(model, part.inputs))
        counted = (whole.targets != IGNORED_PIXEL).sum().clamp(min=1)
        loss = self._cross_entropy(main, part.targets, counted)
        if auxiliary is not None:
            loss = loss + self._aux_weight * self._cross_entropy(auxiliary, part.targets, counted)
        return loss

    def blank_targets(self, inputs: Tensor) -> Tensor:
        """Return masks (N, H, W) of class 0."""
        return inputs.new_zeros((len(inputs), *inputs.shape[2:]), dtype=torch.int64)

    def outputs(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the main logits, (N, classes, H, W)."""
        main: Tensor = _parts(forward(model, batch.inputs))[0]
        return main

    def metrics(self, device: torch.device) -> Metrics:
        """Return fresh counts on `device`."""
        return SegmentationMetrics(self._names, device)

    def predictions(self, outputs: Tensor, batch: Batch) -> list[dict[str, Any]]:
        """Return each image's mean IoU and pixel accuracy (null where no pixel counts), and its predicted mask.

        `masks` holds one binary mask per predicted class, in COCO's uncompressed run-length encoding: the lengths of
        runs of 0 and 1 by turns, beginning with 0, down the columns (cocodataset/cocoapi, common/maskApi.h).
        """
        return [
            self._prediction(predicted, target)
            for predicted, target in zip(outputs.argmax(1).cpu(), batch.targets.cpu(), strict=True)
        ]

    def _prediction(self, predicted: Tensor, target: Tensor) -> dict[str, Any]:
        mean_iou, accuracy, _ = _scores(_confusion(predicted, target, self._num_classes).double())
        masks = [
            {"class": self._names[index], **run_lengths(predicted == index)} for index in predicted.unique().tolist()
        ]
        counted = bool((target != IGNORED_PIXEL).any())
        return {
            "mean_iou": mean_iou.item() if counted else None,
            "pixel_accuracy": accuracy.item() if counted else None,
            "masks": masks,
        }

    def _cross_entropy(self, logits: Tensor, targets: Tensor, counted: Tensor) -> Tensor:
        _check_logits(logits, targets, self._num_classes)
        return pixel_losses(logits, targets).sum() / counted


class SegmentationMetrics:
    """A confusion matrix (int64) and the summed loss (FP64) over the counted pixels of the samples seen."""

    def __init__(self, class_names: Sequence[str], device: torch.device) -> None:
        self._names, self._samples = class_names, 0
        count = len(class_names)
        self._matrix = torch.zeros(count, count, dtype=torch.int64, device=device)
        self._loss = torch.zeros((), dtype=torch.float64, device=device)

    def update(self, outputs: Tensor, batch: Batch) -> None:
        """Add one batch of logits (N, classes, H, W)."""
        _check_logits(outputs, batch.targets, len(self._names))
        self._samples += len(batch.targets)
        self._loss += pixel_losses(outputs, batch.targets).double().sum()
        self._matrix += _confusion(outputs.argmax(1), batch.targets, len(self._names))

    def compute(self) -> dict[str, float]:
        """Return mean_iou, pixel_accuracy, loss, iou_<class> (up to 32 classes) and the number of images, samples.

        A class's IoU is tp / (tp + fp + fn) over all counted pixels of all images (Everingham et al. 2010, the VOC
        challenge); mean_iou is the mean over the classes that occur, true or predicted: the others have none.
        """
        matrix = self._matrix.double().cpu()
        mean_iou, accuracy, ious = _scores(matrix)
        result: dict[str, float] = {
            "mean_iou": mean_iou.item(),
            "pixel_accuracy": accuracy.item(),
            "loss": (self._loss.cpu() / matrix.sum()).item(),
        }
        if len(self._names) <= MAX_NAMED:
            pairs = zip(self._names, ious.tolist(), strict=True)
            result |= {f"iou_{'_'.join(name.split())}": iou for name, iou in pairs if iou == iou}  # not NaN
        return {**result, "samples": self._samples}


def pixel_losses(logits: Tensor, targets: Tensor) -> Tensor:
    """Return every pixel's cross-entropy, (N * H * W,) in FP32 or FP64; 0 where it is ignored.

    Pixels are laid out as samples: on a GPU, torch's loss of 2-d images has no deterministic form.
    """
    flat = at_least_fp32(logits).permute(0, 2, 3, 1).flatten(0, 2)
    return functional.cross_entropy(flat, targets.flatten(), ignore_index=IGNORED_PIXEL, reduction="none")


def run_lengths(mask: Tensor) -> dict[str, list[int]]:
    """Return a boolean mask (H, W) in COCO's uncompressed run-length encoding: `size` [H, W] and `counts`."""
    flat = mask.T.flatten()
    edges = (flat[1:] != flat[:-1]).nonzero().flatten() + 1
    ends = torch.cat([edges.new_zeros(1), edges, edges.new_full((1,), len(flat))])
    counts = ends.diff().tolist()
    return {"size": list(mask.shape), "counts": [0, *counts] if flat[0] else counts}


def _parts(outputs: Any) -> tuple[Any, Any]:
    """Return the main and the auxiliary logits, None where there are none."""
    if isinstance(outputs, Mapping) and "out" in outputs:
        return outputs["out"], outputs.get("aux")
    return outputs, None


def _check_logits(logits: Any, targets: Tensor, num_classes: int) -> None:
    """Raise ConfigError unless logits are (N, classes, H, W) for targets (N, H, W); reads no values."""
    wanted = (targets.shape[0], num_classes, *targets.shape[1:])
    remedy = ", classes for every pixel; choose a segmentation network and check model.num_classes"
    checked_shape(logits, wanted, remedy)


def _confusion(predicted: Tensor, target: Tensor, num_classes: int) -> Tensor:
    """Return the int64 matrix (true, predicted) of pixel counts, without the ignored; reads no device."""
    ignored_cell = num_classes**2
    cells = torch.where(target == IGNORED_PIXEL, ignored_cell, target * num_classes + predicted).flatten()
    counts = torch.zeros(ignored_cell + 1, dtype=torch.int64, device=cells.device)
    counts.index_add_(0, cells, torch.ones_like(cells))
    return counts[:-1].view(num_classes, num_classes)


def _scores(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return mean IoU, pixel accuracy and the IoU per class (NaN where it does not occur) of an FP64 matrix."""
    hits = matrix.diagonal()
    ious = hits / (matrix.sum(0) + matrix.sum(1) - hits)
    return ious.nanmean(), hits.sum() / matrix.sum(), ious
