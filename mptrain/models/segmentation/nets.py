"""torchvision's segmentation networks, fitted to the data's classes.

Owns: building them and where their weights come from. Must not: read weight files (see `models.weights`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mptrain.errors import ConfigError
from mptrain.models.image_shape import image_shape
from mptrain.models.segmentation.configs import AuxSegmentationNetConfig
from mptrain.models.weights import load_backbone_weights, load_weights
from mptrain.torchvision_import import import_torchvision

if TYPE_CHECKING:
    from torch import nn

    from mptrain.interfaces import DataSpec
    from mptrain.models.segmentation.configs import SegmentationNetConfig


def torchvision_net(config: SegmentationNetConfig, spec: DataSpec) -> nn.Module:
    """Build the network, (N, 3, H, W) -> a dict of `out` and maybe `aux`, each (N, outputs, H, W).

    Raises ConfigError for data that are no colour images, and as `models.weights` does.
    """
    channels, *_ = image_shape(config.name, spec)
    if channels != 3:
        raise ConfigError(f"model.name: {config.name} needs colour images, 3 channels, not {channels}; choose unet")
    num_outputs = config.num_classes or spec.num_outputs
    options = {"aux_loss": config.aux_loss} if isinstance(config, AuxSegmentationNetConfig) else {}
    # torchvision downloads the backbone's ImageNet weights unless told not to.
    model: nn.Module = import_torchvision("models").get_model(
        config.name, weights=None, weights_backbone=None, num_classes=num_outputs, **options
    )
    if config.weights is not None:
        load_weights(model, config, num_outputs)
    if config.backbone_weights is not None:
        _, backbone = config.name.split("_", 1)
        load_backbone_weights(model.get_submodule("backbone"), backbone, config.backbone_weights)
    return model
