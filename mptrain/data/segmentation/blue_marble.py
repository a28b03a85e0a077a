"""Land or sea on NASA's Blue Marble: random crops to train on, and a band of longitudes to test on.

Owns: decoding the bundled picture once, and which of its pixels belong to which split. Must not: read other files.
"""

from __future__ import annotations

import io

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from mptrain.data.bundled_files import SHA256, read_bundled
from mptrain.data.segmentation.configs import BlueMarbleConfig
from mptrain.data.segmentation.expected import BLUE_MARBLE_CLASSES, segmentation_spec
from mptrain.data.segmentation.joint import Joint, RandomCrops, ToModel
from mptrain.errors import ConfigError
from mptrain.interfaces import DataSplits, Streamed

PICTURE, LAND = "bluemarble.jpg", "bluemarble_land.png"
TEST_COLUMNS = slice(2700, 3600)
"""0 to 60 degrees East, at 15 pixels a degree: Africa and Europe, half of it land, from pole to pole."""
GAP = 60
"""Columns on either side of the test band that no split sees."""

Picture = tuple[Tensor, Tensor]
"""uint8 image (3, H, W), uint8 mask (H, W): 0 sea, 1 land."""


class RandomCropsOf(Dataset[Picture]):
    """`count` random crops of the pictures; what dataset[i] is depends on torch's random state only."""

    def __init__(self, pictures: list[Picture], count: int, joint: Joint) -> None:
        self._pictures, self._count, self._joint = pictures, count, joint
        self._widths = torch.tensor([mask.shape[1] for _, mask in pictures], dtype=torch.float32)

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Picture:
        """Return one crop of a picture, wide ones more often."""
        if not 0 <= index < self._count:
            raise IndexError(index)
        return self._joint(*self._pictures[int(torch.multinomial(self._widths, 1))])


class TilesOf(Dataset[Picture]):
    """The picture in tiles of `size` (height, width), row by row; what is left over right and below is left out."""

    def __init__(self, picture: Picture, size: tuple[int, int]) -> None:
        self._picture, self._size = picture, size
        self._rows, self._columns = (whole // side for whole, side in zip(picture[1].shape, size, strict=True))

    def __len__(self) -> int:
        return self._rows * self._columns

    def __getitem__(self, index: int) -> Picture:
        """Return one tile."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        row, column = divmod(index, self._columns)
        (height, width), (image, mask) = self._size, self._picture
        rows, columns = (slice(i * side, (i + 1) * side) for i, side in ((row, height), (column, width)))
        return image[:, rows, columns], mask[rows, columns]


def blue_marble(config: BlueMarbleConfig) -> DataSplits:
    """Return the training crops and the test tiles; raise ConfigError for crops larger than what they are cut from."""
    image, mask = _decoded()
    left, right = slice(0, TEST_COLUMNS.start - GAP), slice(TEST_COLUMNS.stop + GAP, mask.shape[1])
    train = [(image[:, :, part], mask[:, part]) for part in (left, right)]
    test = image[:, :, TEST_COLUMNS], mask[:, TEST_COLUMNS]
    largest = [min(sides) for sides in zip(*(part.shape for _, part in (*train, test)), strict=True)]
    for side, whole in zip(config.image_size, largest, strict=True):
        if side / config.scale[0] > whole:
            raise ConfigError(
                f"data.image_size: a crop of {side} pixels, scaled by {config.scale[0]:g}, does not fit into the "
                f"{whole} pixels of the test band; lower it"
            )
    to_model = ToModel(config)
    tiles = TilesOf(test, config.image_size)
    return DataSplits(
        segmentation_spec(config, BLUE_MARBLE_CLASSES),
        Streamed(RandomCropsOf(train, config.crops_per_epoch, RandomCrops(config)), transform=to_model),
        Streamed(tiles, transform=to_model),
        {
            "name": config.name,
            "train": config.crops_per_epoch,
            "test": len(tiles),
            "sha256": f"{SHA256[PICTURE]} {SHA256[LAND]}",
        },
    )


def _decoded() -> Picture:
    from PIL import Image

    image, mask = (np.array(Image.open(io.BytesIO(read_bundled(name)))) for name in (PICTURE, LAND))
    return torch.from_numpy(image).permute(2, 0, 1), torch.from_numpy(mask)
