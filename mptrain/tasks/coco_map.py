"""Mean average precision as COCO defines it, by its own implementation (pycocotools, in FP64).

Owns: handing it what was found without files, and keeping it quiet. Must not: know a detector or a device.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

MAX_DETECTIONS = 100
"""Detections per image that count, the best ones: COCO's."""
EVERY_AREA = [0.0, 1e10]


class Objects(NamedTuple):
    """The boxes of one image, found or true."""

    boxes: NDArray[np.float64]
    """(n, 4): x1, y1, x2, y2."""
    classes: NDArray[np.float64]
    """(n,)."""
    flags: NDArray[np.float64]
    """(n,): the score of what was found; 1 for a true crowd, which counts neither as hit nor as miss, else 0."""


def average_precision(found: Sequence[Objects], there: Sequence[Objects]) -> dict[str, float]:
    """Return map, map50, map75 and mar100 over the images, in the same order; NaN where there is no object.

    The mean is over the classes that occur in `there`, as COCOeval's summary has it (Lin et al. 2014, arXiv 1405.0312).
    """
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):  # it prints its progress; standard output is the run's result
        truth, detections = COCO(), COCO()
        classes = sorted({int(number) for image in there for number in image.classes})
        for index, images, flag in ((truth, there, "iscrowd"), (detections, found, "score")):
            index.dataset = {
                "images": [{"id": image} for image in range(len(images))],
                "categories": [{"id": number} for number in classes],
                "annotations": _annotations(images, flag),
            }
            index.createIndex()
        evaluation = COCOeval(truth, detections, "bbox")
        evaluation.params.maxDets = [MAX_DETECTIONS]
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [EVERY_AREA], ["all"]
        evaluation.evaluate()
        evaluation.accumulate()
    # (IoU thresholds, recall thresholds, classes, 1 area, 1 limit); -1 where a class does not occur.
    precision, recall = evaluation.eval["precision"][..., 0, 0], evaluation.eval["recall"][..., 0, 0]
    thresholds = evaluation.params.iouThrs.round(2).tolist()
    return {
        "map": _mean(precision),
        "map50": _mean(precision[thresholds.index(0.5)]),
        "map75": _mean(precision[thresholds.index(0.75)]),
        "mar100": _mean(recall),
    }


def _annotations(images: Sequence[Objects], flag: str) -> list[dict[str, Any]]:
    """Return COCO's records, numbered from 1: its evaluation takes 0 for `no match`."""
    rows: list[dict[str, Any]] = []
    for image, objects in enumerate(images):
        for (x1, y1, x2, y2), number, value in zip(*(part.tolist() for part in objects), strict=True):
            box = [x1, y1, x2 - x1, y2 - y1]
            row = {"id": len(rows) + 1, "image_id": image, "category_id": int(number), "bbox": box, "iscrowd": 0}
            rows.append(row | {"area": box[2] * box[3], flag: int(value) if flag == "iscrowd" else value})
    return rows


def _mean(values: NDArray[np.float64]) -> float:
    known = values[values > -1]
    return float(known.mean()) if known.size else float("nan")
