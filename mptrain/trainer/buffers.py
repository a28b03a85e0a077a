"""Gives model buffers (BatchNorm statistics) back what a skipped step wrote into them.

Owns: the copy from before the step. A forward updates running statistics before anyone can know that the step will be
skipped, and torch leaves them (pytorch #88474): one infinity there and every later evaluation is NaN.

Buffers of one dtype are laid into one flat tensor, so that keeping and giving back cost two kernels each however many
BatchNorm layers there are (ResNet-50: 159 buffers).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class BufferGuard:
    """Keeps the persistent buffers of `model`; they become views into flat storage."""

    def __init__(self, model: nn.Module) -> None:
        owners: dict[Tensor, list[tuple[nn.Module, str]]] = {}  # a buffer may be shared by several modules
        for module in model.modules():
            for name, buffer in module.named_buffers(recurse=False):
                if name not in module._non_persistent_buffers_set:
                    owners.setdefault(buffer, []).append((module, name))
        self._flat: list[Tensor] = []
        self._kept: list[Tensor] = []
        self._views: list[tuple[nn.Module, str, Tensor]] = []
        for dtype in dict.fromkeys(buffer.dtype for buffer in owners):
            group = [buffer for buffer in owners if buffer.dtype is dtype]
            flat = torch.cat([buffer.reshape(-1) for buffer in group])
            self._flat.append(flat)
            self._kept.append(flat.clone())
            for buffer, piece in zip(group, flat.split([buffer.numel() for buffer in group]), strict=True):
                view = piece.view(buffer.shape)
                for module, name in owners[buffer]:
                    module._buffers[name] = view
                    self._views.append((module, name, view))

    def keep(self) -> None:
        """Remember the buffers as they are."""
        for kept, flat in zip(self._kept, self._flat, strict=True):
            kept.copy_(flat)

    def give_back_if(self, skipped: Tensor) -> None:
        """Restore what `keep` remembered where `skipped` (0-d) is 1."""
        for module, name, view in self._views:
            current = module._buffers[name]
            if current is not view and current is not None:
                # The module assigned a new tensor instead of writing in place.
                view.copy_(current)
                module._buffers[name] = view
        for kept, flat in zip(self._kept, self._flat, strict=True):
            torch.where(skipped.bool(), kept, flat, out=flat)
