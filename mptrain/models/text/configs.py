"""Config classes of the models for text: every option, its default, its one-line meaning.

Owns: the defaults. Must not: import torch, or know how anything is built.
"""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from mptrain.config.schema import ModelConfig
from mptrain.config.section import Fraction, PositiveInt


class TransformerConfig(ModelConfig):
    """What transformers on tokens share."""

    width: PositiveInt = 128
    """Values per token."""
    depth: PositiveInt = 2
    """Layers; of an encoder and decoder, of each."""
    heads: PositiveInt = 4
    """Attention heads; must divide width."""
    hidden: PositiveInt = 512
    """Width inside the feed-forward part of a layer."""
    dropout: Fraction = 0.1
    """Share of values dropped in training, after the embedding and after each part of a layer."""

    @model_validator(mode="after")
    def _heads_divide_width(self) -> TransformerConfig:
        if self.width % self.heads:
            raise ValueError(f"heads ({self.heads}) must divide width ({self.width})")
        return self


class TextEncoderConfig(TransformerConfig):
    """A transformer encoder with one output per text."""

    pooling: Literal["mean", "first"] = "mean"
    """What stands for the text: the mean over its tokens, or its first token."""


class Seq2SeqConfig(TransformerConfig):
    """An encoder-decoder transformer."""

    share_embeddings: bool = False
    """One embedding for source and target; they must have the same vocabulary. Target and output always share."""
