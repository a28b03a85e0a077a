"""Bytes that training holds from step to step: what the plan says, and what is there.

Owns: both sums, so that they can be compared. Activations are not in them (`activations.py`): they depend on the batch
and come and go.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn

from mptrain.catalog import REGISTRIES
from mptrain.config.schema import RunConfig
from mptrain.interfaces import SkippingOptimizer
from mptrain.precision.policy import PrecisionPolicy
from mptrain.precision.weight_rounding import FORMAT_OF
from mptrain.trainer.step import StepParts

_PROBE_ELEMENTS = 1024


@dataclass(frozen=True)
class HeldBytes:
    """Bytes held between two steps, by what they are for."""

    weights: int
    gradients: int
    master_weights: int
    compensation: int
    """What Kahan rounding keeps of earlier updates."""
    optimizer_state: int
    average: int

    @property
    def total(self) -> int:
        """Return the sum."""
        return sum(getattr(self, field.name) for field in fields(self))

    def as_dict(self) -> dict[str, int]:
        """Return it as JSON-able data."""
        return asdict(self) | {"total": self.total}


def planned_bytes(config: RunConfig, model: nn.Module, policy: PrecisionPolicy) -> HeldBytes:
    """Return what training `model`, prepared by `policy`, will hold."""
    trained = [p for p in model.parameters() if p.requires_grad]
    low = [p for p in trained if p.dtype in FORMAT_OF]
    wide_low, pure = 4 * _elements(low), policy.mode.pure
    per_weight, per_parameter = _optimizer_state(config)
    state = sum(int(per_weight * p.numel() * _state_itemsize(p, pure=pure)) + per_parameter for p in trained)
    is_cut = isinstance(config.train.micro_batch, int) and config.train.micro_batch < config.data.batch_size
    summed_apart = policy.mode.master and (config.train.accumulate > 1 or is_cut)
    return HeldBytes(
        weights=_bytes(model.parameters()),
        gradients=_bytes(trained) + (wide_low - _bytes(low) if summed_apart else 0),
        master_weights=wide_low if policy.mode.master else 0,
        compensation=_bytes(low) if pure and policy.config.rounding == "kahan" else 0,
        optimizer_state=state,
        average=sum(p.numel() * max(p.element_size(), 4) for p in trained) if config.ema else 0,
    )


def held_bytes(parts: StepParts) -> HeldBytes:
    """Return what is held now, after at least one step."""
    stored = parts.weights.bytes()
    entries = parts.optimizer.state_dict()["state"].values()
    return HeldBytes(
        weights=_bytes(parts.model.parameters()),
        gradients=_bytes(p.grad for p in parts.model.parameters() if p.grad is not None) + stored["gradients"],
        master_weights=stored["master_weights"],
        compensation=stored["compensation"],
        optimizer_state=_bytes(tensor for entry in entries for tensor in _tensors(entry)),
        average=parts.average.bytes() if parts.average else 0,
    )


def _state_itemsize(parameter: nn.Parameter, *, pure: bool) -> int:
    return parameter.element_size() if pure else max(parameter.element_size(), 4)


def _optimizer_state(config: RunConfig) -> tuple[float, int]:
    """Return elements of state per weight and bytes of scalars per parameter, as one step on a small weight shows."""
    optimizer = probe_optimizer(config)
    tensors = [value for entries in optimizer.state_dict()["state"].values() for value in _tensors(entries)]
    like_weight = [t for t in tensors if t.numel() == _PROBE_ELEMENTS]
    return len(like_weight), _bytes(t for t in tensors if t.numel() != _PROBE_ELEMENTS)


def probe_optimizer(config: RunConfig) -> SkippingOptimizer:
    """Return the config's optimizer after one step on a small weight of its own, to see what it keeps."""
    weight = nn.Parameter(torch.zeros(_PROBE_ELEMENTS))
    weight.grad = torch.zeros_like(weight)
    rate = torch.zeros((), dtype=torch.float64)
    optimizer = REGISTRIES["optimizer"].build(config.optimizer, [{"params": [weight], "weight_decay": 0.0}], rate)
    optimizer.grad_scale, optimizer.found_inf = None, torch.zeros(())
    optimizer.step()
    made: SkippingOptimizer = optimizer
    return made


def _tensors(entries: dict[str, Any]) -> list[Tensor]:
    return [value for value in entries.values() if isinstance(value, Tensor)]


def _elements(tensors: Iterable[Tensor]) -> int:
    return sum(t.numel() for t in tensors)


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)
