"""Small image networks for experiments in minutes on a CPU: a convnet, a residual network, a vision transformer.

Every product is a named `nn.Conv2d` or `nn.Linear` (but for the two inside attention), so that the rules of a precision
can address it. Owns: how they are put together. Must not: register anything (see `entries`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from mptrain.errors import ConfigError
from mptrain.interfaces import DataSpec
from mptrain.models.image_shape import image_shape
from mptrain.torchvision_import import import_torchvision

if TYPE_CHECKING:
    from mptrain.models.configs import SmallCnnConfig, SmallResNetConfig, SmallVitConfig

_INIT_STD = 0.02
"""Spread of the initial position embeddings, as in ViT (Dosovitskiy et al. 2020, arXiv 2010.11929)."""


def small_cnn(config: SmallCnnConfig, spec: DataSpec) -> nn.Module:
    """Return the convnet, (N, C, H, W) -> (N, outputs); raise ConfigError for data that are no images, or too small."""
    channels, *size = image_shape(config.name, spec)
    smallest = 2 ** (len(config.widths) - 1)
    if min(size) < smallest:
        raise ConfigError(
            f"model.widths: {len(config.widths)} blocks halve the image {len(config.widths) - 1} times, which needs "
            f"{smallest} px or more, not {min(size)}; give fewer widths"
        )
    return SmallCnn(channels, config.widths, config.num_classes or spec.num_outputs, norm=config.norm == "batch")


def small_resnet(config: SmallResNetConfig, spec: DataSpec) -> nn.Module:
    """Return the residual network, (N, C, H, W) -> (N, outputs); raise ConfigError for data that are no images."""
    channels, *_ = image_shape(config.name, spec)
    return SmallResNet(config, channels, config.num_classes or spec.num_outputs)


def small_vit(config: SmallVitConfig, spec: DataSpec) -> nn.Module:
    """Return the transformer, (N, C, H, W) -> (N, outputs); raise ConfigError for images that patches do not tile."""
    channels, height, width = image_shape(config.name, spec)
    if height % config.patch_size or width % config.patch_size:
        raise ConfigError(
            f"model.patch_size: {config.patch_size} does not divide the data's images of {height}x{width}; "
            "choose a common divisor"
        )
    return SmallVit(config, (channels, height, width), config.num_classes or spec.num_outputs)


class SmallCnn(nn.Module):
    """Blocks of 3x3 convolutions, halving the image between them; then the mean over positions and a linear layer."""

    def __init__(self, channels: int, widths: tuple[int, ...], outputs: int, *, norm: bool) -> None:
        super().__init__()
        inputs = (channels, *widths)
        self.blocks = nn.ModuleList(
            ConvBlock(inputs[index], width, norm=norm, pool=index < len(widths) - 1)
            for index, width in enumerate(widths)
        )
        self.head = nn.Linear(widths[-1], outputs)

    def forward(self, images: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, outputs)."""
        hidden = images
        for block in self.blocks:
            hidden = block(hidden)
        outputs: Tensor = self.head(hidden.mean((2, 3)))
        return outputs


class ConvBlock(nn.Module):
    """3x3 convolution, BatchNorm (or none), ReLU, and 2x2 max-pool (or none)."""

    def __init__(self, inputs: int, outputs: int, *, norm: bool, pool: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, padding=1, bias=not norm)
        self.norm = nn.BatchNorm2d(outputs) if norm else nn.Identity()
        self.pool = nn.MaxPool2d(2) if pool else nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        """Map (N, inputs, H, W) to (N, outputs, H, W), or half of H and W."""
        pooled: Tensor = self.pool(functional.relu(self.norm(self.conv(images))))
        return pooled


class SmallResNet(nn.Module):
    """He et al.'s networks for CIFAR-10 (2015, arXiv 1512.03385, section 4.2), of torchvision's blocks.

    Shortcuts that change the shape are 1x1 convolutions (the paper's option B), as in torchvision's ResNet-18.
    """

    def __init__(self, config: SmallResNetConfig, channels: int, outputs: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(channels, config.width, 3, padding=1, bias=False), nn.BatchNorm2d(config.width), nn.ReLU()
        )
        widths = [config.width * 2**stage for stage in range(config.stages)]
        self.stages = nn.ModuleList(
            _stage(inputs, width, config.blocks, stride=1 if width == config.width else 2)
            for inputs, width in zip([config.width, *widths], widths, strict=False)
        )
        self.head = nn.Linear(widths[-1], outputs)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, outputs)."""
        hidden = self.stem(images)
        for stage in self.stages:
            hidden = stage(hidden)
        outputs: Tensor = self.head(hidden.mean((2, 3)))
        return outputs


def _stage(inputs: int, width: int, blocks: int, *, stride: int) -> nn.Sequential:
    """Return residual blocks, the first of which goes from `inputs` channels to `width` at `stride`."""
    block = import_torchvision("models.resnet").BasicBlock
    shortcut = None
    if stride != 1 or inputs != width:
        shortcut = nn.Sequential(nn.Conv2d(inputs, width, 1, stride=stride, bias=False), nn.BatchNorm2d(width))
    return nn.Sequential(block(inputs, width, stride, shortcut), *(block(width, width) for _ in range(blocks - 1)))


class SmallVit(nn.Module):
    """Linear patch embedding, learned positions, pre-norm blocks, mean over tokens, a linear layer."""

    def __init__(self, config: SmallVitConfig, image_shape: tuple[int, int, int], outputs: int) -> None:
        super().__init__()
        channels, height, width = image_shape
        self._patch = config.patch_size
        tokens = (height // self._patch) * (width // self._patch)
        self.embed = nn.Linear(channels * self._patch**2, config.width)
        self.positions = nn.Parameter(torch.randn(tokens, config.width) * _INIT_STD)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.width)
        self.head = nn.Linear(config.width, outputs)

    def forward(self, images: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, outputs)."""
        # (N, C, rows, patch, columns, patch) -> (N, rows * columns, C * patch * patch)
        grid = images.unflatten(3, (-1, self._patch)).unflatten(2, (-1, self._patch))
        patches = grid.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)
        hidden = self.embed(patches) + self.positions
        for block in self.blocks:
            hidden = block(hidden)
        outputs: Tensor = self.head(self.norm(hidden).mean(1))
        return outputs


class Block(nn.Module):
    """Attention, then an MLP, each on normalised tokens and added to them."""

    def __init__(self, config: SmallVitConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.width)
        self.attn = Attention(config.width, config.heads)
        self.norm2 = nn.LayerNorm(config.width)
        self.mlp = Mlp(config.width, config.mlp_ratio * config.width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map (N, tokens, width) to the same shape."""
        tokens = tokens + self.attn(self.norm1(tokens))
        summed: Tensor = tokens + self.mlp(self.norm2(tokens))
        return summed


class Attention(nn.Module):
    """Multi-head self-attention."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self._heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map (N, tokens, width) to the same shape."""
        # (N, tokens, 3, heads, width of a head) -> three of (N, heads, tokens, width of a head)
        query, key, value = self.qkv(tokens).unflatten(2, (3, self._heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(query, key, value)
        projected: Tensor = self.proj(mixed.transpose(1, 2).flatten(2))
        return projected


class Mlp(nn.Module):
    """Two linear layers with a GELU between them."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map (..., width) to the same shape."""
        mapped: Tensor = self.fc2(functional.gelu(self.fc1(tokens)))
        return mapped
