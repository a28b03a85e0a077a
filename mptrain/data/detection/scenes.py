"""Detection scenes composed from the bundled Fashion-MNIST garments: real photographs, artificial layout.

Owns: how a scene is drawn. Must not: hold scenes, or use any random state but the one it is given.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from mptrain.data.bundled_files import SHA256, read_bundled_arrays
from mptrain.data.detection.configs import FashionScenesConfig
from mptrain.data.detection.targets import objects_table, pad_objects
from mptrain.data.images.in_memory import FASHION_MNIST
from mptrain.data.images.transforms import Normalize
from mptrain.interfaces import DataSpec, DataSplits, Streamed

SCALES = (0.6, 1.3)
"""A garment's size, in sizes of its 28x28 photograph."""
GARMENT = 12
"""Pixels brighter than this are the garment, the others its background."""
MAX_OVERLAP = 0.15
"""Largest intersection of two boxes, as a share of the smaller one."""
PLACING_ATTEMPTS = 20
TEST_SEED = 0x5CE9E5
"""Test scene i is drawn from (TEST_SEED, i), whatever the run's seed."""


def fashion_scenes(config: FashionScenesConfig) -> DataSplits:
    """Return the scenes; raise DataError when the bundled file is missing or damaged."""
    content = read_bundled_arrays(FASHION_MNIST)
    classes = tuple(map(str, content["classes"]))
    transform = Normalize(config.mean, config.std)
    train, test = (
        Streamed(
            Scenes(content[f"{split}_images"], content[f"{split}_labels"], config, count, fixed=split == "test"),
            transform=transform,
        )
        for split, count in (("train", config.num_train), ("test", config.num_test))
    )
    spec = DataSpec((1, config.image_size, config.image_size), len(classes), kind="detection", class_names=classes)
    identity = {
        "name": config.name,
        "train": config.num_train,
        "test": config.num_test,
        "image_size": config.image_size,
        "max_items": config.max_items,
        "noise": config.noise,
        "sha256": SHA256[FASHION_MNIST],
    }
    return DataSplits(spec, train, test, identity)


class Scenes(Dataset[Any]):
    """One split: dataset[i] -> uint8 image (1, size, size), (objects (max_items, 6), frame (4,))."""

    def __init__(
        self, images: NDArray[np.uint8], labels: NDArray[Any], config: FashionScenesConfig, count: int, *, fixed: bool
    ) -> None:
        self._images, self._labels, self._config = images, labels, config
        self._count, self._fixed = count, fixed

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        # In training NumPy's global state is seeded by (seed, epoch, index): see interfaces.Streamed.
        seed = (TEST_SEED, index) if self._fixed else tuple(np.random.randint(2**31, size=4))
        rng = np.random.default_rng(seed)
        image, boxes, classes = draw_scene(rng, self._images, self._labels, self._config)
        objects = pad_objects(objects_table(boxes, classes), self._config.max_items)
        size = float(self._config.image_size)
        return torch.from_numpy(image).unsqueeze(0), (objects, torch.full((4,), size))


def draw_scene(
    rng: np.random.Generator, images: NDArray[np.uint8], labels: NDArray[Any], config: FashionScenesConfig
) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.int64]]:
    """Return a uint8 scene (size, size), its boxes (n, 4) xyxy in pixels, tight, and their classes (n,); n >= 1."""
    size = config.image_size
    scene = np.zeros((size, size), np.uint8)
    boxes: list[tuple[int, int, int, int]] = []
    classes: list[int] = []
    for _ in range(int(rng.integers(1, config.max_items + 1))):
        index = int(rng.integers(len(images)))
        garment = _garment(rng, images[index])
        box = _place(rng, garment.shape, boxes, size)
        if box is None:
            continue  # a full scene keeps what it has
        x1, y1, x2, y2 = box
        place = scene[y1:y2, x1:x2]
        place[garment > GARMENT] = garment[garment > GARMENT]
        boxes.append(box)
        classes.append(int(labels[index]))
    if config.noise:
        scene = np.clip(scene + rng.normal(0, config.noise, scene.shape), 0, 255).astype(np.uint8)
    return scene, np.array(boxes, np.float32), np.array(classes, np.int64)


def _garment(rng: np.random.Generator, photograph: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the photograph scaled, mirrored half the time, and cut to the garment's bounding box."""
    side = round(photograph.shape[0] * rng.uniform(*SCALES))
    scaled = np.asarray(Image.fromarray(photograph).resize((side, side), Image.Resampling.BILINEAR))
    if rng.random() < 0.5:
        scaled = scaled[:, ::-1]
    shown = scaled > GARMENT
    rows, columns = np.flatnonzero(shown.any(1)), np.flatnonzero(shown.any(0))
    return scaled[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _place(
    rng: np.random.Generator, shape: tuple[int, ...], boxes: list[tuple[int, int, int, int]], size: int
) -> tuple[int, int, int, int] | None:
    """Return a box for a garment of `shape` that overlaps the others little; None where none was found."""
    height, width = shape
    for _ in range(PLACING_ATTEMPTS):
        y, x = int(rng.integers(size - height + 1)), int(rng.integers(size - width + 1))
        box = (x, y, x + width, y + height)
        if all(_overlap(box, other) <= MAX_OVERLAP for other in boxes):
            return box
    return None


def _overlap(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> float:
    """Return the intersection's share of the smaller box."""
    shared = max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))
    return shared / min((c[2] - c[0]) * (c[3] - c[1]) for c in (a, b))
