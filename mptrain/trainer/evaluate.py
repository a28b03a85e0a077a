"""Evaluation on the test split, under the run's own precision, with exact sample counts."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from mptrain.interfaces import Batch, Task
from mptrain.precision.policy import PrecisionPolicy


def evaluate(
    model: nn.Module, task: Task, batches: Iterable[Batch], policy: PrecisionPolicy, device: torch.device
) -> dict[str, float]:
    """Return the task's metrics over all of `batches`; the model's training mode is as before afterwards."""
    metrics = task.metrics(device)
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            for batch in batches:
                batch = batch._replace(inputs=policy.convert_input(batch.inputs))
                with policy.autocast():
                    outputs = model(batch.inputs)
                metrics.update(outputs, batch)
    finally:
        model.train(was_training)
    return metrics.compute()
