"""GPT-2 (Radford et al. 2019, "Language Models are Unsupervised Multitask Learners"), with tied embeddings.

Every product is a named `nn.Linear` (but for the two inside attention): the rules of a precision can address it.
Owns: how the network is put together and initialised. Must not: register anything (see `entries`), or read files.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from mptrain.errors import ConfigError
from mptrain.interfaces import DataSpec
from mptrain.models.language.gpt2_weights import load_gpt2_weights

if TYPE_CHECKING:
    from mptrain.models.language.configs import Gpt2Config

_INIT_STD = 0.02
"""Spread of all initial weights; of a block's last layers it is divided by sqrt(2 * depth), as in GPT-2."""


def build_gpt(config: Gpt2Config, spec: DataSpec, size: tuple[int, int, int]) -> nn.Module:
    """Build the network of (width, depth, heads) `size`, tokens int64 (N, T) -> logits (N, T, vocabulary).

    Raises ConfigError for data that are no tokens, or do not fit context or vocabulary, and what loading weights does.
    """
    if spec.kind != "language_modelling" or spec.vocab_size is None:
        raise ConfigError(
            f"model.name: {config.name} predicts the next token, the data are for {spec.kind}; choose a dataset for "
            "language modelling, or another model"
        )
    length = spec.input_shape[0]
    context, vocab_size = config.context or length, config.num_classes or spec.num_outputs
    if context < length:
        raise ConfigError(
            f"model.context: {context} positions, but the data's samples have {length} tokens; raise it, or lower "
            "data.context"
        )
    if vocab_size < spec.vocab_size:
        raise ConfigError(
            f"model.num_classes: {vocab_size}, but the data have {spec.vocab_size} tokens; raise it, or set it to null"
        )
    model = Gpt(config, size, vocab_size, context)
    if config.weights is not None:
        load_gpt2_weights(model, config.weights)
    return model


class Gpt(nn.Module):
    """Embeddings, blocks, a last norm, and a head that shares its weight with the token embedding."""

    def __init__(self, config: Gpt2Config, size: tuple[int, int, int], vocab_size: int, context: int) -> None:
        super().__init__()
        width, depth, heads = size
        self.tokens = nn.Embedding(vocab_size, width)
        self.positions = nn.Embedding(context, width)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(width, heads, config) for _ in range(depth))
        self.norm = nn.LayerNorm(width, bias=config.bias)
        self.head = nn.Linear(width, vocab_size, bias=False)
        self.head.weight = self.tokens.weight
        self._initialise(depth)

    def _initialise(self, depth: int) -> None:
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear | nn.Embedding) and module is not self.head:
                ends_branch = name.endswith(("attn.proj", "mlp.fc2"))
                nn.init.normal_(module.weight, std=_INIT_STD / math.sqrt(2 * depth) if ends_branch else _INIT_STD)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)

    def forward(self, ids: Tensor) -> Tensor:
        """Map token ids (N, T), T at most the context, to logits (N, T, vocabulary)."""
        places = torch.arange(ids.shape[1], device=ids.device)
        hidden = self.dropout(self.tokens(ids) + self.positions(places))
        for block in self.blocks:
            hidden = block(hidden)
        logits: Tensor = self.head(self.norm(hidden))
        return logits


class Block(nn.Module):
    """Causal attention, then an MLP, each on normalised tokens and added to them."""

    def __init__(self, width: int, heads: int, config: Gpt2Config) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, bias=config.bias)
        self.attn = CausalAttention(width, heads, config)
        self.norm2 = nn.LayerNorm(width, bias=config.bias)
        self.mlp = Mlp(width, config)

    def forward(self, hidden: Tensor) -> Tensor:
        """Map (N, T, width) to the same shape."""
        hidden = hidden + self.attn(self.norm1(hidden))
        summed: Tensor = hidden + self.mlp(self.norm2(hidden))
        return summed


class CausalAttention(nn.Module):
    """Multi-head attention of each token to itself and those before it."""

    def __init__(self, width: int, heads: int, config: Gpt2Config) -> None:
        super().__init__()
        self._heads, self._dropped = heads, config.dropout
        self.qkv = nn.Linear(width, 3 * width, bias=config.bias)
        self.proj = nn.Linear(width, width, bias=config.bias)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, hidden: Tensor) -> Tensor:
        """Map (N, T, width) to the same shape."""
        # (N, T, 3, heads, width of a head) -> three of (N, heads, T, width of a head)
        query, key, value = self.qkv(hidden).unflatten(2, (3, self._heads, -1)).permute(2, 0, 3, 1, 4)
        dropped = self._dropped if self.training else 0.0
        mixed = functional.scaled_dot_product_attention(query, key, value, dropout_p=dropped, is_causal=True)
        projected: Tensor = self.dropout(self.proj(mixed.transpose(1, 2).flatten(2)))
        return projected


class Mlp(nn.Module):
    """Two linear layers, four widths between them, with GPT-2's GELU (the tanh approximation)."""

    def __init__(self, width: int, config: Gpt2Config) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width, bias=config.bias)
        self.fc2 = nn.Linear(4 * width, width, bias=config.bias)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, hidden: Tensor) -> Tensor:
        """Map (..., width) to the same shape."""
        mapped: Tensor = self.dropout(self.fc2(functional.gelu(self.fc1(hidden), approximate="tanh")))
        return mapped
