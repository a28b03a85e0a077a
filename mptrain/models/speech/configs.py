"""Config classes of the speech models: every option, its default, its one-line meaning.

Owns: the defaults. Must not: import torch, or know how anything is built.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, Strict, model_validator

from mptrain.config.schema import ModelConfig
from mptrain.config.section import Fraction, PositiveInt


class ConformerConfig(ModelConfig):
    """A Conformer encoder with a linear layer for CTC; published: S 144 x 16, M 256 x 16, L 512 x 17 (8 heads)."""

    width: PositiveInt = 144
    """Values per frame."""
    depth: PositiveInt = 16
    """Blocks of feed-forward, attention, convolution and feed-forward."""
    heads: PositiveInt = 4
    """Attention heads; must divide width into an even number of values each."""
    kernel: PositiveInt = 31
    """Frames that the convolution of a block spans; odd."""
    expansion: PositiveInt = 4
    """Hidden width of the feed-forward layers, in widths."""
    stem_width: PositiveInt | None = None
    """Channels of the two convolutions that quarter the frames; null takes width."""
    dropout: Fraction = 0.1
    """Share of values dropped in training, in every part of a block and in the attention."""

    @model_validator(mode="after")
    def _shapes_fit(self) -> ConformerConfig:
        if self.width % (2 * self.heads):
            raise ValueError(f"heads ({self.heads}) must divide width ({self.width}) into an even number of values")
        if self.kernel % 2 == 0:
            raise ValueError(f"kernel ({self.kernel}) must be odd, so that as many frames lie before as after")
        return self


class TcResNetConfig(ModelConfig):
    """TC-ResNet: residual convolutions over time, with the mel bins as channels."""

    widths: Annotated[tuple[PositiveInt, ...], Strict(False), Field(min_length=2)] = (16, 24, 32, 48)
    """Channels of the first layer and of each block; the frames are halved in each block."""
    dropout: Fraction = 0.0
    """Share of values dropped in training before the last layer."""
