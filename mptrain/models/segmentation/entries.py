"""Names and descriptions of the models for semantic segmentation.

Owns: their registration. Must not: import torch at module level; each build names its module.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mptrain.interfaces import DataSpec
from mptrain.models.segmentation.configs import AuxSegmentationNetConfig, SegmentationNetConfig, UnetConfig
from mptrain.registry import MODELS

if TYPE_CHECKING:
    from torch import nn

_NETS: tuple[tuple[type[SegmentationNetConfig], str, tuple[str, ...]], ...] = (
    (AuxSegmentationNetConfig, "Fully convolutional network", ("fcn_resnet50", "fcn_resnet101")),
    (
        AuxSegmentationNetConfig,
        "DeepLabv3",
        ("deeplabv3_resnet50", "deeplabv3_resnet101", "deeplabv3_mobilenet_v3_large"),
    ),
    (SegmentationNetConfig, "Lite R-ASPP", ("lraspp_mobilenet_v3_large",)),
)


def _build_net(config: SegmentationNetConfig, spec: DataSpec) -> nn.Module:
    from mptrain.models.segmentation import nets

    return nets.torchvision_net(config, spec)


for _config, _family, _names in _NETS:
    for _name in _names:
        MODELS.register(_name, config=_config, description=f"{_family} for segmentation, torchvision")(_build_net)


@MODELS.register("unet", config=UnetConfig, description="A small U-Net for segmentation, quick on a CPU")
def _unet(config: UnetConfig, spec: DataSpec) -> nn.Module:
    from mptrain.models.segmentation import unet

    return unet.unet(config, spec)
