"""A transformer encoder with one output per text. Must not: register anything (see `entries`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

from mptrain.interfaces import DataSpec
from mptrain.models.text.layers import EncoderLayer, TokenEmbedding, check_tokens, padding_mask

if TYPE_CHECKING:
    from mptrain.models.text.configs import TextEncoderConfig

_INIT_STD = 0.02
"""Spread of the initial embeddings, as in BERT (Devlin et al. 2018, arXiv 1810.04805)."""


def text_encoder(config: TextEncoderConfig, spec: DataSpec) -> nn.Module:
    """Return the model, tokens (N, S) -> (N, outputs); raise ConfigError for data that are no tokens."""
    length, vocab_size = check_tokens(config.name, spec.input_shape, spec.vocab_size)
    return TextEncoder(config, (length, vocab_size, spec.pad_id), config.num_classes or spec.num_outputs)


class TextEncoder(nn.Module):
    """Embedding, encoder layers that do not look at padding, the mean over tokens or the first, a linear layer."""

    def __init__(self, config: TextEncoderConfig, tokens_spec: tuple[int, int, int], outputs: int) -> None:
        super().__init__()
        length, vocab_size, self._pad_id = tokens_spec
        tokens = nn.Embedding(vocab_size, config.width)
        self._takes_mean = config.pooling == "mean"
        self.embed = TokenEmbedding(tokens, length, std=_INIT_STD, scale=1.0, dropout=config.dropout)
        self.layers = nn.ModuleList(EncoderLayer(config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.width)
        self.head = nn.Linear(config.width, outputs)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map token ids (N, S) to (N, outputs); each row begins with a token that is no padding."""
        hidden, mask = self.embed(tokens), padding_mask(tokens, self._pad_id)
        for layer in self.layers:
            hidden = layer(hidden, mask)
        hidden = self.norm(hidden)
        if self._takes_mean:
            weight = (tokens != self._pad_id).to(hidden.dtype)
            # The shares come first: a plain sum of many tokens could pass the largest number of FP16.
            pooled = (hidden * (weight / weight.sum(1, keepdim=True)).unsqueeze(2)).sum(1)
        else:
            pooled = hidden[:, 0]
        outputs: Tensor = self.head(pooled)
        return outputs
