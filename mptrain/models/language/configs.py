"""Config classes of the language models: every option, its default, its one-line meaning.

Owns: the defaults. Must not: import torch, or know how anything is built.
"""

from __future__ import annotations

from pydantic import model_validator

from mptrain.config.schema import ModelConfig
from mptrain.config.section import Fraction, PositiveInt


class Gpt2Config(ModelConfig):
    """A GPT-2 of published size; `num_classes` pads the vocabulary (50304 for GPT-2's 50257 suits tensor cores)."""

    context: PositiveInt | None = None
    """Longest sequence, the number of position embeddings; null takes the data's."""
    dropout: Fraction = 0.0
    """Share of values dropped in training: of embeddings, attention weights and residual branches."""
    bias: bool = True
    """Learn biases in linear layers and norms, as GPT-2 does."""
    weights: str | None = None
    """Initial weights: a file (.safetensors, .pt) of this model or of Hugging Face's GPT-2, from the current folder."""


class GptConfig(Gpt2Config):
    """A GPT-2 of any size."""

    width: PositiveInt = 128
    """Values per token."""
    depth: PositiveInt = 4
    """Blocks of attention and MLP."""
    heads: PositiveInt = 4
    """Attention heads; must divide width."""

    @model_validator(mode="after")
    def _heads_divide_width(self) -> GptConfig:
        if self.width % self.heads:
            raise ValueError(f"heads ({self.heads}) must divide width ({self.width})")
        return self
