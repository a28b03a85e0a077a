"""What one attempted optimizer step did, as one FP32 vector on the device.

Owns: the layout of that vector. The step and the scaler write it; whoever counts copies it, one small copy a step.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Outcome(NamedTuple):
    """One attempt's outcome on the host, in the order of the device vector."""

    loss: float
    """Mean loss over the window, unscaled."""
    grad_norm: float
    """Unscaled total gradient norm before clipping; NaN where it was not taken."""
    loss_scale: float
    """The scale this attempt used."""
    skipped: float
    """1.0 when the step changed nothing because its loss or gradients were not finite."""
    witness: float = 1.0
    """The sum of magnitudes of one parameter's gradient, another one's at each attempt; 1 where it was not taken."""


class DeviceOutcome:
    """The FP32 vector `values` (5,) and its 0-d views, named as in `Outcome`."""

    def __init__(self, device: torch.device) -> None:
        self.values = torch.tensor([0.0, float("nan"), 1.0, 0.0, 1.0], device=device)
        self.loss: Tensor = self.values[0]
        self.grad_norm: Tensor = self.values[1]
        self.loss_scale: Tensor = self.values[2]
        self.skipped: Tensor = self.values[3]
        self.witness: Tensor = self.values[4]
