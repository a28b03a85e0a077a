"""Config classes of the detectors: every option, its default, its one-line meaning.

Owns: the defaults. Must not: import torch, or know how anything is built.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, Strict

from mptrain.config.schema import ModelConfig
from mptrain.config.section import PositiveInt


class SmallFcosConfig(ModelConfig):
    """An anchor-free one-stage detector with one output level at stride 8, for small images on a CPU."""

    widths: Annotated[tuple[PositiveInt, PositiveInt, PositiveInt, PositiveInt], Strict(False)] = (16, 32, 64, 128)
    """Channels of the four stages, each at half the resolution of the one before; the first at half the image's."""
    head_width: PositiveInt = 64
    """Channels of the head; a multiple of 8, the groups of its norms."""


class ResNetDetectorConfig(ModelConfig):
    """One of torchvision's detectors on a ResNet-50 with a feature pyramid; training reads the device in every step."""

    backbone_weights: str | None = None
    """Classification weights of resnet50: a file (.safetensors, .pt) or a torchvision name to download."""
    trainable_stages: Annotated[int, Field(ge=0, le=5)] = 3
    """With backbone_weights: stages of the backbone that are trained, counted from its end; the others are frozen."""


class SsdliteConfig(ModelConfig):
    """SSDlite on a MobileNetV3, trained from scratch; training reads the device in every step."""
