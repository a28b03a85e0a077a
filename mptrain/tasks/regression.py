"""Learning real numbers: mean squared error, R2; and for a linear model, the exact solution beside the learned one.

Owns: the loss, exact FP64 sums, and that comparison. Must not: read the device before `compute` and `summary`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from mptrain.interfaces import Batch, DataSplits, InMemory, Metrics, Task, at_least_fp32
from mptrain.tasks.outputs import checked_shape

MAX_FEATURES = 256
"""A least-squares solution of more features takes too long for a summary."""
MAX_SHOWN = 16
"""Weights are listed up to this many; the largest difference always is."""


class Regression(Task):
    """Mean squared error of (N, width) outputs."""

    main_metric = "mse"
    higher_is_better = False

    def __init__(self, width: int) -> None:
        self._width = width

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the mean squared error, 0-d, in FP32 or FP64; raise ConfigError on outputs of the wrong shape."""
        outputs = at_least_fp32(_checked(model(batch.inputs), batch))
        return functional.mse_loss(outputs, batch.targets.to(outputs.dtype))

    def blank_targets(self, inputs: Tensor) -> Tensor:
        """Return zeros (N, width)."""
        return inputs.new_zeros(len(inputs), self._width)

    def metrics(self, device: torch.device) -> Metrics:
        """Return fresh sums on `device`."""
        return RegressionMetrics(self._width, device)

    def predictions(self, outputs: Any, batch: Batch) -> list[dict[str, Any]]:
        """Return each sample's predicted and true numbers."""
        pairs = zip(outputs.double().tolist(), batch.targets.double().tolist(), strict=True)
        return [{"predicted": predicted, "target": target} for predicted, target in pairs]

    def summary(self, model: nn.Module, splits: DataSplits) -> Mapping[str, Any] | None:
        """Return learned weights, the FP64 least-squares solution and their largest difference; None if not linear."""
        layer = _only_linear(model)
        if layer is None or layer.in_features > MAX_FEATURES or not isinstance(splits.train, InMemory):
            return None
        raw = Batch(splits.train.inputs, splits.train.targets)
        inputs = splits.train.transform(raw, None).inputs.flatten(1).double().cpu()
        learned = layer.weight.detach().double().cpu().T
        if layer.bias is not None:
            inputs = torch.cat([inputs, torch.ones(len(inputs), 1, dtype=torch.float64)], dim=1)
            learned = torch.cat([learned, layer.bias.detach().double().cpu().unsqueeze(0)])
        exact = torch.linalg.lstsq(inputs, splits.train.targets.double().cpu()).solution
        report: dict[str, Any] = {"max_abs_difference": (learned - exact).abs().max().item()}
        if learned.numel() <= MAX_SHOWN:
            for name, solution in (("learned", learned), ("least_squares_fp64", exact)):
                report[name] = {"weight": solution[: layer.in_features].T.tolist()}
                if layer.bias is not None:
                    report[name]["bias"] = solution[-1].tolist()
        return report


def _checked(outputs: Any, batch: Batch) -> Tensor:
    """Return outputs of the targets' shape (N, width); raise ConfigError for others, which would be broadcast."""
    return checked_shape(outputs, tuple(batch.targets.shape), "; check model.num_classes and the model's last layer")


def _only_linear(model: nn.Module) -> nn.Linear | None:
    """Return the model's linear layer if it holds all of the model's parameters, else None."""
    layers = [module for module in model.modules() if isinstance(module, nn.Linear)]
    if len(layers) != 1 or len(list(model.parameters())) != len(list(layers[0].parameters())):
        return None
    return layers[0]


class RegressionMetrics:
    """Sums in FP64, per output, over the samples seen."""

    def __init__(self, width: int, device: torch.device) -> None:
        self._width, self._samples = width, 0
        # The first targets seen: sums of the distance to them keep the digits that a large mean would take.
        self._origin: Tensor | None = None
        # Rows: squared error, target, squared target; targets from the origin.
        self._sums = torch.zeros(3, width, dtype=torch.float64, device=device)

    def update(self, outputs: Tensor, batch: Batch) -> None:
        """Add one batch of outputs (N, width)."""
        _checked(outputs, batch)
        targets = batch.targets.double()
        self._samples += len(targets)
        if self._origin is None:
            self._origin = targets[0].clone()
        apart = targets - self._origin
        self._sums += torch.stack([(outputs.double() - targets).square().sum(0), apart.sum(0), apart.square().sum(0)])

    def compute(self) -> dict[str, float]:
        """Return mse, r2 (mean over outputs; NaN where the targets do not vary) and the number of samples."""
        error, total, squares = self._sums
        spread = squares - total.square() / self._samples
        return {
            "mse": (error.sum() / (self._samples * self._width)).item(),
            "r2": torch.where(spread > 0, 1 - error / spread, torch.nan).mean().item(),
            "samples": self._samples,
        }
