"""Config classes of the segmentation networks: every option, its default, its one-line meaning.

Owns: the defaults. Must not: import torch, or know how anything is built.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, Strict, model_validator

from mptrain.config.schema import ModelConfig
from mptrain.config.section import PositiveInt
from mptrain.models.configs import VisionConfig


class SegmentationNetConfig(VisionConfig):
    """A torchvision segmentation network."""

    backbone_weights: str | None = None
    """Weights of the backbone's classification network: a file, or a torchvision name to download (IMAGENET1K_V1)."""

    @model_validator(mode="after")
    def _one_source(self) -> SegmentationNetConfig:
        if self.weights is not None and self.backbone_weights is not None:
            raise ValueError("weights holds the backbone too: give weights or backbone_weights, not both")
        return self


class AuxSegmentationNetConfig(SegmentationNetConfig):
    """A torchvision segmentation network that can have an auxiliary classifier."""

    aux_loss: bool = True
    """Train an auxiliary classifier on the backbone's third stage too; task.aux_weight weighs its loss."""


class UnetConfig(ModelConfig):
    """A small U-Net."""

    widths: Annotated[tuple[PositiveInt, ...], Strict(False), Field(min_length=2)] = (16, 32, 64)
    """Channels at each scale, from the full image down; each scale halves the image of the one before."""
