"""The Conformer: an encoder for speech whose blocks mix attention (far) and convolution (near).

    features -> stem (a quarter of the frames) -> blocks -> linear -> logits

Gulati et al. 2020, "Conformer: Convolution-augmented Transformer for Speech Recognition", arXiv 2005.08100, section 2,
with rotary positions (Su et al. 2021, arXiv 2104.09864) for Transformer-XL's relative ones, which fused attention does
not take, and an odd kernel. Every product but attention's own two is a named layer.

Owns: how it is put together, and which frames of a padded batch count: padding changes no output in evaluation (in
training it enters BatchNorm's statistics, as zeros). Must not: register anything (see `entries`), or read the device.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from mptrain.errors import ConfigError
from mptrain.interfaces import DataSpec, at_least_fp32

if TYPE_CHECKING:
    from mptrain.models.speech.configs import ConformerConfig

Size = TypeVar("Size", int, Tensor)

FEWEST_FRAMES = 7
"""What the two convolutions of the stem need to give one frame; shorter batches are padded to it."""
ROTARY_BASE = 10000.0
"""The slowest rotation takes this many times the fastest one's frames (Su et al. 2021, section 3.2.2)."""


def conformer(config: ConformerConfig, spec: DataSpec) -> nn.Module:
    """Return the encoder; raise ConfigError for data that are no features with lengths, or have too few mel bins.

    Maps features (N, frames, mels) and lengths (N,) to logits (N, about frames / 4, outputs) and their lengths (N,).
    """
    if len(spec.input_shape) != 2 or len(spec.more_inputs) != 1:
        raise ConfigError(
            f"model.name: {config.name} needs features (frames, mels) and their lengths; the data has shape "
            f"{spec.input_shape}: choose data that are transcribed (data=digit_strings, data=librispeech)"
        )
    mels = spec.input_shape[1]
    if mels < FEWEST_FRAMES:
        raise ConfigError(f"data.features.mels: {config.name} needs {FEWEST_FRAMES} mel bins or more, not {mels}")
    return Conformer(config, mels, config.num_classes or spec.num_outputs)


