"""Names and descriptions of the datasets for semantic segmentation.

Owns: their registration. Must not: import torch at module level; each build names its module.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mptrain.data.segmentation import expected as expected
from mptrain.data.segmentation.configs import (
    BlueMarbleConfig,
    CityscapesConfig,
    SegmentationFolderConfig,
    VocSegmentationConfig,
)
from mptrain.registry import DATASETS

if TYPE_CHECKING:
    from mptrain.interfaces import DataSplits


@DATASETS.register(
    "blue_marble",
    config=BlueMarbleConfig,
    description="Land and sea on NASA's Blue Marble, split by longitude, bundled",
)
def _blue_marble(config: BlueMarbleConfig, seed: int) -> DataSplits:
    from mptrain.data.segmentation import blue_marble

    return blue_marble.blue_marble(config)


@DATASETS.register(
    "segmentation_folder",
    config=SegmentationFolderConfig,
    description="Image and mask files in train/ and val/, images/ and masks/ in each",
)
def _segmentation_folder(config: SegmentationFolderConfig, seed: int) -> DataSplits:
    from mptrain.data.segmentation import layouts

    return layouts.segmentation_folder(config)


@DATASETS.register("voc", config=VocSegmentationConfig, description="PASCAL VOC 2012 segmentation, 21 classes")
def _voc(config: VocSegmentationConfig, seed: int) -> DataSplits:
    from mptrain.data.segmentation import layouts

    return layouts.voc(config)


@DATASETS.register("cityscapes", config=CityscapesConfig, description="Cityscapes street scenes, 19 classes")
def _cityscapes(config: CityscapesConfig, seed: int) -> DataSplits:
    from mptrain.data.segmentation import layouts

    return layouts.cityscapes(config)
