"""COCO's instances json: images, categories, boxes.

Owns: reading and checking that file. Must not: read images.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mptrain.data.detection.configs import CocoConfig
from mptrain.data.detection.image_files import BoxedImage, checked_box, image_splits, no_objects
from mptrain.data.detection.targets import objects_table
from mptrain.errors import DataError, first_line
from mptrain.interfaces import BadFiles, DataSplits


@dataclass(frozen=True)
class AnnotationFile:
    """One split."""

    path: Path
    categories: dict[int, str]
    """Id -> name, in the order of the ids: the classes 0, 1, 2, ..."""
    images: list[BoxedImage]
    sha256: str


def coco(config: CocoConfig) -> DataSplits:
    """Return both splits; raise DataError for a file that is missing or damaged and, unless skipped, a bad record.

    Training leaves crowds out and, unless `train_without_boxes`, images in which nothing else is.
    """
    root, bad_files = Path(config.root).expanduser(), BadFiles(config.on_error)
    train, test = (
        read_annotations(root / annotations, root / images, bad_files, crowds=crowds)
        for annotations, images, crowds in (
            (config.train_annotations, config.train_images, False),
            (config.test_annotations, config.test_images, True),
        )
    )
    if train.categories != test.categories:
        odd = sorted(
            {f"{number} {name}" for number, name in set(train.categories.items()) ^ set(test.categories.items())}
        )
        raise DataError(
            f"data.root: {train.path} and {test.path} have different categories ({', '.join(odd[:5])}); give both the "
            "same"
        )
    learned = [image for image in train.images if config.train_without_boxes or len(image.objects)]
    if not learned:
        raise DataError(f"data.train_annotations: {train.path} has no image with a box to learn")
    identity = {"train_sha256": train.sha256, "test_sha256": test.sha256}
    return image_splits(config, tuple(train.categories.values()), learned, test.images, identity, bad_files)


def read_annotations(path: Path, folder: Path, bad_files: BadFiles, *, crowds: bool) -> AnnotationFile:
    """Return what the file says of the images in `folder`; records that cannot be used are reported one by one."""
    content, digest = _content(path)
    try:
        categories = {int(entry["id"]): str(entry["name"]) for entry in content["categories"]}
        sizes = {
            int(entry["id"]): (str(entry["file_name"]), int(entry["width"]), int(entry["height"]))
            for entry in content["images"]
        }
        rows = [(int(entry["image_id"]), entry) for entry in content["annotations"]]
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise DataError(
            f"data.root: {path} is no instances json of COCO's ({type(error).__name__}: {first_line(error)}); it needs "
            "images (id, file_name, width, height), categories (id, name) and annotations (image_id, category_id, bbox)"
        ) from error
    categories = dict(sorted(categories.items()))
    class_of = {number: index for index, number in enumerate(categories)}
    objects: dict[int, list[tuple[float, ...]]] = defaultdict(list)
    for image_id, entry in rows:
        try:
            row = _object(entry, class_of, sizes.get(image_id), f"data.root: {path}, annotation {entry.get('id')}")
        except DataError as error:
            bad_files.report(error)
            continue
        if crowds or not row[-1]:
            objects[image_id].append(row)
    images = []
    for image_id, (name, width, height) in sizes.items():
        if (folder / name).is_file():
            table = np.array(objects[image_id])
            found = objects_table(table[:, 1:5], table[:, 0], table[:, 5]) if objects[image_id] else no_objects()
            images.append(BoxedImage(folder / name, width, height, found))
        else:
            bad_files.report(DataError(f"data.root: {path} names {folder / name}, and there is no such file"))
    if not images:
        raise DataError(f"data.root: {path} names no image that is there; look for its images in {folder.absolute()}")
    return AnnotationFile(path, categories, images, digest)


def _content(path: Path) -> tuple[Any, str]:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(
            f"data.root: {path.absolute()} cannot be read ({error.strerror}); check data.root, data.train_annotations "
            "and data.test_annotations"
        ) from error
    try:
        return json.loads(data), hashlib.sha256(data).hexdigest()
    except (ValueError, RecursionError) as error:
        raise DataError(f"data.root: {path} is damaged: it is no json ({first_line(error)})") from error


def _object(
    entry: dict[str, Any], class_of: dict[int, int], image: tuple[str, int, int] | None, where: str
) -> tuple[float, ...]:
    """Return (class, x1, y1, x2, y2, crowd) of one record; raise DataError saying where and what is wrong with it."""
    if image is None:
        raise DataError(f"{where}: image_id {entry['image_id']} is not among the images")
    try:
        label = class_of[entry["category_id"]]
    except (KeyError, TypeError) as error:
        raise DataError(f"{where}: category_id {entry.get('category_id')} is not among the categories") from error
    try:
        x, y, width, height = map(float, entry["bbox"])
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise DataError(f"{where}: bbox must be [x, y, width, height], not {entry.get('bbox')}") from error
    box = checked_box((x, y, x + width, y + height), image[1], image[2], f"{where} of {image[0]}")
    return (float(label), *box, float(bool(entry.get("iscrowd", 0))))
