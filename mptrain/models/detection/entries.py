"""Names and descriptions of the models for object detection.

Owns: their registration. Must not: import torch at module level; each build names its module.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from mptrain.interfaces import DataSpec
from mptrain.models.detection.configs import ResNetDetectorConfig, SmallFcosConfig, SsdliteConfig
from mptrain.registry import MODELS

if TYPE_CHECKING:
    from torch import nn

_RESNETS: Mapping[str, str] = {
    "fasterrcnn_resnet50_fpn": "Faster R-CNN, two stages",
    "fasterrcnn_resnet50_fpn_v2": "Faster R-CNN, two stages, deeper heads",
    "fcos_resnet50_fpn": "FCOS, one stage, anchor-free",
    "retinanet_resnet50_fpn": "RetinaNet, one stage, focal loss",
    "retinanet_resnet50_fpn_v2": "RetinaNet, one stage, GIoU loss",
}


@MODELS.register("small_fcos", config=SmallFcosConfig, description="Anchor-free one-stage detector for small images")
def build_small_fcos(config: SmallFcosConfig, spec: DataSpec) -> nn.Module:
    """Build the detector for images of `spec.input_shape`."""
    from mptrain.models.detection import small

    return small.small_fcos(config, spec)


def _build_torchvision(config: ResNetDetectorConfig | SsdliteConfig, spec: DataSpec) -> nn.Module:
    from mptrain.models.detection.torchvision_nets import torchvision_detector

    return torchvision_detector(config, spec)


for _name, _what in _RESNETS.items():
    MODELS.register(_name, config=ResNetDetectorConfig, description=f"{_what}; torchvision, reads the device")(
        _build_torchvision
    )
MODELS.register(
    "ssdlite320_mobilenet_v3_large",
    config=SsdliteConfig,
    description="SSDlite, one stage, for 320x320 images; torchvision, reads the device",
)(_build_torchvision)
