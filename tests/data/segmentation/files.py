"""Small real image and mask files in the layouts that segmentation sets have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import mptrain.data
from mptrain.interfaces import DataSplits
from mptrain.registry import DATASETS

assert mptrain.data  # registers the entries

HEIGHT, WIDTH = 20, 30


def make(name: str, root: Path, **options: Any) -> tuple[Any, DataSplits]:
    """Return the validated config and the splits of the dataset `name`."""
    sizes = {"image_size": [8, 12], "eval_size": [24, 32]}
    config = DATASETS.config_type(name).model_validate({"name": name, "root": str(root), **sizes, **options})
    return config, DATASETS.build(config, 0)


def pixels(label: int) -> np.ndarray:
    """Return an image whose left half is dark and whose right half tells `label` (to 25) by its red."""
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    image[:, WIDTH // 2 :, 0] = 10 * min(label, 25)
    return image


def labels(label: int) -> np.ndarray:
    """Return the mask of `pixels(label)`: 0, then `label`, with an ignored border between."""
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[:, WIDTH // 2 :] = label
    mask[:, WIDTH // 2] = 255
    return mask


def write_pair(image: Path, mask: Path, label: int, mode: str = "L") -> None:
    """Write both files, and their folders."""
    for path in (image, mask):
        path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels(label)).save(image, quality=100, subsampling=0)
    made = Image.fromarray(labels(label))
    if mode == "P":
        made.putpalette([i % 256 for i in range(768)])
        made.info["transparency"] = 0
    made.save(mask)


def write_folder(root: Path, *, test: str = "val", mode: str = "L", count: int = 4) -> None:
    """Write a segmentation_folder of labels 1 and 2."""
    for split in ("train", test):
        for index in range(count):
            write_pair(
                root / split / "images" / f"{index}.jpg",
                root / split / "masks" / f"{index}.png",
                1 + index % 2,
                mode,
            )
