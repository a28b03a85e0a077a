"""Config classes of the built-in models: every option, its default, its one-line meaning.

Owns: the defaults. Must not: import torch, or know how anything is built.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Strict

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
