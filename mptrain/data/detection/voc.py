"""Pascal VOC's layout: one xml file per image, lists of the images of a split.

Owns: reading and checking these files. Must not: read images.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np

from mptrain.data.detection.configs import VocConfig
from mptrain.data.detection.expected import VOC_CLASSES
from mptrain.data.detection.image_files import BoxedImage, checked_box, image_splits, no_objects
from mptrain.data.detection.targets import objects_table
from mptrain.errors import DataError, first_line
from mptrain.interfaces import BadFiles, DataSplits

_NEEDED = "it needs size (width, height) and, for each object, name and bndbox (xmin, ymin, xmax, ymax)"


def voc(config: VocConfig) -> DataSplits:
    """Return both splits; raise DataError for a list that is missing and, unless skipped, a file or a box that is bad.

    `difficult` objects are left out in training, and in evaluation count neither as hits nor as misses, like crowds.
    """
    root, bad_files, digest = Path(config.root).expanduser(), BadFiles(config.on_error), hashlib.sha256()
    train, test = (
        [
            image
            for name in _listed(root / "ImageSets" / "Main" / f"{split}.txt")
            if (image := _image(root, name, bad_files, digest, difficult=difficult))
        ]
        for split, difficult in ((config.train_list, False), (config.test_list, True))
    )
    learned = [image for image in train if len(image.objects)]
    for split, images in ((config.train_list, learned), (config.test_list, test)):
        if not images:
            raise DataError(f"data.root: the images listed in {root / 'ImageSets' / 'Main' / split}.txt have no boxes")
    return image_splits(config, VOC_CLASSES, learned, test, {"sha256": digest.hexdigest()}, bad_files)


def _listed(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"data.root: {path.absolute()} cannot be read ({first_line(error)}); data.root is the folder with "
            "Annotations, ImageSets and JPEGImages, data.train_list and data.test_list name lists in it"
        ) from error
    return [line.split()[0] for line in lines if line.strip()]


def _image(root: Path, name: str, bad_files: BadFiles, digest: hashlib._Hash, *, difficult: bool) -> BoxedImage | None:
    """Return the image called `name`; None where it was reported."""
    path, image = root / "Annotations" / f"{name}.xml", root / "JPEGImages" / f"{name}.jpg"
    try:
        data = path.read_bytes()
        if not image.is_file():
            raise DataError(f"data.root: {path} annotates {image}, and there is no such file")
        digest.update(data)
        return _parsed(data, path, image, bad_files, difficult=difficult)
    except OSError as error:
        bad_files.report(DataError(f"data.root: {path} cannot be read ({error.strerror}); repair or unlist it"))
    except DataError as error:
        bad_files.report(error)
    return None


def _parsed(data: bytes, path: Path, image: Path, bad_files: BadFiles, *, difficult: bool) -> BoxedImage:
    try:
        tree = ET.fromstring(data)  # noqa: S314, expat bounds what entities expand to, and fetches nothing
        width, height = (int(_text(tree, f"size/{side}")) for side in ("width", "height"))
        found = [
            (
                _text(entry, "name"),
                [float(_text(entry, f"bndbox/{side}")) for side in ("xmin", "ymin", "xmax", "ymax")],
                entry.findtext("difficult", "0").strip() == "1",
            )
            for entry in tree.iter("object")
        ]
    except (ET.ParseError, ValueError, LookupError) as error:  # LookupError: an encoding that Python does not know
        raise DataError(f"data.root: {path} is no VOC annotation ({first_line(error)}); {_NEEDED}") from error
    rows = []
    for name, (x1, y1, x2, y2), is_difficult in found:
        try:
            if name not in VOC_CLASSES:
                raise DataError(f"data.root: {path}: '{name}' is none of VOC's classes ({', '.join(VOC_CLASSES)})")
            # VOC counts pixels from 1, and its boxes hold their last one.
            box = checked_box((x1 - 1, y1 - 1, x2, y2), width, height, f"data.root: {path}, {name}")
        except DataError as error:
            bad_files.report(error)
            continue
        if difficult or not is_difficult:
            rows.append((VOC_CLASSES.index(name), *box, is_difficult))
    table = np.array(rows, dtype=np.float64)
    objects = objects_table(table[:, 1:5], table[:, 0], table[:, 5]) if rows else no_objects()
    return BoxedImage(image, width, height, objects)


def _text(element: ET.Element, tag: str) -> str:
    text = element.findtext(tag)
    if text is None:
        raise ValueError(f"there is no <{tag}>")
    return text.strip()
