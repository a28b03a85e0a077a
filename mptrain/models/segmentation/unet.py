"""A small U-Net (Ronneberger et al. 2015, arXiv 1505.04597) with BatchNorm, for segmentation on a CPU in minutes.

Unlike the paper's it pads, so that the output has the image's size, and enlarges by repeating pixels; every product is
a named `nn.Conv2d`. Owns: how it is put together. Must not: register anything (see `entries`).
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from mptrain.errors import ConfigError
from mptrain.models.image_shape import image_shape

if TYPE_CHECKING:
    from mptrain.interfaces import DataSpec
    from mptrain.models.segmentation.configs import UnetConfig


def unet(config: UnetConfig, spec: DataSpec) -> nn.Module:
    """Return the U-Net, (N, C, H, W) -> (N, outputs, H, W); raise ConfigError for no images, or too small ones."""
    channels, *size = image_shape(config.name, spec)
    smallest = 2 ** (len(config.widths) - 1)
    if min(size) < smallest:
        raise ConfigError(
            f"model.widths: {len(config.widths)} scales halve the image {len(config.widths) - 1} times, which needs "
            f"{smallest} px or more, not {min(size)}; give fewer widths"
        )
    return Unet(channels, config.widths, config.num_classes or spec.num_outputs)


class Unet(nn.Module):
    """Down through the scales, up again with what was seen at each on the way down, then a 1x1 convolution."""

    def __init__(self, channels: int, widths: tuple[int, ...], outputs: int) -> None:
        super().__init__()
        self.down = nn.ModuleList(TwoConvs(inputs, width) for inputs, width in pairwise((channels, *widths)))
        self.up = nn.ModuleList(TwoConvs(below + width, width) for width, below in reversed(list(pairwise(widths))))
        self.head = nn.Conv2d(widths[0], outputs, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Map (N, channels, H, W) to (N, outputs, H, W)."""
        seen: list[Tensor] = []
        hidden = images
        for block in self.down:
            hidden = block(functional.max_pool2d(hidden, 2) if seen else hidden)
            seen.append(hidden)
        for block, across in zip(self.up, reversed(seen[:-1]), strict=True):
            enlarged = functional.interpolate(hidden, size=across.shape[-2:])
            hidden = block(torch.cat([enlarged, across], dim=1))
        outputs: Tensor = self.head(hidden)
        return outputs


class TwoConvs(nn.Module):
    """Twice a 3x3 convolution, BatchNorm and ReLU."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)

    def forward(self, images: Tensor) -> Tensor:
        """Map (N, inputs, H, W) to (N, outputs, H, W)."""
        hidden = functional.relu(self.norm1(self.conv1(images)))
        return functional.relu(self.norm2(self.conv2(hidden)))
