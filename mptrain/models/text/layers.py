"""The layers of the transformers on text: attention with padding and causality, pre-norm layers, embeddings.

Every product is a named `nn.Linear` or `nn.Embedding` (but for the two inside attention), so that the rules of a
precision can address it. Owns: these layers. Must not: know a task.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from mptrain.errors import ConfigError
from mptrain.interfaces import PAD
from mptrain.models.small import Mlp

if TYPE_CHECKING:
    from mptrain.models.text.configs import TransformerConfig


def check_tokens(name: str, shape: tuple[int, ...], vocab_size: int | None) -> tuple[int, int]:
    """Return an input's (longest length, vocabulary); raise ConfigError unless it is one row of token ids."""
    if vocab_size is None or len(shape) != 1:
        raise ConfigError(
            f"model.name: '{name}' takes rows of token ids, and this data's samples are {shape} numbers; "
            "choose a dataset of text, or another model"
        )
    return shape[0], vocab_size


def padding_mask(tokens: Tensor, pad_id: int = PAD) -> Tensor:
    """Return which tokens (N, S) are no padding, bool (N, 1, 1, S), as attention takes it."""
    return (tokens != pad_id)[:, None, None]


class TokenEmbedding(nn.Module):
    """An embedding of tokens and a learned one of positions, their sum times `scale`, then dropout."""

    def __init__(self, tokens: nn.Embedding, length: int, *, std: float, scale: float, dropout: float) -> None:
        super().__init__()
        self.tokens, self._scale = tokens, scale
        nn.init.normal_(tokens.weight, std=std)
        self.positions = nn.Parameter(torch.randn(length, tokens.embedding_dim) * std)
        self.dropout = nn.Dropout(dropout)

    def forward(self, ids: Tensor) -> Tensor:
        """Map ids (N, S), S up to the longest length, to (N, S, width)."""
        embedded: Tensor = self.dropout((self.tokens(ids) + self.positions[: ids.shape[1]]) * self._scale)
        return embedded


class Attention(nn.Module):
    """Multi-head attention of one sequence on another, or on itself."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self._heads = heads
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, tokens: Tensor, memory: Tensor, mask: Tensor | None = None, *, causal: bool = False) -> Tensor:
        """Map tokens (N, T, width) and memory (N, S, width) to (N, T, width); `mask` is True where to look."""
        query = self.query(tokens).unflatten(2, (self._heads, -1)).transpose(1, 2)
        # (N, S, 2, heads, width of a head) -> two of (N, heads, S, width of a head)
        key, value = self.key_value(memory).unflatten(2, (2, self._heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=causal)
        projected: Tensor = self.proj(mixed.transpose(1, 2).flatten(2))
        return projected


class EncoderLayer(nn.Module):
    """Attention over the whole sequence, then a feed-forward part, each on normalised tokens and added to them."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.width)
        self.attn = Attention(config.width, config.heads)
        self.norm2 = nn.LayerNorm(config.width)
        self.mlp = Mlp(config.width, config.hidden)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Map (N, S, width) to the same shape."""
        normed = self.norm1(tokens)
        tokens = tokens + self.dropout(self.attn(normed, normed, mask))
        summed: Tensor = tokens + self.dropout(self.mlp(self.norm2(tokens)))
        return summed


class DecoderLayer(nn.Module):
    """Attention over the tokens so far, then over the source, then a feed-forward part."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.width)
        self.attn = Attention(config.width, config.heads)
        self.norm2 = nn.LayerNorm(config.width)
        self.cross = Attention(config.width, config.heads)
        self.norm3 = nn.LayerNorm(config.width)
        self.mlp = Mlp(config.width, config.hidden)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, tokens: Tensor, memory: Tensor, mask: Tensor) -> Tensor:
        """Map tokens (N, T, width) and the encoded source (N, S, width) with its mask to (N, T, width)."""
        normed = self.norm1(tokens)
        tokens = tokens + self.dropout(self.attn(normed, normed, causal=True))
        tokens = tokens + self.dropout(self.cross(self.norm2(tokens), memory, mask))
        summed: Tensor = tokens + self.dropout(self.mlp(self.norm3(tokens)))
        return summed
