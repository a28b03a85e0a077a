"""Many tensors as views of one flat buffer, so that arithmetic on all of them is a few kernels.

Owns: where each tensor lies in the buffer. Must not: know what the tensors are.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_ALIGNMENT = 32
"""Elements between two starts: fused kernels read 16 bytes at once only from addresses divisible by 16."""


class FlatLayout:
    """Places for tensors shaped like `like`; what lies between them is zero."""

    def __init__(self, like: Sequence[Tensor]) -> None:
        self._device = like[0].device
        self._places: list[tuple[torch.Size, tuple[int, ...], int]] = []
        self._size = 0
        for tensor in like:
            # Dense in the tensor's own order of dimensions: fused kernels want one order for weight, gradient, moments.
            strides = torch.empty_like(tensor, device="meta").stride()
            self._places.append((tensor.shape, strides, self._size))
            self._size += -(-tensor.numel() // _ALIGNMENT) * _ALIGNMENT

    def zeros(self) -> Tensor:
        """Return a new FP32 buffer of zeros."""
        return torch.zeros(self._size, dtype=torch.float32, device=self._device)

    def views(self, flat: Tensor) -> list[Tensor]:
        """Return the tensors that lie in `flat`, a buffer of this layout in any dtype."""
        return [flat.as_strided(shape, strides, start) for shape, strides, start in self._places]

    def gather(self, tensors: Sequence[Tensor]) -> Tensor:
        """Return a new FP32 buffer that holds `tensors`, one for each place."""
        flat = self.zeros()
        torch._foreach_copy_(self.views(flat), list(tensors))
        return flat
