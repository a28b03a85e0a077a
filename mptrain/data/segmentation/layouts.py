"""Where the files of segmentation sets lie: your own folder, VOC 2012, Cityscapes.

Owns: finding image and mask files and pairing them. Must not: decode them (see `pairs`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from mptrain.data.segmentation.configs import (
    CityscapesConfig,
    PairsConfig,
    SegmentationFolderConfig,
    VocSegmentationConfig,
)
from mptrain.data.segmentation.expected import CITYSCAPES_IDS, VOC_CLASSES, segmentation_spec
from mptrain.data.segmentation.joint import Fitted, RandomCrops, ToModel
from mptrain.data.segmentation.pairs import PairFiles, Pairs
from mptrain.errors import DataError
from mptrain.interfaces import IGNORED_PIXEL, BadFiles, DataSplits, Streamed

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"}
MASK_SUFFIXES = (".png", ".bmp", ".tif", ".tiff", ".gif")
"""Formats without loss: JPEG would change the labels."""
CITYSCAPES_IMAGE, CITYSCAPES_MASK = "_leftImg8bit.png", "_gtFine_labelIds.png"


def segmentation_folder(config: SegmentationFolderConfig) -> DataSplits:
    """Return `train` and `val` (or `test`): `images/NAME.*` and `masks/NAME.png`; raise DataError for missing files."""
    root = Path(config.root).expanduser()
    bad_files = BadFiles(config.on_error)
    test = root / "test" if (root / "test").is_dir() else root / "val"
    train_files, test_files = (_in_folders(folder, bad_files) for folder in (root / "train", test))
    return _splits(config, config.classes, train_files, test_files, bad_files)


def voc(config: VocSegmentationConfig) -> DataSplits:
    """Return the samples of the two lists; raise DataError for a list or a file that is missing."""
    root = Path(config.root).expanduser()
    bad_files = BadFiles(config.on_error)
    train_files, test_files = (
        _existing(_listed(root, name, config.mask_folder), bad_files) for name in (config.train_list, config.test_list)
    )
    return _splits(config, VOC_CLASSES, train_files, test_files, bad_files)


def cityscapes(config: CityscapesConfig) -> DataSplits:
    """Return train and val, label ids turned into the 19 train ids; raise DataError for what is missing."""
    root = Path(config.root).expanduser()
    bad_files = BadFiles(config.on_error)
    train_files, test_files = (_existing(_of_cities(root, split), bad_files) for split in ("train", "val"))
    class_of_id = torch.full((256,), IGNORED_PIXEL, dtype=torch.uint8)
    class_of_id[list(CITYSCAPES_IDS)] = torch.arange(len(CITYSCAPES_IDS), dtype=torch.uint8)
    return _splits(config, tuple(CITYSCAPES_IDS.values()), train_files, test_files, bad_files, class_of_id)


def _splits(
    config: PairsConfig,
    classes: tuple[str, ...],
    train: Sequence[PairFiles],
    test: Sequence[PairFiles],
    bad_files: BadFiles,
    class_of_id: Tensor | None = None,
) -> DataSplits:
    to_model = ToModel(config)
    return DataSplits(
        segmentation_spec(config, classes),
        Streamed(Pairs(train, len(classes), RandomCrops(config), class_of_id), transform=to_model),
        Streamed(Pairs(test, len(classes), Fitted(config), class_of_id), transform=to_model),
        {"name": config.name, "train": len(train), "test": len(test), "names_sha256": _checksum([*train, *test])},
        bad_files,
    )


def _in_folders(folder: Path, bad_files: BadFiles) -> list[PairFiles]:
    for part in (folder / "images", folder / "masks"):
        if not part.is_dir():
            raise DataError(
                f"data.root: there is no folder {part.absolute()}; give a folder with train/images, train/masks, and "
                "the same in val (or test)"
            )
    images = sorted(path for path in (folder / "images").iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
    if not images:
        raise DataError(f"data.root: {folder / 'images'} holds no images ({' '.join(sorted(IMAGE_SUFFIXES))})")
    masks = {path.stem: path for path in (folder / "masks").iterdir() if path.suffix.lower() in MASK_SUFFIXES}
    return _existing(
        (PairFiles(image, masks.get(image.stem, folder / "masks" / f"{image.stem}.png")) for image in images), bad_files
    )


def _listed(root: Path, name: str, mask_folder: str) -> list[PairFiles]:
    """Return the pairs of a list: a sample's name, or its image's and mask's paths in root, on each line."""
    file = root / name
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"data.root: the list {file.absolute()} cannot be read; give the folder that holds JPEGImages and ImageSets"
        ) from error
    pairs = []
    for number, words in ((number, line.split()) for number, line in enumerate(lines, 1) if line.strip()):
        if len(words) == 1:
            pairs.append(PairFiles(root / "JPEGImages" / f"{words[0]}.jpg", root / mask_folder / f"{words[0]}.png"))
        elif len(words) == 2:
            image, mask = (root / word.lstrip("/") for word in words)
            pairs.append(PairFiles(image, mask))
        else:
            raise DataError(f"data.root: {file}, line {number} has {len(words)} words; give `name` or `image mask`")
    if not pairs:
        raise DataError(f"data.root: the list {file} is empty; it must name one sample a line")
    return pairs


def _of_cities(root: Path, split: str) -> list[PairFiles]:
    folder = root / "leftImg8bit" / split
    images = sorted(folder.glob(f"*/*{CITYSCAPES_IMAGE}"))
    if not images:
        raise DataError(
            f"data.root: there are no {folder.absolute()}/<city>/*{CITYSCAPES_IMAGE}; give the folder that holds "
            "leftImg8bit and gtFine"
        )
    masks = root / "gtFine" / split
    return [
        PairFiles(image, masks / image.parent.name / (image.name.removesuffix(CITYSCAPES_IMAGE) + CITYSCAPES_MASK))
        for image in images
    ]


def _existing(pairs: Iterable[PairFiles], bad_files: BadFiles) -> list[PairFiles]:
    """Return the pairs whose two files are there; report the others."""
    found = []
    for pair in pairs:
        missing = next((path for path in pair if not path.is_file()), None)
        if missing is None:
            found.append(pair)
        else:
            bad_files.report(
                DataError(f"data.root: {missing.absolute()} is missing; every image needs a mask of its name: add it")
            )
    return found


def _checksum(pairs: Sequence[PairFiles]) -> str:
    """Return the SHA-256 of the names of all images, in order."""
    return hashlib.sha256("\n".join(pair.image.name for pair in pairs).encode()).hexdigest()
