"""Losses and metrics of the built-in tasks: values, dtypes, exact counts, no host reads, refusals."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torchmetrics.functional.classification import multiclass_f1_score

import mptrain.tasks
from mptrain.errors import ConfigError
from mptrain.interfaces import Batch, DataSpec, DataSplits, InMemory, Task, as_it_is
from mptrain.registry import TASKS

assert mptrain.tasks  # registers the entries

CPU = torch.device("cpu")


def build(name: str, num_outputs: int, **options: object) -> Task:
    config = TASKS.config_type(name).model_validate({"name": name, **options})
    return TASKS.build(config, DataSpec((4,), num_outputs, kind=name))


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
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.counts[str(func)] += 1
        return func(*args, **(kwargs or {}))


def random_batch(num_classes: int, count: int = 33) -> tuple[Tensor, Batch]:
    torch.manual_seed(0)
    return torch.randn(count, num_classes), Batch(torch.zeros(count, 4), torch.randint(num_classes, (count,)))


def test_tasks_follow_the_protocol() -> None:
    assert isinstance(build("classification", 10), Task)
    assert isinstance(build("regression", 1), Task)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_classification_loss_is_cross_entropy_in_at_least_fp32(smoothing: float) -> None:
    logits, batch = random_batch(10)
    task = build("classification", 10, label_smoothing=smoothing)
    wanted = functional.cross_entropy(logits.double(), batch.targets, label_smoothing=smoothing)
    for dtype, gives, tolerance in (
        (torch.float64, torch.float64, 1e-12),
        (torch.float32, torch.float32, 1e-6),
        (torch.float16, torch.float32, 1e-3),
        (torch.bfloat16, torch.float32, 1e-2),
    ):
        loss = task.loss(Fixed(logits.to(dtype)), batch)
        assert loss.dtype is gives
        assert loss.shape == ()
        assert loss.item() == pytest.approx(wanted.item(), rel=tolerance)


@pytest.mark.parametrize("size", [6e4, -6e4])
def test_extreme_half_precision_logits_give_a_finite_loss_and_gradient(size: float) -> None:
    logits = torch.zeros(4, 10, dtype=torch.float16)
    logits[:, 3] = size
    logits.requires_grad_()
    loss = build("classification", 10, label_smoothing=0.1).loss(
        Fixed(logits), Batch(torch.zeros(4, 4), torch.tensor([3, 0, 1, 2]))
    )
    loss.backward()
    assert torch.isfinite(loss)
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


def test_auxiliary_classifiers_are_weighted_as_published() -> None:
    logits, batch = random_batch(10)
    task = build("classification", 10)
    one = task.loss(Fixed(logits), batch)
    assert task.loss(Fixed((logits, logits)), batch).item() == pytest.approx(1.4 * one.item())
    assert task.loss(Fixed((logits, logits, logits)), batch).item() == pytest.approx(1.6 * one.item())


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_torchvision_inceptions_train(name: str) -> None:
    torchvision = pytest.importorskip("torchvision")
    model = torchvision.models.get_model(name, weights=None, num_classes=10, init_weights=False)
    batch = Batch(torch.randn(2, 3, 299, 299), torch.tensor([1, 2]))
    build("classification", 10).loss(model, batch).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_classification_metrics_are_exact_over_uneven_batches() -> None:
    logits, batch = random_batch(10, 103)
    metrics = build("classification", 10).metrics(CPU)
    for rows in torch.arange(103).split(16):
        metrics.update(logits[rows], Batch(batch.inputs[rows], batch.targets[rows]))
    ranks = (logits > logits.gather(1, batch.targets.unsqueeze(1))).sum(1)
    found = metrics.compute()
    f1 = multiclass_f1_score(logits, batch.targets, num_classes=10, average="macro")
    assert found == {
        "loss": pytest.approx(functional.cross_entropy(logits, batch.targets).item(), rel=1e-6),
        "accuracy": (ranks == 0).sum().item() / 103,
        "f1": pytest.approx(f1.item(), rel=1e-6),
        "top5_accuracy": (ranks < 5).sum().item() / 103,
        "samples": 103,
    }


def test_top5_needs_more_than_five_classes() -> None:
    logits, batch = random_batch(5)
    metrics = build("classification", 5).metrics(CPU)
    metrics.update(logits, batch)
    assert set(metrics.compute()) == {"loss", "accuracy", "f1", "samples"}


def test_f1_is_the_mean_over_the_classes_that_occur() -> None:
    metrics = build("classification", 4).metrics(CPU)
    predicted, true = torch.tensor([0, 0, 1, 2]), torch.tensor([0, 1, 1, 1])
    metrics.update(functional.one_hot(predicted, 4).float(), Batch(torch.zeros(4, 4), true))
    # Class 0: 1 hit of 2 predicted and 1 true; class 1: 1 of 1 and 3; class 2: none of 1 and 0; class 3 never occurs.
    assert metrics.compute()["f1"] == pytest.approx((2 / 3 + 2 / 4 + 0) / 3)


def test_classification_predictions_name_class_probability_and_target() -> None:
    spec = DataSpec((4,), 3, class_names=("cat", "dog", "eel"))
    task = TASKS.build(TASKS.config_type("classification").model_validate({"name": "classification"}), spec)
    logits = torch.tensor([[0.0, 9.0, 0.0], [9.0, 0.0, 0.0]], dtype=torch.bfloat16)
    records = task.predictions(logits, Batch(torch.zeros(2, 4), torch.tensor([1, 2])))
    probability = pytest.approx(torch.softmax(torch.tensor([9.0, 0.0, 0.0]), 0)[0].item(), rel=1e-6)
    assert records == [
        {"predicted": "dog", "probability": probability, "target": "dog"},
        {"predicted": "cat", "probability": probability, "target": "eel"},
    ]


def test_regression_loss_and_metrics() -> None:
    torch.manual_seed(0)
    outputs, targets = torch.randn(50, 3), torch.randn(50, 3) + 100
    task = build("regression", 3)
    loss = task.loss(Fixed(outputs.half()), Batch(outputs, targets))
    assert loss.dtype is torch.float32
    metrics = task.metrics(CPU)
    for rows in torch.arange(50).split(7):
        metrics.update(outputs[rows], Batch(outputs[rows], targets[rows]))
    found = metrics.compute()
    error, spread = ((outputs - targets).double() ** 2).sum(0), targets.double().var(0, correction=0) * 50
    assert found == {
        "mse": pytest.approx(error.sum().item() / 150),
        "r2": pytest.approx((1 - error / spread).mean().item()),
        "samples": 50,
    }


@pytest.mark.parametrize("same", [0.3, 10000.1])
def test_targets_that_do_not_vary_have_no_r2(same: float) -> None:
    metrics, targets = build("regression", 1).metrics(CPU), torch.full((64, 1), same)
    for rows in targets.split(13):
        metrics.update(rows + 1, Batch(rows, rows))
    assert math.isnan(metrics.compute()["r2"])


def test_r2_keeps_its_digits_beside_a_large_mean() -> None:
    metrics, targets = build("regression", 1).metrics(CPU), 1e8 + torch.arange(100.0, dtype=torch.float64).view(-1, 1)
    metrics.update(targets + 1, Batch(targets, targets))
    assert metrics.compute()["r2"] == pytest.approx(1 - 100 / targets.var(correction=0).item() / 100)


@pytest.mark.parametrize(("name", "width"), [("classification", 10), ("regression", 2)])
def test_loss_and_metrics_never_read_the_device(name: str, width: int) -> None:
    torch.manual_seed(0)
    targets = torch.randint(width, (8,)) if name == "classification" else torch.randn(8, width)
    task, batch, outputs = build(name, width), Batch(torch.zeros(8, 4), targets), torch.randn(8, width)
    metrics = task.metrics(CPU)
    with HostReads() as reads:
        task.loss(Fixed(outputs), batch)
        metrics.update(outputs, batch)
    assert sum(reads.counts.values()) > 5
    assert not [name for name in reads.counts if "local_scalar_dense" in name]


@pytest.mark.parametrize("outputs", [torch.zeros(8), torch.zeros(8, 3), torch.zeros(7, 10), [torch.zeros(8, 10)]])
def test_outputs_of_the_wrong_shape_are_one_line(outputs: Any) -> None:
    task = build("classification", 10)
    with pytest.raises(ConfigError, match=r"needs \(8, 10 or more\)") as caught:
        task.loss(Fixed(outputs), Batch(torch.zeros(8, 4), torch.zeros(8, dtype=torch.int64)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("width", [1, 2])
def test_regression_outputs_have_the_shape_of_the_targets(width: int) -> None:
    """With `model.num_classes=2` the task is built for a width of 2; the targets still have one."""
    task, outputs, batch = build("regression", width), torch.zeros(8, 2), Batch(torch.zeros(8, 4), torch.zeros(8, 1))
    for refused in (lambda: task.loss(Fixed(outputs), batch), lambda: task.metrics(CPU).update(outputs, batch)):
        with pytest.raises(ConfigError, match=r"shape \(8, 2\), the task needs \(8, 1\); check model.num_classes"):
            refused()


@pytest.mark.parametrize(("name", "kind"), [("classification", "regression"), ("regression", "classification")])
def test_a_task_that_does_not_suit_the_targets_is_refused(name: str, kind: str) -> None:
    config = TASKS.config_type(name).model_validate({"name": name})
    with pytest.raises(ConfigError, match=f"set task={kind}"):
        TASKS.build(config, DataSpec((4,), 2, kind=kind))


def line_splits(features: int) -> DataSplits:
    torch.manual_seed(0)
    x = torch.randn(200, features)
    y = x.sum(1, keepdim=True) * 2 + 0.5 + 0.1 * torch.randn(200, 1)
    split = InMemory(x, y, as_it_is, augments=False)
    return DataSplits(DataSpec((features,), 1, kind="regression"), split, split)


@pytest.mark.parametrize("bias", [True, False])
def test_summary_compares_with_the_least_squares_solution(bias: bool) -> None:
    splits = line_splits(2)
    model = nn.Sequential(nn.Flatten(), nn.Linear(2, 1, bias=bias))
    summary = build("regression", 1).summary(model, splits)
    assert summary is not None
    exact = summary["least_squares_fp64"]
    assert exact["weight"][0] == pytest.approx([2, 2], abs=0.1)
    assert ("bias" in exact) is bias
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor(exact["weight"]))
        if bias:
            model[1].bias.copy_(torch.tensor(exact["bias"]) + 0.25)
    after = build("regression", 1).summary(model, splits)
    assert after is not None
    assert after["max_abs_difference"] == pytest.approx(0.25 if bias else 0, abs=1e-6)


def test_summary_lists_few_weights_only_and_no_deep_model() -> None:
    task = build("regression", 1)
    summary = task.summary(nn.Linear(40, 1), line_splits(40))
    assert summary is not None
    assert set(summary) == {"max_abs_difference"}
    assert task.summary(nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1)), line_splits(2)) is None
    assert build("classification", 10).summary(nn.Linear(2, 1), line_splits(2)) is None
