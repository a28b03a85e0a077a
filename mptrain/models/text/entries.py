"""Names and descriptions of the models for text classification and translation.

Owns: their registration. Must not: import torch at module level; each build names its module.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mptrain.interfaces import DataSpec
from mptrain.models.text.configs import Seq2SeqConfig, TextEncoderConfig
from mptrain.registry import MODELS

if TYPE_CHECKING:
    from torch import nn


@MODELS.register("text_encoder", config=TextEncoderConfig, description="Transformer encoder with one output per text")
def build_text_encoder(config: TextEncoderConfig, spec: DataSpec) -> nn.Module:
    """Build the encoder for token ids (N, S) -> (N, outputs)."""
    from mptrain.models.text import encoder

    return encoder.text_encoder(config, spec)


@MODELS.register("seq2seq", config=Seq2SeqConfig, description="Encoder-decoder transformer, tied output layer")
def build_seq2seq(config: Seq2SeqConfig, spec: DataSpec) -> nn.Module:
    """Build the translator for (source ids (N, S), target ids (N, T)) -> (N, T, target vocabulary)."""
    from mptrain.models.text import seq2seq

    return seq2seq.seq2seq(config, spec)
