"""TC-ResNet: a small network for keywords, convolutions over time alone, with the mel bins as channels.

Choi et al. 2019, "Temporal Convolution for Real-time Keyword Spotting on Mobile Devices", arXiv 1904.03814, section
2.2: a frame's whole spectrum is seen from the first layer on, so that few layers and products suffice.

Owns: how it is put together. Must not: register anything (see `entries`).
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from torch import Tensor, nn
from torch.nn import functional

from mptrain.errors import ConfigError
from mptrain.interfaces import DataSpec

if TYPE_CHECKING:
    from mptrain.models.speech.configs import TcResNetConfig

_KERNEL = 9
"""Frames that a block's convolutions span, as published."""


def tc_resnet(config: TcResNetConfig, spec: DataSpec) -> nn.Module:
    """Return the network, (N, 1, frames, mels) -> (N, outputs); raise ConfigError for data of another shape."""
    if len(spec.input_shape) != 3 or spec.input_shape[0] != 1:
        raise ConfigError(
            f"model.name: {config.name} needs pictures of speech (1, frames, mels); the data has shape "
            f"{spec.input_shape}: choose clips of one length (data=spoken_digits, data=wav_folder)"
        )
    return TcResNet(spec.input_shape[2], config.widths, config.num_classes or spec.num_outputs, config.dropout)


class TcResNet(nn.Module):
    """A convolution, residual blocks that halve the frames, the mean over frames, and a linear layer."""

    def __init__(self, mels: int, widths: tuple[int, ...], outputs: int, dropout: float) -> None:
        super().__init__()
        self.conv = nn.Conv1d(mels, widths[0], 3, padding=1, bias=False)
        self.norm = nn.BatchNorm1d(widths[0])
        self.blocks = nn.ModuleList(Block(*pair) for pair in pairwise(widths))
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(widths[-1], outputs)

    def forward(self, pictures: Tensor) -> Tensor:
        """Map (N, 1, frames, mels) to (N, outputs)."""
        hidden = functional.relu(self.norm(self.conv(pictures.squeeze(1).transpose(1, 2))))
        for block in self.blocks:
            hidden = block(hidden)
        outputs: Tensor = self.head(self.dropout(hidden.mean(2)))
        return outputs


class Block(nn.Module):
    """Two convolutions over time, the first of stride 2, beside a strided pointwise one, added."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(inputs, outputs, _KERNEL, stride=2, padding=_KERNEL // 2, bias=False)
        self.norm1 = nn.BatchNorm1d(outputs)
        self.conv2 = nn.Conv1d(outputs, outputs, _KERNEL, padding=_KERNEL // 2, bias=False)
        self.norm2 = nn.BatchNorm1d(outputs)
        self.shortcut = nn.Conv1d(inputs, outputs, 1, stride=2, bias=False)
        self.shortcut_norm = nn.BatchNorm1d(outputs)

    def forward(self, hidden: Tensor) -> Tensor:
        """Map (N, inputs, frames) to (N, outputs, half of the frames)."""
        mapped = functional.relu(self.norm1(self.conv1(hidden)))
        beside = functional.relu(self.shortcut_norm(self.shortcut(hidden)))
        return functional.relu(self.norm2(self.conv2(mapped)) + beside)
