"""An encoder-decoder transformer. Must not: register anything (see `entries`), or search.

Vaswani et al. 2017, "Attention Is All You Need", arXiv 1706.03762, with the norm before each part of a layer instead of
after it, and learned positions (the paper's table 3, row E, finds them as good as sinusoids).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from torch import Tensor, nn

from mptrain.errors import ConfigError
from mptrain.interfaces import DataSpec
from mptrain.models.text.layers import DecoderLayer, EncoderLayer, TokenEmbedding, check_tokens, padding_mask

if TYPE_CHECKING:
    from mptrain.models.text.configs import Seq2SeqConfig


def seq2seq(config: Seq2SeqConfig, spec: DataSpec) -> nn.Module:
    """Return the model, (source (N, S), shifted target (N, T)) -> (N, T, target vocabulary).

    Raises ConfigError for data that are no pairs of token rows, or whose vocabularies cannot be shared.
    """
    if len(spec.inputs) != 2:
        raise ConfigError(
            f"model.name: '{config.name}' takes a source and a target, and this data has {len(spec.inputs)} input(s); "
            "choose a dataset for translation, or another model"
        )
    source, target = (check_tokens(config.name, each.shape, each.vocab_size) for each in spec.inputs)
    if spec.num_outputs != target[1]:
        raise ConfigError(
            f"model.num_classes: {spec.num_outputs}, but '{config.name}' shares its output layer with the embedding of "
            f"the {target[1]} target tokens; set it to null"
        )
    if config.share_embeddings and source[1] != target[1]:
        raise ConfigError(
            f"model.share_embeddings: the vocabularies differ, {source[1]} and {target[1]} tokens; set it to false"
        )
    return Seq2Seq(config, source, target)


class Seq2Seq(nn.Module):
    """Encoder and decoder; the output layer is the target's embedding."""

    def __init__(self, config: Seq2SeqConfig, source: tuple[int, int], target: tuple[int, int]) -> None:
        super().__init__()
        scale = math.sqrt(config.width)  # the paper's 3.4: embeddings are small, for they are the output layer too
        (source_length, source_vocab), (target_length, target_vocab) = source, target
        target_tokens, source_tokens = (nn.Embedding(size, config.width) for size in (target_vocab, source_vocab))
        if config.share_embeddings:  # the weight, not the module, which would then have two names
            source_tokens.weight = target_tokens.weight
        self.source, self.target = (
            TokenEmbedding(tokens, length, std=1 / scale, scale=scale, dropout=config.dropout)
            for tokens, length in ((source_tokens, source_length), (target_tokens, target_length))
        )
        self.encoder = nn.ModuleList(EncoderLayer(config) for _ in range(config.depth))
        self.encoder_norm = nn.LayerNorm(config.width)
        self.decoder = nn.ModuleList(DecoderLayer(config) for _ in range(config.depth))
        self.decoder_norm = nn.LayerNorm(config.width)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
        self.head = nn.Linear(config.width, target_vocab, bias=False)
        self.head.weight = target_tokens.weight

    def encode(self, source: Tensor) -> tuple[Tensor, Tensor]:
        """Map source ids (N, S), none of whose rows is all padding, to their encoding (N, S, width) and its mask."""
        memory, mask = self.source(source), padding_mask(source)
        for layer in self.encoder:
            memory = layer(memory, mask)
        return self.encoder_norm(memory), mask

    def decode(self, target: Tensor, encoded: tuple[Tensor, Tensor]) -> Tensor:
        """Map the target's ids so far (N, T) and what `encode` gave to the decoder's (N, T, width)."""
        hidden = self.target(target)
        for layer in self.decoder:
            hidden = layer(hidden, *encoded)
        normed: Tensor = self.decoder_norm(hidden)
        return normed

    def next_scores(self, target: Tensor, encoded: tuple[Tensor, Tensor]) -> Tensor:
        """Map the target's ids so far (N, T) to the scores (N, target vocabulary) of what follows."""
        scores: Tensor = self.head(self.decode(target, encoded)[:, -1])
        return scores

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        """Map source ids (N, S) and target ids (N, T) to the scores of what follows each, (N, T, target vocabulary)."""
        scores: Tensor = self.head(self.decode(target, self.encode(source)))
        return scores
