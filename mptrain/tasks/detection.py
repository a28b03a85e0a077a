"""Finding objects: a detector's own loss in FP32, COCO's mean average precision.

Owns: what a detector is asked for, and what is recorded of it. Must not: know a detector, or read the device before
`compute` and `predictions` (a detector's suppression of double boxes may).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mptrain.errors import ConfigError
from mptrain.interfaces import Batch, Detections, Detector, DetectorInParts, Metrics, Task
from mptrain.tasks.coco_map import Objects, average_precision
from mptrain.tasks.outputs import class_name


class Detection(Task):
    """Boxes and classes. A batch's targets are (objects (N, boxes, 6), frames (N, 4)): see `data/detection/targets`."""

    main_metric = "map"
    higher_is_better = True

    def __init__(self, class_names: Sequence[str] = ()) -> None:
        self._class_names = class_names

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the detector's loss, 0-d, in FP32 or FP64; raise ConfigError for a model that is no detector."""
        detector, (objects, _) = _detector(model), batch.targets
        return detector.loss(detector(batch.inputs, objects), objects)

    def part_of_loss(self, model: nn.Module, part: Batch, whole: Batch) -> Tensor:
        """See Task; a detector that cannot tell parts from wholes has its parts weighed by their images."""
        detector, (objects, _) = _detector(model), part.targets
        if not isinstance(detector, DetectorInParts):
            return super().part_of_loss(model, part, whole)
        return detector.part_of_loss(detector(part.inputs, objects), objects, whole.targets[0])

    def outputs(self, model: nn.Module, batch: Batch) -> Detections:
        """Return what was found, cut to the image inside its padded canvas."""
        detector = _detector(model)
        found = detector.detections(detector(batch.inputs))
        height, width = batch.targets[1][:, None, :2].unbind(2)
        x1, y1, x2, y2 = found.boxes.clamp(min=0).unbind(2)
        corners = (torch.minimum(x1, width), torch.minimum(y1, height), torch.minimum(x2, width))
        return found._replace(boxes=torch.stack((*corners, torch.minimum(y2, height)), 2))

    def metrics(self, device: torch.device) -> Metrics:
        """Return fresh metrics."""
        return DetectionMetrics()

    def predictions(self, outputs: Detections, batch: Batch) -> list[dict[str, Any]]:
        """Return what was found and what is there, in pixels of the original image."""
        objects, frames = batch.targets
        # Original pixels per pixel of the model's image: (x, y, x, y) of each image.
        scale = (frames[:, 2:] / frames[:, :2]).flip(1).repeat(1, 2).unsqueeze(1)
        found = [part.tolist() for part in (outputs.boxes * scale, outputs.scores, outputs.classes)]
        there = [part.tolist() for part in (objects[..., 1:5] * scale, objects[..., 5], objects[..., 0].long())]
        return [
            {
                "predicted": [
                    {"box": box, "class": class_name(self._class_names, number), "score": score}
                    for box, score, number in zip(*image, strict=True)
                    if number >= 0
                ],
                "target": [
                    {"box": box, "class": class_name(self._class_names, number), "crowd": bool(crowd)}
                    for box, crowd, number in zip(*truth, strict=True)
                    if number >= 0
                ],
            }
            for image, truth in zip(zip(*found, strict=True), zip(*there, strict=True), strict=True)
        ]


class DetectionMetrics:
    """Detections and objects of all images seen, kept on the device until `compute`."""

    def __init__(self) -> None:
        self._samples = 0
        self._seen: list[tuple[Detections, Tensor]] = []

    def update(self, outputs: Detections, batch: Batch) -> None:
        """Add one batch."""
        self._samples += batch.size
        self._seen.append((outputs, batch.targets[0]))

    def compute(self) -> dict[str, float]:
        """Return map (mean over IoU 0.5 to 0.95), map50, map75, mar100, samples; NaN without objects."""
        found: list[Objects] = []
        there: list[Objects] = []
        for detections, objects in self._seen:
            boxes, scores, classes = (part.double().cpu().numpy() for part in detections)
            table = objects.double().cpu().numpy()
            for image in range(len(table)):
                kept, real = classes[image] >= 0, table[image, :, 0] >= 0
                found.append(Objects(boxes[image][kept], classes[image][kept], scores[image][kept]))
                there.append(Objects(table[image, real, 1:5], table[image, real, 0], table[image, real, 5]))
        return {**average_precision(found, there), "samples": self._samples}


def _detector(model: nn.Module) -> Detector:
    if not isinstance(model, Detector):
        raise ConfigError(
            f"model: a {type(model).__name__} finds no objects; choose a detector, e.g. model=small_fcos "
            "(`mptrain ls models`)"
        )
    return model
