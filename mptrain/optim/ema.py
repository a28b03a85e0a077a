"""Exponential moving average of the weights, in at least FP32, moving only on applied steps.

Owns: the shadow weights and their use in evaluation. Buffers (BatchNorm statistics) are copied, not averaged.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from mptrain.config.schema import EmaConfig
from mptrain.interfaces import TrainedWeights


class WeightAverage:
    """ema += (1 - decay) * (weight - ema).

    Under warm-up, decay = min(config.decay, (1 + t) / (10 + t)) at applied step t.
    """

    def __init__(self, model: nn.Module, config: EmaConfig, device: torch.device, weights: TrainedWeights) -> None:
        trainable = [p for p in model.parameters() if p.requires_grad]
        index = {p: position for position, p in enumerate(trainable)}
        # Tied weights have several names, as in the model's own state.
        self._names = {name: index[p] for name, p in model.named_parameters(remove_duplicate=False) if p.requires_grad}
        self._weights = weights
        self._live = [weights.best(p) for p in trainable]
        self._shadow = [p.to(torch.promote_types(p.dtype, torch.float32), copy=True) for p in self._live]
        self._share = 1.0 - config.decay
        self._warmup = config.warmup
        self._weight = torch.zeros((), device=device)

    def update(self, applied: Tensor, skipped: Tensor) -> None:
        """Move towards the weights; `applied` counts this step; where `skipped` is 1 every bit stays."""
        share = (9 / (applied + 10)).clamp_(min=self._share) if self._warmup else self._share
        torch.mul(1 - skipped, share, out=self._weight)
        distance = torch._foreach_sub(self._live, self._shadow)
        torch._foreach_mul_(distance, self._weight)
        torch._foreach_add_(self._shadow, distance)

    @contextmanager
    def in_place_of_weights(self) -> Iterator[None]:
        """Evaluate the average: swap it into the model, and the weights back at the end."""
        kept = [p.clone() for p in self._live]
        self._put(self._shadow)
        try:
            yield
        finally:
            self._put(kept)

    def _put(self, values: list[Tensor]) -> None:
        torch._foreach_copy_(self._live, values)
        self._weights.publish()

    def bytes(self) -> int:
        """Return the bytes held; a tied weight is held once, whatever it is called."""
        return sum(shadow.nbytes for shadow in self._shadow)

    def state_dict(self) -> dict[str, Any]:
        """Return the averaged weights by parameter name."""
        return {name: self._shadow[position] for name, position in self._names.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a saved average."""
        for name, position in self._names.items():
            self._shadow[position].copy_(state[name])
