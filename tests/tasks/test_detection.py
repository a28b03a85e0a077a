"""Detection: mean average precision by hand and beside torchmetrics, cutting, scaling, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mptrain.errors import ConfigError
from mptrain.interfaces import Batch, DataSpec, Detections
from mptrain.registry import TASKS
from mptrain.tasks.coco_map import Objects, average_precision
from mptrain.tasks.detection import Detection

CPU = torch.device("cpu")
EMPTY = [-1.0] * 6


def build(num_outputs: int = 3, class_names: tuple[str, ...] = (), kind: str = "detection") -> Any:
    spec = DataSpec((1, 32, 32), num_outputs, kind=kind, class_names=class_names)
    return TASKS.build(TASKS.config_type("detection").model_validate({"name": "detection"}), spec)


def objects(*rows: tuple[int, tuple[float, ...], float]) -> Objects:
    """Rows of (class, box, flag)."""
    return Objects(
        np.array([box for _, box, _ in rows], np.float64).reshape(-1, 4),
        np.array([number for number, _, _ in rows], np.float64),
        np.array([flag for _, _, flag in rows], np.float64),
    )


def test_average_precision_by_hand() -> None:
    there = [objects((0, (0, 0, 10, 10), 0), (0, (20, 20, 30, 30), 0))]
    # One of two objects found exactly: precision 1 at recalls 0 to 0.5, which are 51 of 101 points.
    one = average_precision([objects((0, (0, 0, 10, 10), 0.9))], there)
    assert one == pytest.approx({"map": 51 / 101, "map50": 51 / 101, "map75": 51 / 101, "mar100": 0.5})
    # IoU 0.6 counts at the thresholds 0.5, 0.55 and 0.6 of ten.
    near = average_precision([objects((0, (0, 0, 10, 6), 0.9), (0, (20, 20, 30, 26), 0.8))], there)
    assert near == pytest.approx({"map": 0.3, "map50": 1, "map75": 0, "mar100": 0.3})
    # A better scored miss before each hit halves the precision.
    missed = objects((0, (0, 20, 5, 25), 0.95), (0, (0, 0, 10, 10), 0.9))
    assert average_precision([missed], there)["map50"] == pytest.approx(51 / 101 / 2)


def test_a_class_that_is_not_there_does_not_count_and_nothing_there_is_nan() -> None:
    there = [objects((1, (0, 0, 10, 10), 0))]
    found = [objects((1, (0, 0, 10, 10), 0.5), (2, (0, 0, 10, 10), 0.9))]
    assert average_precision(found, there)["map"] == pytest.approx(1)
    assert average_precision([objects()], there)["map"] == 0
    assert all(map(np.isnan, average_precision(found, [objects()]).values()))


def test_what_is_found_in_a_crowd_is_no_miss() -> None:
    there = [objects((0, (0, 0, 10, 10), 0), (0, (20, 0, 40, 40), 1))]
    found = [objects((0, (25, 10, 30, 15), 0.9), (0, (0, 0, 10, 10), 0.5))]
    assert average_precision(found, there)["map"] == pytest.approx(1)


def planted(seed: int, images: int = 12) -> tuple[list[Objects], list[Objects]]:
    """Objects, and detections of them: shifted, doubled, missed, of another class, invented; some images are empty."""
    rng = np.random.default_rng(seed)
    found, there = [], []
    for _ in range(images):
        count = int(rng.integers(0, 6))
        corner = rng.uniform(0, 60, (count, 2))
        boxes = np.concatenate((corner, corner + rng.uniform(5, 40, (count, 2))), 1)
        classes = rng.integers(0, 4, count)
        there.append(Objects(boxes, classes.astype(float), (rng.random(count) < 0.15).astype(float)))
        kept = rng.random(count) < 0.85
        doubled = np.concatenate((boxes[kept], boxes[rng.random(count) < 0.3], rng.uniform(0, 30, (2, 4))))
        doubled[:, 2:] = np.maximum(doubled[:, 2:], doubled[:, :2] + 1)
        doubled += rng.normal(0, 2, doubled.shape) * (rng.random((len(doubled), 1)) < 0.7)
        doubled[:, 2:] = np.maximum(doubled[:, 2:], doubled[:, :2] + 0.5)
        guessed = rng.integers(0, 4, len(doubled)).astype(float)
        guessed[: kept.sum()] = np.where(rng.random(kept.sum()) < 0.8, classes[kept], guessed[: kept.sum()])
        found.append(Objects(doubled, guessed, rng.random(len(doubled))))
    return found, there


@pytest.mark.parametrize("seed", range(4))
def test_average_precision_agrees_with_torchmetrics(seed: int) -> None:
    from torchmetrics.detection import MeanAveragePrecision

    found, there = planted(seed)
    # Its own recall thresholds are COCO's rounded to FP32: a recall of exactly 0.4 misses the one at 0.4.
    theirs = MeanAveragePrecision(rec_thresholds=np.linspace(0, 1, 101).tolist())
    theirs.update(
        [{"boxes": torch.from_numpy(f.boxes), "labels": torch.from_numpy(f.classes).long(),
          "scores": torch.from_numpy(f.flags)} for f in found],
        [{"boxes": torch.from_numpy(t.boxes), "labels": torch.from_numpy(t.classes).long(),
          "iscrowd": torch.from_numpy(t.flags).long()} for t in there],
    )  # fmt: skip
    expected = {key: float(value) for key, value in theirs.compute().items() if value.numel() == 1}
    ours = average_precision(found, there)
    assert 0.1 < ours["map"] < 0.9
    names = {"map": "map", "map50": "map_50", "map75": "map_75", "mar100": "mar_100"}
    assert ours == pytest.approx({name: expected[key] for name, key in names.items()}, abs=1e-5)


class Fixed(nn.Module):
    """A detector that always says the same of an image, and loses by the number of objects."""

    def __init__(self, found: Detections) -> None:
        super().__init__()
        self.found = found

    def forward(self, images: Tensor, objects: Tensor | None = None) -> Tensor | None:
        return None if objects is None else images.mean()

    def loss(self, outputs: Tensor, objects: Tensor) -> Tensor:
        return outputs + (objects[..., 0] >= 0).sum()

    def detections(self, outputs: None) -> Detections:
        return self.found


def batch() -> Batch:
    table = [[[1.0, 2, 4, 10, 12, 0], [0, 0, 0, 4, 4, 1]], [[2, 0, 0, 16, 8, 0], EMPTY]]
    return Batch(torch.ones(2, 1, 16, 16), (torch.tensor(table), torch.tensor([[16.0, 16, 32, 48], [8, 16, 8, 16]])))


def fixed() -> Fixed:
    boxes = torch.tensor([[[2.0, 4, 10, 12], [-3, -3, 30, 20]], [[-1.0, 0, 17, 11], [0, 0, 0, 0]]])
    return Fixed(Detections(boxes, torch.tensor([[0.9, 0.5], [0.7, 0]]), torch.tensor([[1, 0], [2, -1]])))


def test_the_detectors_loss_is_the_loss() -> None:
    assert float(build().loss(fixed(), batch())) == 4


def test_what_is_found_is_cut_to_the_image_inside_its_canvas() -> None:
    found = build().outputs(fixed(), batch())
    assert found.boxes[0].tolist() == [[2, 4, 10, 12], [0, 0, 16, 16]]
    assert found.boxes[1, 0].tolist() == [0, 0, 16, 8]


def test_metrics_over_batches() -> None:
    task = build()
    metrics = task.metrics(CPU)
    for _ in range(2):
        metrics.update(task.outputs(fixed(), batch()), batch())
    # Class 0 is only there as a crowd; the others are found exactly.
    assert metrics.compute() == pytest.approx({"map": 1, "map50": 1, "map75": 1, "mar100": 1, "samples": 4})


def test_predictions_are_in_pixels_of_the_file() -> None:
    task = build(class_names=("shirt", "coat", "bag"))
    first, second = task.predictions(task.outputs(fixed(), batch()), batch())
    assert first["predicted"][0] == {"box": [6, 8, 30, 24], "class": "coat", "score": pytest.approx(0.9)}
    assert first["target"] == [
        {"box": [6, 8, 30, 24], "class": "coat", "crowd": False},
        {"box": [0, 0, 12, 8], "class": "shirt", "crowd": True},
    ]
    assert second["predicted"] == [{"box": [0, 0, 16, 8], "class": "bag", "score": pytest.approx(0.7)}]
    assert second["target"] == [{"box": [0, 0, 16, 8], "class": "bag", "crowd": False}]


def test_what_does_not_suit_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"a Linear finds no objects; choose a detector"):
        Detection().loss(nn.Linear(2, 2), batch())
    with pytest.raises(ConfigError, match=r"model.num_classes: 2 outputs, but the boxes have 3 classes"):
        build(2, ("a", "b", "c"))
    with pytest.raises(ConfigError, match="targets are for classification"):
        build(kind="classification")
