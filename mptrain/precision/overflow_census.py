"""Which parameters' gradients are not finite in a skipped step: where an overflow began.

Owns: the flags on the device and their names. Must not: decide to skip (`loss_scaler.py`), or read the device.

In a backward, what is not finite spreads from a layer to those before it, so the culprit is the flagged parameter
nearest to the loss: names are in the reverse order of registration, which is the order of the backward wherever modules
are registered in the order of their use. Hooks could observe the order, but to them a compiled backward is one event.

The host learns of a skip a few steps late, when the gradients are gone. So the flags are taken at every step and travel
with its outcome: one fused pass over the gradients. On a CPU the host learns at once and looks only then: at the norms
from before the clipping, where norms are clipped, else at the gradients.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mptrain.config.schema import TrainConfig
from mptrain.precision.loss_scaler import LossScaler


class Culprits(NamedTuple):
    """The parameters that were not finite in one step."""

    names: Sequence[str] = ()
    """The nearest to the loss first; none where only the gradients' norm overflowed."""
    of: int = 0
    """How many parameters are trained."""


NO_CULPRITS = Culprits()


class OverflowCensus:
    """Looks when it is asked: for a device whose outcomes the host reads before the next step begins."""

    def __init__(self, params: Mapping[str, nn.Parameter], scaler: LossScaler) -> None:
        self._params = {name: params[name] for name in reversed(list(params))}
        self._scaler = scaler
        self.num_flags = 0
        """How many flags travel to the host with each step's outcome."""

    def record(self) -> None:
        """Take the flags of this step; call it after gradients are checked and before they are clipped."""

    def row(self) -> Tensor:
        """Return what travels to the host: the step's outcome, and the flags that `record` took."""
        return self._scaler.outcome.values

    def culprits(self, flags: Sequence[float]) -> Culprits:
        """Return who was not finite in the step whose `flags` these are."""
        clipped = self._scaler.clip_norms()
        taken = {name: clipped[param] for name, param in self._params.items() if param in clipped}
        norms = {name: norm.item() for name, norm in (taken or self._norms()).items()}
        return Culprits([name for name, norm in norms.items() if not math.isfinite(norm)], len(self._params))

    def _norms(self) -> dict[str, Tensor]:
        """Return the norm of each gradient there is; a norm that is not finite skips the step where norms are clipped.

        The 2-norm, because torch's infinity norm takes sixteen times as long on a CPU.
        """
        by_dtype: dict[torch.dtype, dict[str, Tensor]] = {}
        for name, param in self._params.items():
            grad = self._scaler.gradient_of(param)
            if grad is not None:
                by_dtype.setdefault(grad.dtype, {})[name] = grad
        norms: dict[str, Tensor] = {}
        for dtype, grads in by_dtype.items():
            low = {"dtype": torch.float32} if dtype.itemsize < 4 else {}
            norms |= zip(grads, torch._foreach_norm(list(grads.values()), 2, **low), strict=True)
        return {name: norms[name] for name in self._params if name in norms}


class EveryStepCensus(OverflowCensus):
    """Takes the flags at every step."""

    def __init__(self, params: Mapping[str, nn.Parameter], scaler: LossScaler) -> None:
        super().__init__(params, scaler)
        device = scaler.outcome.values.device
        self._none = torch.zeros((), device=device)
        self.num_flags = len(self._params)
        self._flags = torch.zeros(self.num_flags, device=device)

    def record(self) -> None:
        """See OverflowCensus; a parameter without a gradient is finite."""
        found = self._norms()
        norms = torch.stack([found.get(name, self._none) for name in self._params])
        torch.ne(norms - norms, 0, out=self._flags)

    def row(self) -> Tensor:
        """See OverflowCensus."""
        return torch.cat((self._scaler.outcome.values, self._flags))

    def culprits(self, flags: Sequence[float]) -> Culprits:
        """See OverflowCensus."""
        return Culprits([name for name, flag in zip(self._params, flags, strict=True) if flag], len(self._params))


def make_census(model: nn.Module, scaler: LossScaler, config: TrainConfig) -> OverflowCensus:
    """Return the census of the trainable parameters of `model`."""
    params = {name: param for name, param in model.named_parameters() if param.requires_grad}
    late = scaler.outcome.values.device.type != "cpu"
    # An infinity clipped by value is finite, and nothing remembers what it was.
    forgotten = config.clip_value is not None and config.clip_norm is None
    return EveryStepCensus(params, scaler) if late or forgotten else OverflowCensus(params, scaler)
