"""Config classes of the built-in models: every option, its default, its one-line meaning.

Owns: the defaults. Must not: import torch, or know how anything is built.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, Strict, model_validator

from mptrain.config.schema import ModelConfig
from mptrain.config.section import Fraction, PositiveInt


class LinearConfig(ModelConfig):
    """One linear layer on the flattened input."""

    bias: bool = True
    """Learn a bias."""


class MlpConfig(ModelConfig):
    """Fully connected layers on the flattened input."""

    hidden: Annotated[tuple[PositiveInt, ...], Strict(False)] = (256, 128)
    """Widths of the hidden layers."""
    activation: Literal["relu", "gelu"] = "relu"
    """Non-linearity after each hidden layer."""
    norm: Literal["none", "batch", "layer"] = "none"
    """Normalisation before each non-linearity."""
    dropout: Fraction = 0.0
    """Share of hidden values dropped in training."""


class SmallCnnConfig(ModelConfig):
    """A few 3x3 convolutions, then the mean over positions and a linear layer."""

    widths: Annotated[tuple[PositiveInt, ...], Strict(False), Field(min_length=1)] = (16, 32, 64)
    """Channels of each block; the image is halved between two blocks."""
    norm: Literal["batch", "none"] = "batch"
    """Normalisation between convolution and ReLU."""


class SmallResNetConfig(ModelConfig):
    """A residual network for small images: a 3x3 stem, then stages that halve the image and double the channels."""

    width: PositiveInt = 16
    """Channels of the first stage."""
    stages: PositiveInt = 3
    """Stages; the first keeps the image's size."""
    blocks: PositiveInt = 1
    """Residual blocks of two 3x3 convolutions in each stage; with 3 stages, 3 make ResNet-20."""


class SmallVitConfig(ModelConfig):
    """A small vision transformer with pre-norm blocks."""

    patch_size: PositiveInt = 7
    """Side of the square patches that become tokens, in pixels; must divide the image."""
    width: PositiveInt = 64
    """Values per token."""
    depth: PositiveInt = 2
    """Blocks of attention and MLP."""
    heads: PositiveInt = 4
    """Attention heads; must divide width."""
    mlp_ratio: PositiveInt = 2
    """Hidden width of the MLPs, in widths."""

    @model_validator(mode="after")
    def _heads_divide_width(self) -> SmallVitConfig:
        if self.width % self.heads:
            raise ValueError(f"heads ({self.heads}) must divide width ({self.width})")
        return self


class VisionConfig(ModelConfig):
    """A torchvision classification network."""

    weights: str | None = None
    """Initial weights: a file (.safetensors, .pt) relative to the current folder, or a torchvision name to download."""


class ResNetConfig(VisionConfig):
    """A torchvision ResNet, ResNeXt or Wide ResNet."""

    stem: Literal["imagenet", "small", "cifar"] = "imagenet"
    """imagenet: 7x7 stride 2 and 3x3 max-pool; small: 3x3 stride 1 and 2x2 max-pool; cifar: 3x3 stride 1 only."""


class AuxConfig(VisionConfig):
    """A torchvision network with auxiliary classifiers."""

    aux_logits: bool = True
    """Train the auxiliary classifiers too, as published (inception_v3 then needs images of 299 px or more)."""


class TimmConfig(VisionConfig):
    """A network of timm (PyTorch Image Models), named timm/<its name there>."""

    weights: str | None = None
    """Initial weights: a file (.safetensors, .pt) relative to the current folder, or DEFAULT to let timm download."""


class HfConfig(ModelConfig):
    """A network of Hugging Face transformers, named hf/<its name on the hub, or a local folder>."""

    pretrained: bool = False
    """Begin with the weights kept under that name (.safetensors); false takes its configuration only."""
    options: Mapping[str, bool | int | float | str] = {}
    """Values to change in its configuration, e.g. {num_hidden_layers: 2, hidden_size: 128}."""
