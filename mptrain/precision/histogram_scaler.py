"""A loss scale driven by the measured magnitudes of the gradients: it moves before an overflow, not after.

Every `histogram_every` attempts it looks at the scaled gradients and finds, as powers of two by which to multiply the
scale,

    highest:  amax * 2^k * 2^headroom still below FP16's maximum         (amax is exact)
    lowest:   the share of elements that FP16 would lose within underflow_target  (of a sample)

and moves to the nearer bound where the scale lies outside; the top wins. Moving up it leaves one octave, so that a
maximum that differs from batch to batch does not move the scale at every look. The idea is Graphcore's automatic loss
scaling, which keeps the share of gradients near the top within a target; here both ends are watched.

What underflowed is zero, and cannot be told from a gradient that is zero, as a third of them are behind dead ReLUs.
Two things stand for it. The octave just above, [2^-24, 2^-23): a density that is level around zero, as within one
layer, puts as much below that octave as into it, half as much for each doubling of the scale. And the zeros of tensors
that lie below FP16's normal numbers as a whole: of a layer far below the others, all may be lost and leave no trace.

The parameters' gradients are looked at, those of activations are not. An overflow that only those saw is answered as in
dynamic scaling, and puts a ceiling on the scale, which is lifted by growth_factor after growth_interval good steps.

Owns: the look and the move. Must not: read the device; the cadence is counted in attempts, which the host knows.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from mptrain.config.precision import LossScaleConfig
from mptrain.precision.formats import get_format
from mptrain.precision.gradient_stats import LOWEST_EXPONENT, count_exponents
from mptrain.precision.loss_scaler import DynamicLossScaler

_SAMPLE = 2**18
"""Elements looked at, all gradients together."""
_MOVES = 40
"""A look moves the scale by 2^-40 to 2^40: FP16's whole range, subnormals included."""
_EDGE = -24
"""Exponent of the lowest octave that FP16 holds, [2^-24, 2^-23)."""


class HistogramLossScaler(DynamicLossScaler):
    """A scale kept where neither end of the gradients' distribution leaves FP16's range."""

    kind = "histogram"

    def __init__(self, config: LossScaleConfig, params: Iterable[nn.Parameter], device: torch.device) -> None:
        super().__init__(config, params, device)
        fp16 = get_format("fp16")
        self._smallest, self._normal = fp16.smallest_subnormal, fp16.smallest_normal
        self._top = fp16.max / 2**config.headroom
        self._stride = max(1, sum(param.numel() for param in self._params) // _SAMPLE) | 1  # odd: rows are often even
        self._ceiling = torch.full((), config.max_scale, device=device)
        self._attempts = 0
        self._factor: Tensor | None = None
        moves = torch.arange(-_MOVES, _MOVES + 1, device=device)
        self._below = _EDGE - 1 - moves - LOWEST_EXPONENT  # the highest octave of those that each move leaves lost
        self._unsaved = torch.exp2(-moves.clamp(min=0).float())  # share of what is lost now that each move leaves lost

    def unscale_(self) -> None:
        """See LossScaler; looks at the gradients first, at the first attempt and every `histogram_every`."""
        self._factor = self._look() if self._attempts % self.config.histogram_every == 0 else None
        self._attempts += 1
        super().unscale_()

    def adjust(self, overflow: Tensor, hold: Tensor) -> None:
        """Back off after an overflow, else move as the last look says, up to the ceiling."""
        c, bad = self.config, overflow.bool()
        moved = self._scale if self._factor is None else torch.minimum(self._scale * self._factor, self._ceiling)
        scale = torch.where(bad, self._scale * c.backoff_factor, moved).clamp_(c.min_scale, c.max_scale)
        ceiling, tracker = self._ceiling.clone(), self._growth_tracker.clone()
        torch._amp_update_scale_(ceiling, tracker, overflow, c.growth_factor, c.backoff_factor, c.growth_interval)
        ceiling = torch.where(bad, scale, ceiling).clamp_(max=c.max_scale)
        for own, new in ((self._scale, scale), (self._ceiling, ceiling), (self._growth_tracker, tracker)):
            torch.where(hold, own, new, out=own)

    def state_dict(self) -> dict[str, Any]:
        """Return the scale's state, the ceiling, and when the next look is due."""
        return super().state_dict() | {"ceiling": self._ceiling.clone(), "attempts": self._attempts}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a saved state of the same kind."""
        super().load_state_dict(state)
        self._ceiling.copy_(state["ceiling"]).clamp_(max=self.config.max_scale)
        self._attempts = state["attempts"]

    def _look(self) -> Tensor | None:
        """Return the power of two (0-d) by which the scale should be multiplied; None without gradients."""
        grads = [grad.detach() for group in self._gradients_by_dtype().values() for grad in group if grad.numel()]
        if not grads:
            return None
        amax = torch.stack([_amax(grad) for grad in grads])
        # Where all is zero, all there may be lies below the smallest subnormal.
        highest = torch.log2(self._top / amax.amax().clamp(min=self._smallest)).floor()
        up = torch.minimum(self._lowest_move(grads, amax < self._normal), highest - 1).clamp_(min=0)
        return torch.exp2(up + highest.clamp(max=0)).float()  # one of the two is zero; FP64 gradients made it FP64

    def _lowest_move(self, grads: list[Tensor], low: Tensor) -> Tensor:
        """Return the smallest power of two (0-d exponent) that keeps the share of lost elements within the target.

        `low` (n,) marks the gradients whose zeros count as lost.
        """
        samples = [grad.flatten()[:: self._stride].float() for grad in grads]
        zeros = (torch.stack([(part == 0).sum() for part in samples]) * low).sum()
        sample = torch.cat(samples)
        counts = count_exponents([sample])
        at_edge = counts[_EDGE - LOWEST_EXPONENT]
        lost = zeros + at_edge * self._unsaved + counts.cumsum(0)[self._below]
        return (lost > self.config.underflow_target * (sample.numel() + at_edge)).sum().float() - _MOVES


def _amax(grad: Tensor) -> Tensor:
    """Return the largest magnitude (0-d, FP32 or FP64): torch's infinity norm is many times slower on a CPU."""
    low, high = torch.aminmax(grad)
    return torch.maximum(-low, high).to(torch.promote_types(grad.dtype, torch.float32))
