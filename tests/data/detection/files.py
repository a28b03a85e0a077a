"""Small detection sets on disk, for the tests of their readers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from mptrain.interfaces import DataSplits
from mptrain.registry import DATASETS

SIZE = (60, 40)
"""Width and height of every image."""


def config(name: str, root: Path, **options: Any) -> Any:
    small = {"min_size": 20, "max_size": 64, "pad_multiple": 16, "batch_size": 2}
    return DATASETS.config_type(name).model_validate({"name": name, "root": str(root), **small, **options})


def build(name: str, root: Path, **options: Any) -> DataSplits:
    return DATASETS.build(config(name, root, **options), 0)


def write_image(path: Path, size: tuple[int, int] = SIZE) -> None:
    """A red image with a blue left half."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", size, (200, 0, 0))
    image.paste((0, 0, 200), (0, 0, size[0] // 2, size[1]))
    image.save(path, quality=100, subsampling=0)


def coco_annotations() -> dict[str, Any]:
    """Three images: two objects and a crowd in the first, one in the second, nothing in the third."""
    boxes = [
        (1, 7, [10, 5, 20, 30], 0),
        (1, 90, [0, 0, 60, 40], 1),
        (1, 90, [30, 10, 8, 8], 0),
        (2, 7, [1, 2, 3, 4], 0),
    ]
    return {
        "images": [{"id": i, "file_name": f"{i}.png", "width": SIZE[0], "height": SIZE[1]} for i in (1, 2, 3)],
        "categories": [{"id": 90, "name": "toothbrush"}, {"id": 7, "name": "train"}],
        "annotations": [
            {"id": 10 + i, "image_id": image, "category_id": category, "bbox": box, "iscrowd": crowd}
            for i, (image, category, box, crowd) in enumerate(boxes)
        ],
    }


def write_coco(root: Path, annotations: dict[str, Any] | None = None) -> Path:
    """Write both splits, the training one with `annotations`; return the training annotation file."""
    (root / "annotations").mkdir(parents=True)
    for split, content in (("train", annotations or coco_annotations()), ("val", coco_annotations())):
        (root / "annotations" / f"instances_{split}2017.json").write_text(json.dumps(content))
        for i in (1, 2, 3):
            write_image(root / f"{split}2017" / f"{i}.png")
    return root / "annotations" / "instances_train2017.json"


VocObject = tuple[str, tuple[float, float, float, float], bool]
"""Name, xmin ymin xmax ymax, difficult."""
CAT: VocObject = ("cat", (1, 1, 30, 40), False)
DIFFICULT: VocObject = ("dog", (31, 11, 60, 40), True)


def voc_xml(objects: Sequence[VocObject]) -> str:
    parts = [
        f"<object><name>{name}</name><difficult>{int(difficult)}</difficult><bndbox><xmin>{x1}</xmin><ymin>{y1}</ymin>"
        f"<xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox><part><name>head</name></part></object>"
        for name, (x1, y1, x2, y2), difficult in objects
    ]
    size = f"<size><width>{SIZE[0]}</width><height>{SIZE[1]}</height><depth>3</depth></size>"
    return f"<annotation>{size}{''.join(parts)}</annotation>"


def write_voc(root: Path) -> None:
    """Two training and one test image, each with a cat and a difficult dog."""
    lists = root / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    (root / "Annotations").mkdir()
    for split, names in (("train", ["2007_1", "2007_2"]), ("val", ["2007_3"])):
        (lists / f"{split}.txt").write_text("".join(f"{name}\n" for name in names))
        for name in names:
            write_image(root / "JPEGImages" / f"{name}.jpg")
            (root / "Annotations" / f"{name}.xml").write_text(voc_xml([CAT, DIFFICULT]))
