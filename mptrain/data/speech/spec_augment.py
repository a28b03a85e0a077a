"""SpecAugment: random spans of time and of frequency are blanked, in batches on the device that holds them.

Owns: drawing the spans. Must not: use any random state but the generator it is given, or read the device.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mptrain.data.speech.configs import MaskConfig


def spec_augment(features: Tensor, lengths: Tensor, config: MaskConfig, generator: torch.Generator) -> Tensor:
    """Return features (N, frames, mels) with random spans of each sample's `lengths` frames and of its mels zeroed.

    Park et al. 2019, "SpecAugment", section 2, without time warping: a span's width is drawn uniformly from 0 to its
    greatest, its place uniformly from those where it fits. Features have mean 0, so that zero says nothing.
    """
    _, frames, mels = features.shape
    if config.time_masks:
        widest = (lengths * config.time_share).floor().clamp(max=config.time_width)
        hidden = _spans(config.time_masks, widest, lengths, frames, generator)
        features = features.masked_fill(hidden.unsqueeze(2), 0)
    if config.frequency_masks:
        extent = torch.full_like(lengths, mels)
        widest = extent.clamp(max=config.frequency_width)
        hidden = _spans(config.frequency_masks, widest, extent, mels, generator)
        features = features.masked_fill(hidden.unsqueeze(1), 0)
    return features


def _spans(count: int, widest: Tensor, extent: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Return (N, size), true within `count` random spans in each row's first `extent` places, `widest` wide at most."""
    shape = (2, len(extent), count, 1)
    width_draw, place_draw = torch.rand(shape, generator=generator, device=extent.device)
    width = (width_draw * (widest.view(-1, 1, 1) + 1)).floor()
    start = (place_draw * (extent.view(-1, 1, 1) - width + 1)).floor()
    places = torch.arange(size, device=extent.device)
    hidden: Tensor = ((places >= start) & (places < start + width)).any(1)
    return hidden
