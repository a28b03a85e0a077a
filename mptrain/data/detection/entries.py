"""Names and descriptions of the datasets for object detection.

Owns: their registration. Must not: import torch at module level; each build names its module.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mptrain.data.detection import expected as expected
from mptrain.data.detection.configs import CocoConfig, FashionScenesConfig, VocConfig
from mptrain.registry import DATASETS

if TYPE_CHECKING:
    from mptrain.interfaces import DataSplits


@DATASETS.register(
    "fashion_scenes", config=FashionScenesConfig, description="Garments in 96x96 scenes, composed as read, bundled"
)
def _fashion_scenes(config: FashionScenesConfig, seed: int) -> DataSplits:
    from mptrain.data.detection import scenes

    return scenes.fashion_scenes(config)


@DATASETS.register("coco", config=CocoConfig, description="COCO, or your own boxes in its instances json")
def _coco(config: CocoConfig, seed: int) -> DataSplits:
    from mptrain.data.detection import coco

    return coco.coco(config)


@DATASETS.register("voc_detection", config=VocConfig, description="Pascal VOC boxes: one xml file per image")
def _voc(config: VocConfig, seed: int) -> DataSplits:
    from mptrain.data.detection import voc

    return voc.voc(config)
