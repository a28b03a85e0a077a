"""Evaluation on the test split, under the run's own precision, with exact sample counts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from mptrain.errors import ConfigError
from mptrain.interfaces import Batch, Task
from mptrain.precision.policy import PrecisionPolicy
from mptrain.trainer.predictions import OnBatch, ignore


class CutShort(Exception):
    """Raised by `on_batch` to leave an evaluation before its end."""


def evaluate(
    model: nn.Module,
    task: Task,
    batches: Iterable[Batch],
    policy: PrecisionPolicy,
    device: torch.device,
    on_batch: OnBatch = ignore,
) -> dict[str, float]:
    """Return the task's metrics over all of `batches`; the model's training mode is as before afterwards.

    `on_batch` sees the task's outputs for each batch.
    Raises ConfigError for a task whose metrics are no numbers or lack its main one.
    """
    metrics = task.metrics(device)
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            for batch in batches:
                batch = batch._replace(inputs=policy.convert_input(batch.inputs))
                with policy.arithmetic(), policy.autocast():
                    outputs = task.outputs(model, batch)
                metrics.update(outputs, batch)
                on_batch(outputs, batch)
    finally:
        model.train(was_training)
    return _plain(metrics.compute(), task.main_metric)


def _plain(metrics: Mapping[str, Any], main_metric: str) -> dict[str, float]:
    """Return the metrics as Python numbers: a task may hand in 0-d tensors or NumPy's."""
    if main_metric not in metrics:
        raise ConfigError(f"task: its metrics ({', '.join(metrics) or 'none'}) lack its main metric '{main_metric}'")
    plain = {}
    for name, value in metrics.items():
        try:
            plain[name] = value if type(value) is int else float(value)
        except (TypeError, ValueError, RuntimeError):
            raise ConfigError(f"task: its metric '{name}' is {value!r:.80}, not a number") from None
    return plain
