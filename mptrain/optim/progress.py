"""The device's own count of steps done, and every value that follows from it: learning rate and EMA weight.

Owns: the counter and the lookup. Both stay on the device, so no schedule waits for the host.
"""

from __future__ import annotations

import torch
from torch import Tensor


class AppliedSteps:
    """A 0-d int64 counter of applied steps, or of all attempted ones, and the learning rate it implies."""

    def __init__(self, rates: list[float], device: torch.device, *, skips_count: bool = False) -> None:
        self._skips_count = skips_count
        # torch's fused CUDA kernels read the rate as FP32; on the CPU FP64 gives the bits of a Python float.
        dtype = torch.float32 if device.type == "cuda" else torch.float64
        self.count = torch.zeros((), dtype=torch.int64, device=device)
        self._rates = torch.tensor(rates, dtype=dtype, device=device)
        self.lr = self._rates[0].clone()

    def advance(self, skipped: Tensor) -> None:
        """Count the step unless `skipped` (0-d) is 1 and skips do not count; look up the next rate."""
        self.count.add_(1 if self._skips_count else skipped.eq(0))
        torch.take(self._rates, self.count, out=self.lr)

    def set(self, count: int) -> None:
        """Jump to `count` steps done (resume)."""
        self.count.fill_(count)
        torch.take(self._rates, self.count, out=self.lr)
