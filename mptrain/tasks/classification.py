"""Learning which of K classes: cross-entropy, accuracy, macro F1, top-5 accuracy.

Owns: the loss and exact counts. Must not: read the device before `compute`. The counts are plain device sums:
torchmetrics' top-k accuracy reads the device at every update, and its accuracies are FP32.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from mptrain.interfaces import Batch, Metrics, Task, Tensors, at_least_fp32, forward
from mptrain.tasks.outputs import check_outputs, class_name

# Weights of auxiliary losses as published: one classifier (Inception v3) 0.4, two (GoogLeNet) 0.3 each.
AUX_WEIGHTS = {1: 0.4, 2: 0.3}


class Classification(Task):
    """Cross-entropy on (N, classes) logits; a tuple is (main, *auxiliary) logits, as torchvision's Inceptions give."""

    main_metric = "accuracy"
    higher_is_better = True

    def __init__(self, num_classes: int, label_smoothing: float, class_names: Sequence[str] = ()) -> None:
        self._num_classes, self._label_smoothing, self._class_names = num_classes, label_smoothing, class_names

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the mean cross-entropy, 0-d, in FP32 or FP64; raise ConfigError on outputs of the wrong shape.

        Targets are classes (N,), or shares of classes (N, classes) where samples were mixed.
        """
        outputs = forward(model, batch.inputs)
        if isinstance(outputs, tuple) and len(outputs) - 1 in AUX_WEIGHTS:
            main, *auxiliary = outputs
            extra = [self._cross_entropy(logits, batch.targets) for logits in auxiliary]
            return self._cross_entropy(main, batch.targets) + AUX_WEIGHTS[len(extra)] * torch.stack(extra).sum()
        return self._cross_entropy(outputs, batch.targets)

    def blank_targets(self, inputs: Tensors) -> Tensor:
        """Return class 0 for each sample, int64 (N,)."""
        first: Tensor = inputs[0] if isinstance(inputs, tuple) else inputs
        return first.new_zeros(len(first), dtype=torch.int64)

    def metrics(self, device: torch.device) -> Metrics:
        """Return fresh counts on `device`."""
        return ClassificationMetrics(self._num_classes, device)

    def predictions(self, outputs: Tensor, batch: Batch) -> list[dict[str, Any]]:
        """Return each sample's most probable class, its probability, and its true class."""
        best = at_least_fp32(outputs).softmax(1).max(1)
        rows = zip(best.indices.tolist(), best.values.tolist(), batch.targets.tolist(), strict=True)
        names = self._class_names
        return [
            {"predicted": class_name(names, p), "probability": q, "target": class_name(names, t)} for p, q, t in rows
        ]

    def _cross_entropy(self, logits: Tensor, targets: Tensor) -> Tensor:
        check_outputs(logits, len(targets), self._num_classes)
        logits = at_least_fp32(logits)
        if targets.dim() == 2:
            targets = functional.pad(targets, (0, logits.shape[1] - targets.shape[1])).to(logits.dtype)
        return functional.cross_entropy(logits, targets, label_smoothing=self._label_smoothing)


class ClassificationMetrics:
    """Exact counts (int64) and summed loss (FP64) over the samples seen."""

    def __init__(self, num_classes: int, device: torch.device) -> None:
        self._num_classes, self._samples = num_classes, 0
        self._loss = torch.zeros((), dtype=torch.float64, device=device)
        self._correct = torch.zeros((), dtype=torch.int64, device=device)
        self._in_top5 = torch.zeros((), dtype=torch.int64, device=device)
        # Rows: predicted and true, predicted, true; one column per class that can be predicted.
        self._per_class: Tensor | None = None

    def update(self, outputs: Tensor, batch: Batch) -> None:
        """Add one batch of logits (N, classes)."""
        check_outputs(outputs, len(batch.targets), self._num_classes)
        logits = at_least_fp32(outputs)
        self._samples += len(batch.targets)
        self._loss += functional.cross_entropy(logits, batch.targets, reduction="none").double().sum()
        predicted = logits.argmax(1)
        correct = predicted == batch.targets
        self._correct += correct.sum()
        if self._per_class is None:
            self._per_class = torch.zeros(3, logits.shape[1], dtype=torch.int64, device=logits.device)
        self._per_class[0].index_add_(0, predicted, correct.long())
        self._per_class[1].index_add_(0, predicted, torch.ones_like(predicted))
        self._per_class[2].index_add_(0, batch.targets, torch.ones_like(predicted))
        if self._num_classes > 5:
            self._in_top5 += (logits.topk(5, dim=1).indices == batch.targets.unsqueeze(1)).sum()

    def compute(self) -> dict[str, float]:
        """Return loss, accuracy, f1, top5_accuracy (more than 5 classes) and the number of samples.

        f1 is macro F1: the mean over the classes that occur, predicted or true, of 2 tp / (predicted + true).
        """
        result: dict[str, float] = {
            "loss": self._loss.item() / self._samples,
            "accuracy": self._correct.item() / self._samples,
        }
        if self._per_class is not None:
            both, predicted, true = self._per_class.double()
            occurs = predicted + true > 0
            result["f1"] = (2 * both[occurs] / (predicted + true)[occurs]).mean().item()
        if self._num_classes > 5:
            result["top5_accuracy"] = self._in_top5.item() / self._samples
        return {**result, "samples": self._samples}
