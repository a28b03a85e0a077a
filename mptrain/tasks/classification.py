"""Learning which of K classes: cross-entropy, accuracy, top-5 accuracy.

Owns: the loss and exact counts. Must not: read the device before `compute`. The counts are plain device sums:
torchmetrics' top-k accuracy reads the device at every update, and its accuracies are FP32.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from mptrain.interfaces import Batch, DataSplits, Metrics
from mptrain.tasks.outputs import at_least_fp32, check_outputs

# Weights of auxiliary losses as published: one classifier (Inception v3) 0.4, two (GoogLeNet) 0.3 each.
AUX_WEIGHTS = {1: 0.4, 2: 0.3}


class Classification:
    """Cross-entropy on (N, classes) logits; a tuple is (main, *auxiliary) logits, as torchvision's Inceptions give."""

    main_metric = "accuracy"
    higher_is_better = True

    def __init__(self, num_classes: int, label_smoothing: float) -> None:
        self._num_classes, self._label_smoothing = num_classes, label_smoothing

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the mean cross-entropy, 0-d, in FP32 or FP64; raise ConfigError on outputs of the wrong shape."""
        outputs = model(batch.inputs)
        if isinstance(outputs, tuple) and len(outputs) - 1 in AUX_WEIGHTS:
            main, *auxiliary = outputs
            extra = [self._cross_entropy(logits, batch.targets) for logits in auxiliary]
            return self._cross_entropy(main, batch.targets) + AUX_WEIGHTS[len(extra)] * torch.stack(extra).sum()
        return self._cross_entropy(outputs, batch.targets)

    def metrics(self, device: torch.device) -> Metrics:
        """Return fresh counts on `device`."""
        return ClassificationMetrics(self._num_classes, device)

    def summary(self, model: nn.Module, splits: DataSplits) -> Mapping[str, Any] | None:
        """Return None: the metrics say it all."""
        return None

    def _cross_entropy(self, logits: Tensor, targets: Tensor) -> Tensor:
        check_outputs(logits, len(targets), self._num_classes, exact=False)
        return functional.cross_entropy(at_least_fp32(logits), targets, label_smoothing=self._label_smoothing)


class ClassificationMetrics:
    """Exact counts (int64) and summed loss (FP64) over the samples seen."""

    def __init__(self, num_classes: int, device: torch.device) -> None:
        self._num_classes, self._samples = num_classes, 0
        self._loss = torch.zeros((), dtype=torch.float64, device=device)
        self._correct = torch.zeros((), dtype=torch.int64, device=device)
        self._in_top5 = torch.zeros((), dtype=torch.int64, device=device)

    def update(self, outputs: Tensor, batch: Batch) -> None:
        """Add one batch of logits (N, classes)."""
        check_outputs(outputs, len(batch.targets), self._num_classes, exact=False)
        logits = at_least_fp32(outputs)
        self._samples += len(batch.targets)
        self._loss += functional.cross_entropy(logits, batch.targets, reduction="none").double().sum()
        self._correct += (logits.argmax(1) == batch.targets).sum()
        if self._num_classes > 5:
            self._in_top5 += (logits.topk(5, dim=1).indices == batch.targets.unsqueeze(1)).sum()

    def compute(self) -> dict[str, float]:
        """Return loss, accuracy, top5_accuracy (more than 5 classes) and the number of samples."""
        result: dict[str, float] = {
            "loss": self._loss.item() / self._samples,
            "accuracy": self._correct.item() / self._samples,
        }
        if self._num_classes > 5:
            result["top5_accuracy"] = self._in_top5.item() / self._samples
        return {**result, "samples": self._samples}
