"""Which loss scaler a config asks for, and whether it can have what it asks of it. Must not: scale."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import torch
from torch import nn

from mptrain.config.precision import LossScaleConfig
from mptrain.errors import ConfigError
from mptrain.precision.histogram_scaler import HistogramLossScaler
from mptrain.precision.loss_scaler import DynamicLossScaler, LossScaler


def check_loss_scale(config: LossScaleConfig, kinds: Collection[str]) -> None:
    """Raise ConfigError for what none of a run's resolved `kinds` of scaling (one a phase) can honour."""
    remedy = "set precision.loss_scale.kind=dynamic where it shall be scaled"
    if config.on_skip == "retry" and not {"dynamic", "histogram"} & set(kinds):
        raise ConfigError(
            "precision.loss_scale.on_skip: 'retry' needs a loss scale that can move, and this precision has none; use "
            f"drop, or {remedy}"
        )
    if config.groups and set(kinds) == {"none"}:
        raise ConfigError(
            f"precision.loss_scale.groups: this precision has no loss scale; leave the groups out, or {remedy}"
        )


def make_scaler(kind: str, config: LossScaleConfig, params: Iterable[nn.Parameter], device: torch.device) -> LossScaler:
    """Return the scaler for a resolved `kind`: dynamic, histogram, static or none."""
    if kind == "dynamic":
        return DynamicLossScaler(config, params, device)
    if kind == "histogram":
        return HistogramLossScaler(config, params, device)
    return LossScaler(config.init_scale if kind == "static" else 1.0, params, device)
