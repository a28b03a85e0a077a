"""Segmentation: loss and scores agree with plain torch, torchmetrics and pycocotools; nothing reads the device."""

from __future__ import annotations

import json
from collections import OrderedDict
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

import mptrain.tasks
from mptrain.errors import ConfigError
from mptrain.interfaces import Batch, DataSpec, Task
from mptrain.registry import TASKS
from mptrain.tasks.segmentation import run_lengths

assert mptrain.tasks  # registers the entries

CPU = torch.device("cpu")


def build(num_classes: int, names: tuple[str, ...] = (), **options: object) -> Task:
    config = TASKS.config_type("segmentation").model_validate({"name": "segmentation", **options})
    return TASKS.build(config, DataSpec((3, 6, 7), num_classes, kind="segmentation", class_names=names))


class Fixed(nn.Module):
    """A model that gives what it is told to."""

    def __init__(self, outputs: Any) -> None:
        super().__init__()
        self.outputs = outputs

    def forward(self, _inputs: Tensor) -> Any:
        return self.outputs


class HostReads(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen.append(str(func))
        return func(*args, **(kwargs or {}))


def planted(classes: int = 5, count: int = 4) -> tuple[Tensor, Batch]:
    """Logits and targets of 6x7 pixels: a fifth is ignored, class 3 never true, class 4 neither true nor predicted."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(count, classes, 6, 7, generator=generator)
    logits[:, 4] = -100
    targets = torch.randint(3, (count, 6, 7), generator=generator)
    targets[torch.rand(count, 6, 7, generator=generator) < 0.2] = 255
    return logits, Batch(torch.zeros(count, 3, 6, 7), targets)


def one_hot(predicted: Tensor, classes: int) -> Tensor:
    return functional.one_hot(predicted, classes).movedim(-1, 1).float()


def scores(task: Task, logits: Tensor, batch: Batch, size: int = 3) -> dict[str, float]:
    metrics = task.metrics(CPU)
    for rows in torch.arange(len(logits)).split(size):
        metrics.update(logits[rows], Batch(batch.inputs[rows], batch.targets[rows]))
    return metrics.compute()


def test_the_loss_is_the_mean_over_counted_pixels_in_at_least_fp32() -> None:
    logits, batch = planted()
    wanted = functional.cross_entropy(logits.double(), batch.targets, ignore_index=255).item()
    for dtype, gives, tolerance in (
        (torch.float64, torch.float64, 1e-12),
        (torch.float32, torch.float32, 1e-6),
        (torch.float16, torch.float32, 1e-2),
        (torch.bfloat16, torch.float32, 1e-1),
    ):
        loss = build(5).loss(Fixed(logits.to(dtype)), batch)
        assert (loss.dtype, loss.shape) == (gives, ())
        assert loss.item() == pytest.approx(wanted, rel=tolerance)


def test_ignored_pixels_have_no_gradient() -> None:
    logits, batch = planted()
    logits.requires_grad_()
    build(5).loss(Fixed(logits), batch).backward()
    reference = logits.detach().clone().requires_grad_()
    functional.cross_entropy(reference, batch.targets, ignore_index=255).backward()
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad, reference.grad)
    ignored = (batch.targets == 255).unsqueeze(1).expand_as(logits)
    assert logits.grad[ignored].abs().max() == 0
    assert logits.grad[~ignored].abs().max() > 0


def test_a_batch_without_a_counted_pixel_has_no_loss_and_no_score() -> None:
    logits, batch = planted()
    batch = batch._replace(targets=torch.full_like(batch.targets, 255))
    logits.requires_grad_()
    loss = build(5).loss(Fixed(logits), batch)
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert logits.grad.abs().max() == 0
    first = build(5).predictions(logits.detach(), batch)[0]
    assert (first["mean_iou"], first["pixel_accuracy"]) == (None, None)
    assert np.isnan(scores(build(5), logits.detach(), batch)["mean_iou"])


@pytest.mark.parametrize("weight", [0.5, 0.4, 0.0])
def test_torchvisions_dict_of_outputs_is_read_and_its_auxiliary_loss_weighted(weight: float) -> None:
    logits, batch = planted()
    aux = logits.flip(0)
    task, plain = build(5, aux_weight=weight), build(5)
    both = task.loss(Fixed(OrderedDict(out=logits, aux=aux)), batch)
    wanted = plain.loss(Fixed(logits), batch) + weight * plain.loss(Fixed(aux), batch)
    assert both.item() == pytest.approx(wanted.item())
    assert task.loss(Fixed({"out": logits}), batch).item() == plain.loss(Fixed(logits), batch).item()
    assert torch.equal(task.outputs(Fixed({"out": logits, "aux": aux}), batch), logits)


def test_the_auxiliary_weight_is_torchvisions_unless_told() -> None:
    logits, batch = planted()
    one = build(5).loss(Fixed(logits), batch).item()
    assert build(5).loss(Fixed({"out": logits, "aux": logits}), batch).item() == pytest.approx(1.5 * one)


def test_scores_agree_with_torchmetrics_with_ignored_pixels_and_absent_classes() -> None:
    from torchmetrics.classification import MulticlassAccuracy, MulticlassJaccardIndex

    logits, batch = planted()
    found = scores(build(5), logits, batch)
    options: dict[str, Any] = {"num_classes": 5, "ignore_index": 255}
    predicted = logits.argmax(1)
    mean = MulticlassJaccardIndex(average="macro", **options)(predicted, batch.targets)
    each = MulticlassJaccardIndex(average="none", **options)(predicted, batch.targets)
    accuracy = MulticlassAccuracy(average="micro", **options)(predicted, batch.targets)
    assert found["mean_iou"] == pytest.approx(mean.item(), abs=1e-6)
    assert found["pixel_accuracy"] == pytest.approx(accuracy.item(), abs=1e-6)
    assert [found[f"iou_{index}"] for index in range(4)] == pytest.approx(each[:4].tolist(), abs=1e-6)
    assert found["iou_3"] == 0  # predicted, never true
    assert "iou_4" not in found  # neither
    assert found["samples"] == 4
    loss = functional.cross_entropy(logits, batch.targets, ignore_index=255)
    assert found["loss"] == pytest.approx(loss.item(), rel=1e-6)


def test_each_images_mean_iou_agrees_with_torchmetrics() -> None:
    from torchmetrics.functional.segmentation import mean_iou

    logits, batch = planted()
    targets = torch.where(batch.targets == 255, 0, batch.targets)
    records = build(5).predictions(logits, batch._replace(targets=targets))
    wanted = mean_iou(one_hot(logits.argmax(1), 5), one_hot(targets, 5), num_classes=5, per_class=True)
    for record, ious in zip(records, wanted, strict=True):
        occurring = ious[ious >= 0]  # -1 marks a class that does not occur
        assert len(occurring) == 4
        assert record["mean_iou"] == pytest.approx(occurring.mean().item(), abs=1e-6)


def test_scores_do_not_depend_on_how_images_are_batched() -> None:
    logits, batch = planted(count=7)
    assert scores(build(5), logits, batch, 1) == pytest.approx(scores(build(5), logits, batch, 7), rel=1e-12)


def test_classes_are_named_up_to_a_number() -> None:
    logits, batch = planted()
    found = scores(build(5, names=("sea", "dry land", "ice", "cloud", "other")), logits, batch)
    assert {key for key in found if key.startswith("iou")} == {"iou_sea", "iou_dry_land", "iou_ice", "iou_cloud"}
    many = functional.pad(logits, (0, 0, 0, 0, 0, 35), value=-100.0)
    assert not [key for key in scores(build(40), many, batch) if key.startswith("iou")]


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools' own, on itself
def test_predictions_hold_masks_that_pycocotools_reads() -> None:
    from pycocotools import mask as coco

    logits, batch = planted()
    records = build(5, names=("a", "b", "c", "d", "e")).predictions(logits, batch)
    assert json.loads(json.dumps(records)) == records
    for record, predicted in zip(records, logits.argmax(1).numpy(), strict=True):
        assert [mask["class"] for mask in record["masks"]] == ["abcde"[index] for index in np.unique(predicted)]
        for mask in record["masks"]:
            decoded = coco.decode(coco.frPyObjects({"size": mask["size"], "counts": mask["counts"]}, 6, 7))
            assert np.array_equal(decoded, predicted == "abcde".index(mask["class"]))


@pytest.mark.parametrize(
    ("rows", "counts"),
    [
        ([[0, 0], [0, 0]], [4]),
        ([[1, 1], [1, 1]], [0, 4]),
        ([[0, 1], [0, 1]], [2, 2]),
        ([[1, 1], [0, 0]], [0, 1, 1, 1, 1]),
    ],
)
def test_run_lengths_go_down_the_columns_and_begin_with_zeros(rows: list[list[int]], counts: list[int]) -> None:
    assert run_lengths(torch.tensor(rows).bool()) == {"size": [2, 2], "counts": counts}


def test_loss_and_metrics_never_read_the_device() -> None:
    logits, batch = planted()
    task = build(5)
    metrics = task.metrics(CPU)
    with HostReads() as reads:
        task.loss(Fixed({"out": logits, "aux": logits}), batch)
        metrics.update(logits, batch)
    assert len(reads.seen) > 20
    assert not [name for name in reads.seen if "local_scalar_dense" in name or "nonzero" in name]


@pytest.mark.parametrize("outputs", [torch.zeros(4, 5), torch.zeros(4, 3, 6, 7), torch.zeros(4, 5, 3, 7), None])
def test_outputs_of_the_wrong_shape_are_one_line(outputs: Any) -> None:
    _, batch = planted()
    with pytest.raises(ConfigError, match=r"needs \(4, 5, 6, 7\)") as caught:
        build(5).loss(Fixed(outputs), batch)
    assert "\n" not in str(caught.value)


def test_fewer_outputs_than_classes_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"model\.num_classes: 2 outputs, but the masks have 3 classes"):
        build(2, names=("a", "b", "c"))
    assert isinstance(build(4, names=("a", "b", "c")), Task)