class Conformer(nn.Module):
    """See the module."""

    def __init__(self, config: ConformerConfig, mels: int, outputs: int) -> None:
        super().__init__()
        self.stem = Stem(mels, config.stem_width or config.width, config.width, config.dropout)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.head = nn.Linear(config.width, outputs)

    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Map (N, frames, mels) and lengths (N,) to logits (N, fewer frames, outputs) and lengths (N,)."""
        hidden = self.stem(features)
        lengths = halved(halved(lengths)).clamp(min=1)
        inside = torch.arange(hidden.shape[1], device=hidden.device) < lengths.unsqueeze(1)
        for block in self.blocks:
            hidden = block(hidden, inside)
        return self.head(hidden), lengths


def halved(size: Size) -> Size:
    """Return how many places a 3-wide convolution of stride 2 without padding gives."""
    return (size - 1) // 2


class Stem(nn.Module):
    """Two 3x3 convolutions of stride 2 on the picture (frames, mels), then a linear layer on what a frame has left.

    They pad nothing, so that a frame depends on the recording alone and not on what the batch pads it with.
    """

    def __init__(self, mels: int, channels: int, width: int, dropout: float) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, channels, 3, stride=2)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride=2)
        self.proj = nn.Linear(channels * halved(halved(mels)), width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, features: Tensor) -> Tensor:
        """Map (N, frames, mels) to (N, fewer frames, width)."""
        features = functional.pad(features, (0, 0, 0, max(0, FEWEST_FRAMES - features.shape[1])))
        hidden = functional.relu(self.conv1(features.unsqueeze(1)))
        hidden = functional.relu(self.conv2(hidden))
        projected: Tensor = self.dropout(self.proj(hidden.transpose(1, 2).flatten(2)))
        return projected


class Block(nn.Module):
    """Half a feed-forward step, attention, convolution, half a feed-forward step, each added; then LayerNorm."""

    def __init__(self, config: ConformerConfig) -> None:
        super().__init__()
        self.ff1 = FeedForward(config)
        self.attn = Attention(config)
        self.conv = Convolution(config)
        self.ff2 = FeedForward(config)
        self.norm = nn.LayerNorm(config.width)

    def forward(self, hidden: Tensor, inside: Tensor) -> Tensor:
        """Map (N, frames, width) to the same shape; `inside` (N, frames) is false on padding."""
        hidden = hidden + 0.5 * self.ff1(hidden)
        hidden = hidden + self.attn(hidden, inside)
        hidden = hidden + self.conv(hidden, inside)
        normed: Tensor = self.norm(hidden + 0.5 * self.ff2(hidden))
        return normed


class FeedForward(nn.Module):
    """Two linear layers with a SiLU between them, on normalised frames."""

    def __init__(self, config: ConformerConfig) -> None:
        super().__init__()
        hidden = config.expansion * config.width
        self.norm = nn.LayerNorm(config.width)
        self.fc1 = nn.Linear(config.width, hidden)
        self.fc2 = nn.Linear(hidden, config.width)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, hidden: Tensor) -> Tensor:
        """Map (..., width) to the same shape."""
        mapped: Tensor = self.dropout(self.fc2(self.dropout(functional.silu(self.fc1(self.norm(hidden))))))
        return mapped


class Attention(nn.Module):
    """Multi-head self-attention on normalised frames, with rotary positions."""

    def __init__(self, config: ConformerConfig) -> None:
        super().__init__()
        self._heads, self._dropout = config.heads, config.dropout
        self.norm = nn.LayerNorm(config.width)
        self.qkv = nn.Linear(config.width, 3 * config.width)
        self.proj = nn.Linear(config.width, config.width)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, hidden: Tensor, inside: Tensor) -> Tensor:
        """Map (N, frames, width) to the same shape; no frame attends to padding."""
        # (N, frames, 3, heads, width of a head) -> three of (N, heads, frames, width of a head)
        query, key, value = self.qkv(self.norm(hidden)).unflatten(2, (3, self._heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(
            rotated(query),
            rotated(key),
            value,
            attn_mask=inside[:, None, None],
            dropout_p=self._dropout if self.training else 0.0,
        )
        projected: Tensor = self.dropout(self.proj(mixed.transpose(1, 2).flatten(2)))
        return projected


class Convolution(nn.Module):
    """Pointwise layer with a gate, depthwise convolution, BatchNorm, SiLU, pointwise layer, on normalised frames."""

    def __init__(self, config: ConformerConfig) -> None:
        super().__init__()
        width = config.width
        self.norm = nn.LayerNorm(width)
        self.pointwise1 = nn.Linear(width, 2 * width)
        self.depthwise = nn.Conv1d(width, width, config.kernel, padding=config.kernel // 2, groups=width, bias=False)
        self.batch_norm = nn.BatchNorm1d(width)
        self.pointwise2 = nn.Linear(width, width)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, hidden: Tensor, inside: Tensor) -> Tensor:
        """Map (N, frames, width) to the same shape; padding is zero to the convolution, as beyond the batch's edge."""
        gated = functional.glu(self.pointwise1(self.norm(hidden)), dim=2).masked_fill(~inside.unsqueeze(2), 0)
        mixed = functional.silu(self.batch_norm(self.depthwise(gated.transpose(1, 2))))
        projected: Tensor = self.dropout(self.pointwise2(mixed.transpose(1, 2)))
        return projected


def rotated(heads: Tensor) -> Tensor:
    """Turn pairs of values of (N, heads, frames, values) by angles that grow with the frame, in FP32 or FP64.

    Pair k of frame t turns by t / base^(2k / values), so that the product of two frames depends on their distance
    (Su et al. 2021, equations 14 and 15, the halves of a head being the pairs).
    """
    wide = at_least_fp32(heads)
    half = heads.shape[3] // 2
    rates = ROTARY_BASE ** (-torch.arange(half, device=wide.device, dtype=wide.dtype) / half)
    angles = torch.arange(heads.shape[2], device=wide.device, dtype=wide.dtype).unsqueeze(1) * rates
    cosine, sine = angles.cos(), angles.sin()
    first, second = wide[..., :half], wide[..., half:]
    return torch.cat([first * cosine - second * sine, second * cosine + first * sine], dim=3).to(heads.dtype)
