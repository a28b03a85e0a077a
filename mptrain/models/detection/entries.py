"""Names and descriptions of the models for object detection.

Owns: their registration. Must not: import torch at module level; each build names its module.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mptrain.interfaces import DataSpec
from mptrain.models.detection.configs import SmallFcosConfig
from mptrain.registry import MODELS

if TYPE_CHECKING:
    from torch import nn


@MODELS.register("small_fcos", config=SmallFcosConfig, description="Anchor-free one-stage detector for small images")
def build_small_fcos(config: SmallFcosConfig, spec: DataSpec) -> nn.Module:
    """Build the detector for images of `spec.input_shape`."""
    from mptrain.models.detection import small

    return small.small_fcos(config, spec)
