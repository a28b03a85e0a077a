"""The networks that need no torchvision: an MLP and a linear layer, both on the flattened input.

Owns: how they are put together. Must not: register anything (see `entries`).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from torch import nn

from mptrain.interfaces import DataSpec

if TYPE_CHECKING:
    from mptrain.models.configs import LinearConfig, MlpConfig


def linear(config: LinearConfig, spec: DataSpec) -> nn.Module:
    """Return flatten + one linear layer, (N, ...) -> (N, outputs)."""
    outputs = config.num_classes or spec.num_outputs
    return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(spec.input_shape), outputs, bias=config.bias))


def mlp(config: MlpConfig, spec: DataSpec) -> nn.Module:
    """Return flatten, then per hidden width linear + norm + activation + dropout, then a linear layer."""
    width = math.prod(spec.input_shape)
    layers: list[nn.Module] = [nn.Flatten()]
    for hidden in config.hidden:
        layers.append(nn.Linear(width, hidden))
        if config.norm != "none":
            layers.append(nn.BatchNorm1d(hidden) if config.norm == "batch" else nn.LayerNorm(hidden))
        layers.append(nn.ReLU() if config.activation == "relu" else nn.GELU())
        if config.dropout:
            layers.append(nn.Dropout(config.dropout))
        width = hidden
    return nn.Sequential(*layers, nn.Linear(width, config.num_classes or spec.num_outputs))
